/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * The way that nearly all connections go, by itself: each step looks first whether everything is as usual, and only then
 * changes anything. What is not goes the way of all others (`on_state` in tcp.bpf.c), as if nothing had been looked at.
 *
 * What a busy processor runs cold costs by its length: this is a quarter less than the general way. To be used only where a
 * change of state does not interrupt another one (`nests`) and only ends are told, and where there are rings of processors.
 */
#ifndef ADIT_USUAL_H
#define ADIT_USUAL_H

#include "tell.h"

#define WATCHED (1U << ESTABLISHED | 1U << SYN_SENT | 1U << FIN_WAIT1 | 1U << LAST_ACK | 1U << CLOSE)

/*
 * As `take` of the first place of its row, while nobody else wants it and no socket is further on: both stand in one word
 * with its state. (Programs can compare and store at once since 5.12.)
 */
static __inline int take_usual(struct kept *kept, __u64 number)
{
	/* Up to `nth`; what a survey has left in the last two bytes goes. */
	const __u64 one = 0xffffffffffffULL, begun = (__u64)BEGUN << 32;
	__u64 *word = (__u64 *)&kept->counts, was = *(volatile __u64 *)word;

	if (was & one || __sync_val_compare_and_swap(word, was, begun) != was)
		return 0;
	/* It may have been another's a moment ago: until here it is taken, with that one's address. */
	kept->socket = number;
	return 1;
}

/*
 * The end of a connection whose owner is known: by the last packet of an orderly close, or in close itself, where the peer has
 * acknowledged it already and only his own end is missing, for which the kernel keeps something smaller.
 */
static __inline int ended_usual(struct sock *sk, struct kept *kept, const __u32 last)
{
	__u32 processor = bpf_get_smp_processor_id(), changes = 0;
	unsigned long socket = sk->__sk_common.skc_flags;
	__u64 now = 0, *count;
	struct record *record;
	struct tcp_sock *tcp;
	struct turn *turn;

	if (kept->state != ESTABLISHED || kept->ended || !kept->owner.pid || sk->sk_err)
		return 0;
	if (!by_packet(last, socket)) {
		if (last != FIN_WAIT2 || !(socket & (1UL << SOCK_DEAD)))
			return 0;
		now = bpf_ktime_get_ns();
	}
	turn = bpf_map_lookup_elem(&turns, &processor);
	if (!turn || turn->busy)
		return 0;
	record = next_end(turn, processor);
	tcp = tcp_of(sk, 1);
	if (!record || !tcp)
		return 0;
	if (!now)
		now = packet_time(tcp, 1);
	if (!now)
		return 0;
	kept->ended = now;
	/* Nobody sees the state without the time. */
	barrier();
	kept->state = CLOSE | last << 4;
	barrier();
	fill(record, kept, sk, tcp, ENDED, USUAL);
	end_written(turn);
	kept->state = NO_STATE;
	/* At last, as each value that is kept meanwhile is one more on the stack. */
	count = bpf_map_lookup_elem(&counts, &changes);
	if (count)
		count[COUNT_CLOSED]++;
	return 1;
}

static __inline int established_usual(struct sock *sk, struct kept *kept, const __u32 last)
{
	struct tcp_sock *tcp = tcp_of(sk, 1);
	__u32 changes = 0;
	__u64 now, *count = bpf_map_lookup_elem(&counts, &changes);

	if (!tcp || !count)
		return 0;
	now = packet_time(tcp, 1);
	if (!now)
		return 0;
	if (last == SYN_RECV) {
		/* One that was seen before, or that has crossed another, is not free. */
		if (!take_usual(kept, number_of(sk)))
			return 0;
		count[COUNT_INCOMING]++;
		begin(kept, now, INCOMING);
	} else {
		if (last != SYN_SENT || kept->state != SYN_SENT || now < kept->opened)
			return 0;
		count[COUNT_REACHED]++;
	}
	kept->established = now;
	kept->local_port = sk->__sk_common.skc_num;
	kept->state = ESTABLISHED;
	return 1;
}

/*
 * The place of a connection was mostly written last on the processor where the one before it has ended. What waits for its
 * memory to come from there is a load, or an operation with a lock; a store waits behind the others' backs. So a store
 * that says nothing, a while before the place is looked at, spares the wait.
 */
static __inline void fetch(struct kept *kept)
{
	*(volatile __u8 *)&kept->spare[0] = 0;
}

/* Whether that was all; else nothing has been done. */
static __inline int usual(struct sock *sk, const __u32 last, const __u32 state)
{
	__u64 number = number_of(sk), now = 0, *count;
	struct kept *kept;
	__u32 changes = 0;

	if (!(1U << (state & 31) & WATCHED)) {
		if (state != SYN_RECV)
			return 1;
		if (last == SYN_SENT)
			return 0;
		/* It is established next, when the kernel has made all of it. */
		kept = nth_place(number, 0);
		if (kept)
			fetch(kept);
		return 1;
	}
	if (accept_seen && (state == FIN_WAIT1 || state == LAST_ACK))
		return 1;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 1;
	kept = nth_place(number, 0);
	if (!kept)
		return 0;
	if (state == SYN_SENT) {
		fetch(kept);
		now = bpf_ktime_get_ns();
	}
	if (kept->socket != number)
		return 0;
	switch (state) {
	case CLOSE:
		return ended_usual(sk, kept, last);
	case ESTABLISHED:
		return established_usual(sk, kept, last);
	case SYN_SENT:
		count = bpf_map_lookup_elem(&counts, &changes);
		if (!count || !take_usual(kept, number))
			return 0;
		count[COUNT_OPENED]++;
		begin(kept, now, 0);
		own(kept, 0, 1);
		barrier();
		kept->state = SYN_SENT;
		return 1;
	default:
		if (kept->state == NO_STATE)
			return 0;
		/* Who connects is known from the beginning, and whoever claims another says so before who he is. */
		if (kept->state == BEGUN || kept->by || !(kept->flags & (INCOMING | SEEN_LATE)))
			return 1;
		own(kept, BY_CLOSE, 1);
		return 1;
	}
}

#endif
