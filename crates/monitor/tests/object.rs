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
    let sources = ["build.sh", "kernel.h", "attempt.h", "record.h", "tell.h", "usual.h", "look.h", "tcp.bpf.c"]
        .map(|name| format!("bpf/{name}"));
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

/// With 64 bytes and more the kernel gives a program another stack, whose memory is cold (since 6.13); it counts in steps of 16.
const STACK: i16 = 48;

#[test]
fn the_program_that_all_connections_pass_has_a_small_stack() {
    for arch in ["x86_64", "aarch64"] {
        let object = std::fs::read(format!("bpf/prebuilt/tcp.{arch}.bpf.o")).expect("the kept object");
        let program = section(&object, "tp_btf/inet_sock_set_state").expect("the program");
        // An instruction has eight bytes: what it does, two registers, an offset, a number. The tenth register is the
        // stack's end, and classes 1 to 3 load from memory and store there.
        let stack = program.chunks_exact(8).filter_map(|bytes| {
            let offset = i16::from_le_bytes([bytes[2], bytes[3]]);
            let base = if bytes[0] & 7 == 1 { bytes[1] >> 4 } else { bytes[1] & 15 };
            (matches!(bytes[0] & 7, 1..=3) && base == 10).then_some(-offset)
        });
        let deepest = stack.max().expect("it has something there");
        assert!(deepest <= STACK, "{arch}: it has {deepest} bytes of stack");
        assert!(deepest >= 8, "{arch}: its spilled registers were not found");
    }
}

/// The bytes of a section of an ELF file of 64 bits and little-endian numbers.
fn section<'a>(elf: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let number = |at: usize, bytes: usize| {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&elf[at..at + bytes]);
        usize::try_from(u64::from_le_bytes(number)).expect("a place in the file")
    };
    let (headers, size, count, names) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2), number(0x3e, 2));
    let bytes = |nth: usize| {
        let header = headers + nth * size;
        &elf[number(header + 0x18, 8)..][..number(header + 0x20, 8)]
    };
    let is_wanted = |nth: &usize| {
        let name = &bytes(names)[number(headers + nth * size, 4)..];
        name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    };
    (0..count).find(is_wanted).map(bytes)
}
