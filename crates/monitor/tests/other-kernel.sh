#!/usr/bin/env bash
# Runs the kernel tests on a kernel of Debian within QEMU, without virtualisation: other-kernel.sh SUITE TEST-PROGRAM
# [ARGUMENTS], where SUITE is a release of Debian: bullseye (5.10), bookworm (6.1), bookworm-backports (6.12), trixie.
# A program for aarch64 is run there. With `aarch64` in the place of the program, the kept object for that machine is loaded
# and attached there by bpftool.
# Needs qemu-system-x86 (or qemu-system-arm), busybox-static and cpio; the kernel and what else is of another machine
# comes by apt-get from the mirror that apt knows (or ADIT_KERNEL_MIRROR), and is unpacked and not installed. Ends with 77
# when that cannot be had, or when this machine is too slow.
set -euo pipefail
# Seconds for what apt does, and for the tests. Who has no mirror, or no time, is not to wait half an hour to hear that.
fetches=300 runs=${ADIT_KERNEL_SECONDS:-600}
suite=$1 program=$2
shift 2
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
arch=amd64
# The machine of a program, as its file says: 183 is aarch64.
if [ "$program" = aarch64 ] || [ "$(od -An -tu1 -j18 -N1 "$program" | tr -d ' ')" = 183 ]; then
    arch=arm64
fi
work=${ADIT_KERNEL_DIR:-${TMPDIR:-/tmp}/adit-other-kernel}/$suite-$arch
mkdir -p "$work"

skip() {
    printf 'test-kernels: SKIPPED: %s\n' "$*" >&2
    exit 77
}

# apt-get for this suite and machine alone, beside the system's own lists.
apt() {
    APT_CONFIG=$work/apt/conf timeout "$fetches" "$@"
}

prepare_apt() {
    local mirror=${ADIT_KERNEL_MIRROR:-}
    if [ -z "$mirror" ]; then
        mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | sed -n 1p) ||
            mirror=''
    fi
    [ -n "$mirror" ] || skip "apt has no lists of Debian: apt-get update"
    mkdir -p "$work"/apt/{lists,archives}/partial
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" >"$work/apt/sources"
    cat >"$work/apt/conf" <<CONF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
APT::Update::Error-Mode "any";
Dir::Etc::sourcelist "$work/apt/sources";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/apt/lists";
Dir::State::status "/dev/null";
Dir::Cache::archives "$work/apt/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
CONF
    apt apt-get update -qq || skip "Debian's $suite cannot be had: its mirror does not answer as it should"
}

# Unpacks packages into a directory, which is there when all of them are.
unpack() {
    local into=$1 name
    shift
    [ ! -d "$into" ] || return 0
    rm -rf "$work/packages" "$into.part"
    mkdir -p "$work/packages"
    (cd "$work/packages" && apt apt-get download -qq "$@") || skip "$* of Debian's $suite cannot be had"
    for name in "$work"/packages/*.deb; do
        dpkg-deb -x "$name" "$into.part"
    done
    rm -rf "$work/packages"
    mv "$into.part" "$into"
}

fetch_kernel() {
    local image
    compgen -G "$work/kernel/boot/vmlinuz-*" >/dev/null && return 0
    prepare_apt
    image=$(apt apt-cache depends "linux-image-$arch" | grep -o 'linux-image-[0-9][^ ]*' | sed -n 1p) || image=''
    [ -n "$image" ] || skip "Debian's $suite has no kernel for $arch"
    unpack "$work/kernel" "$image"
}

begin_tree() {
    rm -rf "$work/tree"
    mkdir -p "$work"/tree/{bin,proc,sys,dev,tmp}
    cat >"$work/tree/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing; mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ulimit -n 20000
uname -r
$1 2>&1 && echo "all well on this kernel"
poweroff -f
INIT
    chmod +x "$work/tree/init"
}

# Runs QEMU with these arguments and what is in the tree. What failed before the time was over has failed all the same.
boot() {
    local status=0
    (cd "$work/tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
    timeout --kill-after 10 "$runs" "$@" -smp 2 -m 1536 -nographic -no-reboot -kernel "$work"/kernel/boot/vmlinuz-* \
        -initrd "$work/initrd.gz" </dev/null | tee "$work/log" || status=$?
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        ! grep -aqw FAILED "$work/log" || return 1
        skip "too slow here: not through within $runs s on the kernel of Debian's $suite"
    fi
    [ "$status" = 0 ] && grep -aq "all well on this kernel" "$work/log"
}

# Everything that a program of the other machine needs beside itself.
fetch_tools() {
    local elf library
    if [ ! -d "$work/tools" ]; then
        prepare_apt
        elf=$(apt apt-cache depends bpftool | grep -o 'libelf1[^ ]*' | sed -n 1p) || elf=''
        [ -n "$elf" ] || skip "Debian's $suite has no bpftool for $arch"
        unpack "$work/tools" busybox-static bpftool libc6 libgcc-s1 "$elf" zlib1g libcap2 libzstd1
    fi
    cp "$(find "$work/tools" -name busybox -type f -perm -1 | head -n 1)" "$work/tree/bin/busybox"
    mkdir -p "$work/tree/lib/aarch64-linux-gnu"
    cp -L "$(find "$work/tools" -name ld-linux-aarch64.so.1 | head -n 1)" "$work/tree/lib/"
    for library in libc.so.6 libm.so.6 libgcc_s.so.1 libcap.so.2 libelf.so.1 libz.so.1 libzstd.so.1; do
        cp -L "$(find "$work/tools" -name "$library" | head -n 1)" "$work/tree/lib/aarch64-linux-gnu/"
    done
}

fetch_kernel
tests="/bin/tests --test-threads=1 --nocapture $*"
if [ "$arch" = amd64 ]; then
    begin_tree "$tests"
    cp "$(command -v busybox)" "$work/tree/bin/busybox"
    cp "$program" "$work/tree/bin/tests"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$work/tree$(dirname "$library")"
        cp -L "$library" "$work/tree$library"
    done
    boot qemu-system-x86_64 -accel tcg,thread=multi -cpu max -append "console=ttyS0 quiet panic=-1"
    exit
fi
if [ "$program" = aarch64 ]; then
    begin_tree "sh /look"
    fetch_tools
    cp "$(find "$work/tools" -name bpftool -type f -perm -1 | head -n 1)" "$work/tree/bin/bpftool"
    cp "$here/../bpf/prebuilt/tcp.aarch64.bpf.o" "$work/tree/object"
    cp "$here/other-machine.sh" "$work/tree/look"
else
    begin_tree "$tests"
    fetch_tools
    aarch64-linux-gnu-strip -o "$work/tree/bin/tests" "$program"
fi
boot qemu-system-aarch64 -M virt -cpu max -accel tcg,thread=multi -append "console=ttyAMA0 quiet panic=-1"
