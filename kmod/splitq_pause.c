// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * Pause points: hold the CPU that executes an instruction, or returns from a
 * function, until it is released through debugfs or its time is over.
 *
 *	echo "deferred_split_scan+0x1b2 pid=123 hold_ms=200" > splitq/pause
 *	cat splitq/pause
 *	id=0 state=held point=deferred_split_scan+0x1b2/0x6f0 hits=1 held_us=0
 *	(and at a return ret=0x1f, what the function returns)
 *	echo 0 > splitq/release
 *	echo off > splitq/pause
 *
 * splitq/pause (0600) takes a line
 *
 *	[id=0..3] SYMBOL[+OFFSET] | SYMBOL%return  [pid=PID] [cpu=CPU] [comm=NAME]
 *		[caller=SYMBOL] [hold_ms=1..10000] [skip=N]
 *
 * Four points can be armed at a time, each has an id. A point holds once: the first
 * that passes all its filters, after N that do and are let go. caller: a function
 * of this name is on the stack, as far as the kernel can unwind it. "id=N off"
 * disarms one, "off" all, and takes the probes away: until then a probe stays where
 * a point was, since removing one takes a grace period.
 *
 * The instruction has not been executed yet when its CPU is held, with interrupts
 * off. So what another CPU does meanwhile must not wait for an IPI to this one:
 * use another process with another mm.
 *
 * States: armed, held, released (by the release file), expired (by its time:
 * whoever measures counts that as BLOCKED). splitq/release (0200) takes an id.
 *
 * splitq/cover (0600) takes "SYMBOL pid=PID": probes every instruction of a
 * function and counts what this task executes. Read, it says
 *
 *	cover deferred_split_scan size=0x6f0 probes=412 unprobed=3 executed=152
 *	+0x0 1
 *	...
 *
 * a line per instruction that was executed, and how often. unprobed are bytes that
 * no probe could be put on and that no probed instruction covers.
 *
 * Errors: -EINVAL for a line that cannot be read (the log says what is wrong with
 * it), -ENOENT for a symbol that the kernel does not have, -EILSEQ for an offset
 * that is not the start of an instruction, -EAGAIN when nobody is held that could
 * be released, -EOPNOTSUPP for what this kernel was not configured for.
 */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "splitq.h"

#define NR_SLOTS	4
#define HOLD_MS_DEFAULT	1000
#define HOLD_MS_MAX	10000
#define POINTS_MAX	8192
#define STACK_DEPTH	96	/* without a table the unwinder guesses: much of it is stale */

enum pause_state { PAUSE_OFF, PAUSE_ARMED, PAUSE_HELD, PAUSE_RELEASED, PAUSE_EXPIRED };

#define PAUSE_STATE_MASK	7

static const char * const pause_state_names[] = {
	[PAUSE_OFF]	 = "off",
	[PAUSE_ARMED]	 = "armed",
	[PAUSE_HELD]	 = "held",
	[PAUSE_RELEASED] = "released",
	[PAUSE_EXPIRED]	 = "expired",
};

/* A probe, which may serve more than one slot. */
struct pause_point {
	struct list_head node;
	struct kretprobe rp;		/* its kp alone, if not is_return */
	bool is_return;
	atomic_t hits;			/* by the task that is covered */
	char symbol[];
};

/* What a line to splitq/pause asks for. */
struct pause_want {
	struct pause_point *point;
	pid_t pid;			/* 0: any */
	int cpu;			/* -1: any */
	char comm[TASK_COMM_LEN];	/* "": any */
	char caller[KSYM_NAME_LEN];	/* "": any */
	unsigned int hold_ms, skip;
};

/*
 * state is a generation above an enum pause_state. Arming goes through OFF of a
 * new generation before @want is written, so a handler whose cmpxchg() succeeds
 * has read one @want and not parts of two.
 */
struct pause_slot {
	atomic_t state;
	atomic_t hits;
	u64 held_ns;
	unsigned long address;
	bool is_return;
	unsigned long ret;		/* what the function returns, if it is */
	struct pause_want want;
};

static DEFINE_MUTEX(pause_mutex);	/* arming, disarming, the list of points */
static LIST_HEAD(pause_points);
static unsigned int pause_nr_points;
static struct pause_slot pause_slots[NR_SLOTS];

static pid_t cover_pid;
static char cover_symbol[KSYM_NAME_LEN];
static unsigned long cover_size;
static unsigned int cover_unprobed;

/* -- In the handler ------------------------------------------------------- */

/* Is a function of this name below us on the stack? */
static bool pause_called_by(const char *name, struct pt_regs *regs, unsigned long address)
{
#ifdef CONFIG_STACKTRACE
	unsigned long entries[STACK_DEPTH];
	unsigned long ip = instruction_pointer(regs);
	char found[KSYM_NAME_LEN];
	unsigned int i, nr;

	/* On x86 it is behind the breakpoint: for the unwinder, in another instruction. */
	instruction_pointer_set(regs, address);
	nr = stack_trace_save(entries, ARRAY_SIZE(entries), 0);
	instruction_pointer_set(regs, ip);
	for (i = 0; i < nr; i++) {
		/* A return address may be the first byte of the next function. */
		scnprintf(found, sizeof(found), "%ps", (void *)(entries[i] - 1));
		if (!strcmp(found, name))
			return true;
	}
#endif
	return false;
}

NOKPROBE_SYMBOL(pause_called_by);

static void pause_hold(struct pause_slot *slot, int held, unsigned int hold_ms)
{
	unsigned long us;
	u64 start;

	/*
	 * Two bounds: udelay() is long under emulation, and the clock might not go
	 * on while this CPU, which may be the one that keeps it, is held.
	 */
	start = local_clock();
	for (us = 0; us < hold_ms * 1000UL &&
	     local_clock() - start < hold_ms * (u64)NSEC_PER_MSEC; us++) {
		if (atomic_read(&slot->state) != held)
			break;
		cpu_relax();	/* under QEMU's icount: let the other CPU run */
		udelay(1);
	}
	WRITE_ONCE(slot->held_ns, local_clock() - start);
	atomic_cmpxchg(&slot->state, held, (held & ~PAUSE_STATE_MASK) | PAUSE_EXPIRED);
}

NOKPROBE_SYMBOL(pause_hold);

static void pause_slot_hit(struct pause_slot *slot, struct pause_point *point,
			   struct pt_regs *regs, unsigned long address)
{
	/* Pairs with the release in pause_arm(): @want is at least as new. */
	int armed = atomic_read_acquire(&slot->state);
	int held = (armed & ~PAUSE_STATE_MASK) | PAUSE_HELD;
	const struct pause_want *want = &slot->want;
	unsigned long flags;
	unsigned int hold_ms;

	if ((armed & PAUSE_STATE_MASK) != PAUSE_ARMED || READ_ONCE(want->point) != point)
		return;
	if ((want->pid && want->pid != current->pid) ||
	    (want->cpu >= 0 && want->cpu != raw_smp_processor_id()) ||
	    (want->comm[0] && strncmp(want->comm, current->comm, TASK_COMM_LEN)) ||
	    (want->caller[0] && !pause_called_by(want->caller, regs, address)))
		return;
	if (atomic_inc_return(&slot->hits) <= want->skip)
		return;
	hold_ms = want->hold_ms;
	if (point->is_return)
		WRITE_ONCE(slot->ret, regs_return_value(regs));
	/* A full barrier: all of @want was read before. */
	if (atomic_cmpxchg(&slot->state, armed, held) != armed)
		return;

	/* They are off at an instruction, but not at a function's return. */
	local_irq_save(flags);
	pause_hold(slot, held, hold_ms);
	local_irq_restore(flags);
}

NOKPROBE_SYMBOL(pause_slot_hit);

static void pause_hit(struct pause_point *point, struct pt_regs *regs, unsigned long address)
{
	pid_t pid = READ_ONCE(cover_pid);
	int i;

	if (pid && pid == current->pid)
		atomic_inc(&point->hits);
	for (i = 0; i < NR_SLOTS; i++)
		pause_slot_hit(&pause_slots[i], point, regs, address);
}

NOKPROBE_SYMBOL(pause_hit);

/* Runs with interrupts off, or at least preemption: the CPU is held right here. */
static int pause_pre_handler(struct kprobe *kp, struct pt_regs *regs)
{
	pause_hit(container_of(kp, struct pause_point, rp.kp), regs, (unsigned long)kp->addr);
	return 0;
}

NOKPROBE_SYMBOL(pause_pre_handler);

/* A probe with a post-handler is never turned into a jump. */
static void pause_post_handler(struct kprobe *kp, struct pt_regs *regs, unsigned long flags)
{
}

NOKPROBE_SYMBOL(pause_post_handler);

static int pause_return_handler(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct kretprobe *rp = get_kretprobe(ri);

	if (rp)
		pause_hit(container_of(rp, struct pause_point, rp), regs,
			  instruction_pointer(regs));
	return 0;
}

NOKPROBE_SYMBOL(pause_return_handler);

/* -- Probes --------------------------------------------------------------- */

/* Length of the instruction under a probe in bytes, 0 if it is not known. */
static unsigned int pause_insn_size(const struct kprobe *kp)
{
#if defined(CONFIG_X86)
	return kp->ainsn.size;
#elif defined(CONFIG_ARM64)
	return 4;
#else
	return 0;
#endif
}

/* Offset in its function, and size of that, by kallsyms; false: it is in none. */
static bool pause_locate(unsigned long addr, unsigned long *offset, unsigned long *size)
{
	char name[KSYM_SYMBOL_LEN], *plus;

	sprint_symbol(name, addr);
	plus = strrchr(name, '+');
	return plus && sscanf(plus, "+%lx/%lx", offset, size) == 2;
}

/* The probe at this place; registers it if need be. Or an ERR_PTR(). */
static struct pause_point *pause_point(const char *symbol, unsigned int offset, bool is_return)
{
	struct pause_point *point;
	size_t len = strlen(symbol);
	struct kprobe *kp;
	int err;

	lockdep_assert_held(&pause_mutex);

	list_for_each_entry(point, &pause_points, node)
		if (point->rp.kp.offset == offset && point->is_return == is_return &&
		    !strcmp(point->symbol, symbol))
			return point;
	if (pause_nr_points == POINTS_MAX)
		return ERR_PTR(-ENOSPC);

	point = kzalloc(struct_size(point, symbol, len + 1), GFP_KERNEL);
	if (!point)
		return ERR_PTR(-ENOMEM);
	memcpy(point->symbol, symbol, len);
	point->is_return = is_return;
	kp = &point->rp.kp;
	kp->symbol_name = point->symbol;
	kp->offset = offset;
	if (is_return) {
		point->rp.handler = pause_return_handler;
		err = register_kretprobe(&point->rp);
	} else {
		kp->pre_handler = pause_pre_handler;
		kp->post_handler = pause_post_handler;
		err = register_kprobe(kp);
	}
	if (err) {
		kfree(point);
		return ERR_PTR(err);
	}
	list_add_tail(&point->node, &pause_points);
	pause_nr_points++;
	return point;
}

static void pause_slot_off(struct pause_slot *slot)
{
	int old = atomic_read(&slot->state), new;

	lockdep_assert_held(&pause_mutex);

	/* A new generation: whoever is held sees it and goes on, nobody else begins. */
	do {
		new = (old & ~PAUSE_STATE_MASK) + PAUSE_STATE_MASK + 1 + PAUSE_OFF;
	} while (!atomic_try_cmpxchg(&slot->state, &old, new));
}

/* Everything off: no probe is left. */
static void pause_all_off(void)
{
	struct pause_point *point, *next;
	struct kprobe **kps;
	unsigned int nr = 0;
	int i;

	lockdep_assert_held(&pause_mutex);

	WRITE_ONCE(cover_pid, 0);
	cover_symbol[0] = '\0';
	for (i = 0; i < NR_SLOTS; i++)
		pause_slot_off(&pause_slots[i]);

	/* In one go if there is the memory: each takes a grace period alone. */
	kps = kvmalloc_array(pause_nr_points, sizeof(*kps), GFP_KERNEL);
	list_for_each_entry(point, &pause_points, node) {
		if (point->is_return)
			unregister_kretprobe(&point->rp);
		else if (kps)
			kps[nr++] = &point->rp.kp;
		else
			unregister_kprobe(&point->rp.kp);
	}
	if (nr)
		unregister_kprobes(kps, nr);
	kvfree(kps);
	list_for_each_entry_safe(point, next, &pause_points, node)
		kfree(point);
	INIT_LIST_HEAD(&pause_points);
	pause_nr_points = 0;
}

/* -- Arming --------------------------------------------------------------- */

#define PAUSE_USAGE \
	"[id=0..3] SYMBOL[+OFFSET]|SYMBOL%%return [pid=] [cpu=] [comm=] [caller=] [hold_ms=1..10000] [skip=]"

static int pause_bad(const char *what, const char *word)
{
	pr_err("pause: %s '%s': " PAUSE_USAGE "\n", what, word);
	return -EINVAL;
}

/* SYMBOL, SYMBOL+OFFSET or SYMBOL%return; cuts the line up. */
static int pause_parse_point(char *word, unsigned int *offset, bool *is_return)
{
	char *mark;

	*offset = 0;
	*is_return = false;
	mark = strchr(word, '%');
	if (mark) {
		*mark++ = '\0';
		if (strcmp(mark, "return"))
			return pause_bad("not %return but", mark);
		*is_return = true;
	}
	mark = strchr(word, '+');
	if (mark) {
		*mark++ = '\0';
		if (*is_return || kstrtouint(mark, 0, offset))
			return pause_bad("not an offset", mark);
	}
	if (!*word || strlen(word) >= KSYM_NAME_LEN)
		return pause_bad("not a symbol", word);
	return 0;
}

static int pause_parse_caller(struct pause_want *want, const char *name)
{
	struct kprobe kp = { .symbol_name = name };
	int err;

	if (!IS_ENABLED(CONFIG_STACKTRACE)) {
		pr_err("pause: caller= needs CONFIG_STACKTRACE\n");
		return -EOPNOTSUPP;
	}
	if (strscpy(want->caller, name, sizeof(want->caller)) <= 0)
		return pause_bad("not a symbol", name);
	/* A name that is nowhere would never be met. */
	err = register_kprobe(&kp);
	if (!err)
		unregister_kprobe(&kp);
	if (err == -ENOENT)
		pr_err("pause: there is no function '%s'\n", name);
	return err == -ENOENT ? err : 0;
}

static int pause_arm(char *line)
{
	struct pause_want want = { .cpu = -1, .hold_ms = HOLD_MS_DEFAULT };
	char *word, *symbol = NULL;
	struct pause_slot *slot;
	bool is_return = false;
	unsigned int offset = 0, id = 0;
	int err, state;

	lockdep_assert_held(&pause_mutex);

	while ((word = strsep(&line, " "))) {
		if (!*word)
			continue;
		err = 0;
		if (!strncmp(word, "id=", 3)) {
			if (kstrtouint(word + 3, 0, &id) || id >= NR_SLOTS)
				err = pause_bad("not an id", word + 3);
		} else if (!strncmp(word, "pid=", 4)) {
			if (kstrtoint(word + 4, 0, &want.pid) || want.pid <= 0)
				err = pause_bad("not a pid", word + 4);
		} else if (!strncmp(word, "cpu=", 4)) {
			if (kstrtoint(word + 4, 0, &want.cpu) || want.cpu < 0 ||
			    want.cpu >= nr_cpu_ids)
				err = pause_bad("not a CPU", word + 4);
		} else if (!strncmp(word, "comm=", 5)) {
			if (strscpy(want.comm, word + 5, sizeof(want.comm)) <= 0)
				err = pause_bad("not a task's name", word + 5);
		} else if (!strncmp(word, "caller=", 7)) {
			err = pause_parse_caller(&want, word + 7);
		} else if (!strncmp(word, "hold_ms=", 8)) {
			if (kstrtouint(word + 8, 0, &want.hold_ms) || !want.hold_ms ||
			    want.hold_ms > HOLD_MS_MAX)
				err = pause_bad("not a time", word + 8);
		} else if (!strncmp(word, "skip=", 5)) {
			if (kstrtouint(word + 5, 0, &want.skip))
				err = pause_bad("not a number", word + 5);
		} else if (symbol) {
			err = pause_bad("bad word", word);
		} else {
			symbol = word;
			err = pause_parse_point(word, &offset, &is_return);
		}
		if (err)
			return err;
	}
	if (!symbol)
		return pause_bad("no symbol in", "");

	slot = &pause_slots[id];
	if (!strcmp(symbol, "off")) {
		pause_slot_off(slot);
		return 0;
	}
	want.point = pause_point(symbol, offset, is_return);
	if (IS_ERR(want.point))
		return PTR_ERR(want.point);

	pause_slot_off(slot);
	state = atomic_read(&slot->state) & ~PAUSE_STATE_MASK;
	smp_wmb();		/* the new generation before anything of @want */
	slot->want = want;
	atomic_set(&slot->hits, 0);
	WRITE_ONCE(slot->held_ns, 0);
	WRITE_ONCE(slot->address, (unsigned long)want.point->rp.kp.addr);
	WRITE_ONCE(slot->is_return, is_return);
	atomic_set_release(&slot->state, state | PAUSE_ARMED);
	return 0;
}

static char *pause_line(const char __user *ubuf, size_t len)
{
	if (!len || len > 2 * KSYM_NAME_LEN + 128)
		return ERR_PTR(-EINVAL);
	return memdup_user_nul(ubuf, len);
}

static ssize_t pause_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	char *line = pause_line(ubuf, len);
	int err = 0;

	if (IS_ERR(line))
		return PTR_ERR(line);
	mutex_lock(&pause_mutex);
	if (!strcmp(strim(line), "off"))
		pause_all_off();
	else
		err = pause_arm(strim(line));
	mutex_unlock(&pause_mutex);
	kfree(line);
	return err ?: len;
}

static ssize_t pause_read(struct file *file, char __user *ubuf, size_t len, loff_t *pos)
{
	char buf[NR_SLOTS * 160];
	int id, n = 0;

	/* No mutex: this is polled while a CPU is held. */
	for (id = 0; id < NR_SLOTS; id++) {
		struct pause_slot *slot = &pause_slots[id];
		int state = atomic_read(&slot->state) & PAUSE_STATE_MASK;

		if (state == PAUSE_OFF)
			continue;
		n += scnprintf(buf + n, sizeof(buf) - n,
			       "id=%d state=%s point=%pS hits=%d held_us=%llu", id,
			       pause_state_names[state], (void *)READ_ONCE(slot->address),
			       atomic_read(&slot->hits), READ_ONCE(slot->held_ns) / 1000);
		if (state != PAUSE_ARMED && READ_ONCE(slot->is_return))
			n += scnprintf(buf + n, sizeof(buf) - n, " ret=0x%lx",
				       READ_ONCE(slot->ret));
		n += scnprintf(buf + n, sizeof(buf) - n, "\n");
	}
	if (!n)
		n = scnprintf(buf, sizeof(buf), "state=off\n");
	return simple_read_from_buffer(ubuf, len, pos, buf, n);
}

static const struct file_operations pause_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.read = pause_read,
	.write = pause_write,
};

static ssize_t release_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	unsigned int id;
	int held;

	if (kstrtouint_from_user(ubuf, len, 0, &id) || id >= NR_SLOTS) {
		pr_err("release: not the id of a point, 0 to %d\n", NR_SLOTS - 1);
		return -EINVAL;
	}
	held = atomic_read(&pause_slots[id].state);
	if ((held & PAUSE_STATE_MASK) != PAUSE_HELD ||
	    atomic_cmpxchg(&pause_slots[id].state, held,
			   (held & ~PAUSE_STATE_MASK) | PAUSE_RELEASED) != held)
		return -EAGAIN;
	return len;
}

static const struct file_operations release_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = release_write,
};

/* -- Coverage ------------------------------------------------------------- */

static int cover_start(char *line)
{
	char *symbol = strsep(&line, " "), *word = strsep(&line, " ");
	unsigned long offset = 0, at, size = 1;
	struct pause_point *point;
	int pid;

	lockdep_assert_held(&pause_mutex);

	if (!word || line || strncmp(word, "pid=", 4) || kstrtoint(word + 4, 0, &pid) || pid <= 0 ||
	    !*symbol || strlen(symbol) >= sizeof(cover_symbol)) {
		pr_err("cover: not \"SYMBOL pid=PID\"\n");
		return -EINVAL;
	}
	WRITE_ONCE(cover_pid, 0);
	strscpy(cover_symbol, symbol, sizeof(cover_symbol));
	cover_unprobed = 0;
	while (offset < size) {
		point = pause_point(symbol, offset, false);
		if (IS_ERR(point)) {
			if (!offset || PTR_ERR(point) == -ENOMEM || PTR_ERR(point) == -ENOSPC)
				return PTR_ERR(point);
			cover_unprobed++;
			offset++;
			continue;
		}
		atomic_set(&point->hits, 0);
		/* The start of a function may be 4 bytes in: behind an ENDBR. */
		if (!pause_locate((unsigned long)point->rp.kp.addr, &at, &size))
			return -ENOENT;
		offset = at + (pause_insn_size(&point->rp.kp) ?: 1);
		cond_resched();
	}
	cover_size = size;
	WRITE_ONCE(cover_pid, pid);
	return 0;
}

static ssize_t cover_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	char *line = pause_line(ubuf, len);
	int err;

	if (IS_ERR(line))
		return PTR_ERR(line);
	mutex_lock(&pause_mutex);
	err = cover_start(strim(line));
	mutex_unlock(&pause_mutex);
	kfree(line);
	return err ?: len;
}

static int cover_show(struct seq_file *m, void *unused)
{
	unsigned int probes = 0, executed = 0;
	struct pause_point *point;

	mutex_lock(&pause_mutex);
	if (!cover_symbol[0]) {
		mutex_unlock(&pause_mutex);
		return 0;
	}
	list_for_each_entry(point, &pause_points, node)
		if (!point->is_return && !strcmp(point->symbol, cover_symbol)) {
			probes++;
			executed += atomic_read(&point->hits) > 0;
		}
	seq_printf(m, "cover %s size=0x%lx probes=%u unprobed=%u executed=%u\n", cover_symbol,
		   cover_size, probes, cover_unprobed, executed);
	list_for_each_entry(point, &pause_points, node)
		if (!point->is_return && !strcmp(point->symbol, cover_symbol) &&
		    atomic_read(&point->hits))
			seq_printf(m, "+0x%x %d\n", point->rp.kp.offset,
				   atomic_read(&point->hits));
	mutex_unlock(&pause_mutex);
	return 0;
}

static int cover_open(struct inode *inode, struct file *file)
{
	return single_open(file, cover_show, NULL);
}

static const struct file_operations cover_fops = {
	.owner = THIS_MODULE,
	.open = cover_open,
	.read = seq_read,
	.write = cover_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * splitq_pause_init - create the debugfs files of the pause points
 * @dir: the module's debugfs directory
 *
 * Nothing is probed before a line is written. The files are removed with @dir.
 *
 * Context: task context, may sleep.
 */
void splitq_pause_init(struct dentry *dir)
{
	debugfs_create_file("pause", 0600, dir, NULL, &pause_fops);
	debugfs_create_file("release", 0200, dir, NULL, &release_fops);
	debugfs_create_file("cover", 0600, dir, NULL, &cover_fops);
}

/**
 * splitq_pause_exit - release every CPU that is held, and remove all probes
 *
 * Called when the debugfs files are gone: nobody can arm anything any more.
 *
 * Context: task context, sleeps until no handler runs any more.
 */
void splitq_pause_exit(void)
{
	mutex_lock(&pause_mutex);
	pause_all_off();
	mutex_unlock(&pause_mutex);
}
