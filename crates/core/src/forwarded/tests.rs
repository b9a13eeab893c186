//! Tests of forwarding headers, named after the rules.

use proptest::prelude::*;

use super::*;

fn arrival(peer: &str, trusted: bool) -> Arrival<'static> {
    Arrival { peer: peer.parse().unwrap(), trusted, host: "app1.localhost:8080", https: false, port: 8080 }
}

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn after(arrival: &Arrival<'_>, pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = map(pairs);
    Forwarding::new(arrival, &Claimed::of(&headers)).apply(&mut headers);
    headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut all = headers.get_all(name).iter();
    let one = all.next().unwrap().to_str().unwrap();
    assert!(all.next().is_none(), "{name} is there twice");
    one
}

const FORGED: [(&str, &str); 7] = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-real-ip", "6.6.6.6"),
    ("forwarded", "for=6.6.6.6"),
];

#[test]
fn s10_what_a_stranger_claims_is_dropped() {
    let headers = after(&arrival("192.0.2.7", false), &FORGED);
    assert_eq!(text(&headers, "x-forwarded-for"), "192.0.2.7");
    assert_eq!(text(&headers, "x-forwarded-host"), "app1.localhost:8080");
    assert_eq!(text(&headers, "x-forwarded-proto"), "http");
    assert_eq!(text(&headers, "x-forwarded-port"), "8080");
    assert_eq!(text(&headers, "x-real-ip"), "192.0.2.7");
    assert_eq!(text(&headers, "forwarded"), "for=192.0.2.7;host=\"app1.localhost:8080\";proto=http");
}

#[test]
fn s10_a_trusted_proxy_is_believed_and_added_to_the_list() {
    let claims = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "app1.example.com"),
        ("x-forwarded-proto", "HTTPS"),
        ("forwarded", "for=203.0.113.9"),
    ];
    let headers = after(&arrival("10.0.0.1", true), &claims);
    assert_eq!(text(&headers, "x-forwarded-for"), "203.0.113.9, 10.0.0.1");
    assert_eq!(text(&headers, "x-forwarded-host"), "app1.example.com");
    assert_eq!(text(&headers, "x-forwarded-proto"), "https");
    assert_eq!(text(&headers, "x-forwarded-port"), "443");
    assert_eq!(text(&headers, "x-real-ip"), "203.0.113.9");
    assert_eq!(text(&headers, "forwarded"), "for=203.0.113.9, for=10.0.0.1;host=app1.example.com;proto=https");
}

#[test]
fn several_headers_of_a_trusted_proxy_become_one_list() {
    let headers =
        after(&arrival("10.0.0.1", true), &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]);
    assert_eq!(text(&headers, "x-forwarded-for"), "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1");
}

#[test]
fn nonsense_of_a_trusted_proxy_falls_back_to_what_is_known() {
    let claims = [
        ("x-forwarded-host", "a b"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-port", "0"),
        ("x-real-ip", "unknown"),
    ];
    let headers = after(&arrival("10.0.0.1", true), &claims);
    assert_eq!(text(&headers, "x-forwarded-host"), "app1.localhost:8080");
    assert_eq!(text(&headers, "x-forwarded-proto"), "http");
    assert_eq!(text(&headers, "x-real-ip"), "10.0.0.1");
}

#[test]
fn addresses_of_version_6_are_quoted_in_forwarded_only() {
    let headers = after(&arrival("2001:db8::7", false), &[]);
    assert_eq!(text(&headers, "x-forwarded-for"), "2001:db8::7");
    assert!(text(&headers, "forwarded").starts_with("for=\"[2001:db8::7]\";"));
    let headers = after(&arrival("::ffff:192.0.2.7", false), &[]);
    assert_eq!(text(&headers, "x-real-ip"), "192.0.2.7");
}

#[test]
fn a_request_over_tls_is_said_to_be_https() {
    let arrival = Arrival { https: true, port: 443, host: "app1.example.com", ..arrival("192.0.2.7", false) };
    let headers = after(&arrival, &[]);
    assert_eq!(text(&headers, "x-forwarded-proto"), "https");
    assert_eq!(text(&headers, "x-forwarded-port"), "443");
    assert!(text(&headers, "forwarded").ends_with(";host=app1.example.com;proto=https"));
}

#[test]
fn the_values_are_there_without_a_header_map_too() {
    let forwarding = Forwarding::new(&arrival("192.0.2.7", false), &Claimed::default());
    let names: Vec<_> = forwarding.headers().map(|(name, _)| name).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn quotes_in_a_value_cannot_break_out_of_it() {
    let mut text = String::new();
    push_quoted(&mut text, "a\"b\\c");
    assert_eq!(text, r#""a\"b\\c""#);
}

#[test]
fn the_visitor_is_the_last_address_that_is_no_trusted_proxy() {
    let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
    let visitor = |peer: &str, list: Option<&str>| visitor_address(peer.parse().unwrap(), list, &trusted).to_string();
    assert_eq!(visitor("192.0.2.1", Some("6.6.6.6")), "192.0.2.1");
    assert_eq!(visitor("10.0.0.1", None), "10.0.0.1");
    assert_eq!(visitor("10.0.0.1", Some("203.0.113.9")), "203.0.113.9");
    assert_eq!(visitor("10.0.0.1", Some("6.6.6.6, 203.0.113.9, 10.0.0.2")), "203.0.113.9");
    assert_eq!(visitor("10.0.0.1", Some("6.6.6.6, nonsense, 10.0.0.2")), "10.0.0.2");
    assert_eq!(visitor("10.0.0.1", Some("[2001:db8::1]:99")), "2001:db8::1");
    assert_eq!(visitor("10.0.0.1", Some("\"203.0.113.9:80\"")), "203.0.113.9");
}

#[test]
fn s9_hop_by_hop_headers_are_dropped() {
    let mut headers = map(&[
        ("connection", "keep-alive, X-Private"),
        ("connection", "upgrade"),
        ("keep-alive", "1"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "x"),
        ("accept", "*/*"),
    ]);
    drop_hop_by_hop(&mut headers);
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["accept"]);
}

#[test]
fn s9_connection_cannot_take_out_what_a_request_lives_by() {
    let mut headers = map(&[
        ("connection", "host, authorization, X-Forwarded-For, x-real-ip, cookie, content-length"),
        ("host", "a.b"),
        ("authorization", "x"),
        ("x-forwarded-for", "1.1.1.1"),
    ]);
    drop_hop_by_hop(&mut headers);
    assert_eq!(headers.len(), 3);
}

#[test]
fn connection_may_name_several_headers_in_several_lines() {
    let headers = map(&[("connection", " X-A ,, x-b,"), ("connection", "a b, x-c, Host")]);
    assert_eq!(named_by_connection(&headers), ["x-a", "x-b", "x-c"]);
}

#[test]
fn hop_by_hop_names_are_known_in_any_case() {
    assert!(is_hop_by_hop("Transfer-Encoding") && is_hop_by_hop("te"));
    assert!(!is_hop_by_hop("content-length") && !is_hop_by_hop("host"));
}

proptest! {
    #[test]
    fn whatever_is_claimed_gives_six_legal_headers(
        for_ in "\\PC{0,20}", host in "\\PC{0,20}", forwarded in "\\PC{0,20}", trusted in any::<bool>()
    ) {
        let claimed = Claimed { for_: Some(for_), host: Some(host), forwarded: Some(forwarded), ..Claimed::default() };
        let mut headers = HeaderMap::new();
        Forwarding::new(&arrival("192.0.2.7", trusted), &claimed).apply(&mut headers);
        prop_assert!(headers.contains_key("x-real-ip"));
        if !trusted {
            prop_assert_eq!(text(&headers, "x-forwarded-for"), "192.0.2.7");
        }
    }

    #[test]
    fn an_untrusted_peer_is_always_the_visitor(list in "\\PC{0,30}") {
        let peer: IpAddr = "192.0.2.7".parse().unwrap();
        prop_assert_eq!(visitor_address(peer, Some(&list), &|_| false), peer);
    }
}

#[test]
fn what_a_service_takes_for_our_headers_is_taken_out_and_other_underscores_stay() {
    let mut headers = HeaderMap::new();
    let alike = ["x_forwarded_for", "x-forwarded_for", "x_real_ip", "content_length", "transfer_encoding"];
    for name in alike.into_iter().chain(["api_key", "x-forwarded-for"]) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    drop_lookalikes(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["api_key", "x-forwarded-for"]);
}
