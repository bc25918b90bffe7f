// SPDX-License-Identifier: GPL-2.0
/*
 * Is everything put back after a test that crashed? One is started that sets knobs,
 * makes a memcg and swap, and is killed in its middle.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define KNOB	"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"

static long knob(void)
{
	FILE *f = fopen(KNOB, "re");
	long value = -1;

	if (f && fscanf(f, "%ld", &value) != 1)
		value = -1;
	if (f)
		fclose(f);
	return value;
}

static int nr_swaps(void)
{
	FILE *f = fopen("/proc/swaps", "re");
	char line[256];
	int n = -1;

	while (f && fgets(line, sizeof(line), f))
		n++;
	if (f)
		fclose(f);
	return n;
}

struct told {
	char dir[256];
	const char *why, *no_swap;
	long knob;
	int swaps;
};

static void crash(struct told *told)
{
	struct ds_memcg memcg;

	told->why = ds_knobs_set();
	if (!told->why) {
		/* Another than it was, so that there is something to be put back. */
		ds_set_underused(knob() != 0);
		told->knob = knob();
		ds_memcg_create(&memcg);
		snprintf(told->dir, sizeof(told->dir), "%s", memcg.dir);
		told->no_swap = ds_swap_create(16UL << 20);
		told->swaps = nr_swaps();
	}
	raise(SIGKILL);
}

/* Run it to its end; what it had to tell. NULL: it could not be run, or did not crash. */
static struct told *run_crash(void)
{
	struct told *told;
	int status;
	pid_t pid;

	told = ds_shared(sizeof(*told));
	if (!told)
		return NULL;
	pid = fork();
	if (!pid)
		crash(told);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
		return NULL;
	return told;
}

TEST(a_crashed_test_is_put_back)
{
	long before = knob();
	int swaps = nr_swaps();
	const char *why = ds_unusable();
	struct told *told;
	double end;

	if (why)
		SKIP(return, "%s", why);
	told = run_crash();
	ASSERT_NE(NULL, told);
	ASSERT_EQ(NULL, told->why) TH_LOG("%s", told->why);
	EXPECT_NE(before, told->knob);
	for (end = ds_now() + 5; ds_now() < end; usleep(10000))
		if (knob() == before && (!told->dir[0] || access(told->dir, F_OK)) &&
		    nr_swaps() == swaps)
			break;
	EXPECT_EQ(before, knob());
	if (told->dir[0])
		EXPECT_NE(0, access(told->dir, F_OK)) TH_LOG("%s is still there", told->dir);
	EXPECT_EQ(swaps, nr_swaps());
	TH_LOG("window guard entered=%d memcg=%d swap=%d%s%s", before != told->knob,
	       !!told->dir[0], told->swaps - swaps, told->no_swap ? " " : "",
	       told->no_swap ?: "");
}

/* The next test must not take for the machine's own what the last one had set. */
TEST(the_next_test_waits_for_the_guard)
{
	const char *why = ds_unusable();
	long before = knob();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_NE(NULL, run_crash());
	ASSERT_EQ(NULL, ds_knobs_set());
	ds_knobs_restore();
	EXPECT_EQ(before, knob());
}

TEST_HARNESS_MAIN
