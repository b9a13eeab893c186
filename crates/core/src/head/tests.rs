//! Tests of the guard, named after the rules.

use proptest::prelude::*;

use super::*;

mod model;

/// What became of a connection's bytes: what was passed on, and the fault if there was one.
type Outcome = (Vec<u8>, Option<HeadFault>, u64);

fn feed(limits: &HeadLimits, pieces: &[&[u8]]) -> Outcome {
    let mut guard = HeadGuard::new(limits.clone());
    let mut out = Vec::new();
    let mut fault = None;
    for piece in pieces {
        if let Err(found) = guard.accept(piece, &mut out) {
            fault.get_or_insert(found);
        }
    }
    (out, fault, guard.heads_passed())
}

fn whole(bytes: &[u8]) -> Outcome {
    feed(&HeadLimits::default(), &[bytes])
}

fn by_byte(bytes: &[u8]) -> Outcome {
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    feed(&HeadLimits::default(), &pieces)
}

/// Passes unchanged, whole and byte by byte; says how many heads there were.
fn passes(bytes: impl AsRef<[u8]>) -> u64 {
    let bytes = bytes.as_ref();
    let (out, fault, heads) = whole(bytes);
    assert_eq!(fault, None, "{}", bytes.escape_ascii());
    assert_eq!(out, bytes, "{}", bytes.escape_ascii());
    assert_eq!(by_byte(bytes), (out, fault, heads));
    heads
}

/// The fault, whole and byte by byte, when nothing of the head was passed on.
fn refused(bytes: impl AsRef<[u8]>) -> HeadFault {
    let bytes = bytes.as_ref();
    let (out, fault, heads) = whole(bytes);
    assert_eq!(by_byte(bytes), (out.clone(), fault, heads), "{}", bytes.escape_ascii());
    assert_eq!(out, b"", "{}", bytes.escape_ascii());
    assert_eq!(heads, 0);
    fault.unwrap_or_else(|| panic!("passed: {}", bytes.escape_ascii()))
}

/// A GET with these header lines.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.b\r\n{lines}\r\n")
}

/// A POST with these header lines and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a.b\r\n{lines}\r\n{body}")
}

#[test]
fn clean_requests_pass_unchanged() {
    assert_eq!(passes(get("")), 1);
    assert_eq!(passes(get("Accept: */*\r\nX-Empty:\r\nX-Text: \u{e9}\t!\r\n")), 1);
    assert_eq!(passes("GET http://a.b/x?y HTTP/1.1\r\nHost: a.b\r\n\r\n"), 1);
    assert_eq!(passes("OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n"), 1);
    assert_eq!(passes("GET / HTTP/1.0\r\nHost: a.b\r\n\r\n"), 1);
    assert_eq!(passes("PROPFIND / HTTP/1.1\r\nhost: a.b\r\n\r\n"), 1);
}

#[test]
fn several_requests_with_bodies_follow_each_other_on_one_connection() {
    let mut all = get("");
    all += &post("Content-Length: 5\r\n", "hello");
    all += &post("Content-Length: 0\r\n", "");
    all += &post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
    all += &post("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n");
    all += "\r\n";
    all += &get("");
    assert_eq!(passes(&all), 6);
}

#[test]
fn a_body_may_look_like_a_request() {
    let inner = "GET /\nHost : x\r\n\r\n\0";
    let head = format!("Content-Length: {}\r\n", inner.len());
    assert_eq!(passes(post(&head, inner) + &get("")), 2);
}

#[test]
fn a_head_is_held_back_until_it_is_complete_and_a_body_is_not() {
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    assert!(!guard.mid_head());
    guard.accept(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n", &mut out).unwrap();
    assert!(out.is_empty() && guard.mid_head() && guard.heads_passed() == 0);
    guard.accept(b"\r\nab", &mut out).unwrap();
    assert!(out.ends_with(b"\r\n\r\nab") && !guard.mid_head() && guard.mid_body());
    guard.accept(b"cd", &mut out).unwrap();
    assert!(out.ends_with(b"abcd") && !guard.mid_body());
}

#[test]
fn s8_a_missing_or_repeated_host_is_refused() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), HeadFault::HostMissing);
    assert_eq!(refused("GET / HTTP/1.0\r\n\r\n"), HeadFault::HostMissing);
    assert_eq!(refused(get("host: a.b\r\n")), HeadFault::HostRepeated);
}

#[test]
fn s9_a_repeated_content_length_is_refused_even_when_equal() {
    assert_eq!(refused(post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")), HeadFault::LengthRepeated);
    assert_eq!(refused(post("Content-Length: 5\r\ncontent-length: 6\r\n", "hello")), HeadFault::LengthRepeated);
}

#[test]
fn s9_a_content_length_is_digits_only() {
    for value in ["5, 5", "+5", "-5", "0x5", "5 5", "", "5a", "99999999999999999999", "5;"] {
        let head = format!("Content-Length: {value}\r\n");
        assert_eq!(refused(post(&head, "")), HeadFault::Length, "{value}");
    }
    assert_eq!(passes(post("Content-Length: \t 2 \r\n", "ab")), 1);
}

#[test]
fn s9_content_length_beside_transfer_encoding_is_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
    ] {
        assert_eq!(refused(post(lines, "")), HeadFault::LengthAndEncoding);
    }
}

#[test]
fn s9_a_transfer_encoding_is_exactly_chunked() {
    for value in [
        "chunked, chunked",
        "gzip, chunked",
        "chunked, identity",
        "xchunked",
        "identity",
        "chunked;x",
        "\"chunked\"",
        "",
    ] {
        let head = format!("Transfer-Encoding: {value}\r\n");
        assert_eq!(refused(post(&head, "")), HeadFault::Encoding, "{value}");
    }
    assert_eq!(refused(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "")), HeadFault::Encoding);
    assert_eq!(refused(post("Transfer-Encoding: gzip\r\n", "")), HeadFault::UnknownEncoding);
    assert_eq!(
        refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        HeadFault::EncodingInVersion10
    );
    // What a lenient parser takes for chunked and a strict one does not.
    assert_eq!(refused(post("Transfer-Encoding:\x0bchunked\r\n", "")), HeadFault::Header);
    assert_eq!(refused(post("Transfer-Encoding : chunked\r\n", "")), HeadFault::SpaceBeforeColon);
}

#[test]
fn s9_folded_headers_are_refused() {
    assert_eq!(refused(get("X-A: b\r\n c\r\n")), HeadFault::Folded);
    assert_eq!(refused(get("X-A: b\r\n\tc\r\n")), HeadFault::Folded);
    assert_eq!(refused("GET / HTTP/1.1\r\n Host: a.b\r\n\r\n"), HeadFault::Folded);
}

#[test]
fn s9_bare_line_ends_and_nul_are_refused() {
    assert_eq!(refused("GET / HTTP/1.1\nHost: a.b\n\n"), HeadFault::BareLf);
    assert_eq!(refused(get("X-A: b\nX-B: c\r\n")), HeadFault::BareLf);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a.b\r\n\n"), HeadFault::BareLf);
    assert_eq!(refused(get("X-A: b\rX-B: c\r\n")), HeadFault::BareCr);
    assert_eq!(refused(get("X-A: b\r\r\n")), HeadFault::BareCr);
    assert_eq!(refused("\rGET / HTTP/1.1\r\nHost: a.b\r\n\r\n"), HeadFault::BareCr);
    assert_eq!(refused(get("X-A: b\0c\r\n")), HeadFault::Nul);
    assert_eq!(refused("GET /\0 HTTP/1.1\r\nHost: a.b\r\n\r\n"), HeadFault::Nul);
}

#[test]
fn s9_malformed_header_names_are_refused() {
    assert_eq!(refused(get("X-A : b\r\n")), HeadFault::SpaceBeforeColon);
    assert_eq!(refused(get("X-A\t: b\r\n")), HeadFault::SpaceBeforeColon);
    assert_eq!(refused(get(": b\r\n")), HeadFault::EmptyName);
    assert_eq!(refused(get("X A: b\r\n")), HeadFault::Header);
    assert_eq!(refused(get("X(A): b\r\n")), HeadFault::Header);
    assert_eq!(refused(get("no colon\r\n")), HeadFault::Header);
    assert_eq!(refused(get("X-A: \x07\r\n")), HeadFault::Header);
    assert_eq!(refused(get("H\u{e9}: b\r\n")), HeadFault::Header);
}

#[test]
fn malformed_request_lines_are_refused() {
    for line in [
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET / HTTPS/1.1",
        "GET / http/1.1",
        "G@T / HTTP/1.1",
        "GET a.b HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/",
        "GET /a b HTTP/1.1",
    ] {
        let fault = refused(format!("{line}\r\nHost: a.b\r\n\r\n"));
        assert_eq!(fault, HeadFault::RequestLine, "{line}");
    }
}

#[test]
fn other_versions_and_connect_are_not_supported() {
    for version in ["2.0", "3.0", "1.2", "0.9", "1", "11"] {
        let fault = refused(format!("GET / HTTP/{version}\r\nHost: a.b\r\n\r\n"));
        assert_eq!((fault, fault.status()), (HeadFault::Version, 505), "{version}");
    }
    let fault = refused("CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n");
    assert_eq!((fault, fault.status()), (HeadFault::Connect, 501));
}

#[test]
fn s11_a_head_has_at_most_64_kib_and_100_headers() {
    let many = |n: usize| get(&"X-A: b\r\n".repeat(n - 1));
    assert_eq!(passes(many(100)), 1);
    let fault = refused(many(101));
    assert_eq!((fault, fault.status()), (HeadFault::TooManyHeaders, 431));
    let long = |n: usize| get(&format!("X-A: {}\r\n", "b".repeat(n - get("X-A: \r\n").len())));
    assert_eq!(whole(long(HEAD_MAX).as_bytes()).1, None);
    assert_eq!(whole(long(HEAD_MAX + 1).as_bytes()).1, Some(HeadFault::TooLarge));
    let endless = vec![b'a'; HEAD_MAX];
    assert_eq!(refused(&endless), HeadFault::TooLarge);
    assert_eq!(whole(&endless[1..]).1, None);
    assert_eq!(refused("\r\n".repeat(HEAD_MAX / 2)), HeadFault::TooLarge);
}

#[test]
fn limits_may_be_lower_and_never_higher() {
    let small = HeadLimits { head_size: 40, headers: 2, ..HeadLimits::default() };
    assert_eq!(feed(&small, &[get("A: b\r\n").as_bytes()]).1, None);
    assert_eq!(feed(&small, &[get("A: bcdefghij\r\n").as_bytes()]).1, Some(HeadFault::TooLarge));
    assert_eq!(feed(&small, &[b"G / HTTP/1.1\r\nA:\r\nB:\r\nHost:\r\n\r\n"]).1, Some(HeadFault::TooManyHeaders));
    let huge = HeadGuard::new(HeadLimits { head_size: usize::MAX, headers: usize::MAX, ..HeadLimits::default() });
    assert_eq!((huge.limits.head_size, huge.limits.headers), (HEAD_MAX, HEADERS_MAX));
}

#[test]
fn what_is_no_http_is_refused_at_its_first_byte() {
    assert_eq!(refused(b"\x16\x03\x01\x02\x00"), HeadFault::RequestLine);
    assert_eq!(refused(b"\x00"), HeadFault::RequestLine);
    assert_eq!(refused(" "), HeadFault::RequestLine);
}

#[test]
fn s9_an_upgrade_without_a_body_makes_the_connection_opaque() {
    let upgrade = get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n");
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    guard.accept(upgrade.as_bytes(), &mut out).unwrap();
    assert!(guard.is_upgraded());
    passes([upgrade.as_bytes(), b"\x81\x85\n\0\r\xff"].concat());
    passes(get("Connection: upgrade\r\nUpgrade: TLS/1.3\r\nContent-Length: 0\r\n") + "\n\n");
}

#[test]
fn s9_an_upgrade_with_a_body_is_refused() {
    for body in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"] {
        let lines = format!("Connection: upgrade\r\nUpgrade: websocket\r\n{body}");
        assert_eq!(refused(post(&lines, "abc")), HeadFault::UpgradeWithBody);
    }
}

#[test]
fn s9_unknown_upgrades_are_refused() {
    for value in ["websocket, h2c", "a b", "", "a/b/c", "\"x\"", "a/", "\u{e9}"] {
        let fault = refused(get(&format!("Connection: upgrade\r\nUpgrade: {value}\r\n")));
        assert_eq!(fault, HeadFault::Upgrade, "{value}");
    }
    assert_eq!(refused(get("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n")), HeadFault::Upgrade);
    let listed = HeadLimits { upgrades: UpgradeRule::Listed(vec!["tcp".into()]), ..HeadLimits::default() };
    let outcome = |name: &str| {
        let head = get(&format!("Connection: upgrade\r\nUpgrade: {name}\r\n"));
        feed(&listed, &[head.as_bytes()]).1
    };
    assert_eq!((outcome("WebSocket"), outcome("TCP")), (None, None));
    assert_eq!(outcome("other"), Some(HeadFault::Upgrade));
}

#[test]
fn an_offer_of_h2c_is_ignored_and_the_next_request_is_checked() {
    let offer = get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n");
    assert_eq!(passes(offer.clone() + &get("")), 2);
    let (_, fault, heads) = whole((offer + "GET /\n").as_bytes());
    assert_eq!((fault, heads), (Some(HeadFault::BareLf), 1));
}

#[test]
fn an_upgrade_that_connection_does_not_name_is_none() {
    assert_eq!(passes(get("Upgrade: websocket\r\n") + &get("")), 2);
    assert_eq!(
        passes("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned() + &get("")),
        2
    );
}

#[test]
fn who_answers_finds_the_same_upgrade_as_the_guard() {
    let protocol = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = http::HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        upgrade_protocol(&headers).map(str::to_owned)
    };
    let websocket = [("connection", "keep-alive"), ("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(protocol(&websocket).as_deref(), Some("websocket"));
    assert_eq!(protocol(&[("upgrade", "websocket")]), None);
    assert_eq!(protocol(&[("connection", "upgrade"), ("upgrade", "H2C")]), None);
    assert_eq!(protocol(&[("connection", "upgrade")]), None);
}

#[test]
fn version_2_by_prior_knowledge_passes_unseen() {
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0\n");
    assert_eq!(passes(&bytes), 0);
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    guard.accept(&PREFACE[..23], &mut out).unwrap();
    assert!(!guard.is_h2() && guard.mid_head() && out.is_empty());
    guard.accept(&PREFACE[23..], &mut out).unwrap();
    assert!(guard.is_h2() && !guard.mid_head());
    assert_eq!(out, PREFACE);
}

#[test]
fn half_a_preface_is_an_ordinary_bad_request() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nXX"), HeadFault::Version);
    assert_eq!(refused("PRI * HTTP/2.0\r\nHost: a\r\n\r\n"), HeadFault::Version);
    assert_eq!(passes("PRI / HTTP/1.1\r\nHost: a\r\n\r\n"), 1);
    let later = get("") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(whole(later.as_bytes()).2, 1);
    assert!(whole(later.as_bytes()).1.is_some());
}

#[test]
fn s9_a_malformed_chunk_stops_the_body_where_it_stands() {
    let head = post("Transfer-Encoding: chunked\r\n", "");
    let bytes = format!("{head}5\r\nhello\r\n5\nhello");
    let (out, fault, heads) = whole(bytes.as_bytes());
    assert_eq!((fault, heads), (Some(HeadFault::Chunk), 1));
    assert_eq!(out, format!("{head}5\r\nhello\r\n5").as_bytes());
    assert_eq!(by_byte(bytes.as_bytes()), (out, fault, heads));
    assert!(HeadFault::Chunk.in_body() && !HeadFault::Header.in_body());
}

#[test]
fn a_fault_stays_and_nothing_passes_after_it() {
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    assert_eq!(guard.accept(b"\n", &mut out), Err(HeadFault::BareLf));
    assert_eq!(guard.accept(get("").as_bytes(), &mut out), Err(HeadFault::BareLf));
    assert_eq!(guard.accept(b"", &mut out), Err(HeadFault::BareLf));
    assert!(out.is_empty() && !guard.mid_head());
}

#[test]
fn a_good_request_before_a_bad_one_passes() {
    let bytes = get("") + &get("Bad : x\r\n");
    let (out, fault, heads) = whole(bytes.as_bytes());
    assert_eq!((fault, heads), (Some(HeadFault::SpaceBeforeColon), 1));
    assert_eq!(out, get("").as_bytes());
}

#[test]
fn an_idle_guard_keeps_no_buffer() {
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    for byte in get("").as_bytes() {
        guard.accept(&[*byte], &mut out).unwrap();
    }
    assert_eq!(guard.partial.capacity(), 0);
}

#[test]
fn each_fault_is_the_visitors_and_says_what_it_is() {
    assert_eq!(HeadFault::Nul.fault(), Fault::Downstream);
    assert_eq!(HeadFault::Nul.status(), 400);
    assert_eq!(HeadFault::UnknownEncoding.status(), 501);
    assert!(HeadFault::Folded.to_string().contains("folded"));
}

/// Parts that make up connections, good and bad, for the guard to be fed with.
const PARTS: [&str; 22] = [
    "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 7\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "1;a=b\r\nx\r\n",
    "abcdefg",
    "GET / HTTP/1.1\r\n",
    "Host: a.b\r\n",
    "Content-Length: 3\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "X-A: b\r\n",
    "\0",
    "P",
    ": ",
];

/// The bytes of a connection with places to cut it.
fn connections() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let parts = proptest::collection::vec(0..PARTS.len(), 0..8);
    let cuts = proptest::collection::vec(0usize..400, 0..12);
    (parts, cuts).prop_map(|(parts, cuts)| {
        let bytes = parts.iter().map(|part| PARTS[*part]).collect::<String>().into_bytes();
        (bytes, cuts)
    })
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|at| (*at).min(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_chunking_gives_the_same((bytes, cuts) in connections()) {
        let expected = whole(&bytes);
        let pieces = cut(&bytes, &cuts);
        prop_assert_eq!(feed(&HeadLimits::default(), &pieces), expected.clone());
        prop_assert_eq!(by_byte(&bytes), expected);
    }

    #[test]
    fn any_chunking_gives_the_same_under_a_small_limit((bytes, cuts) in connections(), head_size in 1usize..80) {
        let limits = HeadLimits { head_size, headers: 3, ..HeadLimits::default() };
        let expected = feed(&limits, &[&bytes]);
        let pieces = cut(&bytes, &cuts);
        prop_assert_eq!(feed(&limits, &pieces), expected);
    }

    #[test]
    fn what_passes_is_a_prefix_of_what_came((bytes, _) in connections()) {
        let (out, _, _) = whole(&bytes);
        prop_assert!(bytes.starts_with(&out));
    }

    #[test]
    fn random_bytes_do_not_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(0usize..300, 0..6)
    ) {
        let expected = whole(&bytes);
        prop_assert_eq!(feed(&HeadLimits::default(), &cut(&bytes, &cuts)), expected);
    }

    #[test]
    fn a_damaged_head_passes_unchanged_or_not_at_all(at in 0usize..60, with in any::<u8>()) {
        let mut bytes = post("Content-Length: 3\r\nX: y\r\n", "abc").into_bytes();
        let at = at.min(bytes.len() - 1);
        bytes[at] = with;
        let (out, fault, _) = whole(&bytes);
        prop_assert!(bytes.starts_with(&out));
        let mut guard = HeadGuard::new(HeadLimits::default());
        let _ = guard.accept(&bytes, &mut Vec::new());
        // What was neither passed nor refused is a head that still waits for its end.
        prop_assert!(fault.is_some() || out == bytes || guard.mid_head());
    }
}
