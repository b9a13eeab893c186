#!/bin/sh
# Builds the object for one machine: build.sh ARCH OUTPUT. The same compiler gives the same bytes, wherever it is called.
set -eu
arch=$1 output=$2
cd "$(dirname "$0")"
case $arch in
    x86_64 | aarch64) ;;
    *) echo "build.sh: no object for $arch: x86_64 or aarch64" >&2; exit 2 ;;
esac
"${CLANG:-clang}" -target bpfel -mcpu=v3 -O2 -g -Wall -Werror -Wno-unused-variable -Wno-unused-const-variable \
    -fdebug-prefix-map="$PWD=." "-DADIT_ARCH_$arch" -c tcp.bpf.c -o "$output"
"${LLVM_STRIP:-llvm-strip}" -g "$output"
