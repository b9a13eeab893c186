//! A second guard, written as plainly as can be and without a parser's help, to compare the real one with.

use proptest::prelude::*;

use super::super::*;

/// How many bytes pass, whether there is a fault, and how many heads pass.
fn model(bytes: &[u8]) -> (usize, bool, u64) {
    if bytes.starts_with(PREFACE) {
        return (bytes.len(), false, 0);
    }
    // It may still become the preface.
    if PREFACE.starts_with(bytes) {
        return (0, false, 0);
    }
    let (mut at, mut heads) = (0, 0);
    loop {
        let (length, verdict) = match head(&bytes[at..]) {
            Ok(Some(found)) => found,
            Ok(None) => return (at, false, heads),
            Err(()) => return (at, true, heads),
        };
        at += length;
        heads += 1;
        match verdict {
            Next::Opaque => return (bytes.len(), false, heads),
            Next::Length(length) => {
                at = at.saturating_add(length).min(bytes.len());
            }
            Next::Chunked => {
                let (length, fault, done) = chunks(&bytes[at..]);
                at += length;
                if fault || !done {
                    return (at, fault, heads);
                }
            }
        }
    }
}

enum Next {
    Length(usize),
    Chunked,
    Opaque,
}

/// The first head, when it is complete and good.
fn head(bytes: &[u8]) -> Result<Option<(usize, Next)>, ()> {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    loop {
        let rest = &bytes[start..];
        if lines.is_empty() && rest.first().is_some_and(|b| !token(*b) && !matches!(b, b'\r' | b'\n')) {
            return Err(());
        }
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line = rest[..end].strip_suffix(b"\r").ok_or(())?;
        start += end + 1;
        match (line.is_empty(), lines.is_empty()) {
            (true, true) => {}
            (true, false) => break,
            (false, _) => lines.push(line),
        }
    }
    Ok(Some((start, judge(&lines)?)))
}

fn judge(lines: &[&[u8]]) -> Result<Next, ()> {
    let text: Vec<&str> = lines.iter().map(|l| std::str::from_utf8(l).map_err(|_| ())).collect::<Result<_, _>>()?;
    let words: Vec<&str> = text[0].split(' ').collect();
    let [method, target, version] = words[..] else {
        return Err(());
    };
    let good_target =
        (target.starts_with('/') || target.starts_with("http://") || (target == "*" && method == "OPTIONS"))
            && target.bytes().all(|b| b > b' ' && b != 0x7f);
    let good_method = !method.is_empty() && method.bytes().all(token) && method != "CONNECT";
    if !good_method || !good_target || !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err(());
    }
    let mut pairs = Vec::new();
    for line in &text[1..] {
        let (name, value) = line.split_once(':').ok_or(())?;
        let plain = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
        if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(plain) {
            return Err(());
        }
        pairs.push((name.to_lowercase(), value.trim_matches([' ', '\t'])));
    }
    if pairs.len() > 100 {
        return Err(());
    }
    framing(&pairs, version == "HTTP/1.0")
}

fn framing(pairs: &[(String, &str)], version10: bool) -> Result<Next, ()> {
    let all = |name: &str| -> Vec<&str> { pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect() };
    if all("host").len() != 1 {
        return Err(());
    }
    let next = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Next::Length(0),
        ([digits], []) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Next::Length(digits.parse().map_err(|_| ())?)
        }
        ([], [coding]) if !version10 && coding.eq_ignore_ascii_case("chunked") => Next::Chunked,
        _ => return Err(()),
    };
    let asked = all("connection").iter().any(|v| v.to_lowercase().split(',').any(|t| t.trim() == "upgrade"));
    match &all("upgrade")[..] {
        [] => Ok(next),
        _ if version10 || !asked => Ok(next),
        [one] if one.eq_ignore_ascii_case("h2c") => Ok(next),
        [one] if !one.is_empty() && one.bytes().all(token) && matches!(next, Next::Length(0)) => Ok(Next::Opaque),
        _ => Err(()),
    }
}

/// Bytes that pass, fault, done.
fn chunks(bytes: &[u8]) -> (usize, bool, bool) {
    let mut at = 0;
    loop {
        let digits = bytes[at..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + digits]).unwrap(), 16).unwrap_or(0);
        at += digits;
        if at == bytes.len() {
            return (at, false, false);
        }
        if digits == 0 {
            return (at, true, false);
        }
        if bytes[at] == b';' {
            at += 1;
            at += bytes[at..].iter().take_while(|b| **b == b'\t' || (**b >= b' ' && **b != 0x7f)).count();
        }
        for expected in b"\r\n" {
            match bytes.get(at) {
                None => return (at, false, false),
                Some(found) if found == expected => at += 1,
                Some(_) => return (at, true, false),
            }
        }
        if size == 0 {
            return trailers(bytes, at);
        }
        at = at.saturating_add(size).min(bytes.len());
        for expected in b"\r\n" {
            match bytes.get(at) {
                None => return (at, false, false),
                Some(found) if found == expected => at += 1,
                Some(_) => return (at, true, false),
            }
        }
    }
}

fn trailers(bytes: &[u8], mut at: usize) -> (usize, bool, bool) {
    loop {
        let name = bytes[at..].iter().take_while(|b| token(**b)).count();
        at += name;
        if at == bytes.len() {
            return (at, false, false);
        }
        if name > 0 {
            if bytes[at] != b':' {
                return (at, true, false);
            }
            at += 1;
            at += bytes[at..].iter().take_while(|b| **b == b'\t' || (**b >= b' ' && **b != 0x7f)).count();
        }
        for expected in b"\r\n" {
            match bytes.get(at) {
                None => return (at, false, false),
                Some(found) if found == expected => at += 1,
                Some(_) => return (at, true, false),
            }
        }
        if name == 0 {
            return (at, false, true);
        }
    }
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const LINES: [&str; 12] = [
    "GET / HTTP/1.1",
    "POST /a?b HTTP/1.1",
    "GET / HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "GET http://a/ HTTP/1.1",
    "GET / HTTP/2.0",
    "CONNECT a:1 HTTP/1.1",
    "GET /",
    "GET  / HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET x HTTP/1.1",
    "G\u{e9}T / HTTP/1.1",
];

const HEADERS: [&str; 22] = [
    "Host: a.b",
    "Host: c.d",
    "Content-Length: 5",
    "Content-Length: 0",
    "content-length: +5",
    "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: CHUNKED ",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding:",
    "Connection: keep-alive, Upgrade",
    "Connection: close",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Upgrade: a, b",
    "X-A: b",
    " folded",
    "X-A : b",
    ": b",
    "X-A: \u{1}",
    "X-B: \u{e9}\tb",
    "nothing",
];

const BODIES: [&str; 16] = [
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "5;x=y\r\nhello\r\n0\r\n\r\n",
    "5\r\nhel",
    "5\nhello",
    "g\r\n",
    "5\r\nhello0\r\n",
    "0\r\n A\r\n\r\n",
    "\r\n",
    "0\r\n\r\nX",
    "A\r\n0123456789\r\n",
    "0\r\nA\r\n\r\n",
    "1;\u{1}\r\n",
];

/// Requests that are good more often than not, with line ends that are right nearly always.
fn requests() -> impl Strategy<Value = String> {
    let pick = |most: usize, usual: usize| prop_oneof![4 => 0..usual, 1 => 0..most];
    let end = || prop_oneof![60 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    let header = (pick(HEADERS.len(), 16), end());
    let request = (
        pick(LINES.len(), 5),
        end(),
        prop_oneof![9 => Just(true), 1 => Just(false)],
        proptest::collection::vec(header, 0..4),
        end(),
        pick(BODIES.len(), 6),
    );
    let whole = request.prop_map(|(line, first, host, headers, last, body)| {
        let mut text = format!("{}{first}", LINES[line]);
        if host {
            text += "Host: a.b\r\n";
        }
        for (header, end) in headers {
            // A second Host is wrong so surely that it would hide what else is.
            if header > 1 || !host {
                text += &format!("{}{end}", HEADERS[header]);
            }
        }
        text + last + BODIES[body]
    });
    proptest::collection::vec(whole, 1..4).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_guard_does_what_its_model_does(text in requests()) {
        let bytes = text.as_bytes();
        let mut guard = HeadGuard::new(HeadLimits::default());
        let mut out = Vec::new();
        let fault = guard.accept(bytes, &mut out).is_err();
        let found = (out.len(), fault, guard.heads_passed());
        prop_assert_eq!(found, model(bytes), "{}", text.escape_debug());
        prop_assert!(bytes.starts_with(&out));
    }
}

#[test]
fn the_model_itself_knows_good_from_bad() {
    let good = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert_eq!(model(good), (good.len(), false, 1));
    assert_eq!(model(b"GET / HTTP/1.1\r\n\r\n"), (0, true, 0));
    assert_eq!(model(b"GET / HTTP/1.1\r\nHost: a\r\n"), (0, false, 0));
}
