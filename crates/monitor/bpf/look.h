/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Looks through everything, when userspace asks: open files, for who has which socket, and the connections that are kept. At the
 * end of tcp.bpf.c, whose claims these go beside.
 */
#ifndef ADIT_LOOK_H
#define ADIT_LOOK_H

static __inline __u64 place_of(struct sock *sk)
{
	return (__u64)sk->__sk_common.skc_net.net->ns.inum << 16 | sk->__sk_common.skc_num;
}

static __inline void owned_by(struct kept *kept, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	const struct cred *cred = task->cred;
	struct css_set *groups = task->cgroups;

	kept->by = BY_FILE;
	kept->owner.start = leader->start_boottime;
	kept->owner.uid = cred ? cred->uid.val : 0;
	bpf_probe_read_kernel(kept->owner.comm, sizeof(kept->owner.comm),
			      __builtin_preserve_access_index(&leader->comm));
	READ(0, kept->owner.cgroup, groups->dfl_cgrp->kn->id);
	in_order();
	kept->owner.pid = task->tgid;
}

/*
 * Whether a connection of the socket was told to be over a moment ago. That is told before the socket itself says so; it
 * would begin anew here. Another one that was missed is found at the next look.
 */
static __noinline int just_ended(__u64 number)
{
	__u64 now = bpf_ktime_get_ns();

	for (__u32 nth = 0; nth < ROW; nth++) {
		struct kept *kept = nth_place(number, nth);

		/* The time of a packet may be later than the clock was. */
		if (kept && kept->socket == number && kept->ended + 500000000 > now)
			return 1;
	}
	return 0;
}

/*
 * It was over before anybody was seen to own it, and a process still has the socket. Who closes it meanwhile tells it. An
 * attempt that waits for what connect says is told by that; its error stands there before its state does.
 */
static __noinline int tell_waiting(struct kept *kept, struct sock *sk, __u64 number)
{
	struct tcp_sock *tcp = tcp_of(sk, 1);

	if (!kept || !tcp || (*(volatile __u8 *)&kept->state & 15) != CLOSE)
		return 0;
	barrier();
	if (kept->error != ERROR_UNKNOWN && waited(number))
		tell_end(kept, sk, tcp, 0, 1);
	return 0;
}

static __inline int owned_by_file(struct sock *sk, struct task_struct *task)
{
	__u8 state = sk->__sk_common.skc_state, flags = SEEN_LATE;
	__u64 number = number_of(sk), place;
	struct kept *kept = known(number);

	if (kept && kept->state) {
		if (!is_kept(kept) || is_anothers(kept, state))
			return 0;
		if (!kept->owner.pid && !kept->by) {
			owned_by(kept, task);
			if (!kept->ended)
				tell_step(kept, sk, CLAIMED, 1);
		}
		/* Also of one that had begun to wait when its owner was found. */
		if (kept->ended && kept->owner.pid)
			tell_waiting(kept, sk, number);
		return 0;
	}
	if (state == CLOSE || state == LISTEN || state == SYN_SENT || state == SYN_RECV || just_ended(number))
		return 0;
	kept = place_for(number, kept);
	/* It finds no room each time it is looked at; that is no loss of another connection. */
	if (!kept)
		return 0;
	place = place_of(sk);
	if (bpf_map_lookup_elem(&listeners, &place))
		flags |= INCOMING;
	begin(kept, bpf_ktime_get_ns(), flags);
	kept->local_port = sk->__sk_common.skc_num;
	owned_by(kept, task);
	kept->state = state;
	count(COUNT_SEEN_LATE);
	tell_step(kept, sk, CLAIMED, 1);
	return 0;
}

/* The TCP socket of an open file, if it is one. */
static __inline struct sock *tcp_of_file(struct file *file)
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
	sk = tcp_of_file(file);
	return sk ? owned_by_file(sk, task) : 0;
}

/* Programs of this kind run in the process that reads what they find: the monitor. */
static __inline void know_own_net(void)
{
	struct net *net = bpf_get_current_task_btf()->nsproxy->net_ns;

	if (own_net || !net)
		return;
	own_netns = net->ns.inum;
	barrier();
	own_net = (__u64)net;
}

/* Every open file once before that: who listens where. */
SEC("iter/task_file")
int listening(struct task_file_context *ctx)
{
	struct file *file = ctx->file;
	struct sock *sk;
	__u8 one = 1;
	__u64 key;

	know_own_net();
	if (!ctx->task || !file)
		return 0;
	sk = tcp_of_file(file);
	if (!sk || sk->__sk_common.skc_state != LISTEN)
		return 0;
	key = place_of(sk);
	if (bpf_map_update_elem(&listeners, &key, &one, BPF_ANY))
		count(COUNT_LISTENERS_FULL);
	return 0;
}

/* Whether the socket is gone, and its place perhaps another's: then what is kept is left from what was missed. */
static __inline int is_gone(const struct record *record, struct sock *sk)
{
	__u16 port = 0;

	if (record->family != AF_INET && record->family != AF_INET6)
		return 1;
	if (record->kept.state == CLOSE || record->kept.state == LISTEN)
		return 1;
	READ(0, port, sk->__sk_common.skc_num);
	return record->kept.local_port && port != record->kept.local_port;
}

/* What was written before is seen by all before what is read after: an operation with a lock is the only means to say so. */
static __inline void all_stores_before(struct kept *kept)
{
#ifdef ADIT_ARCH_x86_64
	__u32 nothing = 0;

	asm volatile("lock *(u32 *)(%0 + 0) += %1" : : "r"(&kept->counts), "r"(nothing) : "memory");
#else
	in_order();
#endif
}

/* Whether the place is still that of the connection, in the same state. */
static __inline int is_still(const struct kept *kept, const struct kept *copy)
{
	const volatile struct kept *now = kept;

	return now->socket == copy->socket && now->state == copy->state && now->opened == copy->opened &&
	       now->ended == copy->ended;
}

/* A socket that was gone at the survey before is, too, at this one: nobody will tell the end of its connection. */
static __inline void give_up(struct kept *kept, const struct kept *copy)
{
	if (!kept->missed) {
		kept->missed = 1;
		return;
	}
	if (!enter(copy->socket))
		return;
	if (is_still(kept, copy)) {
		count_missed(kept);
		set_free(kept);
	}
	leave(copy->socket);
}

/* Every connection that is known, with what it has carried until now. */
SEC("iter/bpf_map_elem")
int live(struct map_elem_context *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct kept *kept = ctx->value, copy;
	const struct owner *owner;
	struct record record = {};
	struct sock *sk;
	unsigned char state = 0;
	__u32 pid;

	if (!kept || !is_kept(kept))
		return 0;
	pid = pid_of(kept, &owner);
	copy = *kept;
	copy.owner = *owner;
	copy.owner.pid = pid;
	barrier();
	/* Begun meanwhile: it is not to be marked before it is filled in, which takes the mark away. */
	if (!is_kept(&copy) || !is_still(kept, &copy))
		return 0;
	sk = (struct sock *)copy.socket;
	fill(&record, &copy, sk, (struct tcp_sock *)sk, LIVE, 0);
	if (!copy.ended) {
		READ(0, state, sk->__sk_common.skc_state);
		record.kept.state = state;
		if (is_gone(&record, sk)) {
			record.kept.flags |= GONE;
			/* Its memory may be anything by now, and the record is to be read. */
			record.family = AF_INET;
			record.kept.state = CLOSE;
		}
	} else if (bpf_ktime_get_ns() > copy.ended + patience) {
		record.kind = ENDED;
	}
	/*
	 * Before it is looked whether it is over: who ends it after that look knows that userspace hears of it, and does not
	 * add it to the sums. (If the place is another's by now, that one's end is told singly if it finds no room.) Of one whose
	 * socket is gone it hears nothing.
	 */
	if (!(record.kept.flags & GONE))
		kept->told = 1;
	all_stores_before(kept);
	/* Over meanwhile, and told; or another connection's. */
	if (!is_still(kept, &copy))
		return 0;
	/* It has ended and does not wait, so somebody tells it at this moment. Who tells one that waits takes it out first. */
	if (copy.ended && record.kind == LIVE && !bpf_map_lookup_elem(&waiting, &copy.socket))
		return 0;
	if (record.kind == ENDED && seq->count + sizeof(record) <= seq->size) {
		/* Nobody closes it, or nobody has seen it. */
		if (!waited(copy.socket))
			return 0;
		if (!copy.owner.pid)
			count(COUNT_UNOWNED);
		set_free(kept);
	}
	/* Without room in this reading it comes again in the next. */
	if (bpf_seq_write(seq, &record, sizeof(record)) || record.kind == ENDED)
		return 0;
	if (record.kept.flags & GONE)
		give_up(kept, &copy);
	else
		kept->missed = 0;
	return 0;
}

#endif
