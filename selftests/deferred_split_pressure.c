// SPDX-License-Identifier: GPL-2.0
/*
 * Memory pressure: what the queue is there for. Nothing is scanned through debugfs.
 *
 * CPU0 (a task at its memcg's limit)    CPU1 (another task of that memcg)
 *
 * page fault: charge
 *   reclaim, shrink_slab()
 *     deferred_split_scan()
 *       takes folios off the queue
 *                                       unmaps halves of THPs, frees, faults:
 *                                         is itself at the limit
 *       splits, puts back
 *   OOM ->  if halves that are unmapped are not given back: the memcg has
 *           enough memory for all that is mapped, and not for what is not
 *
 * Several tasks keep THPs of which a half is unmapped, as many as would be too much
 * for the memcg if they were not split, and there is no swap for them. Afterwards a
 * scan must split all that is left (STUCK), no page may have changed (CONTENT), and
 * when all is unmapped nothing may be queued or counted (LEAK).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define NR_TASKS	3
#define NR_THPS		8	/* of each task: half of each is mapped */
/* More than is mapped by a half, less than there would be without any split. */
#define LIMIT_THPS	(NR_TASKS * NR_THPS * 3 / 4 + 2)

static struct shared {
	int stop, quiet, finish;
	long thps, small, wrong;
} *shared;

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define count(p)	__atomic_add_fetch(p, 1, __ATOMIC_RELAXED)

static long event(const struct ds_memcg *memcg, const char *file, const char *name)
{
	size_t len = strlen(name);
	char path[320], line[128];
	long value = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", memcg->dir, file);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && (line[len] == ' ' || !len))
			value = atol(line + len);
	if (f)
		fclose(f);
	return value;
}

static bool set(const struct ds_memcg *memcg, const char *file, size_t value)
{
	char path[320], text[32];

	snprintf(path, sizeof(path), "%s%s", memcg->dir, file);
	snprintf(text, sizeof(text), "%zu", value);
	return !ds_write_file(path, text);
}

static unsigned long content(size_t offset, int number)
{
	return offset + 1 + number;
}

static void verify(char *thp, int number)
{
	size_t page = sysconf(_SC_PAGESIZE), i;

	for (i = 0; thp && i < ds_thp_size() / 2; i += page)
		if (__atomic_load_n((unsigned long *)(thp + i), __ATOMIC_RELAXED) !=
		    content(i, number))
			count(&shared->wrong);
}

/* All of it is touched, small pages if there is no THP, and its second half unmapped. */
static char *make(int number)
{
	size_t page = sysconf(_SC_PAGESIZE), size = ds_thp_size(), i;
	char *thp = ds_map_thp();

	if (thp) {
		count(&shared->thps);
	} else {
		thp = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (thp == MAP_FAILED)
			return NULL;
		count(&shared->small);
	}
	for (i = 0; i < size / 2; i += page)
		*(unsigned long *)(thp + i) = content(i, number);
	madvise(thp + size / 2, size / 2, MADV_DONTNEED);
	return thp;
}

static void task(const struct ds_memcg *memcg, int number, int cpu)
{
	char *thps[NR_THPS] = { NULL };
	unsigned int seed = number, i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ds_pin_to_cpu(cpu);
	if (!ds_memcg_enter(memcg))
		_exit(1);
	for (i = 0; !load(&shared->stop); i++) {
		char **thp = &thps[i < NR_THPS ? i : rand_r(&seed) % NR_THPS];

		verify(*thp, number);
		if (*thp)
			munmap(*thp, ds_thp_size());
		*thp = make(number);
	}
	count(&shared->quiet);
	while (!load(&shared->finish))
		usleep(1000);
	for (i = 0; i < NR_THPS; i++)
		verify(thps[i], number);
	_exit(0);
}

FIXTURE(pressure) {
	struct ds_memcg memcg;
	pid_t pids[NR_TASKS];
	long marked;
};

FIXTURE_SETUP(pressure)
{
	const char *why;
	int i;

	ds_need_thps(NR_TASKS * NR_THPS);
	why = ds_setup(2);
	if (why)
		SKIP(return, "%s", why);
	shared = ds_shared(sizeof(*shared));
	ASSERT_NE(NULL, shared);
	ASSERT_TRUE(ds_log_start());
	ds_memcg_create(&self->memcg);
	if (!self->memcg.dir[0])
		SKIP(return, "needs cgroup v2 with the memory controller");
	ASSERT_TRUE(set(&self->memcg, "memory.max", LIMIT_THPS * ds_thp_size()));
	/* Not there without swap. */
	set(&self->memcg, "memory.swap.max", 0);
	self->marked = ds_thp_stat("nr_anon_partially_mapped");
	for (i = 0; i < NR_TASKS; i++) {
		self->pids[i] = fork();
		ASSERT_GE(self->pids[i], 0);
		if (!self->pids[i])
			task(&self->memcg, i, i % 2);
	}
}

FIXTURE_TEARDOWN(pressure)
{
	int i;

	for (i = 0; i < NR_TASKS; i++)
		if (self->pids[i] > 0) {
			kill(self->pids[i], SIGKILL);
			waitpid(self->pids[i], NULL, 0);
		}
	ds_memcg_remove(&self->memcg);
	ds_knobs_restore();
}

TEST_F_TIMEOUT(pressure, what_is_unmapped_is_given_back, 120)
{
	const char *s = getenv("SECONDS"), *said;
	double seconds = s && atof(s) > 0 ? atof(s) : 3, end;
	long splits = ds_thp_stat("split"), deferred = ds_thp_stat("split_deferred"), oom, limit;

	for (end = ds_now() + seconds; ds_now() < end;)
		usleep(10000);
	store(&shared->stop, 1);
	for (end = ds_now() + 20; load(&shared->quiet) < NR_TASKS && ds_now() < end;)
		usleep(10000);
	oom = event(&self->memcg, "memory.events", "oom_kill");
	limit = event(&self->memcg, "memory.events", "max");
	splits = ds_thp_stat("split") - splits;
	deferred = ds_thp_stat("split_deferred") - deferred;
	TH_LOG("window pressure entered=%ld deferred=%ld limit=%ld oom_kill=%ld thps=%ld small=%ld",
	       splits, deferred, limit, oom, shared->thps, shared->small);
	ASSERT_EQ(0, oom) TH_LOG("OOM: what is unmapped was not given back");
	ASSERT_EQ(NR_TASKS, load(&shared->quiet)) TH_LOG("STALL: a task makes no progress");

	EXPECT_EQ(self->marked, ds_settle(&self->memcg, self->marked))
		TH_LOG("STUCK: partially mapped THPs are left that no scan splits");
	store(&shared->finish, 1);
	EXPECT_TRUE(ds_wait_all(self->pids, NR_TASKS));
	EXPECT_EQ(0, shared->wrong) TH_LOG("CONTENT: %ld pages have changed", shared->wrong);
	EXPECT_EQ(self->marked, ds_settle(&self->memcg, self->marked))
		TH_LOG("LEAK: nr_anon_partially_mapped is not back");
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all is unmapped, and some are queued");
	if (ds_have_module() && ds_have_audit())
		EXPECT_EQ(NULL, ds_audit_complaint()) TH_LOG("AUDIT: %s", ds_audit_complaint());
	said = ds_log_complaint();
	EXPECT_EQ(NULL, said) TH_LOG("SPLAT: %s", said);
	if (!limit || !splits || !deferred)
		SKIP(return, "VACUOUS: one of the counters above is 0");
}

TEST_HARNESS_MAIN
