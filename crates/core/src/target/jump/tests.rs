//! Tests of `jump://` URLs.

use proptest::prelude::*;

use super::*;
use crate::diagnose::{Diagnose, Fault};
use crate::target::ObjectKind;
use crate::target::kube::tests::selections;

fn back(text: &str) -> Result<String, KubeTargetError> {
    JumpTarget::parse(text).map(|target| target.to_string())
}

fn host(text: &str) -> Result<JumpHost, KubeTargetError> {
    JumpHost::parse(text)
}

#[test]
fn every_part_is_read() {
    let target = JumpTarget::parse("jump://prod/default/service/api/mydb.rds.amazonaws.com:3306").unwrap();
    assert_eq!((target.context.as_deref(), target.namespace.as_deref()), (Some("prod"), Some("default")));
    assert_eq!(target.via, Selection::Object { kind: ObjectKind::Service, name: "api".into() });
    assert_eq!(target.host, JumpHost::Name("mydb.rds.amazonaws.com".into()));
    assert_eq!(target.port.get(), 3306);
    assert_eq!(target.authority(), "mydb.rds.amazonaws.com:3306");
}

#[test]
fn hosts_are_names_or_addresses() {
    for (text, canonical) in [
        ("jump:////pod/x/10.0.0.5:80", "jump:////pod/x/10.0.0.5:80"),
        ("jump:////po/x/[2001:DB8::1]:80", "jump:////pod/x/[2001:db8::1]:80"),
        ("jump:////pod/x/DB_1.Internal.:80", "jump:////pod/x/db_1.internal.:80"),
        ("jump://a%2Fb//selector/a%2Fb=c/h:1", "jump://a%2Fb//selector/a%2Fb=c/h:1"),
    ] {
        assert_eq!(back(text).as_deref(), Ok(canonical), "{text}");
    }
    assert_eq!(host("::1").unwrap().bare(), "::1");
    assert_eq!(host("[::1]").unwrap().to_string(), "[::1]");
    assert_eq!(host("10.0.0.1").unwrap().bare(), "10.0.0.1");
    assert_eq!(host("db").unwrap().bare(), "db");
}

#[test]
fn s20_what_could_be_an_option_or_mean_something_to_a_shell_is_no_host() {
    for text in [
        "-oProxyCommand=x",
        "--help",
        "-",
        "a;b",
        "a b",
        "a\nb",
        "$(id)",
        "`id`",
        "a|b",
        "a&b",
        "a>b",
        "a'b",
        "a\"b",
        "a\\b",
        "a*b",
        "a,fork",
        "a:b",
        "a!b",
        "a/b",
        "..",
        ".",
        "",
        "a..b",
        ".a",
        "a-.b",
        "-a.b",
        "a%b",
        "é",
        "EXEC:sh",
        "a=b",
        "a@b",
        "{a,b}",
        "~",
        "a\0",
    ] {
        assert!(matches!(host(text), Err(KubeTargetError::Host { .. })), "{text}");
    }
}

#[test]
fn a_zone_is_refused() {
    for text in ["fe80::1%eth0", "[fe80::1%eth0]", "[fe80::1%25eth0]", "fe80::1%1"] {
        assert!(host(text).is_err(), "{text}");
    }
    assert!(back("jump:////pod/x/[fe80::1%25eth0]:80").is_err());
}

#[test]
fn numbers_that_a_resolver_would_take_for_an_address_are_refused() {
    for text in ["2130706433", "0x7f000001", "127.1", "1.2.3", "1.2.3.4.5", "a.0x7F", "0X"] {
        assert!(host(text).is_err(), "{text}");
    }
}

#[test]
fn each_wrong_part_is_named() {
    use KubeTargetError as E;
    for text in ["jump://", "jump://c/n/pod/x", "jump://c/n/pod/x/h", "jump://c/n/pod/x/::1:80", "k8s://c/n/pod/x/h:1"]
    {
        assert!(matches!(back(text), Err(E::Form { .. })), "{text}");
    }
    for port in ["", "0", "65536", "http", "+1", "1/2"] {
        assert!(back(&format!("jump://c/n/pod/x/h:{port}")).is_err(), "{port}");
    }
    assert!(matches!(back("jump://c/n/pod/x/h:http"), Err(E::Port(_))));
    assert!(matches!(back("jump://c/n/pod/x/a/b:1"), Err(E::Host { .. })));
    assert!(matches!(back("jump://c/n/pod/X/h:1"), Err(E::Name { .. })));
    assert!(matches!(back("jump://c/n/ds/x/h:1"), Err(E::Kind(_))));
    let error = JumpTarget::parse("jump://c/n/pod/x/-h:1").unwrap_err();
    assert_eq!(error.fault(), Fault::Usage);
    assert!(error.hint().unwrap().contains("without a zone"));
}

#[test]
fn lengths_are_those_of_dns() {
    let label = "a".repeat(63);
    assert!(host(&label).is_ok());
    assert!(host(&format!("{label}a")).is_err());
    let long = [label.as_str(); 4].join(".");
    assert!(host(&long).is_err());
    assert!(host(&long[2..]).is_ok());
}

proptest! {
    #[test]
    fn a_target_is_read_back_from_its_text(
        context in proptest::option::of("[^\\p{Cc}]{1,12}"),
        via in selections(),
        name in "[a-z]([a-z0-9_.]?[a-z]){0,8}",
        v6 in proptest::option::of(any::<u128>()),
        port in any::<NonZeroU16>(),
    ) {
        let host = v6.map_or(JumpHost::Name(name), |bits| JumpHost::V6(Ipv6Addr::from(bits)));
        let target = JumpTarget { context, namespace: None, via, host, port };
        prop_assert_eq!(JumpTarget::parse(&target.to_string()), Ok(target));
    }

    #[test]
    fn s20_what_is_accepted_is_made_of_harmless_characters(text in "[ -~]{1,8}|[a-c0-9.:\\[\\]%_-]{1,12}") {
        if let Ok(host) = host(&text) {
            let bare = host.bare();
            prop_assert!(bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)), "{bare}");
            prop_assert!(!bare.starts_with('-'));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = JumpTarget::parse(&format!("jump:////pod/x/{text}"));
        let _ = JumpHost::parse(&text);
    }
}
