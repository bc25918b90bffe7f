// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

/*
 * One pause point: hold the CPU that executes an instruction until it is
 * released through debugfs, or until its time is over.
 *
 * The instruction is named by symbol and offset. A kprobe on it spins in its
 * pre-handler, with interrupts off: the instruction has not been executed yet.
 * So what another CPU does while this one is held must not wait for an IPI to
 * this one: use another process with another mm, on another CPU.
 *
 *	echo "deferred_split_scan+0x1b2 pid=123 hold_ms=200" > splitq/pause
 *	cat splitq/pause
 *	state=held point=deferred_split_scan+0x1b2/0x6f0 hits=1 held_us=0
 *	echo 1 > splitq/release
 *	echo off > splitq/pause
 *
 * States: off, armed, held, released (by the release file), expired (by its
 * time: whoever measures counts that as BLOCKED). A point holds once; arming it
 * again starts anew. With the word "keep" the kprobe of a point stays when the
 * next one of the same symbol is armed, until "off" or another symbol: removing a
 * kprobe takes a grace period, and the explorer arms each instruction in turn.
 *
 * Errors of arming: -EINVAL for a line that cannot be read (the log says what is
 * wrong with it), -ENOENT for a symbol that the kernel does not have, -EILSEQ for
 * an offset that is not the start of an instruction.
 */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "splitq.h"

#define HOLD_MS_DEFAULT	1000
#define HOLD_MS_MAX	10000

enum pause_state { PAUSE_OFF, PAUSE_ARMED, PAUSE_HELD, PAUSE_RELEASED, PAUSE_EXPIRED };

static const char * const pause_state_names[] = {
	[PAUSE_OFF]	 = "off",
	[PAUSE_ARMED]	 = "armed",
	[PAUSE_HELD]	 = "held",
	[PAUSE_RELEASED] = "released",
	[PAUSE_EXPIRED]	 = "expired",
};

#define POINTS_MAX	4096

static DEFINE_MUTEX(pause_mutex);	/* arming and disarming */
static char pause_symbol[KSYM_NAME_LEN];

/* The kprobes that are registered, all of one symbol. */
static struct kprobe *pause_points[POINTS_MAX];
static unsigned int pause_nr_points;

/* Written under pause_mutex while the state is off: no handler looks at them. */
static struct kprobe *pause_target;
static pid_t pause_pid;
static unsigned int pause_hold_ms;
static unsigned int pause_skip;

static atomic_t pause_state = ATOMIC_INIT(PAUSE_OFF);
static atomic_t pause_hits;
static u64 pause_held_ns;
/* Where the point really is: on x86 the start of a function may be 4 bytes in. */
static unsigned long pause_address;

/* Runs with interrupts off, or at least preemption: the CPU is held right here. */
static int pause_pre_handler(struct kprobe *kp, struct pt_regs *regs)
{
	unsigned long us;
	u64 start;

	/* Pairs with the release in pause_arm(): what it armed is seen. */
	if (kp != smp_load_acquire(&pause_target) || current->pid != READ_ONCE(pause_pid))
		return 0;
	if (atomic_inc_return(&pause_hits) <= pause_skip)
		return 0;
	if (atomic_cmpxchg(&pause_state, PAUSE_ARMED, PAUSE_HELD) != PAUSE_ARMED)
		return 0;

	/*
	 * Two bounds: udelay() is long under emulation, and the clock might not go
	 * on while this CPU, which may be the one that keeps it, is held.
	 */
	start = local_clock();
	for (us = 0; us < pause_hold_ms * 1000UL &&
	     local_clock() - start < pause_hold_ms * (u64)NSEC_PER_MSEC; us++) {
		if (atomic_read(&pause_state) != PAUSE_HELD)
			break;
		cpu_relax();	/* under QEMU's icount: let the other CPU run */
		udelay(1);
	}
	WRITE_ONCE(pause_held_ns, local_clock() - start);
	atomic_cmpxchg(&pause_state, PAUSE_HELD, PAUSE_EXPIRED);
	return 0;
}

NOKPROBE_SYMBOL(pause_pre_handler);

/* A probe with a post-handler is never turned into a jump. */
static void pause_post_handler(struct kprobe *kp, struct pt_regs *regs, unsigned long flags)
{
}

NOKPROBE_SYMBOL(pause_post_handler);

static void pause_disarm(void)
{
	lockdep_assert_held(&pause_mutex);

	/* Whoever is held sees this and goes on; unregistering waits for it. */
	atomic_set(&pause_state, PAUSE_OFF);
	WRITE_ONCE(pause_target, NULL);
	if (pause_nr_points)
		unregister_kprobes(pause_points, pause_nr_points);
	while (pause_nr_points)
		kfree(pause_points[--pause_nr_points]);
}

/* The registered kprobe of pause_symbol at this offset; registers it if need be. */
static struct kprobe *pause_point(unsigned int offset)
{
	struct kprobe *kp;
	unsigned int i;
	int err;

	for (i = 0; i < pause_nr_points; i++)
		if (pause_points[i]->offset == offset)
			return pause_points[i];
	if (pause_nr_points == POINTS_MAX)
		return ERR_PTR(-ENOSPC);

	kp = kzalloc(sizeof(*kp), GFP_KERNEL);
	if (!kp)
		return ERR_PTR(-ENOMEM);
	kp->symbol_name = pause_symbol;
	kp->offset = offset;
	kp->pre_handler = pause_pre_handler;
	kp->post_handler = pause_post_handler;
	err = register_kprobe(kp);
	if (err) {
		kfree(kp);
		return ERR_PTR(err);
	}
	pause_points[pause_nr_points++] = kp;
	return kp;
}

static int pause_arm(char *line)
{
	unsigned int offset = 0, hold_ms = HOLD_MS_DEFAULT, skip = 0;
	char *symbol, *word, *plus;
	struct kprobe *kp;
	bool keep = false;
	pid_t pid = 0;

	lockdep_assert_held(&pause_mutex);

	symbol = strsep(&line, " ");
	plus = strchr(symbol, '+');
	if (plus) {
		*plus++ = '\0';
		if (kstrtouint(plus, 0, &offset)) {
			pr_err("pause: '%s' is not an offset\n", plus);
			return -EINVAL;
		}
	}
	while ((word = strsep(&line, " "))) {
		if (!*word)
			continue;
		if (!strncmp(word, "pid=", 4) && !kstrtoint(word + 4, 0, &pid) && pid > 0)
			continue;
		if (!strncmp(word, "hold_ms=", 8) && !kstrtouint(word + 8, 0, &hold_ms) &&
		    hold_ms && hold_ms <= HOLD_MS_MAX)
			continue;
		if (!strncmp(word, "skip=", 5) && !kstrtouint(word + 5, 0, &skip))
			continue;
		if (!strcmp(word, "keep")) {
			keep = true;
			continue;
		}
		pr_err("pause: bad word '%s': SYMBOL[+OFFSET] pid=PID [hold_ms=1..%d] [skip=N] [keep]\n",
		       word, HOLD_MS_MAX);
		return -EINVAL;
	}
	if (!*symbol || !pid) {
		pr_err("pause: no %s: SYMBOL[+OFFSET] pid=PID [hold_ms=1..%d] [skip=N]\n",
		       *symbol ? "pid" : "symbol", HOLD_MS_MAX);
		return -EINVAL;
	}
	if (strlen(symbol) >= sizeof(pause_symbol)) {
		pr_err("pause: the symbol is too long\n");
		return -EINVAL;
	}

	if (!keep || strcmp(symbol, pause_symbol))
		pause_disarm();
	strscpy(pause_symbol, symbol, sizeof(pause_symbol));

	/* Whoever is still held, goes on; no handler gets past its check now. */
	atomic_set(&pause_state, PAUSE_OFF);
	kp = pause_point(offset);
	if (IS_ERR(kp))
		return PTR_ERR(kp);
	WRITE_ONCE(pause_target, NULL);
	pause_pid = pid;
	pause_hold_ms = hold_ms;
	pause_skip = skip;
	atomic_set(&pause_hits, 0);
	WRITE_ONCE(pause_held_ns, 0);

	atomic_set(&pause_state, PAUSE_ARMED);
	WRITE_ONCE(pause_address, (unsigned long)kp->addr);
	/* Last: with it the handler of this point starts to count. */
	smp_store_release(&pause_target, kp);
	return 0;
}

static ssize_t pause_write(struct file *file, const char __user *ubuf, size_t len, loff_t *pos)
{
	char *line;
	int err = 0;

	if (!len || len > KSYM_NAME_LEN + 64)
		return -EINVAL;
	line = memdup_user_nul(ubuf, len);
	if (IS_ERR(line))
		return PTR_ERR(line);

	mutex_lock(&pause_mutex);
	if (!strcmp(strim(line), "off"))
		pause_disarm();
	else
		err = pause_arm(strim(line));
	mutex_unlock(&pause_mutex);

	kfree(line);
	return err ?: len;
}

static ssize_t pause_read(struct file *file, char __user *ubuf, size_t len, loff_t *pos)
{
	/* No mutex: this is polled while a CPU is held. */
	int state = atomic_read(&pause_state);
	char buf[128];
	int n;

	n = scnprintf(buf, sizeof(buf), "state=%s point=%pS hits=%d held_us=%llu\n",
		      pause_state_names[state], (void *)READ_ONCE(pause_address),
		      atomic_read(&pause_hits), READ_ONCE(pause_held_ns) / 1000);
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
	/* -EAGAIN: nobody is held, so nothing was released. */
	if (atomic_cmpxchg(&pause_state, PAUSE_HELD, PAUSE_RELEASED) != PAUSE_HELD)
		return -EAGAIN;
	return len;
}

static const struct file_operations release_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = release_write,
};

int splitq_pause_init(struct dentry *dir)
{
	debugfs_create_file("pause", 0600, dir, NULL, &pause_fops);
	debugfs_create_file("release", 0200, dir, NULL, &release_fops);
	return 0;
}

void splitq_pause_exit(void)
{
	mutex_lock(&pause_mutex);
	pause_disarm();
	mutex_unlock(&pause_mutex);
}
