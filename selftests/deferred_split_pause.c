// SPDX-License-Identifier: GPL-2.0
/*
 * Do the pause points of the splitq module do what their file says?
 *
 * One process unmaps half a THP, which goes through deferred_split_folio(); it is
 * held there, or not, by what was armed. Bad lines must be refused, holds must end,
 * filters must let everybody else pass, and the module must go at any moment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_actor.h"

#define POINT		"deferred_split_folio"
#define CPU_ACTOR	1
/* Where the kit's guests have the module, to load it again. */
#define MODULE_FILE	"/splitq.ko"

/* Sets the knobs; or says why this cannot be tested here. */
static const char *set_up(void)
{
	const char *why = ds_setup(2);

	return !why && !ds_have_module() ? "needs the splitq module" : why;
}

FIXTURE(pause) {
	struct ds_actor owner;
	struct ds_subject subject;
};

FIXTURE_SETUP(pause)
{
	const char *why = set_up();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(ds_pin_to_cpu(0));
	self->subject.size = ds_thp_size();
	ASSERT_TRUE(ds_actor_start(&self->owner, NULL));
	self->subject.owner = self->owner.pid;
}

FIXTURE_TEARDOWN(pause)
{
	ds_pause_off();
	ds_actor_stop(&self->owner);
	ds_knobs_restore();
}

/* A THP for the owner to unmap. */
static bool give_thp(struct ds_actor *owner, struct ds_subject *subject)
{
	struct ds_answer a;

	ds_actor_send(owner, DS_DO_MAP, NULL, CPU_ACTOR, subject);
	if (ds_actor_answer(owner, &a))
		return false;
	subject->thp = a.thp;
	return a.thp;
}

static void start(struct ds_actor *owner, struct ds_subject *subject, const char *action)
{
	ds_actor_send(owner, DS_DO_ACTION, ds_find_action(action), CPU_ACTOR, subject);
}

/* Waits until somebody is held, or the owner is through. */
static enum ds_pause wait_held(struct ds_actor *owner, int id)
{
	double until = ds_now() + 10;
	enum ds_pause state;

	do {
		state = ds_pause_state(id);
	} while (state == DS_ARMED && !ds_actor_ready(owner, 0) && ds_now() < until);
	return state;
}

static int done(struct ds_actor *owner)
{
	struct ds_answer a;

	return ds_actor_answer(owner, &a) ?: a.result;
}

/* Arms a line that has one %d, for the pid. */
static int arm(const char *format, pid_t pid)
{
	char line[256];

	snprintf(line, sizeof(line), format, pid);
	return ds_pause_line(line);
}

TEST_F(pause, bad_lines_are_refused)
{
	static const struct {
		const char *line;
		int err;
	} lines[] = {
		{ "", -EINVAL },
		{ "   ", -EINVAL },
		{ "id=0", -EINVAL },
		{ "id=4 " POINT, -EINVAL },
		{ "id=x " POINT, -EINVAL },
		{ POINT "+", -EINVAL },
		{ POINT "+x", -EINVAL },
		{ POINT "%back", -EINVAL },
		{ POINT "+4%return", -EINVAL },
		{ POINT " pid=0", -EINVAL },
		{ POINT " pid=one", -EINVAL },
		{ POINT " cpu=-1", -EINVAL },
		{ POINT " cpu=100000", -EINVAL },
		{ POINT " hold_ms=0", -EINVAL },
		{ POINT " hold_ms=10001", -EINVAL },
		{ POINT " skip=-1", -EINVAL },
		{ POINT " comm=", -EINVAL },
		{ POINT " keep", -EINVAL },
		{ "no_such_function_here", -ENOENT },
		{ POINT " caller=no_such_function_here", -ENOENT },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(lines); i++) {
		EXPECT_EQ(lines[i].err, ds_pause_line(lines[i].line))
			TH_LOG("'%s'", lines[i].line);
		EXPECT_EQ(DS_OFF, ds_pause_state(0));
	}
	/* Nobody is held. */
	EXPECT_EQ(-EAGAIN, ds_pause_release(0));
	EXPECT_EQ(-EINVAL, ds_pause_release(4));
}

TEST_F(pause, holds_and_releases)
{
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm(POINT " pid=%d hold_ms=5000", self->owner.pid));
	EXPECT_EQ(DS_ARMED, ds_pause_state(0));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 0));
	/* It stays so. */
	EXPECT_FALSE(ds_actor_ready(&self->owner, 50));
	EXPECT_EQ(DS_HELD, ds_pause_state(0));
	EXPECT_EQ(0, ds_pause_release(0));
	EXPECT_EQ(0, done(&self->owner));
	EXPECT_EQ(DS_RELEASED, ds_pause_state(0));
	EXPECT_EQ(-EAGAIN, ds_pause_release(0));
}

TEST_F(pause, a_hold_expires)
{
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm(POINT " pid=%d hold_ms=20", self->owner.pid));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(0, done(&self->owner));
	EXPECT_EQ(DS_EXPIRED, ds_pause_state(0));
}

TEST_F(pause, off_lets_go)
{
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm("id=3 " POINT " pid=%d hold_ms=10000", self->owner.pid));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 3));
	EXPECT_EQ(0, ds_pause_line("id=3 off"));
	EXPECT_EQ(0, done(&self->owner));
	EXPECT_EQ(DS_OFF, ds_pause_state(3));
}

TEST_F(pause, holds_at_a_return)
{
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm(POINT "%%return pid=%d hold_ms=5000", self->owner.pid));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 0));
	EXPECT_EQ(0, ds_pause_release(0));
	EXPECT_EQ(0, done(&self->owner));
}

TEST_F(pause, two_points_hold_one_after_the_other)
{
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm("id=1 " POINT " pid=%d hold_ms=5000", self->owner.pid));
	ASSERT_EQ(0, arm("id=2 " POINT "%%return pid=%d hold_ms=5000", self->owner.pid));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 1));
	EXPECT_EQ(DS_ARMED, ds_pause_state(2));
	EXPECT_EQ(0, ds_pause_release(1));
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 2));
	EXPECT_EQ(0, ds_pause_release(2));
	EXPECT_EQ(0, done(&self->owner));
}

FIXTURE(filter) {
	struct ds_actor owner;
	struct ds_subject subject;
};

FIXTURE_VARIANT(filter) {
	const char *words;
	bool pid;			/* and that of the owner */
	const char *action;
	bool held;
};

FIXTURE_VARIANT_ADD(filter, another_pid)
{ "pid=1", false, "munmap-half", false };
FIXTURE_VARIANT_ADD(filter, this_cpu)
{ "cpu=1", true, "munmap-half", true };
FIXTURE_VARIANT_ADD(filter, another_cpu)
{ "cpu=0", true, "munmap-half", false };
FIXTURE_VARIANT_ADD(filter, comm)
{ "comm=deferred_split_", false, "munmap-half", true };
FIXTURE_VARIANT_ADD(filter, another_comm)
{ "comm=somebody", true, "munmap-half", false };
FIXTURE_VARIANT_ADD(filter, caller)
{ "caller=unmap_vmas", true, "munmap-half", true };
FIXTURE_VARIANT_ADD(filter, another_caller)
{ "caller=unmap_vmas", true, "dontneed-half", false };
FIXTURE_VARIANT_ADD(filter, skip)
{ "skip=100", true, "munmap-half", false };

FIXTURE_SETUP(filter)
{
	const char *why = set_up();

	if (why)
		SKIP(return, "%s", why);
	self->subject.size = ds_thp_size();
	ASSERT_TRUE(ds_actor_start(&self->owner, NULL));
	self->subject.owner = self->owner.pid;
}

FIXTURE_TEARDOWN(filter)
{
	ds_pause_off();
	ds_actor_stop(&self->owner);
	ds_knobs_restore();
}

TEST_F(filter, holds_whom_it_should)
{
	char line[128], pid[16] = "";
	int err;

	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	if (variant->pid)
		snprintf(pid, sizeof(pid), "pid=%d", self->owner.pid);
	snprintf(line, sizeof(line), POINT " hold_ms=50 %s %s", variant->words, pid);
	err = ds_pause_line(line);
	if (err == -EOPNOTSUPP)
		SKIP(return, "this kernel cannot unwind its stack");
	ASSERT_EQ(0, err);
	start(&self->owner, &self->subject, variant->action);
	ASSERT_EQ(0, done(&self->owner));
	EXPECT_EQ(variant->held ? DS_EXPIRED : DS_ARMED, ds_pause_state(0));
}

TEST_F(pause, coverage_counts_what_was_executed)
{
	unsigned int probes = 0, unprobed = 0, executed = 0;
	char line[128];
	FILE *f;

	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	f = fopen(DS_SPLITQ "cover", "we");
	ASSERT_NE(NULL, f);
	fprintf(f, POINT " pid=%d", self->owner.pid);
	ASSERT_EQ(0, fclose(f));
	start(&self->owner, &self->subject, "munmap-half");
	ASSERT_EQ(0, done(&self->owner));

	f = fopen(DS_SPLITQ "cover", "re");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "cover " POINT " size=%*s probes=%u unprobed=%u executed=%u",
		       &probes, &unprobed, &executed);
	fclose(f);
	EXPECT_GT(probes, 10);
	EXPECT_GT(executed, 5);
	EXPECT_LE(executed, probes);
}

TEST_F(pause, a_folio_is_kept_pinned_and_locked)
{
	struct ds_folio folio;
	int fd;

	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, ds_folio(self->owner.pid, self->subject.thp, &folio));
	EXPECT_EQ(0, folio.locked);
	fd = ds_folio_keep(self->owner.pid, self->subject.thp, "lock");
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ds_folio(self->owner.pid, self->subject.thp, &folio));
	EXPECT_EQ(1, folio.locked);
	EXPECT_EQ(-EAGAIN, ds_folio_keep(self->owner.pid, self->subject.thp, "lock"));
	close(fd);
	ASSERT_EQ(0, ds_folio(self->owner.pid, self->subject.thp, &folio));
	EXPECT_EQ(0, folio.locked);
	EXPECT_EQ(-EINVAL, ds_folio_keep(self->owner.pid, self->subject.thp, "keep"));
}

/* The last one: if the module cannot be loaded again, the others had it. */
TEST_F(pause, unloading_lets_go)
{
	int fd = open(MODULE_FILE, O_RDONLY | O_CLOEXEC);
	int err;

	if (fd < 0)
		SKIP(return, "no " MODULE_FILE " to load the module again");
	ASSERT_TRUE(give_thp(&self->owner, &self->subject));
	ASSERT_EQ(0, arm(POINT " pid=%d hold_ms=10000", self->owner.pid));
	start(&self->owner, &self->subject, "munmap-half");
	EXPECT_EQ(DS_HELD, wait_held(&self->owner, 0));
	ds_module_close();
	err = syscall(SYS_delete_module, "splitq", O_NONBLOCK) ? errno : 0;
	EXPECT_EQ(0, err);
	EXPECT_EQ(0, done(&self->owner));
	if (!err)
		EXPECT_EQ(0, syscall(SYS_finit_module, fd, "", 0));
	close(fd);
}

TEST_HARNESS_MAIN
