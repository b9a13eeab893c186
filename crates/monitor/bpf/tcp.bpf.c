/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * TCP connections as the kernel sees them.
 *
 * What must be known of a connection before its end is kept by the address of its socket: when it was opened and
 * established, and whose it is. The rest is read from the socket when it is told, at the end or when userspace asks. The owner is the
 * process that called connect or accept; a change of state that a packet causes runs in the context of whichever
 * process was interrupted, so it never says who owns what. Every way to attach ends in `on_state` and `claim`, so that
 * each gives the same.
 *
 * Where the kernel knows the type of the socket (`typed`) its fields are plain loads, elsewhere they are copied out. (What
 * is kept could hang on the socket itself then; measured, that costs twice as much as the map.)
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
	__u64 opened;
	__u64 established;
	__u64 ended;
	struct owner owner;
	__u16 local_port;
	__u16 error;
	__u8 state;
	__u8 last_state;
	__u8 flags;
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

/* Connections that a packet has ended before anybody was seen to own them. Mostly there are none, and nothing to look for. */
__u64 waiting = 0;

static __inline void count(const enum count which)
{
	__u32 first = 0;
	__u64 *all = bpf_map_lookup_elem(&counts, &first);

	if (all)
		all[which] += 1;
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

/* Keeps it from now on; whatever was there before was of a connection that is over. */
static __inline void keep(struct sock *sk, const struct kept *kept)
{
	__u64 key = (__u64)sk;

	if (bpf_map_update_elem(&connections, &key, kept, BPF_ANY))
		count(COUNT_MAP_FULL);
}

static __inline void forget(struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&connections, &key);
}

/* The process that runs now, by the leader of its threads. */
static __inline int read_owner(struct owner *owner, const int typed)
{
	struct task_struct *task, *leader = NULL;

	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = (__u32)bpf_get_current_uid_gid();
	owner->cgroup = bpf_get_current_cgroup_id();
	if (typed)
		task = bpf_get_current_task_btf();
	else
		task = (struct task_struct *)bpf_get_current_task();
	READ(typed, leader, task->group_leader);
	READ(typed, owner->start, leader->start_boottime);
	bpf_probe_read_kernel(owner->comm, sizeof(owner->comm), __builtin_preserve_access_index(&leader->comm));
	return 0;
}

static __noinline int own_typed(struct owner *owner)
{
	return read_owner(owner, 1);
}

static __noinline int own_copied(struct owner *owner)
{
	return read_owner(owner, 0);
}

static __inline void own(struct owner *owner, const int typed)
{
	if (typed)
		own_typed(owner);
	else
		own_copied(owner);
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
	record->state = kept->state;
	record->last_state = kept->last_state;
	record->kind = kind;
	record->flags = kept->flags;
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
	return write(kept, sk, kind, 1);
}

static __noinline int tell_copied(const struct kept *kept, struct sock *sk, enum kind kind)
{
	return write(kept, sk, kind, 0);
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
	__sync_fetch_and_add(kept->last_state == SYN_SENT ? &sums->failed : &sums->closed, 1);
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
	forget(sk);
}

/* The same of one that has waited for its owner. */
static __inline void tell_late(struct kept *kept, struct sock *sk, const int typed)
{
	__sync_fetch_and_add(&waiting, -1);
	tell_end(kept, sk, typed);
}

/* ---- changes of state ---- */

/* An outgoing connection begins: in the context of the process that called connect. */
static __inline void opened(struct sock *sk, const int typed)
{
	struct kept kept = {};

	kept.opened = bpf_ktime_get_ns();
	kept.state = SYN_SENT;
	own(&kept.owner, typed);
	count(COUNT_OPENED);
	tell_step(&kept, sk, OPENED, typed);
	keep(sk, &kept);
}

static __inline void established(struct sock *sk, const int typed)
{
	struct kept *outgoing = known(sk);
	__u64 now = bpf_ktime_get_ns();

	count(COUNT_ESTABLISHED);
	/* What stands there with a later state was left by a socket that is gone. */
	if (outgoing && outgoing->state == SYN_SENT) {
		outgoing->established = now;
		outgoing->state = ESTABLISHED;
		READ(typed, outgoing->local_port, sk->__sk_common.skc_num);
		tell_step(outgoing, sk, OPEN_DONE, typed);
		return;
	}
	struct kept kept = {};

	kept.opened = kept.established = now;
	kept.state = ESTABLISHED;
	kept.flags = INCOMING;
	READ(typed, kept.local_port, sk->__sk_common.skc_num);
	count(COUNT_INCOMING);
	tell_step(&kept, sk, OPEN_DONE, typed);
	keep(sk, &kept);
}

static __inline void ended(struct sock *sk, int last, const int typed)
{
	struct kept *kept = known(sk);
	int error = 0;

	if (last == SYN_SENT)
		count(COUNT_FAILED);
	else if (last != LISTEN && last != CLOSE && last != SYN_RECV)
		count(COUNT_CLOSED);
	if (!kept || kept->ended)
		return;
	READ(typed, error, sk->sk_err);
	kept->ended = bpf_ktime_get_ns();
	kept->state = CLOSE;
	kept->last_state = last;
	if (last == SYN_SENT) {
		__be16 port = 0;

		/* Its number is given back already; here it still stands. */
		READ(0, port, ((struct inet_sock *)sk)->inet_sport);
		kept->local_port = swapped(port);
		/* connect found no free port: it says so to the process, and leaves nothing at the socket. */
		if (!error && !port)
			error = EADDRNOTAVAIL;
	} else if (!error && (last == ESTABLISHED || last == CLOSE_WAIT)) {
		/* Closed with data unread or without lingering: in the context of the process that closed. */
		kept->flags |= ABORTED;
		if (!kept->owner.pid) {
			kept->flags |= BY_CLOSE;
			own(&kept->owner, typed);
		}
	}
	kept->error = error;
	/* Ended by a packet before anybody was seen to own it: the process has yet to close the socket. */
	if (kept->owner.pid || last == SYN_SENT)
		tell_end(kept, sk, typed);
	else
		__sync_fetch_and_add(&waiting, 1);
}

/* Only close and shutdown lead to these, so the process that runs is the one that has the socket. */
static __inline void closing(struct sock *sk, const int typed)
{
	struct kept *kept = known(sk);

	if (!kept || kept->owner.pid)
		return;
	kept->flags |= BY_CLOSE;
	own(&kept->owner, typed);
	tell_step(kept, sk, CLAIMED, typed);
}

static __inline int on_state(struct sock *sk, int last, int state, const int typed)
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
	READ(typed, protocol, sk->sk_protocol);
	if (protocol != IPPROTO_TCP)
		return 0;
	if (state == SYN_SENT)
		opened(sk, typed);
	else if (state == ESTABLISHED)
		established(sk, typed);
	else if (state == CLOSE)
		ended(sk, last, typed);
	else
		closing(sk, typed);
	return 0;
}

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

/* The process that runs has it. */
static __inline int claim(struct sock *sk, const enum flag by, const int typed)
{
	struct kept *kept;

	if (!sk)
		return 0;
	kept = known(sk);
	if (!kept || kept->owner.pid)
		return 0;
	kept->flags |= by;
	own(&kept->owner, typed);
	if (kept->ended)
		tell_late(kept, sk, typed);
	else
		tell_step(kept, sk, CLAIMED, typed);
	return 0;
}

SEC("fexit/inet_csk_accept")
int accept_exit(__u64 *ctx)
{
	__u64 sk = 0;

	/* Not by its place behind the arguments: there are fewer of them since 6.10. */
	bpf_get_func_ret(ctx, &sk);
	return claim((struct sock *)sk, BY_ACCEPT, 0);
}

SEC("kretprobe/inet_csk_accept")
int accept_probe(struct pt_regs *ctx)
{
	return claim((struct sock *)RESULT(ctx), BY_ACCEPT, 0);
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
	return claim(sk, BY_ACCEPT, 0);
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
static __inline int destroyed(struct sock *sk, const int typed)
{
	struct kept *kept;

	if (!waiting)
		return 0;
	kept = known(sk);
	if (!kept || !kept->ended || kept->owner.pid)
		return 0;
	kept->flags |= BY_CLOSE;
	own(&kept->owner, typed);
	tell_late(kept, sk, typed);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int destroy_typed(__u64 *ctx)
{
	return destroyed((struct sock *)ctx[0], 1);
}

SEC("raw_tp/tcp_destroy_sock")
int destroy_raw(__u64 *ctx)
{
	return destroyed((struct sock *)ctx[0], 0);
}

/* ---- looking through everything, when userspace asks ---- */

static __inline __u64 place_of(struct sock *sk);

static __inline int owned_by_file(struct sock *sk, struct task_struct *task)
{
	struct kept *kept = known(sk), fresh = {};
	struct task_struct *leader = task->group_leader;
	struct css_set *groups = task->cgroups;
	__u8 state = sk->__sk_common.skc_state;
	int is_new = !kept;
	__u64 place;

	if (!is_new && kept->owner.pid)
		return 0;
	if (is_new && (state == CLOSE || state == LISTEN || state == SYN_SENT || state == SYN_RECV))
		return 0;
	if (is_new) {
		fresh.opened = bpf_ktime_get_ns();
		fresh.state = state;
		fresh.flags = SEEN_LATE;
		fresh.local_port = sk->__sk_common.skc_num;
		place = place_of(sk);
		if (bpf_map_lookup_elem(&listeners, &place))
			fresh.flags |= INCOMING;
	} else {
		fresh = *kept;
	}
	fresh.flags |= BY_FILE;
	fresh.owner.pid = task->tgid;
	fresh.owner.start = leader->start_boottime;
	bpf_probe_read_kernel(fresh.owner.comm, sizeof(fresh.owner.comm),
			      __builtin_preserve_access_index(&leader->comm));
	READ(0, fresh.owner.cgroup, groups->dfl_cgrp->kn->id);
	if (is_new) {
		count(COUNT_SEEN_LATE);
		tell_step(&fresh, sk, CLAIMED, 1);
		keep(sk, &fresh);
		return 0;
	}
	kept->owner = fresh.owner;
	kept->flags |= BY_FILE;
	if (kept->ended)
		tell_late(kept, sk, 1);
	else
		tell_step(kept, sk, CLAIMED, 1);
	return 0;
}

/* The TCP socket of an open file, if it is one. */
static __inline struct sock *tcp_of(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;

	if (!socket)
		return NULL;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return NULL;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return NULL;
	return sk;
}

static __inline __u64 place_of(struct sock *sk)
{
	return (__u64)sk->__sk_common.skc_net.net->ns.inum << 16 | sk->__sk_common.skc_num;
}

/*
 * Every open file: who has which socket. It finds the owners that no hook has told, and the connections that are older
 * than the monitor.
 */
SEC("iter/task_file")
int files(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct sock *sk;

	if (!task || !file)
		return 0;
	sk = tcp_of(file);
	return sk ? owned_by_file(sk, task) : 0;
}

/* Every open file once before that: who listens where. */
SEC("iter/task_file")
int listening(struct task_file_context *ctx)
{
	struct file *file = ctx->file;
	struct sock *sk;
	__u8 one = 1;
	__u64 key;

	if (!ctx->task || !file)
		return 0;
	sk = tcp_of(file);
	if (!sk || sk->__sk_common.skc_state != LISTEN)
		return 0;
	key = place_of(sk);
	bpf_map_update_elem(&listeners, &key, &one, BPF_ANY);
	return 0;
}

/* Every connection that is known, with what it has carried until now. */
SEC("iter/bpf_map_elem")
int live(struct map_elem_context *ctx)
{
	struct kept *kept = ctx->value;
	struct record record;
	struct sock *sk;
	unsigned char state = 0;
	__u16 port = 0;

	if (!kept || !ctx->key)
		return 0;
	/* Its end is told, or about to be: it must not come to life after that. */
	if (kept->ended && kept->owner.pid)
		return 0;
	sk = (struct sock *)*(__u64 *)ctx->key;
	kept->told = 1;
	fill(&record, kept, sk, LIVE, 0);
	READ(0, state, sk->__sk_common.skc_state);
	READ(0, port, sk->__sk_common.skc_num);
	if (!record.ended) {
		record.state = state;
		/* The socket may be gone, and its place another's: then the entry is left from what was missed. */
		if ((record.family != AF_INET && record.family != AF_INET6) || state == CLOSE || state == LISTEN ||
		    (record.local_port && port != record.local_port))
			record.flags |= GONE;
	}
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
