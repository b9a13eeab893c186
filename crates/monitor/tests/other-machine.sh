#!/bin/sh
# Within QEMU, on a machine that the tests cannot be built for here: the kernel's verifier takes every program of the
# object, bpftool attaches what it can, and a connection is counted with the process that accepted it.
set -eu
bpftool prog loadall /object /sys/fs/bpf/adit autoattach
for program in state_typed state_raw state_tracepoint state_probe connect_probe connect4_exit connect6_exit accept_exit \
    accept_probe accept_call accept4_call destroy_typed destroy_raw files listening live; do
    [ -e "/sys/fs/bpf/adit/$program" ] || { echo "$program is not loaded"; exit 1; }
done
bpftool link list | grep -q inet_sock_set_state
nc -l -p 9999 >/dev/null &
server=$!
# Until it listens.
tries=0
until echo hello | nc 127.0.0.1 9999; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || { echo "nobody listens"; exit 1; }
    usleep 100000
done
wait "$server"
# Places of connections stay in the map with who had them, and how he was found (8: accept). It is large: no file.
# Looked through once, as that takes minutes here.
bpftool map dump name connections | awk '
    /"by": 8/ { print; by = 1 }
    /"comm": "(nc|busybox)"/ { print; comm = 1 }
    by && comm { exit }
    END { exit !(by && comm) }'
bpftool map dump name counts | grep '"value": \[.*[1-9]'
