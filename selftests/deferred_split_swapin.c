// SPDX-License-Identifier: GPL-2.0
/*
 * Several tasks swap in the same page, which belongs to none of them alone, while
 * swapoff(), MADV_PAGEOUT and splits are at it as well.
 *
 * CPU0 (do_swap_page())                 CPU1 (do_swap_page(), unuse_pte())
 *
 * folio_lock()
 * not anonymous yet:
 *   folio_add_new_anon_rmap()
 *     _mapcount = 0
 *                                       folio_lock() waits, must wait:
 *                                       it is anonymous now, so _mapcount++
 * folio_unlock()
 *                                       or, without the lock, _mapcount = 0 again
 *   MAPCOUNT ->                         two mappings, and one is counted: with
 *                                       the first unmap it is free, and in use
 *
 * A task fills memory and forks: the pages are shared, and swapped out. All of the
 * family read and write them at random, and swap them out again, while another process
 * splits THPs of theirs, and takes the swap device away and gives it back. When all
 * have stopped, each looks at all of its memory (CONTENT); then each page must be
 * mapped as often as /proc/kpagecount says (MAPCOUNT), and the kernel must not have
 * complained: of a "Bad page map", or of a folio that should have been locked.
 *
 * The swap is a zram of the test's own, used before any other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define NR_TASKS	4
#define NR_THPS		2
#define SWAP_SIZE	(64UL << 20)
#define ROUND_SECONDS	0.15
#define STALL_SECONDS	30
#define MAX_PAGES	2048

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

static struct shared {
	int stop, stopped, verified, finish;
	long reads, writes, pageouts, wrong;
	char *memory;
	pid_t family[NR_TASKS];
	int nr_family;
} *shared;

#define load(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define count(p)	__atomic_add_fetch(p, 1, __ATOMIC_RELAXED)

static size_t page, size;		/* of all of it */

/* What each page of mine must hold. */
static uint32_t want[MAX_PAGES];

static uint32_t *word(size_t nr)
{
	return (uint32_t *)(shared->memory + nr * page);
}

static void act(unsigned int *seed)
{
	size_t nr = rand_r(seed) % (size / page);
	unsigned int what = rand_r(seed) % 100, i;

	if (what < 2) {
		size_t len = page << rand_r(seed) % 8;

		if (nr * page + len <= size && !madvise(word(nr), len, MADV_PAGEOUT))
			count(&shared->pageouts);
	} else if (what < 4) {
		if (!madvise(shared->memory, size, MADV_PAGEOUT))
			count(&shared->pageouts);
	} else if (what < 20) {
		want[nr] = rand_r(seed);
		store(word(nr), want[nr]);
		count(&shared->writes);
	} else {
		/* Several, so that the family comes by the same ones. */
		for (i = 0; i < 8 && nr < size / page; i++, nr++)
			if (load(word(nr)) != want[nr])
				count(&shared->wrong);
		count(&shared->reads);
	}
}

static void member(int number, unsigned int seed)
{
	size_t nr;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ds_pin_to_cpu(number % 2);
	while (!load(&shared->stop))
		act(&seed);
	count(&shared->stopped);
	while (load(&shared->stopped) < NR_TASKS)
		usleep(200);
	/* Nobody swaps out any more: afterwards all of it is there. */
	for (nr = 0; nr < size / page; nr++)
		if (load(word(nr)) != want[nr])
			count(&shared->wrong);
	count(&shared->verified);
	while (!load(&shared->finish))
		usleep(200);
	_exit(0);
}

/* The first of the family: what it fills the others inherit. */
static void founder(const struct ds_memcg *memcg, unsigned int seed)
{
	size_t nr, thp = ds_thp_size();
	char *map;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!ds_memcg_enter(memcg))
		_exit(1);
	map = mmap(NULL, size + thp, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		_exit(1);
	shared->memory = (char *)(((uintptr_t)map + thp - 1) & ~(thp - 1));
	madvise(shared->memory, size, MADV_HUGEPAGE);
	for (nr = 0; nr < size / page; nr++) {
		want[nr] = seed + nr;
		*word(nr) = want[nr];
	}
	/* Swapped out before it is shared, and after that. */
	if (seed % 2)
		madvise(shared->memory, size, MADV_PAGEOUT);
	shared->family[0] = getpid();
	for (i = 1; i < NR_TASKS; i++) {
		pid_t parent = getpid(), pid = fork();

		if (!pid) {
			shared->family[i] = getpid();
			if (getppid() != parent)
				_exit(1);
			__atomic_add_fetch(&shared->nr_family, 1, __ATOMIC_RELEASE);
			member(i, seed + i);
		}
		if (pid < 0)
			_exit(1);
	}
	if (!(seed % 2))
		madvise(shared->memory, size, MADV_PAGEOUT);
	__atomic_add_fetch(&shared->nr_family, 1, __ATOMIC_RELEASE);
	member(0, seed);
}

FIXTURE(swapin) {
	struct ds_memcg memcg;
	pid_t founder;
	long swapoffs, splits, shared_pages, mapped_pages;
	bool counted;
	char wrong_count[160];
};

/* With CONFIG_NO_PAGE_MAPCOUNT a page of a large folio is said to be mapped as all of it. */
static bool pages_are_counted(void)
{
	char *thp = ds_map_thp(), *last;
	unsigned long pfn, counted = 1;

	if (!thp)
		return false;
	last = thp + ds_thp_size() - page;
	pfn = ds_pfn_of(getpid(), last);
	if (pfn && !madvise(last, page, MADV_DONTNEED))
		counted = ds_page_word("/proc/kpagecount", pfn);
	munmap(thp, ds_thp_size());
	return !counted;
}

FIXTURE_SETUP(swapin)
{
	const char *why = ds_setup(2);

	if (!why && access("/proc/kpagecount", R_OK))
		why = "no /proc/kpagecount: CONFIG_PROC_PAGE_MONITOR";
	if (!why)
		why = ds_swap_create(SWAP_SIZE);
	if (why)
		SKIP(return, "%s", why);
	page = sysconf(_SC_PAGESIZE);
	self->counted = pages_are_counted();
	if (!self->counted)
		TH_LOG("pages are not counted one by one: MAPCOUNT is not looked at");
	size = NR_THPS * ds_thp_size();
	if (size / page > MAX_PAGES)
		SKIP(return, "THPs are too large here");
	shared = ds_shared(sizeof(*shared));
	ASSERT_NE(NULL, shared);
	ds_memcg_create(&self->memcg);
	ASSERT_TRUE(ds_log_start());
}

FIXTURE_TEARDOWN(swapin)
{
	int i;

	for (i = 0; shared && i < NR_TASKS; i++)
		if (self->founder > 0 && shared->family[i])
			kill(shared->family[i], SIGKILL);
	if (self->founder > 0)
		waitpid(self->founder, NULL, 0);
	ds_memcg_remove(&self->memcg);
	ds_swap_remove();
	ds_knobs_restore();
}

/* Split somebody's THPs; take the swap away, and give it back. */
static void stir(FIXTURE_DATA(swapin) *self, unsigned int *seed)
{
	char line[96];
	int nid;

	if (rand_r(seed) % 4 == 0) {
		if (!ds_swap_off())
			self->swapoffs++;
		ds_swap_on();
		return;
	}
	for (nid = 0; nid < ds_nr_nodes(); nid++)
		ds_scan(&self->memcg, nid, 64);
	snprintf(line, sizeof(line), "%d,0x%lx,0x%lx,0", shared->family[rand_r(seed) % NR_TASKS],
		 (unsigned long)shared->memory, (unsigned long)shared->memory + size);
	if (!ds_write_file("/sys/kernel/debug/split_huge_pages", line))
		self->splits++;
	usleep(2000);
}

static int by_value(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

/* All that the family has mapped, sorted: a page that comes n times is mapped n times. */
static void check_mapcounts(FIXTURE_DATA(swapin) *self)
{
	static unsigned long pfns[NR_TASKS * MAX_PAGES];
	static uint64_t entries[MAX_PAGES];
	size_t nr = 0, i, k;
	char path[64];
	int t, fd;

	for (t = 0; t < NR_TASKS; t++) {
		snprintf(path, sizeof(path), "/proc/%d/pagemap", shared->family[t]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || pread(fd, entries, size / page * 8,
				    (uintptr_t)shared->memory / page * 8) !=
				      (ssize_t)(size / page * 8))
			memset(entries, 0, sizeof(entries));
		close(fd);
		for (i = 0; i < size / page; i++)
			if (entries[i] >> 63)
				pfns[nr++] = entries[i] & ((1ULL << 55) - 1);
	}
	qsort(pfns, nr, sizeof(*pfns), by_value);
	fd = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
	for (i = 0; i < nr; i = k) {
		uint64_t counted = 0;

		for (k = i; k < nr && pfns[k] == pfns[i]; k++)
			;
		self->mapped_pages++;
		if (k - i > 1)
			self->shared_pages++;
		if (self->counted && pread(fd, &counted, 8, pfns[i] * 8) == 8 &&
		    counted != k - i && !self->wrong_count[0])
			snprintf(self->wrong_count, sizeof(self->wrong_count),
				 "pfn %lx is mapped %zu times, and its _mapcount says %lu",
				 pfns[i], k - i, (unsigned long)counted);
	}
	close(fd);
}

static bool wait_for(int *counter, int n)
{
	double end = ds_now() + STALL_SECONDS;

	while (load(counter) < n) {
		if (ds_now() > end)
			return false;
		usleep(500);
	}
	return true;
}

TEST_F_TIMEOUT(swapin, shared_pages_keep_their_mapcount, 120)
{
	const char *s = getenv("SECONDS"), *said = NULL;
	double seconds = s && atof(s) > 0 ? atof(s) : 5, end = ds_now() + seconds, until;
	long in = 0, out = 0;
	long reads = 0, writes = 0, pageouts = 0, wrong = 0;
	unsigned int seed = (unsigned int)(ds_now() * 1e6) ^ getpid();
	int rounds, status;

	s = getenv("SEED");
	if (s)
		seed = strtoul(s, NULL, 0);
	TH_LOG("SEED=%u SECONDS=%.0f", seed, seconds);
	for (rounds = 0; ds_now() < end || rounds < 2; rounds++) {
		memset(shared, 0, sizeof(*shared));
		self->founder = fork();
		ASSERT_GE(self->founder, 0);
		if (!self->founder)
			founder(&self->memcg, seed + rounds);
		ASSERT_TRUE(wait_for(&shared->nr_family, NR_TASKS)) TH_LOG("no family");
		for (until = ds_now() + ROUND_SECONDS; ds_now() < until;)
			stir(self, &seed);
		store(&shared->stop, 1);
		ASSERT_TRUE(wait_for(&shared->verified, NR_TASKS))
			TH_LOG("STALL: somebody makes no progress");
		check_mapcounts(self);
		store(&shared->finish, 1);
		ASSERT_EQ(self->founder, waitpid(self->founder, &status, 0));
		self->founder = 0;
		ASSERT_EQ(0, status);
		reads += shared->reads;
		writes += shared->writes;
		pageouts += shared->pageouts;
		wrong += shared->wrong;
		said = ds_log_complaint();
		if (said || wrong || self->wrong_count[0])
			break;
	}
	ds_swap_ios(&in, &out);
	TH_LOG("window swapin entered=%ld rounds=%d in=%ld out=%ld swapoffs=%ld splits=%ld",
	       self->shared_pages, rounds, in, out, self->swapoffs, self->splits);
	TH_LOG("reads=%ld writes=%ld pageouts=%ld mapped=%ld", reads, writes, pageouts,
	       self->mapped_pages);
	EXPECT_EQ(NULL, said) TH_LOG("SPLAT: %s", said);
	EXPECT_EQ(0, wrong) TH_LOG("CONTENT: %ld pages did not hold what was written", wrong);
	EXPECT_EQ(0, self->wrong_count[0]) TH_LOG("MAPCOUNT: %s", self->wrong_count);
	if (!in || !out || !self->swapoffs || !self->shared_pages || !writes)
		SKIP(return, "VACUOUS: one of the counters above is 0");
}

TEST_HARNESS_MAIN
