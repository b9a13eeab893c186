/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * TCP connections as the kernel sees them.
 *
 * What must be known of a connection before its end is kept by the address of its socket: when it was opened and
 * established, and whose it is (`record.h`). The rest is read from the socket when it is told, at the end or when
 * userspace asks. The owner is the process that called connect or accept; a change of state that a packet causes runs in
 * the context of whichever process was interrupted, so it never says who owns what. Every way to attach ends in
 * `on_state` and `claim`, so that each gives the same; the usual way of usual.h does, too.
 *
 * Where the kernel knows the type of the socket (`typed`) its fields are plain loads, elsewhere they are copied out. (What
 * is kept could hang on the socket itself then; measured, that costs twice as much as the map.)
 *
 * Whatever a change of state runs comes cold into a busy processor: a call costs as much as some twenty lines of its own,
 * and with 64 bytes of stack or more the kernel gives a program a stack elsewhere, which is cold as well. So the way of
 * all connections is in line, what is rare is not, and `state_typed` and `state_usual` have 48 bytes.
 *
 * What does not fit is counted in `counts`, never lost in silence.
 */
#include "attempt.h"
#include "tell.h"
#ifdef ADIT_ARCH_x86_64
#include "usual.h"
#endif

char licence_of_programs[] SEC("license") = "Dual MIT/GPL";

/* ---- changes of state ---- */

/*
 * The time of the packet that is just handled: the kernel has read the clock for it, which costs as much as all of a
 * program's other work.
 */
static __inline __u64 time_of_packet(struct tcp_sock *tcp, const int typed)
{
	__u64 time = packet_time(tcp, typed);

	return time ? time : bpf_ktime_get_ns();
}

/* An outgoing connection begins: in the context of the process that called connect. */
static __inline void opened(struct sock *sk, const int typed)
{
	__u64 number = number_of(sk);
	struct kept *kept = place_for(number, known(number));

	count_change(COUNT_OPENED);
	if (!kept) {
		count(COUNT_MAP_FULL);
		return;
	}
	begin(kept, bpf_ktime_get_ns(), 0);
	own(kept, 0, typed);
	barrier();
	kept->state = SYN_SENT;
	tell_step(kept, sk, OPENED, typed);
}

static __inline void established(struct sock *sk, int last, const int typed)
{
	struct tcp_sock *tcp = tcp_of(sk, typed);
	__u64 number = number_of(sk), now;
	struct kept *kept;
	int same, incoming;

	if (!tcp)
		return;
	kept = known(number);
	/* Seen from before: what stands there with another state was left by a socket that is gone. */
	same = kept && kept->state == last && (last == SYN_SENT || last == SYN_RECV);
	incoming = same ? kept->flags & INCOMING : last == SYN_RECV;
	count_change(incoming ? COUNT_INCOMING : COUNT_REACHED);
	now = time_of_packet(tcp, typed);
	if (!same) {
		kept = place_for(number, kept);
		if (!kept) {
			/* An outgoing one was counted when it began. */
			if (incoming)
				count(COUNT_MAP_FULL);
			return;
		}
		/* One that is not incoming was under way before the monitor was there, or found no room. */
		begin(kept, now, incoming ? INCOMING : SEEN_LATE);
		if (!incoming)
			count(COUNT_SEEN_LATE);
	} else if (now < kept->opened) {
		/* Without a packet: a socket that is restored. */
		now = bpf_ktime_get_ns();
	}
	kept->established = now;
	READ(typed, kept->local_port, sk->__sk_common.skc_num);
	kept->state = ESTABLISHED;
	tell_step(kept, sk, OPEN_DONE, typed);
}

/* Both sides have asked each other at the same time: it stays an outgoing one. */
static __inline void crossed(struct sock *sk, const int typed)
{
	struct kept *kept = known(number_of(sk));

	if (kept && kept->state == SYN_SENT)
		kept->state = SYN_RECV;
}

/*
 * Whether the process cuts it off, where there is no error: closed with data unread, without lingering, or disconnected. Once
 * this side is shut, what has come from the other side says so, as long as the socket is not closed.
 */
static __inline int cut_off(struct tcp_sock *tcp, int last, unsigned long socket, const int typed)
{
	__u32 acknowledged = 0, written = 0;

	if (last == ESTABLISHED || last == CLOSE_WAIT)
		return 1;
	if (socket & (1UL << SOCK_DEAD))
		return 0;
	if (last == FIN_WAIT2)
		return !(socket & (1UL << SOCK_DONE));
	/* A packet leads out of these two only when all is acknowledged. */
	if (last != LAST_ACK && last != CLOSING)
		return last == FIN_WAIT1;
	READ(typed, acknowledged, tcp->snd_una);
	READ(typed, written, tcp->write_seq);
	return acknowledged != written;
}

/*
 * `by_change`: in the program of changes of state. Else the socket is destroyed, and that it was closed was missed: a packet has
 * ended it, as only what interrupts a program is not run. Whether that was the peer's FIN is known, and any error that the
 * process was not told yet; else nobody has seen how.
 */
static __inline void ended(struct sock *sk, int last, const int by_change, const int typed)
{
	struct tcp_sock *tcp = tcp_of(sk, typed);
	__u64 number = number_of(sk);
	unsigned long socket = 0;
	struct kept *kept;
	int error = 0, why = 0, failed, waits;

	if (!tcp)
		return;
	kept = known(number);
	if (kept && (!is_kept(kept) || kept->ended))
		kept = NULL;
	failed = last == SYN_SENT || (last == SYN_RECV && kept && !(kept->flags & INCOMING));
	READ(typed, error, sk->sk_err);
	if (failed) {
		count_of_change(COUNT_FAILED, by_change);
		why = why_failed(sk, tcp, error, typed);
		/* The process was told meanwhile, and nobody else. */
		if (!by_change && !why)
			why = ERROR_UNKNOWN;
		if (by_change && is_in_call(why))
			fails_in_call(number);
	} else if (last != LISTEN && last != CLOSE && last != SYN_RECV) {
		count_of_change(COUNT_CLOSED, by_change);
	}
	if (!kept)
		return;
	if (last == SYN_RECV && !failed) {
		/* Accepted before it was established, and never counted. */
		set_free(kept);
		return;
	}
	READ(typed, socket, sk->__sk_common.skc_flags);
	kept->ended = !error && by_packet(last, socket) ? time_of_packet(tcp, typed) : bpf_ktime_get_ns();
	if (failed) {
		__be16 port = 0;

		error = why;
		/* Its number is given back already; here it still stands. */
		READ(0, port, ((struct inet_sock *)sk)->inet_sport);
		kept->local_port = swapped(port);
		last = SYN_SENT;
	} else if (!by_change) {
		if (!error && !(socket & (1UL << SOCK_DONE)))
			kept->flags |= UNSEEN;
	} else if (!error && cut_off(tcp, last, socket, typed)) {
		/* In the context of the process that closes. */
		kept->flags |= ABORTED;
		if (!kept->owner.pid && !kept->by)
			own(kept, BY_CLOSE, typed);
	}
	kept->error = error;
	kept->state = CLOSE | last << 4;
	/*
	 * Ended by a packet before anybody was seen to own it: the process has yet to close the socket, unless it has. Or
	 * connect is about to say why it fails.
	 */
	if (failed)
		waits = by_change && why == ERROR_UNKNOWN && exit_seen(sk, typed);
	else
		waits = !kept->owner.pid && !(socket & (1UL << SOCK_DEAD));
	if (waits && wait_for(number))
		return;
	tell_end(kept, sk, tcp, by_change, typed);
}

/* Only close and shutdown lead to these, so the process that runs is the one that has the socket. */
static __inline void closing(struct sock *sk, const int typed)
{
	struct kept *kept = known(number_of(sk));

	if (!kept || !is_kept(kept) || kept->owner.pid || kept->by)
		return;
	own(kept, BY_CLOSE, typed);
	tell_step(kept, sk, CLAIMED, typed);
}

static __inline int is_tcp(struct sock *sk, const int typed)
{
	__u16 protocol = 0;

	READ(typed, protocol, sk->sk_protocol);
	return protocol == IPPROTO_TCP;
}

static __inline int on_state(struct sock *sk, int last, int state, const int typed)
{
	switch (state) {
	case SYN_SENT:
		if (is_tcp(sk, typed))
			opened(sk, typed);
		break;
	case ESTABLISHED:
		established(sk, last, typed);
		break;
	case FIN_WAIT1:
	case LAST_ACK:
		if (!accept_seen && is_tcp(sk, typed))
			closing(sk, typed);
		break;
	case CLOSE:
		ended(sk, last, 1, typed);
		break;
	case SYN_RECV:
		if (last == SYN_SENT && is_tcp(sk, typed))
			crossed(sk, typed);
		break;
	}
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int state_typed(__u64 *ctx)
{
	return on_state((struct sock *)ctx[0], (int)ctx[1], (int)ctx[2], 1);
}

#ifdef ADIT_ARCH_x86_64
static __noinline int unusual(struct sock *sk, int last, int state)
{
	return sk ? on_state(sk, last, state, 1) : 0;
}

/* The same, where changes of state do not interrupt each other and only ends are told. */
SEC("tp_btf/inet_sock_set_state")
int state_usual(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int last = (int)ctx[1], state = (int)ctx[2];

	return usual(sk, last, state) ? 0 : unusual(sk, last, state);
}
#endif

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

/* Of the oldest way there is: it sees that connections are opened, and nothing more. So nothing is kept of them. */
SEC("kprobe/tcp_connect")
int connect_probe(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)FIRST(ctx);
	struct kept kept = {};

	kept.socket = number_of(sk);
	kept.opened = bpf_ktime_get_ns();
	READ(0, kept.local_port, sk->__sk_common.skc_num);
	own(&kept, 0, 0);
	kept.state = SYN_SENT;
	count(COUNT_OPENED);
	if (!tell_copied(&kept, sk, OPENED))
		count(COUNT_RING_FULL);
	return 0;
}

/* ---- attempts that end before they begin ---- */

/*
 * connect has failed. There was no way to the address, if no change of state was seen in this very call. A call that told
 * an end has left a mark (`in_call`); an end a moment ago says nothing, as the place may have been that of another socket
 * with this address. Who disconnects with TCP_FASTOPEN_CONNECT before a packet leaves a mark, too, so none is believed for
 * long.
 *
 * The address is the one that connect was given: nothing else has it, or not its port any more.
 */
static __inline int unreachable(struct sock *sk, int error, __u16 port, __u16 family, const __be32 *to)
{
	struct kept kept = {}, *place = waits_for_why((__u64)sk);
	struct record *record;
	__u64 now = bpf_ktime_get_ns();
	/* In any case the mark is taken away: the next attempt has none. */
	int told = failed_in_call((__u64)sk, now);

	if (place) {
		kept = *place;
	} else {
		/* No address of TCP's: nothing was attempted. */
		if (told || error == EAFNOSUPPORT)
			return 0;
		kept.opened = kept.ended = now;
		kept.socket = (__u64)sk;
		count(COUNT_OPENED);
		count(COUNT_FAILED);
		own(&kept, 0, 0);
		kept.state = CLOSE | SYN_SENT << 4;
		READ(0, kept.local_port, sk->__sk_common.skc_num);
	}
	kept.error = error;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (record) {
		fill(record, &kept, sk, (struct tcp_sock *)sk, ENDED, 0);
		record->family = family;
		record->remote_port = port;
		if (family == AF_INET) {
			record->remote[0] = to[0];
		} else {
#pragma unroll
			for (int i = 0; i < 4; i++)
				record->remote[i] = to[i];
		}
		bpf_ringbuf_submit(record, every_step ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	} else if (!fold(&kept)) {
		if (place)
			tell_later(&kept);
		else
			count(COUNT_RING_FULL);
	}
	if (place)
		set_free(place);
	return 0;
}

/*
 * The first argument, which is the socket, as a number: all that is read of it here is copied out by its address.
 */
static __inline struct sock *first_argument(__u64 *ctx)
{
	__u64 sk = 0;

	bpf_probe_read_kernel(&sk, sizeof(sk), ctx);
	return (struct sock *)sk;
}

SEC("fexit/tcp_v4_connect")
int connect4_exit(__u64 *ctx)
{
	struct sockaddr_in *name = (struct sockaddr_in *)ctx[1];
	int result = (int)ctx[3];
	__be32 to[4] = {};
	__u16 port = 0;

	/* Too short to be an address. */
	if (result >= 0 || (result == -EINVAL && (int)ctx[2] < 16))
		return 0;
	READ(0, port, name->sin_port);
	READ(0, to[0], name->sin_addr.s_addr);
	return unreachable(first_argument(ctx), -result, port, AF_INET, to);
}

SEC("fexit/tcp_v6_connect")
int connect6_exit(__u64 *ctx)
{
	struct sockaddr_in6 *name = (struct sockaddr_in6 *)ctx[1];
	int result = (int)ctx[3];
	struct in6_addr to = {};
	__u16 port = 0;

	/* Too short to be an address. */
	if (result >= 0 || (result == -EINVAL && (int)ctx[2] < 24))
		return 0;
	READ(0, port, name->sin6_port);
	READ(0, to, name->sin6_addr);
	/* An IPv4 address in IPv6 clothes: the other program has seen it. */
	if (!to.in6_u.u6_addr32[0] && !to.in6_u.u6_addr32[1] && to.in6_u.u6_addr32[2] == 0xffff0000)
		return 0;
	return unreachable(first_argument(ctx), -result, port, AF_INET6, to.in6_u.u6_addr32);
}

/* ---- who has accepted ---- */

/* What is kept has ended and this socket has not: it is of one that had its address before, and whose end was missed. */
static __inline int is_anothers(const struct kept *kept, const __u8 state)
{
	return kept->ended && state != CLOSE;
}

/* The process that runs has it. What has ended already waited for that. */
static __inline int claim(struct sock *sk, const enum flag by)
{
	__u64 number = number_of(sk);
	unsigned char state = 0;
	struct kept *kept;

	if (!sk)
		return 0;
	kept = known(number);
	READ(0, state, sk->__sk_common.skc_state);
	if (state == SYN_RECV && (!kept || !kept->state)) {
		/* Accepted before it is established: that is seen next. */
		kept = place_for(number, kept);
		if (!kept)
			return 0;
		begin(kept, bpf_ktime_get_ns(), INCOMING);
		own(kept, by, 0);
		kept->state = SYN_RECV;
		return 0;
	}
	if (!kept || !is_kept(kept) || kept->owner.pid || kept->by || is_anothers(kept, state))
		return 0;
	own(kept, by, 0);
	if (!kept->ended)
		tell_step(kept, sk, CLAIMED, 0);
	else if (waited(number))
		tell_end(kept, sk, (struct tcp_sock *)sk, 0, 0);
	return 0;
}

SEC("fexit/inet_csk_accept")
int accept_exit(__u64 *ctx)
{
	__u64 sk = 0;

	if (!accept_seen)
		accept_seen = 1;
	/* Not by its place behind the arguments: there are fewer of them since 6.10. */
	bpf_get_func_ret(ctx, &sk);
	return claim((struct sock *)sk, BY_ACCEPT);
}

SEC("kretprobe/inet_csk_accept")
int accept_probe(struct pt_regs *ctx)
{
	return claim((struct sock *)RESULT(ctx), BY_ACCEPT);
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
	return claim(sk, BY_ACCEPT);
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

/* A look that finds the socket gone frees its place as well, so one at a time is let in. */
static __inline int end_late(struct sock *sk, const int typed)
{
	__u64 number = number_of(sk);
	struct kept *kept;

	if (!enter(number))
		return 0;
	kept = known(number);
	/* What it was last is not known, but for what was never established. */
	if (kept && is_kept(kept) && !kept->ended)
		ended(sk, kept->state == SYN_SENT || kept->state == SYN_RECV ? kept->state : LAST_ACK, 0, typed);
	leave(number);
	return 0;
}

static __noinline int end_late_typed(struct sock *sk)
{
	return sk ? end_late(sk, 1) : 0;
}

static __noinline int end_late_copied(struct sock *sk)
{
	return sk ? end_late(sk, 0) : 0;
}

/*
 * A socket is destroyed. If its connection was ended by a packet and nobody owned it then, it is told now: this is the
 * process that closes it. It is told as well, if that change of state was missed.
 */
static __inline int destroyed(struct sock *sk, const int typed)
{
	__u64 number = number_of(sk);
	struct kept *kept = nth_place(number, 0);
	struct tcp_sock *tcp;

	/* Mostly its end was told, and nobody is kept there any more. */
	if (!kept || (!kept->state && !kept->further))
		return 0;
	kept = known(number);
	if (!kept || !is_kept(kept))
		return 0;
	if (!kept->ended)
		return typed ? end_late_typed(sk) : end_late_copied(sk);
	tcp = tcp_of(sk, typed);
	if (!waiting_now || !tcp || !kept->ended || !waited(number))
		return 0;
	if (!kept->owner.pid)
		own(kept, BY_CLOSE, typed);
	tell_end(kept, sk, tcp, 0, typed);
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

#include "look.h"
