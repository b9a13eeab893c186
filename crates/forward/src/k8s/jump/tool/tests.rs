use super::*;

fn target(host: &str) -> JumpTarget {
    JumpTarget::parse(&format!("jump:////pod/p/{host}:5432")).unwrap()
}

#[test]
fn a_command_is_a_list_of_words_in_which_the_host_is_only_a_host() {
    let words = |tool: Tool, host: &str| tool.words(&target(host), ExecTransport::Spdy).join("|");
    let socat = "socat|-d|-b|65536|-t|600|STDIO,shut-close|";
    assert_eq!(words(Tool::Socat, "db.internal"), format!("{socat}TCP:db.internal:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Socat, "10.0.0.1"), format!("{socat}TCP:10.0.0.1:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Socat, "[fd00::1]"), format!("{socat}TCP6:[fd00::1]:5432,connect-timeout=10"));
    assert_eq!(words(Tool::Nc { shuts: false }, "[fd00::1]"), "nc|fd00::1|5432");
    assert_eq!(words(Tool::Nc { shuts: true }, "db"), "nc|-N|-v|db|5432");
    let channels = Tool::Socat.words(&target("db"), ExecTransport::Channels);
    assert!(channels.windows(2).any(|two| two == ["-t", "10"]), "{channels:?}");
}

#[test]
fn the_kinds_of_nc_are_told_apart_by_their_help() {
    assert!(has_shutdown("\t\t-n\t\tSuppress name\n\t\t-N\t\tShutdown the network socket after EOF on stdin\n"));
    assert!(!has_shutdown("BusyBox v1.35.0 multi-call binary.\n\nUsage: nc [-iN] [-wN] [-l] [-p PORT] [-f FILE|IPADDR PORT]\n"));
    assert!(!has_shutdown("usage: nc [-46CDdFhklNnrStUuvZz] [-I length]\n"));
}

#[test]
fn runtimes_say_in_their_own_words_that_a_program_is_missing() {
    for text in [
        "exec: \"socat\": executable file not found in $PATH: unknown",
        "executable file `socat` not found in $PATH: No such file or directory",
        "OCI runtime exec failed: exec: \"nc\": stat nc: no such file or directory",
    ] {
        assert!(is_missing(text), "{text}");
    }
    assert!(!is_missing("cannot exec in a stopped container"));
}
