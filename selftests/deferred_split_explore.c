// SPDX-License-Identifier: GPL-2.0
/*
 * Every schedule with one preemption: hold one CPU at each instruction of a
 * victim function in turn, run an operation on another CPU meanwhile, let both
 * finish, and look at what is left.
 *
 *	deferred_split_explore VICTIM SYMBOL OP STATE [FIRST [LAST]]
 *
 * VICTIM is the action that executes SYMBOL, OP the action that comes between;
 * both are names of the table below. The owner of the THP and the foreign
 * actors are processes of their own: a CPU that is held has interrupts off, so
 * the operation must not need it for a TLB flush. When it does all the same, or
 * waits for a lock that the victim holds, the hold ends by its time and the
 * point is counted as blocked.
 *
 * STATE is what the THP is in before: queued (at fault, not partially mapped),
 * underused (the same, all of it zero, and max_ptes_none is 0: a scan wants to
 * split it) or partial (its last page is unmapped).
 *
 * A line per instruction that the victim was held at:
 *
 *	point SYMBOL+0xOFF ok|blocked|RED-WORD victim=RESULT op=RESULT
 *
 * and at the end the sums. RED-WORDs:
 *
 *	CORRUPT		the links of the queue do not agree
 *	LOST		marked partially mapped, and on no list
 *	UNMARKED	partially mapped, and not marked so
 *	AUDIT		the module's audit has found something
 *	STUCK		partially mapped, and a scan does not split it
 *	FORGOTTEN	underused, whole, and not queued any more
 *	LEAK		counters are not back when all is unmapped
 *	NOEFFECT	the operation did not do what it must leave behind
 *
 * Exit status: 0 nothing red, 1 something is, 3 the queue is corrupt and this
 * kernel should not be used any more, 4 it cannot run here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_util.h"

#define HOLD_MS		40
#define CPU_OP		0
#define CPU_VICTIM	1
#define ANSWER_MS	15000

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* What everybody needs to know of the THP under test. */
struct subject {
	pid_t owner;
	char *thp;
	size_t size;
	int nid;
	struct ds_memcg memcg;
};

/* What is left of the THP when an action is through. */
enum leaves {
	LEAVES_WHOLE	= 1 << 0,	/* still mapped as it was: may be forgotten */
	LEAVES_HALF	= 1 << 1,	/* the second half is not mapped any more */
	LEAVES_NOTHING	= 1 << 2,	/* nothing of it is mapped any more */
};

struct action {
	const char *name;
	bool by_owner;			/* else by somebody with another mm */
	int (*run)(struct subject *s);
	unsigned int leaves;
};

static int munmap_half(struct subject *s)
{
	return munmap(s->thp + s->size / 2, s->size / 2) ? -errno : 0;
}

static int munmap_all(struct subject *s)
{
	return munmap(s->thp, s->size) ? -errno : 0;
}

static int madvise_half(struct subject *s, int advice)
{
	return madvise(s->thp + s->size / 2, s->size / 2, advice) ? -errno : 0;
}

static int dontneed_half(struct subject *s)
{
	return madvise_half(s, MADV_DONTNEED);
}

static int free_half(struct subject *s)
{
	return madvise_half(s, MADV_FREE);
}

static int mremap_half(struct subject *s)
{
	void *to = mremap(s->thp + s->size / 2, s->size / 2, s->size / 2,
			  MREMAP_MAYMOVE | MREMAP_FIXED, s->thp - s->size / 2);

	if (to == MAP_FAILED)
		return -errno;
	/* Nobody needs it there. */
	return munmap(to, s->size / 2) ? -errno : 0;
}

static int fork_exit(struct subject *s)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid ? 0 : -errno;
}

static int write_fault(struct subject *s)
{
	size_t page = sysconf(_SC_PAGESIZE);

	s->thp[page] = 0;
	return 0;
}

static int lock_half(struct subject *s)
{
	int err = mlock(s->thp, s->size / 2) ? -errno : 0;

	munlock(s->thp, s->size / 2);
	return err;
}

static int scan(struct subject *s)
{
	return ds_scan(&s->memcg, s->nid, 8);
}

static int migrate(struct subject *s)
{
	int node = !s->nid, status = -1;
	void *page = s->thp;

	if (syscall(SYS_move_pages, s->owner, 1UL, &page, &node, &status, 4 /* MOVE_ALL */))
		return -errno;
	/* Held by a scanner or split meanwhile: the page, or nothing, moves. */
	return status < 0 ? status : 0;
}

static int foreign_madvise(struct subject *s, int advice)
{
	struct iovec { void *base; size_t len; } iov = { s->thp, s->size };
	int fd = syscall(SYS_pidfd_open, s->owner, 0);
	long ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_process_madvise, fd, &iov, 1UL, advice, 0);
	ret = ret < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int pageout(struct subject *s)
{
	return foreign_madvise(s, MADV_PAGEOUT);
}

static int collapse(struct subject *s)
{
	return foreign_madvise(s, MADV_COLLAPSE);
}

static int split_debugfs(struct subject *s)
{
	int fd = open("/sys/kernel/debug/split_huge_pages", O_WRONLY | O_CLOEXEC);
	char line[96];
	int err = 0;

	if (fd < 0)
		return -errno;
	snprintf(line, sizeof(line), "%d,0x%lx,0x%lx,0", s->owner, (unsigned long)s->thp,
		 (unsigned long)s->thp + s->size);
	if (write(fd, line, strlen(line)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static const struct action actions[] = {
	{ "munmap-half",	true,	munmap_half,	LEAVES_HALF },
	{ "munmap-all",		true,	munmap_all,	LEAVES_NOTHING },
	{ "dontneed-half",	true,	dontneed_half,	LEAVES_HALF },
	{ "free-half",		true,	free_half,	LEAVES_WHOLE },
	{ "mremap-half",	true,	mremap_half,	LEAVES_HALF },
	{ "fork-exit",		true,	fork_exit,	LEAVES_WHOLE },
	{ "write-fault",	true,	write_fault,	LEAVES_WHOLE },
	{ "mlock-half",		true,	lock_half,	LEAVES_WHOLE },
	{ "scan",		false,	scan,		LEAVES_WHOLE },
	{ "migrate",		false,	migrate,	LEAVES_WHOLE },
	{ "pageout",		false,	pageout,	0 },
	{ "collapse",		false,	collapse,	LEAVES_WHOLE },
	{ "split-debugfs",	false,	split_debugfs,	0 },
};

static const struct action *find_action(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(actions[i].name, name))
			return &actions[i];
	return NULL;
}

/* A helper process: does one command after the other, and answers each. */
struct helper {
	pid_t pid;
	int to, from;
};

struct command {
	enum { CMD_MAP, CMD_RUN, CMD_SPOIL, CMD_UNMAP } what;
	int action, cpu;
	struct subject subject;
};

struct answer {
	int result;
	char *thp;
};

/* The owner's THP, with room below for mremap_half() that nothing else may take. */
static char *reserved;

static char *owner_map(void)
{
	size_t size = ds_thp_size();
	char *thp;

	reserved = mmap(NULL, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			-1, 0);
	if (reserved == MAP_FAILED)
		return NULL;
	thp = (char *)(((uintptr_t)reserved + 2 * size - 1) & ~(size - 1));
	if (mprotect(thp, size, PROT_READ | PROT_WRITE) || madvise(thp, size, MADV_HUGEPAGE))
		return NULL;
	/* All of it zero: with max_ptes_none 0 that makes it underused. */
	thp[0] = 0;
	return ds_is_thp(thp) ? thp : NULL;
}

static void helper_loop(int in, int out, const struct ds_memcg *memcg, bool owner)
{
	struct command c;
	struct answer a;

	if (owner && !ds_memcg_enter(memcg))
		_exit(1);
	while (read(in, &c, sizeof(c)) == sizeof(c)) {
		size_t page = sysconf(_SC_PAGESIZE);

		ds_pin_to_cpu(c.cpu);
		memset(&a, 0, sizeof(a));
		switch (c.what) {
		case CMD_MAP:
			a.thp = owner_map();
			break;
		case CMD_SPOIL:
			madvise(c.subject.thp + c.subject.size - page, page, MADV_DONTNEED);
			break;
		case CMD_RUN:
			a.result = actions[c.action].run(&c.subject);
			break;
		case CMD_UNMAP:
			munmap(reserved, 3 * c.subject.size);
			break;
		}
		if (write(out, &a, sizeof(a)) != sizeof(a))
			break;
	}
	_exit(0);
}

static void helper_start(struct helper *h, const struct ds_memcg *memcg, bool owner)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		exit(4);
	fflush(stdout);
	h->pid = fork();
	if (!h->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		helper_loop(to[0], from[1], memcg, owner);
	}
	close(to[0]);
	close(from[1]);
	h->to = to[1];
	h->from = from[0];
}

static void helper_send(struct helper *h, const struct command *c)
{
	if (write(h->to, c, sizeof(*c)) != sizeof(*c)) {
		printf("a helper is gone\n");
		exit(3);
	}
}

static bool helper_ready(struct helper *h, int ms)
{
	struct pollfd pfd = { .fd = h->from, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

static struct answer helper_answer(struct helper *h)
{
	struct answer a;

	if (!helper_ready(h, ANSWER_MS) || read(h->from, &a, sizeof(a)) != sizeof(a)) {
		printf("a helper does not answer: no progress\n");
		exit(3);
	}
	return a;
}

static struct answer helper_do(struct helper *h, const struct command *c)
{
	helper_send(h, c);
	return helper_answer(h);
}

/* The last line of the module's audit unless it is ok; NULL if there is no audit. */
static const char *audit_complaint(void)
{
	static char last[256];
	char line[256];
	FILE *f = fopen(DS_SPLITQ "audit", "re");

	if (!f)
		return NULL;
	last[0] = '\0';
	while (fgets(line, sizeof(line), f))
		snprintf(last, sizeof(last), "%s", line);
	fclose(f);
	/* "unknown" is not ok either: nothing is held any more when this is read. */
	return !strncmp(last, "audit ok", 8) ? NULL : last;
}

struct explorer {
	const struct action *victim, *op;
	const char *symbol;
	bool underused, partial;
	struct helper owner, foreign[2];	/* [0] is the victim, [1] the operator */
	struct subject subject;
	long partially_mapped;
	int points, ok, blocked, red, missed;
};

static struct helper *helper_of(struct explorer *x, const struct action *action, int role)
{
	return action->by_owner ? &x->owner : &x->foreign[role];
}

static void send_action(struct explorer *x, const struct action *action, int role)
{
	struct command c = {
		.what = CMD_RUN, .action = action - actions,
		.cpu = role ? CPU_OP : CPU_VICTIM, .subject = x->subject,
	};

	helper_send(helper_of(x, action, role), &c);
}

/* What is wrong, when both are through; NULL if nothing is. */
static const char *judge(struct explorer *x, const struct ds_folio *before)
{
	unsigned int leaves = x->victim->leaves & x->op->leaves;
	unsigned int left = x->victim->leaves | x->op->leaves;
	struct subject *s = &x->subject;
	struct ds_folio after;
	char *upper = s->thp + s->size / 2;
	int err = ds_folio(s->owner, s->thp, &after);
	int nr_pages, nid;

	if (!err && (!strcmp(after.list, "torn") || !strcmp(after.list, "broken")))
		return "CORRUPT";
	if (audit_complaint())
		return "AUDIT";
	if ((left & LEAVES_NOTHING) && !err)
		return "NOEFFECT";
	if ((left & LEAVES_HALF) && !(left & LEAVES_NOTHING)) {
		struct ds_folio half;

		if (!ds_folio(s->owner, upper, &half))
			return "NOEFFECT";
	}
	if (err)
		return NULL;		/* unmapped or swapped out: the counters will tell */

	nr_pages = 1 << after.order;
	if (after.order > 1 && after.partially_mapped && !strcmp(after.list, "empty"))
		return "LOST";
	/* Mapped by PTEs, by one process, and not all of it. */
	if (after.order > 1 && after.mapcount > 1 && after.mapcount < nr_pages &&
	    !after.partially_mapped)
		return "UNMARKED";

	/* A scan of both nodes: on 6.12 the queue of a memcg has no node. */
	for (nid = 0; nid < 2; nid++)
		ds_scan(&s->memcg, nid, 8);
	err = ds_folio(s->owner, s->thp, &after);
	if (!err && after.order > 1 && after.partially_mapped)
		return "STUCK";
	if (!err && after.order > 1 && x->underused && (leaves & LEAVES_WHOLE))
		return "FORGOTTEN";
	return NULL;
}

/* One point. Returns false if the kernel is not to be used any more. */
static bool explore_point(struct explorer *x, unsigned int offset)
{
	struct command c = { .what = CMD_MAP, .cpu = CPU_OP };
	struct helper *victim = helper_of(x, x->victim, 0), *op = helper_of(x, x->op, 1);
	struct subject *s = &x->subject;
	enum ds_pause state = DS_ARMED;
	struct answer va, oa = { 0 };
	const char *wrong = NULL;
	struct ds_folio before;
	bool completed = false;

	if (ds_pause_arm_keep(x->symbol, offset, victim->pid, HOLD_MS))
		return true;		/* not the start of an instruction */

	s->thp = helper_do(&x->owner, &c).thp;
	if (!s->thp || ds_folio(s->owner, s->thp, &before)) {
		printf("no THP was to be had\n");
		exit(4);
	}
	s->nid = before.nid;
	c.subject = *s;
	if (x->partial) {
		c.what = CMD_SPOIL;
		helper_do(&x->owner, &c);
	}

	send_action(x, x->victim, 0);
	while (!helper_ready(victim, 0)) {
		state = ds_pause_state();
		if (state != DS_ARMED)
			break;
	}
	if (state == DS_HELD) {
		send_action(x, x->op, 1);
		while (!completed && ds_pause_state() == DS_HELD)
			completed = helper_ready(op, 1);
		ds_pause_release();
		oa = helper_answer(op);
	}
	va = helper_answer(victim);

	if (state == DS_ARMED) {
		x->missed++;		/* not on the way that it took */
	} else {
		x->points++;
		wrong = judge(x, &before);
	}
	if (wrong && !strcmp(wrong, "CORRUPT"))
		goto report;

	c.what = CMD_UNMAP;
	c.cpu = CPU_OP;
	helper_do(&x->owner, &c);
	if (!wrong && state != DS_ARMED &&
	    (ds_thp_stat("nr_anon_partially_mapped") != x->partially_mapped ||
	     ds_count(&s->memcg)))
		wrong = "LEAK";
	x->partially_mapped = ds_thp_stat("nr_anon_partially_mapped");
	if (state == DS_ARMED)
		return true;
report:
	if (wrong)
		x->red++;
	else if (!completed)
		x->blocked++;
	else
		x->ok++;
	printf("point %s+0x%x %s victim=%d op=%d%s\n", x->symbol, offset,
	       wrong ?: completed ? "ok" : "blocked", va.result, oa.result,
	       wrong && !completed ? " (the operation was blocked)" : "");
	fflush(stdout);
	return !wrong || (strcmp(wrong, "CORRUPT") && strcmp(wrong, "AUDIT"));
}

static void sum_up(struct explorer *x)
{
	printf("window %s/%s entered=%d ok=%d blocked=%d red=%d missed=%d\n", x->symbol,
	       x->op->name, x->points, x->ok, x->blocked, x->red, x->missed);
	fflush(stdout);
}

static unsigned long symbol_size(const char *name)
{
	unsigned long addr, start = 0, size = -1UL;
	char line[512], found[256], type;
	FILE *f = fopen("/proc/kallsyms", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx %c %255s", &addr, &type, found) == 3 &&
		    !strcmp(found, name))
			start = addr;
	if (!f || !start)
		return 0;
	rewind(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx", &addr) == 1 && addr > start && addr - start < size)
			size = addr - start;
	fclose(f);
	return size < 0x8000 ? size : 0;
}

static void print_usage(void)
{
	size_t i;

	printf("arguments: VICTIM SYMBOL OP STATE [FIRST [LAST]]\n"
	       "STATE: queued underused partial\nVICTIM, OP:");
	for (i = 0; i < ARRAY_SIZE(actions); i++)
		printf(" %s", actions[i].name);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct explorer x = { 0 };
	unsigned long offset, last;
	const char *why;

	if (argc > 1 && !strcmp(argv[1], "-h")) {
		print_usage();
		return 0;
	}
	if (argc < 5) {
		print_usage();
		return 2;
	}
	x.victim = find_action(argv[1]);
	x.op = find_action(argv[3]);
	x.symbol = argv[2];
	x.underused = !strcmp(argv[4], "underused");
	x.partial = !strcmp(argv[4], "partial");
	if (!x.victim || !x.op || (!x.underused && !x.partial && strcmp(argv[4], "queued"))) {
		print_usage();
		return 2;
	}
	if (x.victim->by_owner && x.op->by_owner) {
		printf("victim and operation are both the owner's: one process cannot do both\n");
		return 2;
	}
	why = ds_unusable();
	if (!why && !ds_have_module())
		why = "needs the splitq module";
	if (!why && !symbol_size(x.symbol))
		why = "the symbol is not in this kernel";
	if (!why)
		why = ds_knobs_set();
	if (!why)
		why = ds_set_underused(x.underused);
	if (why) {
		printf("cannot run: %s\n", why);
		return 4;
	}
	offset = argc > 5 ? strtoul(argv[5], NULL, 0) : 0;
	last = argc > 6 ? strtoul(argv[6], NULL, 0) : symbol_size(x.symbol) - 1;

	ds_pin_to_cpu(CPU_OP);
	ds_memcg_create(&x.subject.memcg);
	x.subject.size = ds_thp_size();
	helper_start(&x.owner, &x.subject.memcg, true);
	helper_start(&x.foreign[0], &x.subject.memcg, false);
	helper_start(&x.foreign[1], &x.subject.memcg, false);
	x.subject.owner = x.owner.pid;
	x.partially_mapped = ds_thp_stat("nr_anon_partially_mapped");

	for (; offset <= last; offset++)
		if (!explore_point(&x, offset)) {
			sum_up(&x);
			_exit(3);
		}
	ds_pause_off();
	sum_up(&x);
	/* Not by closing their pipes: a later helper has those of the ones before it. */
	kill(x.owner.pid, SIGKILL);
	waitpid(x.owner.pid, NULL, 0);
	ds_memcg_remove(&x.subject.memcg);
	return x.red ? 1 : 0;
}
