use std::time::Duration;

use super::*;
use proptest::prelude::*;

fn read_with(host: &str, text: &str, files: &[(&str, &str)]) -> Result<SshSettings, ClientConfigError> {
    let mut config = ClientConfig::new(Asked { host, user: None, port: None, local_user: "me" });
    let mut include = |pattern: &str| {
        let found = files.iter().filter(|(path, _)| *path == pattern);
        Ok(found.map(|(path, text)| ConfigFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect())
    };
    config.read(&ConfigFile { path: "config".to_owned(), text: text.to_owned() }, &mut include)?;
    config.settings()
}

fn read(host: &str, text: &str) -> SshSettings {
    read_with(host, text, &[]).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_first_value_wins_and_keys_are_collected() {
    let text =
        "Host b*\n User one\n Port 2200\n IdentityFile ~/a\nHost *\n User two\n IdentityFile ~/b\n IdentityFile ~/a\n";
    let settings = read("bastion", text);
    assert_eq!((settings.user.as_str(), settings.port), ("one", 2200));
    assert_eq!(settings.identities, ["~/a", "~/b"]);
    let settings = read("other", text);
    assert_eq!((settings.user.as_str(), settings.port), ("two", 22));
    assert_eq!(read("x", "").identities.len(), 3, "those that are there without being named");
}

#[test]
fn what_was_said_to_the_command_comes_first() {
    let mut config = ClientConfig::new(Asked { host: "h", user: Some("you"), port: Some(1), local_user: "me" });
    let file =
        ConfigFile { path: "c".to_owned(), text: "User other\nPort 2\nMatch user you\nHostName found".to_owned() };
    config.read(&file, &mut |_| Ok(Vec::new())).unwrap();
    let settings = config.settings().unwrap();
    assert_eq!((settings.user.as_str(), settings.port, settings.host.as_str()), ("you", 1, "found"));
}

#[test]
fn a_negated_pattern_takes_the_host_out() {
    let text = "Host *.example !bad.example\n Port 1\nHost !x y\n Port 2\n";
    assert_eq!(read("good.example", text).port, 1);
    assert_eq!(read("bad.example", text).port, 22);
    assert_eq!(read("y", text).port, 2);
}

#[test]
fn what_is_included_applies_where_it_stands_and_no_further() {
    let files = [("sub", "Host *\n Port 1\nHost nobody\n"), ("user", "User you\n")];
    let text = "Host a\n Include sub\n User one\nHost *\n Include user\n";
    let settings = read_with("a", text, &files).unwrap();
    assert_eq!((settings.port, settings.user.as_str()), (1, "one"));
    let settings = read_with("b", text, &files).unwrap();
    assert_eq!((settings.port, settings.user.as_str()), (22, "you"), "not even `Host *` of the file");
}

#[test]
fn files_that_include_each_other_have_an_end() {
    let error = read_with("a", "Include loop", &[("loop", "Include loop")]).unwrap_err();
    assert!(error.to_string().contains("loop:1: more than 16 files"), "{error}");
}

#[test]
fn a_match_is_evaluated_where_that_needs_no_program() {
    let text = "Host a\n HostName real.example\nMatch host real.*,other originalhost a user me\n Port 1\n\
                Match !host real.example\n Port 2\nMatch all\n User all\n";
    assert_eq!((read("a", text).port, read("a", text).user.as_str()), (1, "all"));
    assert_eq!(read("b", text).port, 2);
    // Never asked: the host does not fit.
    assert_eq!(read("b", "Match host a exec \"true\"\n Port 1").port, 22);
}

#[test]
fn what_needs_openssh_is_refused_with_its_line() {
    for line in [
        "Match exec \"test -f x\"",
        "Match final host a",
        "Match canonical",
        "Match localnetwork 10.0.0.0/8",
        "CanonicalizeHostname yes",
        "ProxyUseFdpass yes",
    ] {
        let error = read_with("a", &format!("\n{line}\n"), &[]).unwrap_err();
        let ClientConfigError::OnlyOpenSsh { line: 2, .. } = &error else { panic!("{line}: {error}") };
        assert!(error.to_string().contains("needs the program `ssh`"), "{error}");
        // In a block for others it says nothing to us; a `Match` is a block of its own.
        if !line.starts_with("Match") {
            read("a", &format!("Host b\n{line}\n"));
        }
    }
}

#[test]
fn a_jump_and_a_command_exclude_each_other_and_the_first_wins() {
    let settings = read("a", "ProxyJump me@first:22,second\nProxyCommand nc %h %p\n");
    assert_eq!((settings.jumps.len(), settings.proxy_command), (2, None));
    let settings = read("a", "ProxyCommand nc \"%h\" %p\nProxyJump first\n");
    assert_eq!((settings.jumps.len(), settings.proxy_command.as_deref()), (0, Some("nc \"%h\" %p")));
    let settings = read("a", "ProxyJump none\nProxyJump first\n");
    assert!(settings.jumps.is_empty());
}

#[test]
fn values_are_those_of_the_settings() {
    let text = "HostName %h.Example.com\nServerAliveInterval 1m30\nConnectTimeout 7\nUserKnownHostsFile \"/a b/k\" ~/k\n\
                StrictHostKeyChecking accept-new\nChallengeResponseAuthentication no\nGlobalKnownHostsFile none\n";
    let settings = read("web", text);
    assert_eq!(settings.host, "web.example.com");
    assert_eq!(
        (settings.alive_interval, settings.connect_timeout),
        (Duration::from_secs(90), Some(Duration::from_secs(7)))
    );
    assert_eq!(settings.user_known_hosts, ["/a b/k", "~/k"]);
    assert!(settings.global_known_hosts.is_empty() && !settings.keyboard_interactive);
}

#[test]
fn a_line_that_is_none_is_named() {
    for (text, said) in [
        ("\nPort", "config:2: `port` has no value"),
        ("User \"me", "config:1: a quote has no end"),
        ("Port x", "it is no port"),
        ("ConnectTimeout x", "it is no time"),
        ("Match host", "has no value"),
    ] {
        let error = read_with("a", text, &[]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "((Host|Match|Include|User|Port|ProxyJump) ?=?[a-z*!\"'\\\\ #,%]{0,12}\n){0,8}") {
        let _ = read_with("a", &text, &[("a", "Include a")]);
    }
}
