// SPDX-License-Identifier: GPL-2.0
/*
 * Does the jitter of the splitq module hold who comes by, refuse what it cannot
 * do, and go away at any moment?
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

#define JITTER		DS_SPLITQ "jitter"
/* Where the kit's guest has the module. */
#define MODULE		"/splitq.ko"
#define NR_RELOADS	10

/* A THP comes by here when it is queued. */
#define POINT		"deferred_split_folio"

static int jitter(const char *text)
{
	return ds_write_file(JITTER, text);
}

static bool jitter_sums(long *points, long *hits, long *holds)
{
	char line[256] = "";
	FILE *f = fopen(JITTER, "re");
	bool ok = f && fgets(line, sizeof(line), f) &&
		  sscanf(line, "all seed=%*s one_in=%*s max_us=%*s points=%ld hits=%ld holds=%ld",
			 points, hits, holds) == 3;

	if (f)
		fclose(f);
	return ok;
}

static bool map_and_unmap(void)
{
	char *thp = ds_map_queued();

	return thp && !munmap(thp, ds_thp_size());
}

FIXTURE(jitter) {
	pid_t child;
};

FIXTURE_SETUP(jitter)
{
	const char *why = ds_setup(1);

	if (!why && access(JITTER, W_OK))
		why = "needs the splitq module, with jitter";
	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, jitter("off"));
}

FIXTURE_TEARDOWN(jitter)
{
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	jitter("off");
	jitter("seed=1 one_in=16 max_us=50");
	ds_knobs_restore();
}

TEST_F(jitter, holds_who_comes_by)
{
	long points, hits, holds, few;

	ASSERT_EQ(0, jitter(POINT " one_in=1 max_us=100"));
	ASSERT_TRUE(map_and_unmap());
	ASSERT_TRUE(jitter_sums(&points, &hits, &holds));
	EXPECT_EQ(1, points);
	EXPECT_GE(hits, 1);
	EXPECT_GE(holds, 1);

	/* Hardly ever: it comes by, and is not held. */
	ASSERT_EQ(0, jitter("off"));
	ASSERT_EQ(0, jitter("seed=7 one_in=1000000000"));
	ASSERT_EQ(0, jitter(POINT));
	ASSERT_TRUE(map_and_unmap());
	ASSERT_TRUE(jitter_sums(&points, &hits, &few));
	EXPECT_GE(hits, 1);
	EXPECT_EQ(0, few);

	/* Gone: nobody is counted. */
	ASSERT_EQ(0, jitter("off"));
	ASSERT_TRUE(map_and_unmap());
	ASSERT_TRUE(jitter_sums(&points, &hits, &holds));
	EXPECT_EQ(0, points);
	EXPECT_EQ(0, hits);
}

TEST_F(jitter, refuses_what_it_cannot_do)
{
	static const struct { char text[32]; int err; } bad[] = {
		{ "no_such_function", -ENOENT },
		{ " ", -EINVAL },
		{ "+0x10", -EINVAL },
		{ POINT "+x", -EINVAL },
		{ POINT " keep", -EINVAL },
		{ POINT " one_in=0", -EINVAL },
		{ POINT " max_us=1001", -EINVAL },
		{ "seed=x", -EINVAL },
		{ "one_in=", -EINVAL },
		{ "max_us=-1", -EINVAL },
		{ "one_in=2 " POINT, -EINVAL },
	};
	long points, hits, holds;
	unsigned int i, inside = 0;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(bad[i].err, jitter(bad[i].text)) TH_LOG("'%s'", bad[i].text);
	/* The first bytes of a function are not all starts of instructions. */
	for (i = 1; i < 16; i++) {
		char text[64];

		snprintf(text, sizeof(text), POINT "+%u", i);
		switch (jitter(text)) {
		case 0:
			break;
		case -EILSEQ:
		case -EINVAL:	/* arm64 */
		case -EEXIST:	/* x86: behind an ENDBR */
			inside++;
			break;
		default:
			EXPECT_EQ(0, i) TH_LOG("'%s'", text);
		}
	}
	EXPECT_GT(inside, 0);
	ASSERT_EQ(0, jitter("off"));
	ASSERT_EQ(0, jitter(POINT));
	EXPECT_EQ(-EEXIST, jitter(POINT));
	ASSERT_TRUE(jitter_sums(&points, &hits, &holds));
	EXPECT_EQ(1, points);
}

static bool load(void)
{
	int fd = open(MODULE, O_RDONLY | O_CLOEXEC);
	bool ok = fd >= 0 && !syscall(SYS_finit_module, fd, "", 0);

	close(fd);
	return ok;
}

/* Somebody comes by all the time, and is held for long each time. */
TEST_F(jitter, goes_away_while_somebody_is_held)
{
	long points, hits = 0, holds = 0, held = 0;
	int i;

	if (access(MODULE, R_OK))
		SKIP(return, "needs " MODULE " to load it again");
	self->child = fork();
	ASSERT_GE(self->child, 0);
	if (!self->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (map_and_unmap())
			;
		_exit(1);
	}
	for (i = 0; i < NR_RELOADS; i++) {
		ASSERT_EQ(0, jitter(POINT " one_in=1 max_us=1000"));
		usleep(20000);
		ASSERT_TRUE(jitter_sums(&points, &hits, &holds));
		held += holds;
		ASSERT_EQ(0, syscall(SYS_delete_module, "splitq", O_NONBLOCK))
			TH_LOG("the module is in use: errno %d", errno);
		ASSERT_TRUE(load());
	}
	/* Still well. */
	EXPECT_EQ(0, waitpid(self->child, NULL, WNOHANG));
	TH_LOG("window jitter entered=%ld reloads=%d", held, i);
	if (!held)
		SKIP(return, "VACUOUS: nobody was held");
}

TEST_HARNESS_MAIN
