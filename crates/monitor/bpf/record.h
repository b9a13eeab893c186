/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What is kept of connections, what is told of them, and the maps.
 *
 * A connection is kept by the address of its socket. The kernel gives that address to another socket at once, so a place
 * whose connection is over mostly stays in the map, marked as free, and is used again without taking anything away and
 * putting it back. Only when many places are taken (`many`) are they given back.
 *
 * Who writes what of a place: a change of state writes everything but the owner, and the kernel lets one such change
 * happen at a time for a socket. Who claims a connection writes `by` and the owner, the number of the process last: with
 * it the owner is whole. Only the end (`ended`, `destroyed`) tells that a connection is over, never a claim; so none is
 * told twice, and none is left untold.
 */
#ifndef ADIT_RECORD_H
#define ADIT_RECORD_H

#include "kernel.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define ENETDOWN 100
#define EACCES 13
#define EADDRNOTAVAIL 99
#define ENETUNREACH 101
#define EHOSTUNREACH 113
#define SOCK_DEAD 0
#define SOCK_DONE 1

enum state {
	/* The place is free. */
	NO_STATE,
	ESTABLISHED,
	SYN_SENT,
	SYN_RECV,
	FIN_WAIT1,
	FIN_WAIT2,
	TIME_WAIT,
	CLOSE,
	CLOSE_WAIT,
	LAST_ACK,
	LISTEN,
	CLOSING,
};

/* What a record says has happened. */
enum kind {
	OPENED = 1,
	OPEN_DONE,
	CLAIMED,
	ENDED,
	LIVE,
};

enum flag {
	INCOMING = 1,
	SEEN_LATE = 2,
	GONE = 4,
	BY_ACCEPT = 8,
	BY_CLOSE = 16,
	BY_FILE = 32,
	ABORTED = 64,
};

/* The process that has a connection. */
struct owner {
	__u64 start;
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
	char comm[16];
};

/* What is kept of a connection while it lives. */
struct kept {
	/* The first, as src/source/ebpf.rs reads it. */
	__u64 opened;
	__u64 established;
	__u64 ended;
	struct owner owner;
	__u16 local_port;
	__u16 error;
	/* Its state; once it has ended, the one before as well, in the upper half. */
	__u8 state;
	__u8 flags;
	/* How its owner was found, as a flag; of an outgoing one it is none. */
	__u8 by;
	/* Whether userspace has heard of it. */
	__u8 told;
};

/* What userspace reads. The layout is known to src/decode.rs. No holes. */
struct record {
	__u64 socket;
	__u64 opened;
	__u64 established;
	__u64 ended;
	__u64 sent;
	__u64 received;
	struct owner owner;
	__u32 netns;
	__u32 srtt;
	__u32 min_rtt;
	__u32 retransmits;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
	__u16 error;
	__u8 family;
	__u8 state;
	__u8 last_state;
	__u8 kind;
	__u8 flags;
	__u8 spare[5];
};

/* A process, and what was added up for it. The layout is known to src/decode.rs. */
struct process {
	__u64 start;
	__u32 pid;
	__u32 spare;
};

struct sums {
	__u64 opened;
	__u64 incoming;
	__u64 failed;
	__u64 closed;
	__u64 sent;
	__u64 received;
	__u64 retransmits;
	struct owner owner;
};

/* The order is known to src/source/ebpf.rs. */
enum count {
	COUNT_OPENED,
	COUNT_INCOMING,
	/* Handshakes of outgoing connections; those of incoming ones are what is incoming. */
	COUNT_REACHED,
	COUNT_FAILED,
	COUNT_CLOSED,
	COUNT_MAP_FULL,
	COUNT_RING_FULL,
	COUNT_UNOWNED,
	COUNT_SEEN_LATE,
	COUNT_FOLDED,
	COUNT_LISTENERS_FULL,
	COUNTS,
};

/* With room for `many` free places more than connections are to be kept. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 98304);
	__type(key, __u64);
	__type(value, struct kept);
} connections SEC(".maps");

/* Where processes listen: a network namespace and a port. It tells which side opened a connection that is older. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2097152);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct process);
	__type(value, struct sums);
} folded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[COUNTS]);
} counts SEC(".maps");

/* Set before loading: whether every step is an event, or the end of a connection alone. */
const volatile __u32 every_step = 0;

/* Set before loading: with so many places taken, free ones are given back. */
const volatile __u32 many = 32768;

/* Set before loading: how long an ended connection waits for a process to close it; then nobody is its owner. */
const volatile __u64 patience = 90000000000;

/* Places that are taken, free or not. The survey counts them anew. */
__u64 taken = 0;

/* Connections that a packet has ended before anybody was seen to own them. Mostly there are none, and nothing to look for. */
__u64 waiting = 0;

/* Whether accept itself is seen: then nobody need be looked for at close. */
__u32 accept_seen = 0;

static __inline void count(const enum count which)
{
	__u32 first = 0;
	__u64 *all = bpf_map_lookup_elem(&counts, &first);

	/* A packet may interrupt us, and before 6.1 its programs run then. */
	if (all)
		__sync_fetch_and_add(&all[which], 1);
}

/* Reads a field: a plain load where the type is known, permitted even where reading kernel memory is not. */
#define READ(typed, to, field)                                                                           \
	do {                                                                                             \
		if (typed)                                                                               \
			(to) = (field);                                                                  \
		else                                                                                     \
			bpf_probe_read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(field))); \
	} while (0)

static __inline __u16 swapped(__be16 port)
{
	return (__u16)((port << 8) | (port >> 8));
}

/* ---- what is kept ---- */

static __inline struct kept *known(struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&connections, &key);
}

/* A new place, free; or none, when the map is full. */
static __noinline struct kept *new_place(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct kept nothing = {};

	if (!bpf_map_update_elem(&connections, &key, &nothing, BPF_NOEXIST))
		__sync_fetch_and_add(&taken, 1);
	return bpf_map_lookup_elem(&connections, &key);
}

/* Whatever stands in the place is of a socket that is gone; now it is a connection's that has no state and no owner yet. */
static __inline void begin(struct kept *kept, const __u64 now, const __u8 flags)
{
	if (kept->state && kept->ended) {
		/* Nobody was seen to close it. */
		__sync_fetch_and_add(&waiting, -1);
		count(COUNT_UNOWNED);
	}
	kept->state = NO_STATE;
	barrier();
	kept->opened = now;
	kept->established = 0;
	kept->ended = 0;
	kept->owner.pid = 0;
	kept->local_port = 0;
	kept->error = 0;
	kept->flags = flags;
	kept->by = 0;
	kept->told = 0;
	barrier();
}

/* Its connection is over, and told. */
static __inline void leave(struct kept *kept, struct sock *sk)
{
	__u64 key = (__u64)sk;

	kept->state = NO_STATE;
	if (taken > many && !bpf_map_delete_elem(&connections, &key))
		__sync_fetch_and_add(&taken, -1);
}

/* The process that runs now, by the leader of its threads. */
static __inline int read_owner(struct owner *owner, const int typed)
{
	struct task_struct *leader = NULL;
	__u32 pid;

	if (typed) {
		struct task_struct *task = bpf_get_current_task_btf();
		const struct cred *cred = task->cred;
		struct css_set *groups = task->cgroups;
		struct cgroup *group = NULL;
		struct kernfs_node *node = NULL;

		leader = task->group_leader;
		owner->start = leader->start_boottime;
		owner->uid = cred ? cred->uid.val : 0;
		if (groups)
			group = groups->dfl_cgrp;
		if (group)
			node = group->kn;
		owner->cgroup = node ? node->id : 0;
		((__u64 *)owner->comm)[0] = *(__u64 *)&leader->comm[0];
		((__u64 *)owner->comm)[1] = *(__u64 *)&leader->comm[8];
		pid = task->tgid;
	} else {
		struct task_struct *task = (struct task_struct *)bpf_get_current_task();

		pid = bpf_get_current_pid_tgid() >> 32;
		owner->uid = (__u32)bpf_get_current_uid_gid();
		owner->cgroup = bpf_get_current_cgroup_id();
		READ(0, leader, task->group_leader);
		READ(0, owner->start, leader->start_boottime);
		bpf_probe_read_kernel(owner->comm, sizeof(owner->comm), __builtin_preserve_access_index(&leader->comm));
	}
	barrier();
	owner->pid = pid;
	return 0;
}

static __noinline int own_typed(struct owner *owner)
{
	return owner ? read_owner(owner, 1) : 0;
}

static __noinline int own_copied(struct owner *owner)
{
	return owner ? read_owner(owner, 0) : 0;
}

static __inline void own(struct kept *kept, const __u8 by, const int typed)
{
	kept->by = by;
	if (typed)
		own_typed(&kept->owner);
	else
		own_copied(&kept->owner);
}

/* ---- what is told ---- */

static __inline void read_ends(struct record *record, struct sock *sk, const int typed)
{
	__be16 port = 0;
	__u16 family = 0;
	struct net *net = NULL;

	READ(typed, family, sk->__sk_common.skc_family);
	record->family = family;
	READ(typed, port, sk->__sk_common.skc_dport);
	record->remote_port = swapped(port);
	READ(typed, net, sk->__sk_common.skc_net.net);
	READ(typed, record->netns, net->ns.inum);
	if (family == AF_INET) {
		READ(typed, record->local[0], sk->__sk_common.skc_rcv_saddr);
		READ(typed, record->remote[0], sk->__sk_common.skc_daddr);
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		READ(typed, record->local[i], sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i]);
		READ(typed, record->remote[i], sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i]);
	}
}

static __inline void read_traffic(struct record *record, struct sock *sk, struct tcp_sock *tcp, const int typed)
{
	__u64 sent = 0, again = 0, received = 0;
	unsigned long flags = 0;
	__u32 srtt = 0, min = 0;

	READ(typed, sent, tcp->bytes_sent);
	READ(typed, again, tcp->bytes_retrans);
	READ(typed, received, tcp->bytes_received);
	READ(typed, flags, sk->__sk_common.skc_flags);
	/* The peer's FIN has a number of its own, and the kernel counts it as a byte. */
	if (received && (flags & (1UL << SOCK_DONE)))
		received--;
	record->sent = sent - again;
	record->received = received;
	READ(typed, srtt, tcp->srtt_us);
	record->srtt = srtt >> 3;
	READ(typed, min, tcp->rtt_min.s[0].v);
	record->min_rtt = min == ~0U ? 0 : min;
	READ(typed, record->retransmits, tcp->total_retrans);
}

/* The whole record, into memory that may hold anything. */
static __inline void fill(struct record *record, const struct kept *kept, struct sock *sk, const enum kind kind,
			  const int typed)
{
	struct tcp_sock *tcp;

	__builtin_memset(record, 0, sizeof(*record));
	record->socket = (__u64)sk;
	record->opened = kept->opened;
	record->established = kept->established;
	record->ended = kept->ended;
	record->owner = kept->owner;
	record->local_port = kept->local_port;
	record->error = kept->error;
	record->state = kept->state & 15;
	record->last_state = kept->state >> 4;
	record->kind = kind;
	record->flags = kept->flags | kept->by;
	read_ends(record, sk, typed);
	if (typed)
		tcp = bpf_skc_to_tcp_sock(sk);
	else
		tcp = (struct tcp_sock *)sk;
	if (tcp)
		read_traffic(record, sk, tcp, typed);
}

static __inline int write(const struct kept *kept, struct sock *sk, const enum kind kind, const int typed)
{
	struct record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);

	if (!record)
		return 0;
	fill(record, kept, sk, kind, typed);
	/* Userspace looks often enough; only who wants every step wants it at once. */
	bpf_ringbuf_submit(record, every_step ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 1;
}

static __noinline int tell_typed(const struct kept *kept, struct sock *sk, enum kind kind)
{
	return kept ? write(kept, sk, kind, 1) : 0;
}

static __noinline int tell_copied(const struct kept *kept, struct sock *sk, enum kind kind)
{
	return kept ? write(kept, sk, kind, 0) : 0;
}

static __inline int tell(const struct kept *kept, struct sock *sk, const enum kind kind, const int typed)
{
	return typed ? tell_typed(kept, sk, kind) : tell_copied(kept, sk, kind);
}

/* A step before the end: when it finds no room, the end tells all of it once more. */
static __inline void tell_step(struct kept *kept, struct sock *sk, const enum kind kind, const int typed)
{
	if (!every_step)
		return;
	if (tell(kept, sk, kind, typed))
		kept->told = 1;
	else
		count(COUNT_RING_FULL);
}

/*
 * The end of a connection finds no room. If userspace has not heard of it before, it is added to what its process has
 * done; else only how it ended is lost, as the next survey does not find it.
 */
static __noinline int fold(const struct kept *kept, __u64 sk)
{
	struct process process = {};
	struct record record = {};
	struct sums zero = {}, *sums;

	if (!kept)
		return 0;
	if (kept->told || !kept->owner.pid) {
		count(COUNT_RING_FULL);
		return 0;
	}
	process.start = kept->owner.start;
	process.pid = kept->owner.pid;
	sums = bpf_map_lookup_elem(&folded, &process);
	if (!sums) {
		zero.owner = kept->owner;
		/* Another processor may have been quicker. */
		bpf_map_update_elem(&folded, &process, &zero, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&folded, &process);
		if (!sums) {
			count(COUNT_RING_FULL);
			return 0;
		}
	}
	count(COUNT_FOLDED);
	read_traffic(&record, (struct sock *)sk, (struct tcp_sock *)sk, 0);
	if (!(kept->flags & SEEN_LATE))
		__sync_fetch_and_add(kept->flags & INCOMING ? &sums->incoming : &sums->opened, 1);
	__sync_fetch_and_add(kept->state >> 4 == SYN_SENT ? &sums->failed : &sums->closed, 1);
	__sync_fetch_and_add(&sums->sent, record.sent);
	__sync_fetch_and_add(&sums->received, record.received);
	__sync_fetch_and_add(&sums->retransmits, record.retransmits);
	return 0;
}

/* The last of a connection. */
static __inline void tell_end(struct kept *kept, struct sock *sk, const int typed)
{
	if (!kept->owner.pid)
		count(COUNT_UNOWNED);
	if (!tell(kept, sk, ENDED, typed))
		fold(kept, (__u64)sk);
	leave(kept, sk);
}

#endif
