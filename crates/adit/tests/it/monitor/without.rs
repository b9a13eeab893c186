//! What the monitor needs of the system, taken away for real, for it alone: each has words of its own.

use std::process::Command;

use testkit::process;

use crate::cli::home;
use crate::support::{DEADLINE, adit};

/// Whether `adit monitor --source ebpf` tells what was done to its file systems with words about it, as what is not
/// permitted; or why that cannot be tried here.
fn is_told(done: &str, more: &[&str], words: &[&str]) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can take something away".into());
    }
    let home = home();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{done} && echo done >&2 && exec \"$0\" \"$@\"")]);
    command.arg(adit(home.path()).get_program()).env("HOME", home.path());
    command.args(["monitor", "--source", "ebpf", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"]);
    let (status, said) = process::run(command.args(more), b"", DEADLINE).expect("it ends");
    let text = said.stderr();
    if !text.contains("done") || text.contains("CAP_BPF") {
        return Err(format!("{done}, or programs in the kernel, are not permitted here: {text}"));
    }
    assert_eq!(status.code(), Some(5), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    Ok(())
}

#[test]
fn a_kernel_that_does_not_describe_its_types_is_told_as_such() {
    let words = ["there is no /sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"];
    if let Err(why) = is_told("mount -t tmpfs none /sys/kernel/btf", &[], &words) {
        eprintln!("SKIPPED: {why}");
    }
}

#[test]
fn a_file_system_of_tracepoints_that_is_missing_is_told_where_nothing_else_is_wanted() {
    let taken = "mount -t tmpfs none /sys/kernel/tracing && mount -t tmpfs none /sys/kernel/debug";
    let words = ["tracefs is missing", "mount -t tracefs tracefs /sys/kernel/tracing"];
    if let Err(why) = is_told(taken, &["--attach", "tracepoint"], &words) {
        eprintln!("SKIPPED: {why}");
    }
}

#[test]
fn who_accepts_in_a_way_that_cannot_be_had_is_told_with_the_reason_and_the_command() {
    let home = home();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can take something away");
        return;
    }
    let taken = "mount -t tmpfs none /sys/kernel/tracing && mount -t tmpfs none /sys/kernel/debug && echo done >&2";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{taken} && exec \"$0\" \"$@\"")]);
    command.arg(adit(home.path()).get_program()).env("HOME", home.path());
    command.args(["top", "--once", "--interval", "100ms", "--accept", "sys_exit"]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    let text = said.stderr();
    if !text.contains("done") || text.contains("polls") {
        eprintln!("SKIPPED: programs in the kernel are not permitted here: {text}");
        return;
    }
    assert!(status.success(), "{text}");
    for word in [
        "--accept sys_exit is not to be had",
        "tracefs is missing",
        "mount -t tracefs tracefs /sys/kernel/tracing",
        "goes on",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_way_that_the_kernel_does_not_have_is_told_with_what_it_said() {
    if std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        eprintln!("SKIPPED: this kernel has kprobes");
        return;
    }
    let words = ["--attach kprobe is not to be had: kprobe tcp_set_state:", "leave --attach kprobe out"];
    if let Err(why) = is_told("true", &["--attach", "kprobe"], &words) {
        eprintln!("SKIPPED: {why}");
    }
}
