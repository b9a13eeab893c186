//! The objects in the repository are those that the source gives.

use std::process::Command;

/// The compiler whose objects are kept. Another version may give other bytes for the same programs.
const COMPILER: &str = "clang version 14.0.6";

#[test]
fn the_kept_objects_are_what_the_source_gives() {
    let compiler = std::env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let version = Command::new(compiler).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !version.contains(COMPILER) {
        let have = version.lines().next().unwrap_or("none");
        assert!(std::env::var_os("ADIT_COMPARE_BPF").is_none(), "there is no {COMPILER} here, but: {have}");
        eprintln!("SKIPPED: the objects are compared where there is {COMPILER}; here: {have}");
        return;
    }
    let strip = std::env::var_os("LLVM_STRIP").unwrap_or_else(|| "llvm-strip".into());
    if Command::new(strip).arg("--version").output().is_err() {
        assert!(std::env::var_os("ADIT_COMPARE_BPF").is_none(), "there is no llvm-strip here");
        eprintln!("SKIPPED: the objects are compared where there is llvm-strip");
        return;
    }
    let directory = std::env::temp_dir().join(format!("adit-bpf-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for arch in ["x86_64", "aarch64"] {
        let built = directory.join(arch);
        let status = Command::new("sh").args(["bpf/build.sh", arch]).arg(&built).status().expect("a shell");
        assert!(status.success());
        let kept = std::fs::read(format!("bpf/prebuilt/tcp.{arch}.bpf.o")).expect("the kept object");
        let built = std::fs::read(built).expect("the built object");
        assert!(kept == built, "{arch}: run ./dev bpf and commit the result");
    }
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn the_source_is_the_one_that_the_kept_objects_were_built_from() {
    let sources = ["bpf/build.sh", "bpf/kernel.h", "bpf/attempt.h", "bpf/record.h", "bpf/tell.h", "bpf/tcp.bpf.c"];
    let sums = Command::new("cksum").args(sources).output().expect("cksum");
    let kept = std::fs::read_to_string("bpf/prebuilt/sources").expect("what the objects were built from");
    assert_eq!(String::from_utf8_lossy(&sums.stdout), kept, "run ./dev bpf and commit the result");
}

#[test]
fn without_a_mirror_the_tests_on_other_kernels_are_skipped_loudly_and_do_not_fail() {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no bash here");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let run = |tools: &std::path::Path| {
        let mut command = Command::new("bash");
        command.args(["tests/other-kernel.sh", "bookworm"]).arg(std::env::current_exe().expect("this program"));
        command.env("ADIT_KERNEL_DIR", directory.path()).env("ADIT_KERNEL_MIRROR", "http://127.0.0.1:1/debian");
        let mut path = std::ffi::OsString::from(tools);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let output = command.env("PATH", path).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{said}");
        assert!(said.contains("test-kernels: SKIPPED: Debian's bookworm"), "{said}");
    };
    run(directory.path());
    // An older apt takes a failed download for a warning, and then there is no package.
    for (tool, script) in [("apt-get", "#!/bin/sh\nexit 0\n"), ("apt-cache", "#!/bin/sh\nexit 100\n")] {
        let file = directory.path().join(tool);
        std::fs::write(&file, script).expect("a file");
        let executable = Command::new("chmod").arg("+x").arg(&file).status().expect("chmod");
        assert!(executable.success());
    }
    run(directory.path());
}
