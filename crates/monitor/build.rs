//! Puts the object with the kernel's programs where the crate includes it: the one in `bpf/prebuilt`, or with the
//! feature `build-bpf` one that clang makes now.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    println!("cargo::rustc-check-cfg=cfg(has_object)");
    let (system, arch) = (variable("CARGO_CFG_TARGET_OS"), variable("CARGO_CFG_TARGET_ARCH"));
    if system != "linux" || !matches!(arch.as_str(), "x86_64" | "aarch64") || variable("CARGO_FEATURE_EBPF").is_empty()
    {
        return;
    }
    println!("cargo::rustc-cfg=has_object");
    let object = PathBuf::from(variable("OUT_DIR")).join("tcp.bpf.o");
    if variable("CARGO_FEATURE_BUILD_BPF").is_empty() {
        let kept = format!("bpf/prebuilt/tcp.{arch}.bpf.o");
        fs::copy(&kept, &object).unwrap_or_else(|error| panic!("{kept}: {error}"));
        return;
    }
    let built = Command::new("sh").arg("bpf/build.sh").arg(&arch).arg(absolute(&object)).status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("bpf/build.sh: {status}: it needs clang and llvm (./dev setup build-bpf)"),
        Err(error) => panic!("bpf/build.sh: {error}"),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
