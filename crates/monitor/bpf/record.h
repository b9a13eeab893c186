/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What is kept of connections, and the maps.
 *
 * A connection is kept in a place of an array, which is found by the address of its socket: to look there is a few
 * instructions, to look into a hash map is a call that costs ten times as much. Each socket has a row of places in which
 * it may be kept, all over the array, and takes the first that is free (`known`, `place_for`): nearly always the first of
 * them. That one counts how many of the sockets whose row begins with it are kept further on, so nobody looks there for
 * nothing. The kernel gives the address of a socket that is gone to another one at once, so a place that is free keeps the
 * address, and is mostly used again by the next connection.
 *
 * Who writes what of a place: a change of state writes everything but the owner, and the kernel lets one such change
 * happen at a time for a socket. Who claims a connection writes `by` and the owner, the number of the process last: with
 * it the owner is whole, so it is read first. The end (`ended`) tells that a connection is over, or lets it wait until its
 * owner is known or it is closed. Then it may be told by several: it is told by him who takes it out of `waiting`, as only
 * one can. So none is told twice, and none is left untold.
 */
#ifndef ADIT_RECORD_H
#define ADIT_RECORD_H

#include "kernel.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define EINVAL 22
#define EAFNOSUPPORT 97
#define EADDRNOTAVAIL 99
/* connect has failed by itself, and nothing at the socket says why. Known to src/decode.rs. */
#define ERROR_UNKNOWN 0xffff
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
	/* Of a place: it is taken, and not filled in yet. */
	BEGUN = 15,
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
	/* It is over, and nobody saw how. */
	UNSEEN = 128,
};

/* The process that has a connection. */
struct owner {
	__u64 start;
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
	char comm[16];
};

/* What is kept of a connection while it lives. The size is known to src/source/ebpf.rs. */
struct kept {
	/* Whose place it is; while it is free, whose it was. */
	__u64 socket;
	__u64 opened;
	__u64 established;
	__u64 ended;
	union {
		struct {
			/* How many try to take the place at this moment. */
			__u16 takers;
			/* Of how many sockets it is the first place, while they are kept further on in their rows. */
			__u16 further;
		};
		/* Both: there are no operations with a lock on less. */
		__u32 counts;
	};
	/* Its state; once it has ended, the one before as well, in the upper half. */
	__u8 state;
	/* Which place of its socket's row it is. */
	__u8 nth;
	/* Whether userspace has heard of it. */
	__u8 told;
	/* Whether a survey has not found its socket. */
	__u8 missed;
	__u16 local_port;
	__u16 error;
	__u8 flags;
	/* How its owner was found, as a flag; of an outgoing one it is none. */
	__u8 by;
	__u8 spare[2];
	/* Last: each change of state looks at what is before it, and only some at this. */
	struct owner owner;
};

/* Two lines of memory for each: no other connection is in them, and all but the number of the owner and his name is in one. */
struct place {
	struct kept kept;
	__u64 spare[5];
};

/*
 * What userspace reads: what is kept, and what the kernel has at the socket, as it is there. The layout is known to
 * src/decode.rs.
 */
struct record {
	/* Without what is of the place alone, which may be anything. */
	struct kept kept;
	__u64 sent;
	__u64 received;
	__u32 netns;
	/* In eighths of a microsecond. */
	__u32 srtt;
	/* All bits set: not measured. */
	__u32 min_rtt;
	__u32 retransmits;
	/* Of IPv4 the first of each; the others may be anything. */
	__u32 local[4];
	__u32 remote[4];
	__be16 remote_port;
	__u16 family;
	/* The lower ones of the socket's flags. */
	__u16 socket_flags;
	__u8 kind;
	__u8 spare;
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
	/* Connections that were over and told by nobody when their socket was gone. */
	COUNT_UNSEEN,
	COUNTS,
};

/* A power of two, at least twice as many as connections are to be kept: then a row with no room at all is rare (`ROW`). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/* Nobody maps it. But then the first place begins with a line of memory; else it is somewhere within one. */
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct place);
} connections SEC(".maps");

/*
 * Sockets whose connection a packet has ended before anybody was seen to own it, and those whose attempt has failed before
 * it is known why.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, __u8);
} waiting SEC(".maps");

/* Where processes listen: a network namespace and a port. It tells which side opened a connection that is older. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} listeners SEC(".maps");

/* Set once that is so: of which families the exits of connect are seen, which know why it fails: none, IPv4, both. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} connect_exits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2097152);
} events SEC(".maps");

#ifdef ADIT_ARCH_x86_64
/*
 * Ends of connections, a ring for each processor, which userspace reads where they lie. The kernel's own ring waits, with
 * its lock and at the end of each record, until memory that has not been used for long is there. What finds no room here
 * goes there. Only where stores are seen in the order in which they are made: programs have no other means to say it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct record);
} ends SEC(".maps");

/* Where each of these rings is written and read. The layout is known to src/source/ebpf/ends.rs. */
struct turn {
	__u64 written;
	__u32 comers;
	__u32 busy;
	__u32 spare[12];
	/* Written by userspace. */
	__u64 read;
	__u64 more[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");
#endif

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct process);
	__type(value, struct sums);
} folded SEC(".maps");

/*
 * Ends that found no room and are in no sum: of connections that userspace has heard of, and of those without an owner. Of
 * the first there are no more than connections that were open at a survey.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__uint(value_size, sizeof(struct record));
} later SEC(".maps");

/* Twice: of changes of state, and of all else. Userspace adds them up. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[COUNTS]);
} counts SEC(".maps");

/* Set before loading: whether every step is an event, or the end of a connection alone. */
const volatile __u32 every_step = 0;

/* Set before loading: the number of the last place. */
const volatile __u32 last_place = 131071;

/* Set before loading: the number of the last record in the ring of a processor; a power of two less one. */
const volatile __u32 last_end = 127;

/* Set before loading: whether a change of state may interrupt another one on its processor. Since 6.1 it is not run then. */
const volatile __u32 nests = 1;

/* Set before loading: how long an ended connection waits for a process to close it; then nobody is its owner. */
const volatile __u64 patience = 90000000000;

/* How many sockets are in `waiting`. Mostly there are none, and nothing to look for. */
__u64 waiting_now = 0;

/* Whether accept itself is seen: then nobody need be looked for at close. */
__u32 accept_seen = 0;

/*
 * The network namespace of the monitor, and its number; while the monitor is in it, no other has this address. Most sockets are
 * in it, and beside its number the kernel counts who uses it, at each socket that comes and goes: to read it there is to wait
 * for another processor.
 */
__u64 own_net = 0;
__u32 own_netns = 0;

static __inline __u64 *count_of(const enum count which, const __u32 whose)
{
	__u32 key = whose;
	__u64 *all = bpf_map_lookup_elem(&counts, &key);

	return all ? all + which : NULL;
}

static __inline void count(const enum count which)
{
	__u64 *count = count_of(which, 1);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* The same for changes of state, which write alone there: that costs a quarter of it. */
static __inline void count_change(const enum count which)
{
	__u64 *count = count_of(which, 0);

	if (count && nests)
		__sync_fetch_and_add(count, 1);
	else if (count)
		*count += 1;
}

/* As one of a change of state, in its program or elsewhere. */
static __inline void count_of_change(const enum count which, const int by_change)
{
	if (by_change)
		count_change(which);
	else
		count(which);
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

/*
 * The address of a socket as a number: to compare and to keep, not to compute with (`low_of`). Where the type of the socket
 * is known it is a pointer to the verifier all the way; who may read the kernel's memory may write it down, too.
 */
static __inline __u64 number_of(struct sock *sk)
{
	return (__u64)sk;
}

/* The lower half of it, which is a number to the verifier, too. */
static __inline __u32 low_of(__u64 number)
{
	__u32 low;

	asm("%0 = %1" : "=w"(low) : "w"((__u32)number));
	return low;
}

/* So many places may be a socket's, one after another. With half of all taken, one row in 65,536 has none that is free. */
#define ROW 16

/* What the first place of a row has in `counts` for each socket that is further on. */
#define ONE_FURTHER 0x10000

/* The power of two below the size of a TCP socket: those that the kernel has beside each other have places beside each other. */
#define SOCKET_SHIFT 11

static __inline __u32 nth_at(__u64 number, __u32 nth)
{
	__u64 mixed = low_of(number) * 0x9e3779b97f4a7c15ULL;

	return ((low_of(number) >> SOCKET_SHIFT) + nth * ((__u32)(mixed >> 8) | 1)) & last_place;
}

static __inline struct kept *nth_place(__u64 number, __u32 nth)
{
	__u32 at = nth_at(number, nth);

	return bpf_map_lookup_elem(&connections, &at);
}

static __inline int is_kept(const struct kept *kept)
{
	return kept->state && kept->state != BEGUN;
}

static __noinline struct kept *known_further(__u64 number)
{
	for (__u32 nth = 1; nth < ROW; nth++) {
		struct kept *kept = nth_place(number, nth);

		if (kept && kept->socket == number && kept->state)
			return kept;
	}
	return NULL;
}

/*
 * The place of a socket; else the first of its row, if it was the place of this address before and is free. Who takes a
 * place further on has counted it before, and he is counted out after it is free: so none is overlooked.
 */
static __inline struct kept *known(__u64 number)
{
	struct kept *first = nth_place(number, 0), *further;

	if (!first)
		return NULL;
	if (first->socket == number && first->state)
		return first;
	if (first->further) {
		further = known_further(number);
		if (further)
			return further;
	}
	return first->socket == number ? first : NULL;
}

/* Only one of all who call this for a socket at the same time is let in, until he leaves. Not in line, for its stack. */
static __noinline int enter(__u64 number)
{
	__u8 one = 1;

	return !bpf_map_update_elem(&waiting, &number, &one, BPF_NOEXIST);
}

static __inline int leave(__u64 number)
{
	return !bpf_map_delete_elem(&waiting, &number);
}

#ifdef ADIT_ARCH_x86_64
/*
 * Whether the place stood free with this address and is taken now. Of two who want it at once neither has it: whoever sees
 * himself alone among the takers looks at the place after the one before has written it, and the next one sees two
 * (`take_usual` takes it only while there is none). For that the number of takers is read before the place, and left after it is written.
 */
static __inline int take(struct kept *kept, __u64 address, __u64 number, __u32 nth)
{
	int taken = 0;

	__sync_fetch_and_add(&kept->counts, 1);
	if (*(volatile __u16 *)&kept->takers == 1 && *(volatile __u8 *)&kept->state == NO_STATE &&
	    *(volatile __u64 *)&kept->socket == address) {
		kept->socket = number;
		kept->nth = nth;
		barrier();
		kept->state = BEGUN;
		taken = 1;
	}
	barrier();
	__sync_fetch_and_add(&kept->counts, -1);
	return taken;
}

/* What was written before is seen by all before what is written after: so it always is here. */
static __inline void in_order(void)
{
	barrier();
}
#else
/* Places that somebody takes at this moment: a few for each processor. By themselves, as `waiting` may be full. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} wanted SEC(".maps");

/* Only one at a time is let in for a place, until he deletes it. Not in line, for its stack. */
static __noinline int wants(__u32 at)
{
	__u8 one = 1;

	return !bpf_map_update_elem(&wanted, &at, &one, BPF_NOEXIST);
}

/*
 * The same where stores and loads are seen in any order, and programs have no operations that say otherwise (since 5.18):
 * the kernel's own locks do. Who is let in for the place is alone with it.
 */
static __inline int take(struct kept *kept, __u64 address, __u64 number, __u32 nth)
{
	int taken = 0;
	__u32 at;

	/* Found anew: to keep it from before would take more of the stack. */
	barrier_of(number);
	at = nth_at(number, nth);
	if (!wants(at))
		return 0;
	if (*(volatile __u8 *)&kept->state == NO_STATE && *(volatile __u64 *)&kept->socket == address) {
		kept->socket = number;
		kept->nth = nth;
		barrier();
		kept->state = BEGUN;
		taken = 1;
	}
	/* Once more, if the kernel was busy with it: nobody else gives it back. */
	if (bpf_map_delete_elem(&wanted, &at))
		bpf_map_delete_elem(&wanted, &at);
	return taken;
}

/* What was written before is seen by all before what is written after: a lock was given back, and one taken, between. */
static __inline void in_order(void)
{
	/* There are fewer places. */
	__u32 nobody = 1U << 31 | bpf_get_smp_processor_id();

	bpf_map_delete_elem(&wanted, &nobody);
	bpf_map_delete_elem(&wanted, &nobody);
}
#endif

/* The connection of the socket waits from now on, unless it does already. */
static __inline int wait_for(__u64 number)
{
	if (!enter(number))
		return 0;
	__sync_fetch_and_add(&waiting_now, 1);
	return 1;
}

/* Whether this is the one who tells of a connection that was waiting. */
static __inline int waited(__u64 number)
{
	if (!leave(number))
		return 0;
	__sync_fetch_and_add(&waiting_now, -1);
	return 1;
}

/* Whether what is kept was an attempt: an outgoing one that nobody has seen established. */
static __inline int is_attempt(const struct kept *kept)
{
	return kept->state == SYN_SENT || (kept->state == SYN_RECV && !(kept->flags & INCOMING));
}

/* The end of a connection was missed, and its socket is gone with what it has carried: it is over, and never told. */
static __inline void count_missed(const struct kept *kept)
{
	if (is_attempt(kept))
		count(COUNT_FAILED);
	else if (kept->state != SYN_RECV)
		count(COUNT_CLOSED);
	/* If a survey has told of it the next ones miss it, and it is told by that. */
	if (!kept->told)
		count(COUNT_UNSEEN);
}

/* The place still has a connection whose socket is gone, as its end was missed or nobody was seen to close it. */
static __inline struct kept *left_over(struct kept *kept, __u64 number)
{
	/* Somebody else fills it in at this moment. */
	if (kept->state == BEGUN)
		return NULL;
	if (kept->ended) {
		if (!waited(number))
			return NULL;
		count(COUNT_UNOWNED);
		/* Its addresses are gone with its socket, so it is not told. If a survey has, the next ones miss it. */
		if (!kept->told)
			count(COUNT_RING_FULL);
		kept->state = BEGUN;
		return kept;
	}
	if (!enter(number))
		return NULL;
	count_missed(kept);
	kept->state = BEGUN;
	leave(number);
	return kept;
}

/* One more of the sockets whose row begins here is kept further on, or one less. */
static __inline void further(struct kept *first, const __u32 by)
{
	__sync_fetch_and_add(&first->counts, by);
}

/* The first place that is free in the row of a socket that has none. */
static __inline struct kept *free_place(__u64 number)
{
	struct kept *first = nth_place(number, 0), *kept;

	if (!first)
		return NULL;
	if (!first->state && take(first, first->socket, number, 0))
		return first;
	further(first, ONE_FURTHER);
	for (__u32 nth = 1; nth < ROW; nth++) {
		kept = nth_place(number, nth);
		if (kept && !kept->state && take(kept, kept->socket, number, nth))
			return kept;
	}
	further(first, -ONE_FURTHER);
	return NULL;
}

/* The place of a socket that has none that is free at once. */
static __noinline struct kept *other_place(__u64 number)
{
	struct kept *kept = known(number);

	if (kept) {
		for (int i = 0; i < 4 && kept->socket == number; i++) {
			if (kept->state)
				return left_over(kept, number);
			if (take(kept, number, number, 0))
				return kept;
		}
	}
	return free_place(number);
}

/* A place for a connection that begins, or none when all are taken. */
static __inline struct kept *place_for(__u64 number, struct kept *kept)
{
	/* What is known and free is the first of its row. */
	if (kept && take(kept, number, number, 0))
		return kept;
	return other_place(number);
}

/* One socket less is further on in its row. */
static __noinline int nearer(__u64 number)
{
	struct kept *first = nth_place(number, 0);

	if (first)
		further(first, -ONE_FURTHER);
	return 0;
}

/* Nothing is kept in the place any more. What was there still stands, until another takes it. */
static __inline void set_free(struct kept *kept)
{
	__u64 number = kept->socket;
	__u8 nth = kept->nth;

	barrier();
	kept->state = NO_STATE;
	if (nth)
		nearer(number);
}

/* The number of the process that has it, and with it where its owner is read: whole, if the number is read before it. */
static __inline __u32 pid_of(const struct kept *kept, const struct owner **owner)
{
	__u32 pid = *(volatile __u32 *)&kept->owner.pid;

	barrier();
	*owner = &kept->owner;
#ifndef ADIT_ARCH_x86_64
	/* A load from an address that an earlier one has a part in comes after it. */
	__u64 nothing = pid;

	asm volatile("%1 &= 0\n\t"
		     "%0 += %1"
		     : "+r"(*owner), "+r"(nothing));
#endif
	return pid;
}

/* Whatever is left in the place is of a connection that is over; now it is another's that has no state and no owner yet. */
static __inline void begin(struct kept *kept, const __u64 now, const __u8 flags)
{
	kept->opened = now;
	kept->established = 0;
	kept->ended = 0;
	kept->owner.pid = 0;
	kept->local_port = 0;
	kept->error = 0;
	kept->flags = flags;
	kept->by = 0;
	kept->told = 0;
	kept->missed = 0;
	barrier();
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
	in_order();
	owner->pid = pid;
	return 0;
}

static __inline int own_typed(struct owner *owner)
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

#endif
