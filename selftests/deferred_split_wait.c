// SPDX-License-Identifier: GPL-2.0
/*
 * Faults that meet the migration entries of a THP that is being split: they sleep
 * until the split is through, also on a tail page, and the split makes progress.
 *
 * CPU0 (fault, or get_user_pages())     CPU1 (split)
 *
 *                                       folio_lock()
 *                                       unmap_folio(): migration entries
 * finds a migration entry
 * migration_entry_wait()
 *   sleeps until the folio is unlocked
 *   SPIN ->  or does not, faults again
 *            at once, and so on; without
 *            preemption CPU1's work, if it
 *            is to be done on CPU0, is
 *            never done
 *                                       remap_page(), folio_unlock()
 *
 * The bug was that of ffc90cbb2970 ("mm, thp: use head page in
 * __migration_entry_wait()"): who waited on a tail page did not sleep.
 *
 * One waiter at a time, on a CPU of its own, reads the first page, reads a tail page,
 * writes to a tail page, or reads one through process_vm_readv(), and again. What
 * takes long is looked at: has it slept (a voluntary context switch), and how much of
 * that time did it use the CPU? Some more processes map the folio and sleep, so that
 * the split takes longer; with the splitq module it is held when all entries are in
 * place. Then all of them on one CPU, together with the split: it must come to an end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define NR_SLEEPERS	6
#define NR_CROWD	3
#define HOLD_MS		20
#define LONG_SECONDS	0.001	/* without waiting nothing should take so long */
#define PACE_US		50	/* between writes: each page is written once */
#define SPLIT_SECONDS	5	/* that a split may take at most */
#define MAX_LONG	1024
#define SPIN_SHARE	0.6	/* of the time on a CPU: more is no sleep */
#define CPU_WAIT	0
#define CPU_SPLIT	1

enum kind { READ_HEAD, READ_TAIL, WRITE_TAIL, READ_REMOTE, NR_KINDS };

static const char * const kind_names[] = {
	"read_head", "read_tail", "write_tail", "process_vm_readv",
};

/* What a waiter says of itself. */
static struct shared {
	int ready, go, stop;
	long touches, waits, awake, wrong;
	struct {
		double wall, cpu;
	} took[MAX_LONG];	/* each touch that took long */
	long nr_long;
	double longest;
} *shared;

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)

static double cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static long slept(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

static int owner_mem;

static unsigned long content(size_t offset)
{
	return offset + 1;
}

/*
 * The @nr-th time. Returns whether the page held what it must. Who has written to a
 * page has a copy of its own afterwards: so another page is written each time.
 */
static bool touch(enum kind kind, pid_t owner, char *thp, size_t nr)
{
	size_t page = sysconf(_SC_PAGESIZE), tails = ds_thp_size() / page - 1;
	size_t offset = kind == READ_HEAD ? 0 : kind == WRITE_TAIL ?
			(nr % tails + 1) * page : ds_thp_size() / 2 + page;
	unsigned long *word = (unsigned long *)(thp + offset), found = 0;
	struct iovec local = { &found, sizeof(found) }, remote = { word, sizeof(found) };

	switch (kind) {
	case WRITE_TAIL:
		__atomic_store_n(word, content(offset), __ATOMIC_RELAXED);
		return true;
	case READ_REMOTE:
		/* Without CONFIG_CROSS_MEMORY_ATTACH: that uses get_user_pages(), too. */
		if (process_vm_readv(owner, &local, 1, &remote, 1, 0) < 0 &&
		    pread(owner_mem, &found, sizeof(found), (uintptr_t)word) < 0)
			return false;
		return found == content(offset);
	default:
		return __atomic_load_n(word, __ATOMIC_RELAXED) == content(offset);
	}
}

static void waiter(enum kind kind, pid_t owner, char *thp, int cpu)
{
	char path[64];
	size_t nr;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ds_pin_to_cpu(cpu);
	snprintf(path, sizeof(path), "/proc/%d/mem", owner);
	owner_mem = open(path, O_RDONLY | O_CLOEXEC);
	/* Its own page tables first. */
	touch(kind == WRITE_TAIL ? WRITE_TAIL : READ_HEAD, owner, thp, -2);
	__atomic_add_fetch(&shared->ready, 1, __ATOMIC_RELEASE);
	while (!load(&shared->go))
		sched_yield();
	for (nr = 0; !load(&shared->stop); nr++) {
		long switches = slept();
		double cpu_before = cpu_time(), wall_before = ds_now(), wall;
		bool right = touch(kind, owner, thp, nr);

		wall = ds_now() - wall_before;
		if (!right)
			__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&shared->touches, 1, __ATOMIC_RELAXED);
		if (wall < LONG_SECONDS) {
			if (kind == WRITE_TAIL)
				usleep(PACE_US);
			continue;
		}
		if (slept() != switches)
			__atomic_add_fetch(&shared->waits, 1, __ATOMIC_RELAXED);
		else
			__atomic_add_fetch(&shared->awake, 1, __ATOMIC_RELAXED);
		/* Right with one waiter at a time. */
		if (shared->nr_long < MAX_LONG) {
			shared->took[shared->nr_long].wall = wall;
			shared->took[shared->nr_long++].cpu = cpu_time() - cpu_before;
		}
		if (wall > shared->longest)
			shared->longest = wall;
	}
	_exit(0);
}

static void sleeper(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

FIXTURE(wait) {
	pid_t pids[NR_SLEEPERS + NR_CROWD];
	int nr;
	char *thp;
	const char *hold_at;
	long splits, failed;
	double longest_split;
};

static bool arm(const char *symbol)
{
	char line[128];

	snprintf(line, sizeof(line), "id=0 %s pid=%d hold_ms=%d", symbol, getpid(), HOLD_MS);
	return !ds_pause_line(line);
}

FIXTURE_SETUP(wait)
{
	/* The last thing that unmap_folio() does; or when it is frozen: a tail is one still. */
	static const char * const places[] = { "try_to_unmap_flush", "__split_huge_page" };
	const char *why = ds_setup(2);
	size_t i;

	if (!why && access("/sys/kernel/debug/split_huge_pages", W_OK))
		why = "no /sys/kernel/debug/split_huge_pages: CONFIG_DEBUG_FS?";
	if (why)
		SKIP(return, "%s", why);
	shared = ds_shared(sizeof(*shared));
	ASSERT_NE(NULL, shared);
	ASSERT_TRUE(ds_log_start());
	for (i = 0; ds_have_module() && !self->hold_at && i < ARRAY_SIZE(places); i++)
		if (arm(places[i]))
			self->hold_at = places[i];
	if (self->hold_at)
		ds_pause_off();
}

static void end_all(FIXTURE_DATA(wait) *self)
{
	while (self->nr) {
		pid_t pid = self->pids[--self->nr];

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

FIXTURE_TEARDOWN(wait)
{
	end_all(self);
	if (self->hold_at)
		ds_pause_off();
	ds_knobs_restore();
}

/* Only one that is there: whoever is in the list is killed, and -1 is everybody. */
static bool add_process(FIXTURE_DATA(wait) *self, pid_t pid)
{
	if (pid > 0)
		self->pids[self->nr++] = pid;
	return pid > 0;
}

/* A THP that all of them map; each of the sleepers makes the split take longer. */
static bool give_thp(FIXTURE_DATA(wait) *self)
{
	size_t page = sysconf(_SC_PAGESIZE), i;

	self->thp = ds_map_thp();
	if (!self->thp)
		return false;
	for (i = 0; i < ds_thp_size(); i += page)
		*(unsigned long *)(self->thp + i) = content(i);
	for (i = 0; i < NR_SLEEPERS; i++) {
		pid_t pid = fork();

		if (!pid)
			sleeper();
		if (!add_process(self, pid))
			return false;
	}
	shared->ready = 0;
	shared->go = 0;
	shared->stop = 0;
	return true;
}

static bool start_waiter(FIXTURE_DATA(wait) *self, enum kind kind, int cpu)
{
	pid_t owner = getpid(), pid = fork();

	if (!pid)
		waiter(kind, owner, self->thp, cpu);
	return add_process(self, pid);
}

static void split(FIXTURE_DATA(wait) *self)
{
	double start = ds_now(), seconds;
	char line[96];

	snprintf(line, sizeof(line), "%d,0x%lx,0x%lx,0", getpid(), (unsigned long)self->thp,
		 (unsigned long)self->thp + ds_thp_size());
	ds_write_file("/sys/kernel/debug/split_huge_pages", line);
	seconds = ds_now() - start;
	if (seconds > self->longest_split)
		self->longest_split = seconds;
	if (ds_is_thp(self->thp))
		self->failed++;
	else
		self->splits++;
}

/* Until all waiters have ended by themselves. */
static bool all_ended(FIXTURE_DATA(wait) *self, int nr_waiters)
{
	double end = ds_now() + SPLIT_SECONDS;

	store(&shared->stop, 1);
	while (nr_waiters) {
		pid_t last = self->pids[self->nr - 1];

		if (ds_now() > end)
			return false;
		if (waitpid(last, NULL, WNOHANG) == last) {
			self->nr--;
			nr_waiters--;
			continue;
		}
		usleep(500);
	}
	end_all(self);
	munmap(self->thp, ds_thp_size());
	return true;
}

static void wait_ready(int nr)
{
	while (load(&shared->ready) < nr)
		usleep(500);
	store(&shared->go, 1);
	usleep(1000);
}

static double seconds_each(void)
{
	const char *s = getenv("SECONDS");

	return s && atof(s) > 0 ? atof(s) : 1.5;
}

static double share(long n)
{
	return shared->took[n].cpu / shared->took[n].wall;
}

/*
 * For half of the time that was spent waiting the CPU was used less than that. Not the
 * mean: on a busy host a virtual CPU may run for long and get nowhere.
 */
static double middle_share(void)
{
	double all = 0, more = 0, middle = 0;
	long i, k;

	for (i = 0; i < shared->nr_long; i++)
		all += shared->took[i].wall;
	for (i = 0; i < shared->nr_long; i++) {
		for (k = 0, more = 0; k < shared->nr_long; k++)
			more += share(k) >= share(i) ? shared->took[k].wall : 0;
		if (more >= all / 2 && share(i) > middle)
			middle = share(i);
	}
	return middle;
}

static void expect_well(struct __test_metadata *_metadata, FIXTURE_DATA(wait) *self)
{
	const char *said = ds_log_complaint();

	EXPECT_EQ(NULL, said) TH_LOG("SPLAT: %s", said);
	EXPECT_EQ(0, shared->wrong) TH_LOG("CONTENT: a page did not hold what was written to it");
	EXPECT_LT(self->longest_split, SPLIT_SECONDS) TH_LOG("STALL: a split makes no progress");
}

static void race(struct __test_metadata *_metadata, FIXTURE_DATA(wait) *self, enum kind kind)
{
	double end = ds_now() + seconds_each();
	int rounds;

	memset(shared, 0, sizeof(*shared));
	ASSERT_TRUE(ds_pin_to_cpu(CPU_SPLIT));
	for (rounds = 0; ds_now() < end || rounds < 4; rounds++) {
		ASSERT_TRUE(give_thp(self)) TH_LOG("no THP, or no process, to be had");
		ASSERT_TRUE(start_waiter(self, kind, CPU_WAIT)) TH_LOG("no process to be had");
		wait_ready(1);
		if (self->hold_at)
			arm(self->hold_at);
		split(self);
		ASSERT_TRUE(all_ended(self, 1)) TH_LOG("STALL: a waiter does not come back");
	}
	TH_LOG("window %s entered=%ld awake=%ld touches=%ld splits=%ld failed=%ld "
	       "cpu_percent=%.0f longest_us=%.0f longest_split_us=%.0f",
	       kind_names[kind], shared->waits + shared->awake, shared->awake, shared->touches,
	       self->splits, self->failed, middle_share() * 100, shared->longest * 1e6,
	       self->longest_split * 1e6);
	expect_well(_metadata, self);
	if (!self->splits)
		SKIP(return, "VACUOUS: nothing was split");
	EXPECT_LT(middle_share(), SPIN_SHARE)
		TH_LOG("SPIN: who waits uses the CPU for %.0f %% of its time, %ld sleeps",
		       middle_share() * 100, shared->waits);
	if (!shared->nr_long)
		SKIP(return, "VACUOUS: nobody met a migration entry");
}

TEST_F_TIMEOUT(wait, read_of_the_head_sleeps, 60)
{
	race(_metadata, self, READ_HEAD);
}

TEST_F_TIMEOUT(wait, read_of_a_tail_sleeps, 60)
{
	race(_metadata, self, READ_TAIL);
}

TEST_F_TIMEOUT(wait, write_to_a_tail_sleeps, 60)
{
	race(_metadata, self, WRITE_TAIL);
}

TEST_F_TIMEOUT(wait, gup_of_a_tail_sleeps, 60)
{
	race(_metadata, self, READ_REMOTE);
}

/* Who waits must not keep the split from the only CPU that it may use. */
TEST_F_TIMEOUT(wait, a_crowd_lets_the_split_through, 120)
{
	double end = ds_now() + seconds_each();
	int rounds, i;

	memset(shared, 0, sizeof(*shared));
	ASSERT_TRUE(ds_pin_to_cpu(CPU_WAIT));
	for (rounds = 0; ds_now() < end || rounds < 4; rounds++) {
		ASSERT_TRUE(give_thp(self)) TH_LOG("no THP, or no process, to be had");
		for (i = 0; i < NR_CROWD; i++)
			ASSERT_TRUE(start_waiter(self, (rounds + i) % NR_KINDS, CPU_WAIT))
				TH_LOG("no process to be had");
		wait_ready(NR_CROWD);
		split(self);
		ASSERT_TRUE(all_ended(self, NR_CROWD))
			TH_LOG("STALL: a waiter does not come back");
	}
	TH_LOG("window crowd entered=%ld touches=%ld splits=%ld failed=%ld longest_split_us=%.0f",
	       shared->waits, shared->touches, self->splits, self->failed,
	       self->longest_split * 1e6);
	expect_well(_metadata, self);
	if (!self->splits)
		SKIP(return, "VACUOUS: nothing was split");
	if (!shared->waits)
		SKIP(return, "VACUOUS: nobody met a migration entry");
}

TEST_HARNESS_MAIN
