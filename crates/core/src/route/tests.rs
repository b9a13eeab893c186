//! Which route wins, and that none is walked around.

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text).unwrap()
}

/// Each route as `host` or `host/path`; its value is that text.
fn try_table<'a>(routes: &[&'a str]) -> Result<RouteTable<&'a str>, RouteConflict> {
    let parse = |text: &&'a str| {
        let (host, path) = text.find('/').map_or((*text, None), |at| (&text[..at], Some(&text[at..])));
        (pattern(host), path.map(|path| PathPrefix::parse(path).unwrap()), *text)
    };
    RouteTable::new(routes.iter().map(parse).collect())
}

fn table<'a>(routes: &[&'a str]) -> RouteTable<&'a str> {
    try_table(routes).unwrap()
}

#[track_caller]
fn assert_found(routes: &RouteTable<&str>, url: &str, expected: Option<&str>) {
    let at = url.find('/').unwrap();
    assert_eq!(routes.find(&url[..at], Some(&url[at..])).copied(), expected, "{url}");
}

#[test]
fn an_exact_host_beats_a_wildcard_and_a_longer_wildcard_a_shorter_one() {
    let routes = table(&["*.localhost", "*.apps.localhost", "a.apps.localhost", "*.b.apps.localhost"]);
    for (url, expected) in [
        ("a.apps.localhost/", Some("a.apps.localhost")),
        ("c.apps.localhost/", Some("*.apps.localhost")),
        ("x.a.apps.localhost/", Some("*.apps.localhost")),
        ("x.b.apps.localhost/", Some("*.b.apps.localhost")),
        ("b.apps.localhost/", Some("*.apps.localhost")),
        ("apps.localhost/", Some("*.localhost")),
        ("localhost/", None),
        ("a.apps.localhost.evil.example/", None),
        ("xapps.localhost/", Some("*.localhost")),
    ] {
        assert_found(&routes, url, expected);
    }
}

#[test]
fn a_longer_path_beats_a_shorter_one_by_whole_segments() {
    let routes = table(&["a.b", "a.b/api", "a.b/api/v1/", "a.b/%C3%A9"]);
    for (url, expected) in [
        ("a.b/", Some("a.b")),
        ("a.b/api", Some("a.b/api")),
        ("a.b/api/", Some("a.b/api")),
        ("a.b/api/v10", Some("a.b/api")),
        ("a.b/api/v1", Some("a.b/api/v1/")),
        ("a.b/api/v1/x/y", Some("a.b/api/v1/")),
        ("a.b/apix", Some("a.b")),
        ("a.b/API", Some("a.b")),
        ("a.b/é", Some("a.b/%C3%A9")),
    ] {
        assert_found(&routes, url, expected);
    }
}

#[test]
fn a_host_without_a_route_for_the_path_leaves_it_to_the_wildcard() {
    let routes = table(&["a.x.localhost/api", "*.x.localhost/api/v2", "*.localhost"]);
    assert_found(&routes, "a.x.localhost/api/v2", Some("a.x.localhost/api"));
    assert_found(&routes, "b.x.localhost/api/v2", Some("*.x.localhost/api/v2"));
    assert_found(&routes, "a.x.localhost/other", Some("*.localhost"));
    assert_found(&table(&["a.x.localhost/api"]), "a.x.localhost/other", None);
}

#[test]
fn without_a_path_only_routes_for_every_path_are_found() {
    let routes = table(&["a.b/", "a.b/api", "*.b", "c.b"]);
    assert_eq!(routes.find("a.b", None), Some(&"*.b"));
    assert_eq!(routes.find("c.b", None), Some(&"c.b"));
    assert_eq!(routes.find("b", None), None);
    assert_found(&routes, "a.b/x", Some("a.b/"));
}

#[test]
fn a_path_that_servers_read_differently_leads_nowhere_when_it_matters() {
    let routes = table(&["a.b", "a.b/admin", "a.b/public"]);
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public%2f..%2fadmin",
        "//admin",
        "/x/..//admin",
        "/\\admin",
        "/x/..%5cadmin",
        "/admin/../public",
        "/admin/x%2f..%2f..%2fpublic",
        "/./admin",
    ] {
        assert_eq!(routes.find("a.b", Some(path)), None, "{path}");
    }
    assert_found(&routes, "a.b/%61dmin", Some("a.b/admin"));
    for path in ["/admin/a%2Fb", "/admin/x/../y", "/admin//x", "/admin/."] {
        assert_eq!(routes.find("a.b", Some(path)), Some(&"a.b/admin"), "{path}");
    }
    for path in ["/x/../y", "//", "/a%2Fb", "*", ""] {
        assert_eq!(routes.find("a.b", Some(path)), Some(&"a.b"), "{path}");
    }
}

#[test]
fn what_servers_of_one_kind_read_in_part_does_not_walk_around_the_rules_of_a_route() {
    let routes = table(&["a.b", "a.b/admin"]);
    for path in [
        "/admin\\\\..\\secret",
        "//admin/x\\..\\..",
        "//admin/x%5c..%5c..",
        "/admin%2f%2f../secret",
        "/admin\\b%5c..\\..\\x",
        "/x/../admin%2f../secret",
        "/x/..//admin//../secret",
        "/x/../admin/%2e%2e/y",
    ] {
        assert_eq!(routes.find("a.b", Some(path)), None, "{path}");
        assert!(routes.is_ambiguous("a.b", path), "{path}");
    }
}

#[test]
fn a_path_of_too_many_readings_leads_nowhere_where_paths_make_a_difference() {
    let routes = table(&["a.b", "a.b/admin", "*.c", "*.x.c/admin", "e.f"]);
    let path = "/a/..;b\\c%2f%5c%3b%2e".repeat(3000);
    for (host, expected) in [("a.b", None), ("y.x.c", None), ("y.c", Some(&"*.c")), ("e.f", Some(&"e.f"))] {
        assert_eq!(routes.find(host, Some(&path)), expected, "{host}");
        assert_eq!(routes.is_ambiguous(host, &path), expected.is_none(), "{host}");
    }
}

#[test]
fn parameters_of_a_path_do_not_walk_around_the_rules_of_a_route() {
    let routes = table(&["a.b", "a.b/admin", "a.b/public"]);
    for path in [
        "/x/..;/admin",
        "/x/..;a=b/admin/secret",
        "/public/..;/admin",
        "/admin;a=b",
        "/admin;a=b/secret",
        "/admin%3ba/secret",
        "/x/%2e%2e%3B/admin",
        "/x/..;%2fadmin",
        "/x/..;\\admin",
        "/;/admin",
        "/;a=b/admin",
        "/./;/admin",
        "/.;/admin",
        "/admin/..;/public",
        "/admin/..;/../admin;/..;/public",
    ] {
        assert_eq!(routes.find("a.b", Some(path)), None, "{path}");
        assert!(routes.is_ambiguous("a.b", path), "{path}");
    }
    // Where all readings lead to the same route nothing is at stake.
    for path in ["/admin/x;v=1", "/admin/a;b/..;c/d", "/admin/;jsessionid=1"] {
        assert_eq!(routes.find("a.b", Some(path)), Some(&"a.b/admin"), "{path}");
    }
    for path in ["/x;v=1/y;w=2", "/;a", "/x/..;/y", "/maps;lat=50;long=20", "/a%3Bb", "/admin2;x"] {
        assert_eq!(routes.find("a.b", Some(path)), Some(&"a.b"), "{path}");
    }
    assert_found(&table(&["a.b"]), "a.b/x/..;/admin", Some("a.b"));
}

#[test]
fn the_same_host_and_path_twice_are_a_conflict_with_its_name() {
    for (routes, text) in [
        (["a.b", "c.d", "A.B."], "the route `a.b` is there twice"),
        (["*.b", "c.d", "*.B"], "the route `*.b` is there twice"),
        (["a.b/api", "a.b", "a.b/api/"], "the route `a.b/api` is there twice"),
        (["a.b/a", "a.b", "a.b/%61"], "the route `a.b/%61` is there twice"),
    ] {
        let conflict = try_table(&routes).unwrap_err();
        assert_eq!((conflict.to_string().as_str(), conflict.first, conflict.second), (text, 0, 2));
        assert_eq!(conflict.fault(), Fault::Config);
        assert!(conflict.hint().unwrap().contains("/api"));
    }
    assert!(try_table(&["a.b", "*.a.b", "a.b/", "a.b/x"]).is_ok());
}

#[test]
fn a_thousand_routes_are_told_apart() {
    let hosts: Vec<String> = (0..1000).map(|n| format!("app-{n}.localhost")).collect();
    let paths: Vec<String> = (0..1000).map(|n| format!("one.localhost/team-{n}/api")).collect();
    let all: Vec<&str> = hosts.iter().chain(&paths).map(String::as_str).collect();
    let routes = table(&all);
    assert_eq!((routes.len(), routes.iter().len(), routes.is_empty()), (2000, 2000, false));
    for (host, path) in hosts.iter().zip(&paths) {
        assert_found(&routes, &format!("{host}/x"), Some(host));
        assert_found(&routes, &format!("{path}/x"), Some(path));
    }
    assert_found(&routes, "app-1000.localhost/", None);
}

#[test]
fn a_path_of_many_segments_is_looked_at_no_further_than_a_prefix_reaches() {
    let routes = table(&["a.b/api"]);
    let long = "/x".repeat(500_000);
    assert_eq!(routes.find("a.b", Some(&long)), None);
    assert_eq!(routes.find("a.b", Some(&format!("/api{long}"))), Some(&"a.b/api"));
    assert_eq!(routes.find(&"a.".repeat(500_000), Some("/")), None);
}

#[test]
fn routes_are_listed_in_the_order_of_the_file() {
    let routes = table(&["c.d/x", "a.b", "*.e"]);
    let listed: Vec<(String, Option<String>, &str)> =
        routes.iter().map(|(host, path, value)| (host.to_string(), path.map(ToString::to_string), *value)).collect();
    assert_eq!(
        listed,
        [
            ("c.d".to_owned(), Some("/x".to_owned()), "c.d/x"),
            ("a.b".to_owned(), None, "a.b"),
            ("*.e".to_owned(), None, "*.e"),
        ]
    );
    let none = RouteTable::<()>::default();
    assert!(none.is_empty() && none.find("a.b", Some("/")).is_none() && none.near("a.b", 3).is_empty());
}

#[test]
fn a_host_without_a_route_is_told_what_it_is_near_to() {
    let routes = table(&[
        "argocd.localhost",
        "grafana.localhost",
        "grafana.localhost/api",
        "prod-api.localhost",
        "*.apps.localhost",
        "db.k8s.localhost",
    ]);
    assert_eq!(routes.near("grafna.localhost", 3), ["grafana.localhost"]);
    assert_eq!(routes.near("argo.localhost", 3), ["argocd.localhost"]);
    assert_eq!(routes.near("api.localhost", 3), ["prod-api.localhost"]);
    assert_eq!(routes.near("grafana.local", 3), ["grafana.localhost"]);
    assert_eq!(routes.near("grafana.example.com", 3), ["grafana.localhost"], "the same word in front");
    assert_eq!(routes.near("apps.localhost", 3), ["*.apps.localhost"]);
    assert_eq!(routes.near("zzz.localhost", 3), [""; 0], "what all have in common is no likeness");
    assert_eq!(routes.near("localhost", 2).len(), 2);
}

/// The table as the contract says it, without any cleverness.
fn model<'a>(routes: &[&'a str], host: &str, path: &str) -> Option<&'a str> {
    let rank = |text: &&'a str| {
        let (name, prefix) = text.find('/').map_or((*text, None), |at| (&text[..at], Some(&text[at..])));
        let pattern = pattern(name);
        let below = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
        let fits = pattern.matches(host) && prefix.is_none_or(below);
        fits.then_some((matches!(pattern, HostPattern::Exact(_)), name.len(), prefix.map_or(0, str::len), *text))
    };
    routes.iter().filter_map(rank).max().map(|(.., text)| text)
}

proptest! {
    #[test]
    fn the_table_finds_what_a_plain_search_finds(
        routes in proptest::collection::btree_set("(\\*\\.)?([ab]\\.){0,3}c(/[xy]){0,3}", 0..12),
        host in "([ab]\\.){0,4}c", path in "/|(/[xy]){1,4}/?"
    ) {
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        let found = table(&routes).find(&host, Some(&path)).copied();
        prop_assert_eq!(found, model(&routes, &host, &path));
    }

    #[test]
    fn no_host_and_path_make_it_panic(host in any::<String>(), path in any::<String>()) {
        let routes = table(&["a.b", "*.b/x", "*.c"]);
        let _ = (routes.find(&host, Some(&path)), routes.find(&host, None), routes.near(&host, 3));
    }
}
