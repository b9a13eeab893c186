//! What servers make of a path, each written down by its own rules and none of ours: whatever leads to one route must not
//! be served from the place of another.

use proptest::prelude::*;

use super::*;

/// What a server serves for a path; `None` when it refuses it.
type Server = fn(&str) -> Option<String>;

const SERVERS: [(&str, Server); 11] = [
    ("node, pathname", |path| Some(whatwg(path))),
    ("node, pathname decoded", |path| Some(unescape(&whatwg(path)))),
    ("node, pathname decoded and normalised", |path| Some(clean(&unescape(&whatwg(path))))),
    ("node, url without a parser", |path| Some(path.to_owned())),
    ("nginx", |path| nginx(path, true)),
    ("nginx, merge_slashes off", |path| nginx(path, false)),
    ("go, path.Clean", |path| Some(clean(&unescape(path)))),
    ("envoy, normalize_path and merge_slashes", |path| Some(once_each(&rfc3986(path)))),
    ("envoy, then go", |path| Some(clean(&unescape(&once_each(&rfc3986(path)))))),
    ("tomcat", |path| tomcat(path, false)),
    ("tomcat, ALLOW_BACKSLASH and decoded slashes", |path| tomcat(path, true)),
];

/// The path state of the URL standard, for `http`: pops and pushes as the characters come.
fn whatwg(path: &str) -> String {
    let mut segments: Vec<String> = Vec::new();
    let mut buffer = String::new();
    let path = path.strip_prefix(['/', '\\']).unwrap_or(path);
    for c in path.chars().map(Some).chain([None]) {
        let Some(c) = c.filter(|c| !matches!(c, '/' | '\\')) else {
            let at_end = c.is_none();
            match &*buffer.to_lowercase().replace("%2e", ".") {
                ".." => {
                    segments.pop();
                    if at_end {
                        segments.push(String::new());
                    }
                }
                "." if at_end => segments.push(String::new()),
                "." => {}
                _ => segments.push(buffer.clone()),
            }
            buffer.clear();
            continue;
        };
        buffer.push(c);
    }
    format!("/{}", segments.join("/"))
}

/// Escapes of the letters that matter here, by a table.
fn unescape(path: &str) -> String {
    let table = [("%2f", "/"), ("%5c", "\\"), ("%3b", ";"), ("%2e", ".")];
    table.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

/// Go's and Node's way for paths of files: empty segments and dots go, and nothing is above the root.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            kept.truncate(kept.len().saturating_sub(1));
        } else {
            kept.push(part);
        }
    }
    format!("/{}", kept.join("/"))
}

/// Decodes first, then goes back in what it has put out for each `..`; a backslash is a letter.
fn nginx(path: &str, merge: bool) -> Option<String> {
    let mut out = String::new();
    for part in format!("{}/", unescape(path)).split_inclusive('/') {
        match part {
            "/" if merge && out.ends_with('/') => {}
            "./" => {}
            "../" => {
                // Out ends with a slash; what is before it goes, up to the next. Above the root is a bad request.
                let slash = out.strip_suffix('/')?.rfind('/')?;
                out.truncate(slash + 1);
            }
            part => out.push_str(part),
        }
    }
    Some(out)
}

/// `remove_dot_segments` as RFC 3986 §5.2.4 writes it, with an input and an output buffer.
fn rfc3986(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("/./") || input == "/." {
            input = format!("/{}", input.get(3..).unwrap_or_default());
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input.get(1..).and_then(|rest| rest.find('/')).map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

/// Parameters off, escapes, backslashes; then one replacement after the other until nothing is to be replaced.
fn tomcat(path: &str, lenient: bool) -> Option<String> {
    let mut path = path.to_owned();
    while let Some(from) = path.find(';') {
        let to = path[from..].find('/').map_or(path.len(), |at| from + at);
        path.replace_range(from..to, "");
    }
    if !lenient && path.contains("%2f") {
        return None;
    }
    let mut path = unescape(&path);
    if path.contains('\\') {
        path = lenient.then(|| path.replace('\\', "/"))?;
    }
    path = once_each(&path);
    if path.ends_with("/.") || path.ends_with("/..") {
        path.push('/');
    }
    while path.contains("/./") {
        path = path.replacen("/./", "/", 1);
    }
    while let Some(at) = path.find("/../") {
        let parent = path.get(..at)?.rfind('/')?;
        path.replace_range(parent..at + 3, "");
    }
    Some(path)
}

fn once_each(path: &str) -> String {
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

/// Whose place it is.
fn place_of(served: &str) -> &'static str {
    let below = |name: &str| served.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if below("/admin") { "h/admin" } else { "h" }
}

#[track_caller]
fn assert_is_not_walked_around(path: &str) {
    let routes = ["h", "h/admin"].map(|text| {
        let prefix = text.strip_prefix('h').filter(|path| !path.is_empty());
        (HostPattern::parse("h").unwrap(), prefix.map(|path| PathPrefix::parse(path).unwrap()), text)
    });
    let routes = RouteTable::new(routes.into()).unwrap();
    let Some(found) = routes.find("h", Some(path)) else { return };
    for (name, server) in SERVERS {
        let Some(served) = server(path) else { continue };
        assert_eq!(place_of(&served), *found, "{path}: {name} serves {served}");
    }
}

#[test]
fn servers_serve_what_their_rules_say() {
    for (path, name, served) in [
        ("/admin\\\\..\\secret", "node, pathname", Some("/admin/secret")),
        ("/x/..%2fadmin/%2e%2e/..%2fy", "node, pathname decoded", Some("/x/../y")),
        ("//admin/x\\..\\..", "nginx", Some("/admin/x\\..\\../")),
        ("/admin%2f%2f../secret", "nginx, merge_slashes off", Some("/admin/secret/")),
        ("/../x", "nginx", None),
        ("/x/..;a/admin", "tomcat", Some("/admin")),
        ("/x%5cadmin", "tomcat", None),
        ("/x/..;\\admin", "tomcat, ALLOW_BACKSLASH and decoded slashes", Some("/")),
        ("/a//../b", "envoy, normalize_path and merge_slashes", Some("/a/b")),
    ] {
        let (_, server) = SERVERS.iter().find(|server| server.0 == name).unwrap();
        assert_eq!(server(path).as_deref(), served, "{path} by {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_server_serves_the_place_of_another_route(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "/", "/", "//", "\\", "%5c", "%2f", ";", "%3b", ";a=b", ".", "..", "/..", "%2e", "%2e%2e", "admin", "admin", "x",
            ]),
            0..12,
        ),
    ) {
        assert_is_not_walked_around(&format!("/{}", parts.concat()));
    }
}
