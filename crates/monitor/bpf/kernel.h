/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs need to know of the kernel: some fields of some structures, and some helpers.
 *
 * Offsets are filled in when the object is loaded (CO-RE), so only names and types matter here, and no header of any
 * kernel is needed to build.
 */
#ifndef ADIT_KERNEL_H
#define ADIT_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define NULL ((void *)0)
#define FIELD_EXISTS 2
/* What is written before is not moved behind it by the compiler. */
#define barrier() asm volatile("" ::: "memory")
/* What the compiler has derived from it before, it does not know any more. */
#define barrier_of(value) asm volatile("" : "+r"(value))

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_F_MMAPABLE = 1024,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
};

struct task_struct;

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*bpf_get_current_uid_gid)(void) = (void *)15;
static __u64 (*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_map_push_elem)(void *map, const void *value, __u64 flags) = (void *)87;
static __u64 (*bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static long (*bpf_seq_write)(void *seq, const void *data, __u32 len) = (void *)127;
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static void *(*bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static void *(*bpf_sock_from_file)(void *file) = (void *)162;
static long (*bpf_get_func_ret)(void *ctx, __u64 *value) = (void *)184;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	__u32 inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	__u16 skc_family;
	unsigned char skc_state;
	possible_net_t skc_net;
	unsigned long skc_flags;
	unsigned int skc_hash;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	__u16 sk_protocol;
	unsigned char sk_shutdown;
};

struct inet_sock {
	__be16 inet_sport;
};

struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	__u32 segs_out;
	__u32 snd_una;
	__u32 write_seq;
	__u64 tcp_clock_cache;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u32 srtt_us;
	__u32 total_retrans;
	struct minmax rtt_min;
};

struct socket {
	struct sock *sk;
};

struct file {
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct nsproxy {
	struct net *net_ns;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct task_struct {
	int tgid;
	const struct cred *cred;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct files_struct *files;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	char comm[16];
};

struct sockaddr_in {
	__u16 sin_family;
	__be16 sin_port;
	struct in_addr {
		__be32 s_addr;
	} sin_addr;
};

struct sockaddr_in6 {
	__u16 sin6_family;
	__be16 sin6_port;
	struct in6_addr sin6_addr;
};

struct seq_file {
	unsigned long size;
	unsigned long count;
};

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

#pragma clang attribute pop

/* The contexts of iterators: eight bytes for each pointer, on every machine. */
struct task_file_context {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u64 fd;
	struct file *file;
};

struct map_elem_context {
	struct bpf_iter_meta *meta;
	void *map;
	void *key;
	void *value;
};

/* The context of the tracepoint sock/inet_sock_set_state, as its format file has it. */
struct set_state_context {
	__u64 common;
	const void *skaddr;
	int oldstate;
	int newstate;
};

/* The context of syscalls/sys_exit_*. */
struct sys_exit_context {
	__u64 common;
	long nr;
	long ret;
};

#if defined(ADIT_ARCH_x86_64)
struct pt_regs {
	unsigned long ax;
	unsigned long di;
	unsigned long si;
} __attribute__((preserve_access_index));
#define FIRST(regs) ((regs)->di)
#define SECOND(regs) ((regs)->si)
#define RESULT(regs) ((regs)->ax)
#elif defined(ADIT_ARCH_aarch64)
struct user_pt_regs {
	__u64 regs[31];
} __attribute__((preserve_access_index));
struct pt_regs;
#define FIRST(ctx) (((const struct user_pt_regs *)(ctx))->regs[0])
#define SECOND(ctx) (((const struct user_pt_regs *)(ctx))->regs[1])
#define RESULT(ctx) (((const struct user_pt_regs *)(ctx))->regs[0])
#else
#error "say which machine it is for: -DADIT_ARCH_x86_64 or -DADIT_ARCH_aarch64"
#endif

#endif
