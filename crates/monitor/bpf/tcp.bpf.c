/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * TCP connections as the kernel sees them.
 *
 * A connection is kept in `connections` by the address of its socket, from its first state to its last. Its owner is
 * the process that called connect or accept; a change of state that a packet causes runs in the context of whichever
 * process was interrupted, so it never says who owns what. Every way to attach ends in `on_state` and `claim`, so that
 * each gives the same.
 *
 * What does not fit is counted in `counts`, never lost in silence.
 */
#include "kernel.h"

char licence_of_programs[] SEC("license") = "Dual MIT/GPL";

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define EADDRNOTAVAIL 99
#define SOCK_DONE 1

enum state {
	ESTABLISHED = 1,
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

/* The layout is known to src/record.rs. No holes. */
struct record {
	__u64 socket;
	__u64 opened;
	__u64 established;
	__u64 ended;
	__u64 sent;
	__u64 received;
	__u64 process_start;
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
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
	/* Whether userspace has heard of it. */
	__u8 told;
	__u8 spare[4];
	char comm[16];
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
	__u64 cgroup;
	__u32 uid;
	__u32 spare;
	char comm[16];
};

enum count {
	COUNT_OPENED,
	COUNT_INCOMING,
	COUNT_ESTABLISHED,
	COUNT_FAILED,
	COUNT_CLOSED,
	COUNT_MAP_FULL,
	COUNT_RING_FULL,
	COUNT_UNOWNED,
	COUNT_SEEN_LATE,
	COUNT_FOLDED,
	COUNTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct record);
} connections SEC(".maps");

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
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Set before loading: whether every step is an event, or the end of a connection alone. */
const volatile __u32 every_step = 0;
/* Whoever waits for events is woken when so many bytes are unread. */
const volatile __u64 wake_at = 262144;

static __inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &which);

	if (value)
		*value += 1;
}

/*
 * Reads a field. Where the kernel knows the type of the pointer (`direct`) it is a plain load: quicker, and permitted
 * where reading kernel memory is not.
 */
#define READ(direct, to, field)                                                                          \
	do {                                                                                             \
		if (direct)                                                                              \
			(to) = (field);                                                                  \
		else                                                                                     \
			bpf_probe_read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(field))); \
	} while (0)

static __inline void submit(struct record *slot)
{
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (every_step || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= wake_at)
		flags = BPF_RB_FORCE_WAKEUP;
	bpf_ringbuf_submit(slot, flags);
}

static __inline int tell(const struct record *record, enum kind kind)
{
	struct record *slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);

	if (!slot)
		return 0;
	*slot = *record;
	slot->kind = kind;
	submit(slot);
	return 1;
}

/* A step before the end: when it finds no room, the end tells all of it once more. */
static __inline void tell_step(struct record *record, enum kind kind)
{
	if (!every_step)
		return;
	if (tell(record, kind))
		record->told = 1;
	else
		count(COUNT_RING_FULL);
}

/*
 * The end of a connection finds no room. If userspace has not heard of it before, it is added to what its process has
 * done; else only how it ended is lost, as the next survey does not find it.
 */
static __inline void fold(const struct record *record)
{
	struct process process = {};
	struct sums zero = {}, *sums;

	process.start = record->process_start;
	process.pid = record->pid;
	if (record->told || !record->pid) {
		count(COUNT_RING_FULL);
		return;
	}
	sums = bpf_map_lookup_elem(&folded, &process);
	if (!sums) {
		zero.uid = record->uid;
		zero.cgroup = record->cgroup;
		__builtin_memcpy(zero.comm, record->comm, sizeof(zero.comm));
		/* Another processor may have been quicker. */
		bpf_map_update_elem(&folded, &process, &zero, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&folded, &process);
		if (!sums) {
			count(COUNT_RING_FULL);
			return;
		}
	}
	count(COUNT_FOLDED);
	if (!(record->flags & SEEN_LATE))
		__sync_fetch_and_add(record->flags & INCOMING ? &sums->incoming : &sums->opened, 1);
	__sync_fetch_and_add(record->last_state == SYN_SENT ? &sums->failed : &sums->closed, 1);
	__sync_fetch_and_add(&sums->sent, record->sent);
	__sync_fetch_and_add(&sums->received, record->received);
	__sync_fetch_and_add(&sums->retransmits, record->retransmits);
}

/* The process that runs now, by the leader of its threads. */
static __inline void own(struct record *record, struct task_struct *task)
{
	struct task_struct *leader = NULL;
	__u64 both = bpf_get_current_pid_tgid();

	record->pid = both >> 32;
	record->uid = (__u32)bpf_get_current_uid_gid();
	record->cgroup = bpf_get_current_cgroup_id();
	READ(0, leader, task->group_leader);
	READ(0, record->process_start, leader->start_boottime);
	bpf_probe_read_kernel_str(record->comm, sizeof(record->comm), __builtin_preserve_access_index(&leader->comm));
}

static __inline void own_current(struct record *record)
{
	own(record, (struct task_struct *)bpf_get_current_task());
}

static __inline void read_ends(struct record *record, struct sock *sk, const int direct)
{
	__be16 port = 0;
	__u16 family = 0;

	READ(direct, family, sk->__sk_common.skc_family);
	record->family = family;
	READ(direct, record->local_port, sk->__sk_common.skc_num);
	READ(direct, port, sk->__sk_common.skc_dport);
	record->remote_port = (__u16)((port << 8) | (port >> 8));
	if (family == AF_INET) {
		READ(direct, record->local[0], sk->__sk_common.skc_rcv_saddr);
		READ(direct, record->remote[0], sk->__sk_common.skc_daddr);
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		READ(direct, record->local[i], sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i]);
		READ(direct, record->remote[i], sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i]);
	}
}

static __inline void read_netns(struct record *record, struct sock *sk, const int direct)
{
	struct net *net = NULL;

	READ(direct, net, sk->__sk_common.skc_net.net);
	READ(direct, record->netns, net->ns.inum);
}

static __inline void read_traffic(struct record *record, struct sock *sk, struct tcp_sock *tcp, const int direct)
{
	__u64 sent = 0, again = 0, received = 0;
	unsigned long flags = 0;
	__u32 srtt = 0, min = 0;

	READ(direct, sent, tcp->bytes_sent);
	READ(direct, again, tcp->bytes_retrans);
	READ(direct, received, tcp->bytes_received);
	READ(direct, flags, sk->__sk_common.skc_flags);
	/* The peer's FIN has a number of its own, and the kernel counts it as a byte. */
	if (received && (flags & (1UL << SOCK_DONE)))
		received--;
	record->sent = sent - again;
	record->received = received;
	READ(direct, srtt, tcp->srtt_us);
	record->srtt = srtt >> 3;
	READ(direct, min, tcp->rtt_min.s[0].v);
	record->min_rtt = min == ~0U ? 0 : min;
	READ(direct, record->retransmits, tcp->total_retrans);
}

static __inline void read_tcp(struct record *record, struct sock *sk, const int direct)
{
	struct tcp_sock *tcp = direct ? bpf_skc_to_tcp_sock(sk) : (struct tcp_sock *)sk;

	if (tcp)
		read_traffic(record, sk, tcp, direct);
}

/* An outgoing connection begins: in the context of the process that called connect. */
static __inline void opened(struct sock *sk, const int direct)
{
	struct record record = {};
	__u64 key = (__u64)sk;

	record.socket = key;
	record.opened = bpf_ktime_get_ns();
	record.state = SYN_SENT;
	read_ends(&record, sk, direct);
	read_netns(&record, sk, direct);
	own_current(&record);
	count(COUNT_OPENED);
	tell_step(&record, OPENED);
	if (bpf_map_update_elem(&connections, &key, &record, BPF_ANY))
		count(COUNT_MAP_FULL);
}

static __inline void established(struct sock *sk, const int direct)
{
	__u64 key = (__u64)sk;
	struct record *known = bpf_map_lookup_elem(&connections, &key);

	count(COUNT_ESTABLISHED);
	/* What stands there with a later state was left by a socket that is gone. */
	if (known && known->state == SYN_SENT) {
		known->established = bpf_ktime_get_ns();
		known->state = ESTABLISHED;
		/* Its own address and port may have been chosen after it was seen first. */
		read_ends(known, sk, direct);
		tell_step(known, OPEN_DONE);
		return;
	}
	struct record record = {};

	record.socket = key;
	record.opened = record.established = bpf_ktime_get_ns();
	record.state = ESTABLISHED;
	record.flags = INCOMING;
	read_ends(&record, sk, direct);
	read_netns(&record, sk, direct);
	count(COUNT_INCOMING);
	tell_step(&record, OPEN_DONE);
	if (bpf_map_update_elem(&connections, &key, &record, BPF_ANY))
		count(COUNT_MAP_FULL);
}

/* The last of a connection: one record with everything, whatever way it was seen. */
static __inline void forget(struct record *known, __u64 key)
{
	if (!known->pid)
		count(COUNT_UNOWNED);
	if (!tell(known, ENDED))
		fold(known);
	bpf_map_delete_elem(&connections, &key);
}

static __inline void ended(struct sock *sk, int last, const int direct)
{
	__u64 key = (__u64)sk;
	struct record *known = bpf_map_lookup_elem(&connections, &key);
	int error = 0;

	if (last == SYN_SENT)
		count(COUNT_FAILED);
	else if (last != LISTEN && last != CLOSE && last != SYN_RECV)
		count(COUNT_CLOSED);
	if (!known || known->ended)
		return;
	READ(direct, error, sk->sk_err);
	known->ended = bpf_ktime_get_ns();
	known->state = CLOSE;
	known->last_state = last;
	read_tcp(known, sk, direct);
	if (last == SYN_SENT) {
		__be16 port = 0;

		/* Its number is given back already; here it still stands. */
		READ(0, port, ((struct inet_sock *)sk)->inet_sport);
		known->local_port = (__u16)((port << 8) | (port >> 8));
		/* connect found no free port: it says so to the process, and leaves nothing at the socket. */
		if (!error && !port)
			error = EADDRNOTAVAIL;
	} else if (!error && (last == ESTABLISHED || last == CLOSE_WAIT)) {
		/* Closed with data unread or without lingering: in the context of the process that closed. */
		known->flags |= ABORTED;
		if (!known->pid) {
			known->flags |= BY_CLOSE;
			own_current(known);
		}
	}
	known->error = error;
	/* Ended by a packet before anybody was seen to own it: the process has yet to close the socket. */
	if (!known->pid && last != SYN_SENT)
		return;
	forget(known, key);
}

static __inline void halved(struct sock *sk, int state)
{
	__u64 key = (__u64)sk;
	struct record *known = bpf_map_lookup_elem(&connections, &key);

	if (!known)
		return;
	known->state = state;
	/* Only close and shutdown lead to these, so the process that runs is the one that has the socket. */
	if (!known->pid && (state == FIN_WAIT1 || state == LAST_ACK)) {
		known->flags |= BY_CLOSE;
		own_current(known);
		tell_step(known, CLAIMED);
	}
}

static __inline int on_state(struct sock *sk, int last, int state, const int direct)
{
	__u16 protocol = 0;

	switch (state) {
	case SYN_SENT:
	case ESTABLISHED:
	case FIN_WAIT1:
	case LAST_ACK:
	case CLOSE:
		break;
	default:
		return 0;
	}
	READ(direct, protocol, sk->sk_protocol);
	if (protocol != IPPROTO_TCP)
		return 0;
	if (state == SYN_SENT)
		opened(sk, direct);
	else if (state == ESTABLISHED)
		established(sk, direct);
	else if (state == CLOSE)
		ended(sk, last, direct);
	else
		halved(sk, state);
	return 0;
}

/* The process that runs has accepted the connection. */
static __inline int accepted(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct record *known = sk ? bpf_map_lookup_elem(&connections, &key) : NULL;

	if (!known || known->pid)
		return 0;
	known->flags |= BY_ACCEPT;
	own_current(known);
	if (known->ended)
		forget(known, key);
	else
		tell_step(known, CLAIMED);
	return 0;
}

/* ---- changes of state ---- */

SEC("tp_btf/inet_sock_set_state")
int state_typed(__u64 *ctx)
{
	return on_state((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], 1);
}

SEC("raw_tp/inet_sock_set_state")
int state_raw(__u64 *ctx)
{
	return on_state((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], 0);
}

SEC("tracepoint/sock/inet_sock_set_state")
int state_tracepoint(struct set_state_context *ctx)
{
	return on_state((struct sock *)ctx->skaddr, ctx->oldstate, ctx->newstate, 0);
}

SEC("kprobe/tcp_set_state")
int state_probe(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)FIRST(ctx);
	unsigned char last = 0;

	READ(0, last, sk->__sk_common.skc_state);
	return on_state(sk, last, (int)SECOND(ctx), 0);
}

/* Of the oldest way there is: it sees that connections are opened, and nothing more. */
SEC("kprobe/tcp_connect")
int connect_probe(struct pt_regs *ctx)
{
	opened((struct sock *)FIRST(ctx), 0);
	return 0;
}

/* ---- who has accepted ---- */

SEC("fexit/inet_csk_accept")
int accept_exit(__u64 *ctx)
{
	__u64 sk = 0;

	bpf_get_func_ret(ctx, &sk);
	return accepted((struct sock *)sk);
}

SEC("kretprobe/inet_csk_accept")
int accept_probe(struct pt_regs *ctx)
{
	return accepted((struct sock *)RESULT(ctx));
}

static __inline int accept_returned(long fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **all = NULL, *file = NULL;
	struct socket *socket = NULL;
	struct sock *sk = NULL;
	unsigned int max = 0;

	if (fd < 0)
		return 0;
	READ(0, files, task->files);
	READ(0, table, files->fdt);
	READ(0, max, table->max_fds);
	if (fd >= max)
		return 0;
	READ(0, all, table->fd);
	bpf_probe_read_kernel(&file, sizeof(file), all + fd);
	READ(0, socket, file->private_data);
	READ(0, sk, socket->sk);
	return accepted(sk);
}

SEC("tracepoint/syscalls/sys_exit_accept")
int accept_call(struct sys_exit_context *ctx)
{
	return accept_returned(ctx->ret);
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int accept4_call(struct sys_exit_context *ctx)
{
	return accept_returned(ctx->ret);
}

/*
 * A socket is destroyed. If its connection was ended by a packet and nobody was seen to own it, this is the process
 * that closes it.
 */
static __inline int destroyed(__u64 key)
{
	struct record *known = bpf_map_lookup_elem(&connections, &key);

	if (!known || !known->ended)
		return 0;
	if (!known->pid) {
		known->flags |= BY_CLOSE;
		own_current(known);
	}
	forget(known, key);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int destroy_typed(__u64 *ctx)
{
	return destroyed(ctx[0]);
}

SEC("raw_tp/tcp_destroy_sock")
int destroy_raw(__u64 *ctx)
{
	return destroyed(ctx[0]);
}

/* ---- looking through everything, when userspace asks ---- */

/*
 * Every open file: who has which socket. It finds the owners that no hook has told, and the connections that are older
 * than the monitor.
 */
SEC("iter/task_file")
int files(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task, *leader;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	struct css_set *groups;
	struct record *known;
	__u64 key;
	__u8 state;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	state = sk->__sk_common.skc_state;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	key = (__u64)sk;
	known = bpf_map_lookup_elem(&connections, &key);
	if (known && known->pid)
		return 0;
	if (!known && (state == CLOSE || state == LISTEN || state == SYN_SENT || state == SYN_RECV))
		return 0;

	struct record record = {};

	if (known) {
		record = *known;
	} else {
		record.socket = key;
		record.opened = bpf_ktime_get_ns();
		record.state = state;
		record.flags = SEEN_LATE;
		read_ends(&record, sk, 0);
		read_netns(&record, sk, 0);
		read_traffic(&record, sk, (struct tcp_sock *)sk, 0);
	}
	record.flags |= BY_FILE;
	leader = task->group_leader;
	record.pid = task->tgid;
	record.process_start = leader->start_boottime;
	bpf_probe_read_kernel_str(record.comm, sizeof(record.comm), __builtin_preserve_access_index(&leader->comm));
	groups = task->cgroups;
	READ(0, record.cgroup, groups->dfl_cgrp->kn->id);
	if (known && record.ended) {
		forget(&record, key);
		return 0;
	}
	if (!known)
		count(COUNT_SEEN_LATE);
	tell_step(&record, CLAIMED);
	if (bpf_map_update_elem(&connections, &key, &record, BPF_ANY))
		count(COUNT_MAP_FULL);
	return 0;
}

/* Every connection that is known, with what it has carried until now. */
SEC("iter/bpf_map_elem")
int live(struct map_elem_context *ctx)
{
	struct record *known = ctx->value, record;
	struct sock *sk;
	unsigned char state = 0;
	__u16 port = 0, family = 0;

	if (!known)
		return 0;
	known->told = 1;
	record = *known;
	record.kind = LIVE;
	sk = (struct sock *)record.socket;
	READ(0, state, sk->__sk_common.skc_state);
	READ(0, family, sk->__sk_common.skc_family);
	READ(0, port, sk->__sk_common.skc_num);
	if (!record.ended) {
		/* The socket may be gone, and its place another's: then the entry is left from what was missed. */
		if (family != record.family || state == CLOSE || state == LISTEN ||
		    (record.local_port && port != record.local_port)) {
			record.flags |= GONE;
		} else {
			record.state = state;
			read_traffic(&record, sk, (struct tcp_sock *)sk, 0);
		}
	}
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
