// SPDX-License-Identifier: GPL-2.0
/*
 * Partial unmaps, frees, forks and migrations against the scanner: what goes in
 * must come out.
 *
 * Several tasks do random things to their THPs while another one scans their
 * memcg's queue without a pause. No window is forced; what is checked is that
 * nothing is left behind:
 *
 * - when all has become quiet, a scan splits every THP that is partially mapped:
 *   nr_anon_partially_mapped is back at its start while the memory is still
 *   mapped (a folio marked so, but on no queue, would stay);
 * - when all is unmapped, the queue's count is 0 and the counter is still back.
 *
 * Environment: SECONDS (3) to run, SEED (printed) to repeat, as far as several
 * CPUs let anything be repeated.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define NR_WORKERS	3
#define NR_THPS		4

/* What the workers did, so that a quiet run is not taken for a good one. */
struct work {
	int stop, finish, stopped;
	long maps, partial_unmaps, frees, forks, migrations, scans;
};

static int read_int(const int *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void write_int(int *p, int value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static unsigned int seed_now(void)
{
	const char *s = getenv("SEED");

	return s ? strtoul(s, NULL, 0) : (unsigned int)(ds_now() * 1e6) ^ getpid();
}

static void unmap_some(char *thp, size_t size, unsigned int r)
{
	size_t page = sysconf(_SC_PAGESIZE);

	switch (r % 4) {
	case 0:
		munmap(thp + size / 2, size / 2);
		break;
	case 1:
		madvise(thp + size / 2, size / 2, MADV_DONTNEED);
		break;
	case 2:
		madvise(thp + (r / 4 % (size / page - 1) + 1) * page, page, MADV_DONTNEED);
		break;
	case 3:
		munmap(thp + size - page, page);
		break;
	}
}

static void worker(struct work *work, const struct ds_memcg *memcg, unsigned int seed, int cpu)
{
	size_t size = ds_thp_size();
	char *thps[NR_THPS] = { NULL };
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ds_pin_to_cpu(cpu);
	if (!ds_memcg_enter(memcg))
		_exit(1);

	while (!read_int(&work->stop)) {
		unsigned int r = rand_r(&seed);
		char **thp = &thps[r % NR_THPS];

		r /= NR_THPS;
		if (!*thp) {
			*thp = ds_map_thp();
			if (*thp)
				__atomic_add_fetch(&work->maps, 1, __ATOMIC_RELAXED);
			continue;
		}
		switch (r % 8) {
		case 0 ... 3:
			unmap_some(*thp, size, r / 8);
			__atomic_add_fetch(&work->partial_unmaps, 1, __ATOMIC_RELAXED);
			break;
		case 4:
			if (ds_move(*thp, r / 8 % ds_nr_nodes()))
				__atomic_add_fetch(&work->migrations, 1, __ATOMIC_RELAXED);
			break;
		case 5:
			i = fork();
			if (!i) {
				unmap_some(*thp, size, r / 8);
				_exit(0);
			}
			unmap_some(*thp, size, r / 64);
			if (i > 0 && waitpid(i, NULL, 0) == i)
				__atomic_add_fetch(&work->forks, 1, __ATOMIC_RELAXED);
			break;
		default:
			munmap(*thp, size);
			*thp = NULL;
			__atomic_add_fetch(&work->frees, 1, __ATOMIC_RELAXED);
			break;
		}
	}

	/* Leave something that must be split: each THP with its tail cut off. */
	for (i = 0; i < NR_THPS; i++) {
		if (thps[i])
			munmap(thps[i], size);
		thps[i] = ds_map_thp();
		if (thps[i])
			madvise(thps[i] + size / 2, size / 2, MADV_DONTNEED);
	}
	__atomic_add_fetch(&work->stopped, 1, __ATOMIC_RELAXED);
	while (!read_int(&work->finish))
		usleep(1000);
	_exit(0);
}

static void scanner(struct work *work, const struct ds_memcg *memcg, int cpu)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ds_pin_to_cpu(cpu);
	while (!read_int(&work->stop)) {
		int nid;

		for (nid = 0; nid < ds_nr_nodes(); nid++)
			if (!ds_scan(memcg, nid, 64))
				__atomic_add_fetch(&work->scans, 1, __ATOMIC_RELAXED);
	}
	_exit(0);
}

FIXTURE(conserve) {
	struct ds_memcg memcg;
	struct work *work;
	pid_t pids[NR_WORKERS + 1];
	long partially_mapped;
};

FIXTURE_SETUP(conserve)
{
	const char *why;

	ds_need_thps(NR_WORKERS * NR_THPS);
	why = ds_setup(2);
	if (why)
		SKIP(return, "%s", why);
	self->work = ds_shared(sizeof(*self->work));
	ASSERT_NE(NULL, self->work);
	ds_memcg_create(&self->memcg);
	self->partially_mapped = ds_thp_stat("nr_anon_partially_mapped");
}

FIXTURE_TEARDOWN(conserve)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(self->pids); i++)
		if (self->pids[i] > 0) {
			kill(self->pids[i], SIGKILL);
			waitpid(self->pids[i], NULL, 0);
		}
	ds_memcg_remove(&self->memcg);
	ds_knobs_restore();
}

TEST_F_TIMEOUT(conserve, what_is_queued_is_split_or_freed, 120)
{
	const char *s = getenv("SECONDS");
	long split = ds_thp_stat("split"), deferred = ds_thp_stat("split_deferred");
	double seconds = s ? atof(s) : 3, end;
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int seed = seed_now();
	struct work *work = self->work;
	int i, status;

	TH_LOG("SEED=%u SECONDS=%.0f, %d workers", seed, seconds, NR_WORKERS);
	for (i = 0; i <= NR_WORKERS; i++) {
		self->pids[i] = fork();
		ASSERT_GE(self->pids[i], 0);
		if (!self->pids[i] && i < NR_WORKERS)
			worker(work, &self->memcg, seed + i, i % cpus);
		if (!self->pids[i])
			scanner(work, &self->memcg, 1);
	}
	for (end = ds_now() + seconds; ds_now() < end;)
		usleep(10000);
	write_int(&work->stop, 1);
	ASSERT_EQ(self->pids[NR_WORKERS], waitpid(self->pids[NR_WORKERS], &status, 0));
	self->pids[NR_WORKERS] = 0;
	for (i = 0; read_int(&work->stopped) < NR_WORKERS && i < 2000; i++)
		usleep(10000);
	ASSERT_EQ(NR_WORKERS, read_int(&work->stopped)) TH_LOG("the workers do not come to an end");

	/* Everything that is queued can still be split. */
	EXPECT_EQ(self->partially_mapped, ds_settle(&self->memcg, self->partially_mapped))
		TH_LOG("STUCK: partially mapped THPs are left that no scan splits");

	write_int(&work->finish, 1);
	EXPECT_TRUE(ds_wait_all(self->pids, NR_WORKERS));
	EXPECT_EQ(self->partially_mapped, ds_settle(&self->memcg, self->partially_mapped))
		TH_LOG("LEAK: all is unmapped, and THPs are counted as partially mapped");
	EXPECT_EQ(0, ds_count(&self->memcg)) TH_LOG("LEAK: all is unmapped, and some are queued");

	split = ds_thp_stat("split") - split;
	deferred = ds_thp_stat("split_deferred") - deferred;
	TH_LOG("window conserve entered=%ld deferred=%ld scans=%ld maps=%ld frees=%ld forks=%ld",
	       split, deferred, work->scans, work->maps, work->frees, work->forks);
	TH_LOG("partial_unmaps=%ld migrations=%ld", work->partial_unmaps, work->migrations);
	if (!work->partial_unmaps || !work->frees || !work->scans || !split || !deferred ||
	    (!work->migrations && ds_nr_nodes() > 1))
		SKIP(return, "VACUOUS: one of the counters above is 0");
}

TEST_HARNESS_MAIN
