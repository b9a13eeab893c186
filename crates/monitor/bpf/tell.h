/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What is told of connections, and what becomes of an end that finds no room: it goes into the ring of its processor, else
 * into the kernel's, else into the sums of its process, else into a queue. Only what finds no room there is lost.
 */
#ifndef ADIT_TELL_H
#define ADIT_TELL_H

#include "record.h"

/* Of `typed`: for the usual way, which has a few bytes of stack more than the general one. */
#define USUAL 2

static __inline void read_ends(struct record *record, struct sock *sk, const int typed)
{
	__u16 family = 0;
	struct net *net = NULL;

	READ(typed, family, sk->__sk_common.skc_family);
	record->family = family;
	READ(typed, record->remote_port, sk->__sk_common.skc_dport);
	READ(typed, net, sk->__sk_common.skc_net.net);
	if (typed == USUAL && own_net && (__u64)net == own_net) {
		__u32 netns = own_netns;

		/* Or the two loads become one, of two kinds of pointers, which the verifier refuses. */
		barrier_of(netns);
		record->netns = netns;
	} else {
		READ(typed, record->netns, net->ns.inum);
	}
	/* A kernel without IPv6 has none of the fields for it. */
	if (family == AF_INET || !__builtin_preserve_field_info(sk->__sk_common.skc_v6_daddr, FIELD_EXISTS)) {
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

/* What a connection has carried, without what was sent again: that is looked at last, as more may be sent meanwhile. */
static __inline __u64 sent_of(struct tcp_sock *tcp, __u32 *retransmits, const int typed)
{
	__u64 sent = 0, again = 0;
	__u32 packets = 0;

	READ(typed, sent, tcp->bytes_sent);
	READ(typed, packets, tcp->total_retrans);
	if (packets)
		READ(typed, again, tcp->bytes_retrans);
	*retransmits = packets;
	return sent - again;
}

static __inline void read_traffic(struct record *record, struct sock *sk, struct tcp_sock *tcp, const int typed)
{
	unsigned long flags = 0;
	__u32 packets;

	record->sent = sent_of(tcp, &packets, typed);
	record->retransmits = packets;
	READ(typed, record->received, tcp->bytes_received);
	READ(typed, flags, sk->__sk_common.skc_flags);
	record->socket_flags = flags;
	READ(typed, record->srtt, tcp->srtt_us);
	READ(typed, record->min_rtt, tcp->rtt_min.s[0].v);
}

/*
 * The whole record, into memory that may hold anything. Of what was written a moment ago each field is read by itself: a
 * load of several waits until all of them are out of the processor's buffer of stores.
 */
static __inline void fill(struct record *record, const struct kept *kept, struct sock *sk, struct tcp_sock *tcp,
			  const enum kind kind, const int typed)
{
	const struct owner *owner;
	__u32 pid = pid_of(kept, &owner);

	record->kept.owner = *owner;
	record->kept.owner.pid = pid;
	record->kept.socket = kept->socket;
	record->kept.opened = kept->opened;
	record->kept.established = kept->established;
	record->kept.ended = kept->ended;
	record->kept.local_port = kept->local_port;
	record->kept.error = kept->error;
	record->kept.state = kept->state;
	record->kept.flags = kept->flags;
	record->kept.by = kept->by;
	record->kind = kind;
	read_ends(record, sk, typed);
	read_traffic(record, sk, tcp, typed);
}

/* The same socket, as what the kernel keeps of TCP. None, if it is of another protocol. */
static __inline struct tcp_sock *tcp_of(struct sock *sk, const int typed)
{
	__u16 protocol = 0;

	if (typed)
		return bpf_skc_to_tcp_sock(sk);
	READ(0, protocol, sk->sk_protocol);
	return protocol == IPPROTO_TCP ? (struct tcp_sock *)sk : NULL;
}

static __inline int write(const struct kept *kept, struct sock *sk, struct tcp_sock *tcp, const enum kind kind,
			  const int typed)
{
	struct record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);

	if (!record)
		return 0;
	fill(record, kept, sk, tcp, kind, typed);
	/* It has ended while it was claimed: then its end, which may be before this in the ring, tells the owner or has none. */
	if (kind == CLAIMED && record->kept.ended) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return 1;
	}
	/* Userspace looks often enough; only who wants every step wants it at once. */
	bpf_ringbuf_submit(record, every_step ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 1;
}

static __noinline int tell_typed(const struct kept *kept, struct sock *sk, enum kind kind)
{
	struct tcp_sock *tcp = tcp_of(sk, 1);

	return kept && tcp ? write(kept, sk, tcp, kind, 1) : 0;
}

static __noinline int tell_copied(const struct kept *kept, struct sock *sk, enum kind kind)
{
	return kept ? write(kept, sk, (struct tcp_sock *)sk, kind, 0) : 0;
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

/* The end of a connection that finds no room elsewhere. There are few, so they wait one by one. */
static __noinline int tell_later(const struct kept *kept)
{
	struct record record = {};

	if (!kept)
		return 0;
	fill(&record, kept, (struct sock *)kept->socket, (struct tcp_sock *)kept->socket, ENDED, 0);
	if (bpf_map_push_elem(&later, &record, BPF_ANY))
		count(COUNT_RING_FULL);
	return 0;
}

/*
 * The end of a connection finds no room. If userspace has not heard of it before, it is added to what its process has
 * done, which is many of them in one place. Else it is not: userspace would have it twice.
 */
static __noinline int fold(const struct kept *kept)
{
	struct process process = {};
	struct sums zero = {}, *sums;
	struct tcp_sock *tcp;
	unsigned long flags = 0;
	__u64 sent, received = 0;
	__u32 retransmits;

	if (!kept)
		return 0;
	if (*(volatile __u8 *)&kept->told || !kept->owner.pid)
		return 0;
	process.start = kept->owner.start;
	process.pid = kept->owner.pid;
	sums = bpf_map_lookup_elem(&folded, &process);
	if (!sums) {
		zero.owner = kept->owner;
		/* Another processor may have been quicker. */
		bpf_map_update_elem(&folded, &process, &zero, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&folded, &process);
		if (!sums)
			return 0;
	}
	tcp = (struct tcp_sock *)kept->socket;
	sent = sent_of(tcp, &retransmits, 0);
	READ(0, received, tcp->bytes_received);
	READ(0, flags, ((struct sock *)tcp)->__sk_common.skc_flags);
	/* The peer's FIN has a number of its own, and the kernel counts it as a byte. */
	if (received && flags & (1UL << SOCK_DONE))
		received--;
	if (!(kept->flags & SEEN_LATE))
		__sync_fetch_and_add(kept->flags & INCOMING ? &sums->incoming : &sums->opened, 1);
	__sync_fetch_and_add(kept->state >> 4 == SYN_SENT ? &sums->failed : &sums->closed, 1);
	__sync_fetch_and_add(&sums->sent, sent);
	__sync_fetch_and_add(&sums->received, received);
	__sync_fetch_and_add(&sums->retransmits, retransmits);
	/* Last: who sees it looks for the sums. */
	count(COUNT_FOLDED);
	return 1;
}

/* When the packet was handled that is handled now; 0 where the kernel does not say so. */
static __inline __u64 packet_time(struct tcp_sock *tcp, const int typed)
{
	__u64 time = 0;

	if (__builtin_preserve_field_info(tcp->tcp_clock_cache, FIELD_EXISTS))
		READ(typed, time, tcp->tcp_clock_cache);
	return time;
}

/*
 * Whether a packet or a timer ends the connection, and no process: for both the kernel has read the clock. A socket in
 * LAST-ACK that is closed already has no process any more; from FIN-WAIT-2 the peer's FIN leads at once.
 */
static __inline int by_packet(int last, unsigned long socket)
{
	return (last == LAST_ACK && (socket & (1UL << SOCK_DEAD))) || (last == FIN_WAIT2 && (socket & (1UL << SOCK_DONE)));
}

#ifdef ADIT_ARCH_x86_64
/*
 * Whether nobody else writes into the ring: whoever is interrupted in it keeps it.
 *
 * A program of a tracepoint stays on its processor: the kernel forbids preemption around it, or at least migration (with
 * real-time preemption, or where tracepoints may be preempted). So only the programs of one processor come here for one
 * ring, but they do come between each other: an interruption's (a change of state in the softirq while this processor
 * ends another connection in a process; the kernel holds back only the same program), or those of another process that
 * got the processor.
 *
 * Since 6.1 (`nests`) the kernel holds back a second change of state until the first is done, whoever it interrupts. There
 * changes of state (here and in usual.h) have the ring for themselves, and all others use the kernel's; `busy` says there
 * that nobody reads it.
 *
 * Elsewhere two are never let in. Whoever comes counts himself, then looks: with another comer who has not gone on yet neither is
 * sure, and he does not go in. Who is let in says `busy` before he counts himself out, so that whoever comes after sees
 * the one or the other. For that the comers are read before `busy`. Who is not let in uses the kernel's ring.
 */
static __inline int enter_ring(struct turn *turn)
{
	int alone = 0;

	__sync_fetch_and_add(&turn->comers, 1);
	if (*(volatile __u32 *)&turn->comers == 1 && !*(volatile __u32 *)&turn->busy) {
		*(volatile __u32 *)&turn->busy = 1;
		alone = 1;
	}
	barrier();
	__sync_fetch_and_add(&turn->comers, -1);
	return alone;
}

/* The next record of the ring of a processor, if there is room. Whoever is given it has the ring for himself. */
static __inline struct record *next_end(const struct turn *turn, const __u32 processor)
{
	__u64 written = turn->written;
	__u32 at = processor * (last_end + 1) + ((__u32)written & last_end);

	if (written - *(volatile __u64 *)&turn->read > last_end)
		return NULL;
	return bpf_map_lookup_elem(&ends, &at);
}

/* Userspace may read it from now on. */
static __inline void end_written(struct turn *turn)
{
	barrier();
	*(volatile __u64 *)&turn->written = turn->written + 1;
	barrier();
}

/*
 * The end of a connection, into the ring of this processor. The memory of a record has not been used for long, so between
 * its first store and the last there is nothing that has to wait for all of them.
 *
 * Userspace never sees half a record: it reads up to `written`, which is stored after the record (x86 shows stores in their
 * order, and the compiler keeps it at the barrier), and the place is written again only when `read`, which is stored after
 * the record was copied, has passed it.
 */
static __inline int put(const struct kept *kept, struct sock *sk, struct tcp_sock *tcp, const int by_change,
			const int typed)
{
	__u32 processor = bpf_get_smp_processor_id();
	struct turn *turn = bpf_map_lookup_elem(&turns, &processor);
	struct record *record;

	if (!turn || every_step || !(nests ? enter_ring(turn) : by_change && !turn->busy))
		return 0;
	record = next_end(turn, processor);
	if (record) {
		fill(record, kept, sk, tcp, ENDED, typed);
		end_written(turn);
	}
	barrier();
	if (nests)
		*(volatile __u32 *)&turn->busy = 0;
	return record != NULL;
}
#else
static __inline int put(const struct kept *kept, struct sock *sk, struct tcp_sock *tcp, const int by_change,
			const int typed)
{
	return 0;
}
#endif

static __noinline int put_copied(const struct kept *kept, struct sock *sk, int by_change)
{
	return kept ? put(kept, sk, (struct tcp_sock *)sk, by_change, 0) : 0;
}

/* The last of a connection; `by_change`: in the program of changes of state. */
static __inline void tell_end(struct kept *kept, struct sock *sk, struct tcp_sock *tcp, const int by_change,
			      const int typed)
{
	int told;

	if (!kept->owner.pid)
		count(COUNT_UNOWNED);
	told = typed ? put(kept, sk, tcp, by_change, 1) : put_copied(kept, sk, by_change);
	if (!told && !tell(kept, sk, ENDED, typed) && !fold(kept))
		tell_later(kept);
	set_free(kept);
}

#endif
