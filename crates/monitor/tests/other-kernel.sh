#!/usr/bin/env bash
# Runs the kernel tests on Debian's kernel within QEMU, without virtualisation: other-kernel.sh TEST-PROGRAM [ARGUMENTS].
# There all ways to attach are to be had. Needs qemu-system-x86, busybox-static, cpio, and apt-get for the kernel, which
# is unpacked and not installed.
set -euo pipefail
program=$1
shift
work=${ADIT_KERNEL_DIR:-${TMPDIR:-/tmp}/adit-other-kernel}
mkdir -p "$work"
if ! compgen -G "$work/kernel/boot/vmlinuz-*" >/dev/null; then
    package=$(apt-cache depends linux-image-amd64 | grep -o 'linux-image-[0-9][^ ]*' | head -n 1)
    (cd "$work" && apt-get download -qq "$package" && dpkg-deb -x linux-image-*.deb kernel && rm linux-image-*.deb)
fi
rm -rf "$work/tree"
mkdir -p "$work"/tree/{bin,proc,sys,dev,tmp}
cp "$(command -v busybox)" "$work/tree/bin/busybox"
cp "$program" "$work/tree/bin/tests"
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$work/tree$(dirname "$library")"
    cp -L "$library" "$work/tree$library"
done
cat >"$work/tree/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
ulimit -n 20000
uname -r
/bin/tests --test-threads=1 --nocapture $* 2>&1 && echo "all well on this kernel"
poweroff -f
INIT
chmod +x "$work/tree/init"
(cd "$work/tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -nographic -no-reboot \
    -kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1" </dev/null |
    tee "$work/log"
grep -q "all well on this kernel" "$work/log"
