/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Attempts that fail: why, and who tells it. Where connect itself fails, only its exit knows the reason; it is not to tell
 * again what its change of state has told.
 */
#ifndef ADIT_ATTEMPT_H
#define ADIT_ATTEMPT_H

#include "record.h"

/*
 * Attempts that have failed within connect itself, which is about to return that: in which thread and when, at a place that
 * the address of the socket gives. Of two with the same place at the same moment one is forgotten, and its failure may be told twice.
 */
#define IN_CALL 64
struct {
	__u64 socket;
	__u64 thread;
	__u64 ended;
} in_call[IN_CALL];

/* Why a connection never came to be. */
static __inline int why_failed(struct sock *sk, struct tcp_sock *tcp, int error, const int typed)
{
	unsigned char shut = 0;
	__u32 packets = 1;
	unsigned int hash = 1;

	READ(typed, packets, tcp->segs_out);
	if (packets)
		return error;
	/* Closed before it had anything to send: with TCP_FASTOPEN_CONNECT the first packet waits for that. */
	READ(typed, shut, sk->sk_shutdown);
	if (shut)
		return 0;
	/*
	 * connect itself has failed: it says so to the process, and leaves nothing at the socket, where the error of an
	 * earlier connection may stand. Its first step is to find a free port, after which the socket has a hash; the one of
	 * an earlier attempt stays, and then it is not known.
	 */
	READ(typed, hash, sk->__sk_common.skc_hash);
	return hash ? ERROR_UNKNOWN : EADDRNOTAVAIL;
}

/* Whether it is connect itself that fails, by the reason. */
static __inline int is_in_call(int why)
{
	return why == ERROR_UNKNOWN || why == EADDRNOTAVAIL;
}

/* Whether the exit of connect is seen for this socket. One of IPv6 may be asked for an IPv4 address. */
static __inline int exit_seen(struct sock *sk, const int typed)
{
	__u32 key = 0, *families = bpf_map_lookup_elem(&connect_exits, &key);
	__u16 family = 0;

	READ(typed, family, sk->__sk_common.skc_family);
	return families && *families >= (family == AF_INET ? 1 : 2);
}

/* The place in `in_call` of a socket. */
static __inline __u32 in_call_at(__u64 number)
{
	return (low_of(number) * 0x9e3779b97f4a7c15ULL >> 32) % IN_CALL;
}

/* It is connect that fails. */
static __noinline int fails_in_call(__u64 number)
{
	__u32 at = in_call_at(number);

	in_call[at].socket = number;
	in_call[at].thread = bpf_get_current_pid_tgid();
	in_call[at].ended = bpf_ktime_get_ns();
	return 0;
}

/*
 * Whether it was connect itself that failed, a moment ago: in this thread, which may have had to wait for a processor
 * meanwhile.
 */
static __inline int failed_in_call(__u64 number, __u64 now)
{
	__u32 at = in_call_at(number);

	if (in_call[at].socket != number)
		return 0;
	in_call[at].socket = 0;
	return in_call[at].thread == bpf_get_current_pid_tgid() && now - in_call[at].ended < 100000000;
}

/* The place of an attempt whose end waits for what connect says, if there is one. Whoever is given it tells the end. */
static __inline struct kept *waits_for_why(__u64 number)
{
	struct kept *kept;

	if (!waiting_now)
		return NULL;
	kept = known(number);
	if (!kept || !is_kept(kept) || !kept->ended || kept->error != ERROR_UNKNOWN || !waited(number))
		return NULL;
	return kept;
}

#endif
