// SPDX-License-Identifier: GPL-2.0
/*
 * The charge of a THP is moved to another memcg (cgroup v1,
 * memory.move_charge_at_immigrate) while the shrinker has the THP in its hands.
 *
 * put_back_where_it_belongs (B50)
 *
 * CPU0 (shrinker)                       CPU1 (charge moving)
 *
 * deferred_split_isolate()
 *                                       list_empty() -> true
 * deferred_split_requeue()
 *   folio_split_queue() -> that of from
 *                                       folio->memcg_data = to
 *   lock(queue of from)
 *   list_add_tail()
 *   unlock(queue of from)
 *     CORRUPT ->  on the queue of from: who takes it off does that with the lock
 *                 of the queue of to
 *
 * Moving charges waits for RCU before it begins, and so for a CPU that is held.
 * So a region of small pages lies below the THP and is moved first: when the
 * first of them has moved, the shrinker is started, and held at one of the
 * instructions that put a folio back until the THP has moved as well. The THP is
 * underused and has a reference in a pipe, so the shrinker tries to split it,
 * cannot, and puts it back.
 *
 * Oracle: the module's audit of the queues, and the THP is still on one.
 *
 * The memory controller goes to a v1 hierarchy for that, if no cgroup uses it. It
 * goes back only when no page is charged to the cgroups of the test any more, and
 * may stay. Best done on a machine that has just been started: kernel objects that
 * were charged to cgroups under v2, and are freed under v1, make 6.12 warn of a
 * "page_counter underflow", with or without the series.
 *
 * queued_thps_stay_whole: a task that moves takes its queued THPs along.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define V2		"/sys/fs/cgroup/"
#define LOW_ADDR	0x10000000UL	/* walked before what mmap() chooses */
#define LOW_SIZE	(3UL << 20)
#define NR_THPS		4
#define HOLD_MS		25
#define CPU_MOVE	0
#define CPU_SCAN	1
#define MAX_SYMBOLS	8

static bool write_text(const char *path, const char *text)
{
	return !ds_write_file(path, text);
}

static unsigned long inode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : st.st_ino;
}

/* The number of the page that a process has at an address, 0 if it has none. */
static unsigned long pfn_of(pid_t pid, const char *addr)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)addr / sysconf(_SC_PAGESIZE) * 8) != 8)
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

/* A word of /proc/kpageflags or /proc/kpagecgroup. */
static uint64_t page_word(const char *path, unsigned long pfn)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	if (fd < 0 || pread(fd, &word, 8, pfn * 8) != 8)
		word = 0;
	close(fd);
	return word;
}

static uint64_t memcg_of(unsigned long pfn)
{
	return page_word("/proc/kpagecgroup", pfn);
}

static bool is_thp(unsigned long pfn)
{
	return page_word("/proc/kpageflags", pfn) >> 22 & 1;
}

/* NULL if the audit finds all queues in order, else the first thing it found. */
static const char *audit_complaint(void)
{
	static char line[256], first[256];
	FILE *f = fopen(DS_SPLITQ "audit", "re");

	first[0] = '\0';
	line[0] = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (!first[0] && !strncmp(line, "wrong", 5))
			snprintf(first, sizeof(first), "%s", line);
	if (f)
		fclose(f);
	if (first[0])
		return first;
	return strncmp(line, "audit ok", 8) ? line : NULL;
}

struct helper {
	pid_t pid;
	int to, from;
};

/* What the owner tells: the first small page, and its THPs. */
struct owned {
	char *low, *thps[NR_THPS];
};

static void owner_loop(int in, int out)
{
	struct owned owned = { 0 };
	struct iovec iov = { .iov_len = 1 };
	size_t page = sysconf(_SC_PAGESIZE), i;
	int pipefd[2];
	char command;

	owned.low = mmap((void *)LOW_ADDR, LOW_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (owned.low == MAP_FAILED || pipe(pipefd))
		_exit(1);
	madvise(owned.low, LOW_SIZE, MADV_NOHUGEPAGE);
	while (read(in, &command, 1) == 1) {
		switch (command) {
		case 'l':
			for (i = 0; i < LOW_SIZE; i += page)
				owned.low[i] = 1;
			break;
		case 't':
			for (i = 0; i < NR_THPS; i++)
				owned.thps[i] = ds_map_thp();
			break;
		case 'z':	/* one THP, all of it zero but a byte, that cannot be split */
			owned.thps[0] = ds_map_thp();
			iov.iov_base = owned.thps[0];
			if (vmsplice(pipefd[1], &iov, 1, 0) != 1)
				_exit(1);
			break;
		}
		if (write(out, &owned, sizeof(owned)) != sizeof(owned))
			break;
	}
	_exit(0);
}

/* Shrinks all slabs: what a v1 memcg is asked for, the debugfs file cannot name. */
static void scanner_loop(int in, int out)
{
	char command;

	if (!ds_pin_to_cpu(CPU_SCAN))
		_exit(1);
	while (read(in, &command, 1) == 1) {
		write_text("/proc/sys/vm/drop_caches", "2");
		if (write(out, &command, 1) != 1)
			break;
	}
	_exit(0);
}

/* Writes the owner into a memcg: one byte says which. */
static char procs[2][320];
static pid_t owner_pid;

static void mover_loop(int in, int out)
{
	char command, pid[16];

	snprintf(pid, sizeof(pid), "%d", owner_pid);
	if (!ds_pin_to_cpu(CPU_MOVE))
		_exit(1);
	while (read(in, &command, 1) == 1) {
		if (!write_text(procs[(int)command], pid))
			command = -1;
		if (write(out, &command, 1) != 1)
			break;
	}
	_exit(0);
}

static bool helper_start(struct helper *h, void (*loop)(int, int))
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return false;
	fflush(stdout);
	h->pid = fork();
	if (h->pid < 0)
		return false;
	if (!h->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		loop(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	h->to = to[1];
	h->from = from[0];
	return true;
}

static void helper_stop(struct helper *h)
{
	if (h->pid <= 0)
		return;
	close(h->to);
	close(h->from);
	waitpid(h->pid, NULL, 0);
	h->pid = 0;
}

static bool helper_answered(struct helper *h, int ms)
{
	struct pollfd pfd = { .fd = h->from, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

static bool helper_send(struct helper *h, char command)
{
	return write(h->to, &command, 1) == 1;
}

/* The byte that it answers, waiting for it at most ten seconds; -1: none. */
static int helper_answer(struct helper *h)
{
	char answer;

	return helper_answered(h, 10000) && read(h->from, &answer, 1) == 1 ? answer : -1;
}

static bool owner_do(struct helper *h, char command, struct owned *owned)
{
	return helper_send(h, command) && helper_answered(h, 10000) &&
	       read(h->from, owned, sizeof(*owned)) == sizeof(*owned);
}

FIXTURE(charge) {
	char root[64], dir[2][128];
	unsigned long ino[2];
	bool mounted;
	struct helper owner, scanner, mover;
	struct owned owned;
};

/*
 * The memory controller goes to a v1 hierarchy, if no cgroup uses it: one that
 * was removed does so until its last page is freed.
 */
static bool mount_v1(const char *where)
{
	int tries;

	write_text(V2 "cgroup.subtree_control", "-memory");
	for (tries = 0; tries < 50; tries++) {
		if (!mount("cgroup", where, "cgroup", 0, "memory"))
			return true;
		if (errno != EBUSY)
			return false;
		write_text("/proc/sys/vm/drop_caches", "3");
		usleep(100000);
	}
	return false;
}

/* Only without cgroups, removed ones too, does it go away with its mount. */
static bool unmount_v1(const char *where)
{
	int tries, waits;

	for (tries = 0; tries < 2; tries++) {
		write_text("/proc/sys/vm/drop_caches", "3");
		umount(where);
		for (waits = 0; waits < 10; waits++) {
			if (write_text(V2 "cgroup.subtree_control", "+memory"))
				return true;
			usleep(25000);
		}
		if (mount("cgroup", where, "cgroup", 0, "memory"))
			return false;
	}
	return false;
}

FIXTURE_SETUP(charge)
{
	const char *why = ds_unusable();
	char path[300];
	int i;

	if (why)
		SKIP(return, "%s", why);
	if (!ds_have_module() || access(DS_SPLITQ "audit", R_OK))
		SKIP(return, "needs the splitq module");
	if (access("/proc/kpagecgroup", R_OK))
		SKIP(return, "no /proc/kpagecgroup: CONFIG_PROC_PAGE_MONITOR?");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	why = ds_knobs_set();
	if (!why)
		why = ds_set_underused(true);
	if (why)
		SKIP(return, "cannot set %s", why);

	snprintf(self->root, sizeof(self->root), "%s/deferred_split.XXXXXX",
		 getenv("TMPDIR") ?: P_tmpdir);
	ASSERT_NE(NULL, mkdtemp(self->root));
	self->mounted = mount_v1(self->root);
	if (!self->mounted)
		SKIP(return, "cannot mount the v1 memory hierarchy: %s", strerror(errno));
	for (i = 0; i < 2; i++) {
		snprintf(self->dir[i], sizeof(self->dir[i]), "%s/%d", self->root, i);
		ASSERT_EQ(0, mkdir(self->dir[i], 0755));
		self->ino[i] = inode_of(self->dir[i]);
		snprintf(path, sizeof(path), "%s/memory.move_charge_at_immigrate", self->dir[i]);
		if (!write_text(path, "3"))
			SKIP(return, "this kernel does not move charges");
		snprintf(procs[i], sizeof(procs[i]), "%s/cgroup.procs", self->dir[i]);
	}

	ASSERT_TRUE(ds_pin_to_cpu(CPU_MOVE));
	ASSERT_TRUE(helper_start(&self->owner, owner_loop));
	owner_pid = self->owner.pid;
	ASSERT_TRUE(helper_start(&self->scanner, scanner_loop));
	ASSERT_TRUE(helper_start(&self->mover, mover_loop));
	ASSERT_TRUE(helper_send(&self->mover, 0));
	ASSERT_EQ(0, helper_answer(&self->mover)) TH_LOG("cannot move the owner");
}

FIXTURE_TEARDOWN(charge)
{
	int i, tries;

	if (!self->root[0])
		return;
	if (ds_have_module())
		ds_pause_off();
	helper_stop(&self->mover);
	helper_stop(&self->scanner);
	helper_stop(&self->owner);
	for (i = 0; i < 2; i++)
		for (tries = 0; self->ino[i] && tries < 100 && rmdir(self->dir[i]); tries++)
			usleep(10000);
	if (self->mounted && !unmount_v1(self->root))
		TH_LOG("the memory controller could not be given back to cgroup v2");
	rmdir(self->root);
	ds_knobs_restore();
}

TEST_F(charge, queued_thps_stay_whole)
{
	unsigned long pfn[NR_THPS];
	struct ds_folio folio;
	int i;

	ASSERT_TRUE(owner_do(&self->owner, 't', &self->owned));
	for (i = 0; i < NR_THPS; i++) {
		ASSERT_NE(NULL, self->owned.thps[i]) TH_LOG("no THP to be had");
		pfn[i] = pfn_of(self->owner.pid, self->owned.thps[i]);
		ASSERT_EQ(self->ino[0], memcg_of(pfn[i]));
		ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[i], &folio));
		ASSERT_STREQ("linked", folio.list) TH_LOG("THPs are not queued at fault here");
	}
	ASSERT_TRUE(helper_send(&self->mover, 1));
	ASSERT_EQ(1, helper_answer(&self->mover));
	for (i = 0; i < NR_THPS; i++) {
		EXPECT_TRUE(is_thp(pfn[i])) TH_LOG("SPLIT: the move has split a THP");
		EXPECT_EQ(self->ino[1], memcg_of(pfn[i]));
		ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[i], &folio));
		EXPECT_STREQ("linked", folio.list);
	}
	EXPECT_EQ(NULL, audit_complaint()) TH_LOG("%s", audit_complaint());
}

/* Functions in which the shrinker puts a folio back. */
static int find_symbols(char symbols[][128], unsigned long *sizes)
{
	static const char * const names[] = {
		"deferred_split_requeue", "folio_split_queue_lock_irqsave", "split_queue_add",
	};
	unsigned long addr, starts[MAX_SYMBOLS];
	char line[512], name[256], type;
	FILE *f = fopen("/proc/kallsyms", "re");
	int n = 0, i;
	size_t k;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx %c %255s", &addr, &type, name) != 3 || !addr)
			continue;
		for (k = 0; k < ARRAY_SIZE(names) && n < MAX_SYMBOLS; k++) {
			size_t len = strlen(names[k]);

			if (strncmp(name, names[k], len) || (name[len] && name[len] != '.') ||
			    strstr(name, ".cold"))
				continue;
			snprintf(symbols[n], 128, "%.127s", name);
			sizes[n] = -1UL;
			starts[n++] = addr;
		}
	}
	if (!f)
		return 0;
	rewind(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx", &addr) != 1)
			continue;
		for (i = 0; i < n; i++)
			if (addr > starts[i] && addr - starts[i] < sizes[i])
				sizes[i] = addr - starts[i];
	}
	fclose(f);
	return n;
}

struct tally {
	int points, entered, blocked, late, left;
};

/* Move the owner to memcg @to, with the scanner held at one instruction meanwhile. */
static bool try_point(struct __test_metadata *_metadata, FIXTURE_DATA(charge) *self, int to,
		      unsigned long low, unsigned long thp, struct tally *tally)
{
	enum ds_pause state = DS_ARMED;
	bool moved = false;

	ASSERT_TRUE(helper_send(&self->mover, to));
	while (memcg_of(low) != self->ino[to] && !helper_answered(&self->mover, 0))
		usleep(200);
	ASSERT_TRUE(helper_send(&self->scanner, 's'));
	while (state == DS_ARMED && !helper_answered(&self->scanner, 0))
		state = ds_pause_state(0);
	if (state == DS_HELD) {
		bool early = memcg_of(thp) != self->ino[to];

		tally->points++;
		/* Until the THP has moved, or the mover waits for a lock of the scanner. */
		while (!moved && ds_pause_state(0) == DS_HELD) {
			moved = memcg_of(thp) == self->ino[to];
			usleep(500);
		}
		if (!early)
			tally->late++;
		else if (moved)
			tally->entered++;
		else
			tally->blocked++;
	}
	ds_pause_release(0);
	ASSERT_EQ('s', helper_answer(&self->scanner)) TH_LOG("the scan does not end");
	ASSERT_EQ(to, helper_answer(&self->mover)) TH_LOG("the move does not end");
	return state == DS_HELD;
}

TEST_F_TIMEOUT(charge, put_back_where_it_belongs, 120)
{
	unsigned long sizes[MAX_SYMBOLS], low, thp;
	char symbols[MAX_SYMBOLS][128];
	struct tally tally = { 0 };
	struct ds_folio folio;
	const char *complaint;
	unsigned int offset;
	int n, i, at = 0;

	n = find_symbols(symbols, sizes);
	if (!n)
		SKIP(return, "this kernel's scanner does not put folios back one by one");
	ASSERT_TRUE(owner_do(&self->owner, 'l', &self->owned));
	ASSERT_TRUE(owner_do(&self->owner, 'z', &self->owned));
	ASSERT_NE(NULL, self->owned.thps[0]) TH_LOG("no THP to be had");
	low = pfn_of(self->owner.pid, self->owned.low);
	thp = pfn_of(self->owner.pid, self->owned.thps[0]);
	ASSERT_NE(0, low);

	for (i = 0; i < n; i++)
		for (offset = 0; offset < sizes[i] && offset < 0x4000; offset++) {
			if (ds_pause_arm(0, symbols[i], offset, self->scanner.pid, HOLD_MS))
				continue;	/* in the middle of an instruction */
			try_point(_metadata, self, !at, low, thp, &tally);
			at = !at;
			complaint = audit_complaint();
			ASSERT_EQ(NULL, complaint)
				TH_LOG("CORRUPT: %s+0x%x: %s", symbols[i], offset, complaint);
			ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[0], &folio));
			ASSERT_STREQ("linked", folio.list)
				TH_LOG("LOST: %s+0x%x: not queued any more", symbols[i], offset);
			ASSERT_TRUE(is_thp(thp));
			/* The mover leaves a folio behind that is locked when it comes. */
			if (memcg_of(thp) != self->ino[at])
				tally.left++;
		}
	TH_LOG("window %s points=%d entered=%d completed=%d blocked=%d late=%d left=%d red=0",
	       "put_back_where_it_belongs", tally.points, tally.entered, tally.entered,
	       tally.blocked, tally.late, tally.left);
	if (!tally.entered)
		SKIP(return, "VACUOUS: no charge was moved while the scanner was held");
}

TEST_HARNESS_MAIN
