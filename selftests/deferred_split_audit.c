// SPDX-License-Identifier: GPL-2.0
/*
 * Does the audit of the splitq module see what is queued, and what is wrong?
 *
 * It must count the THPs of a memcg there, also of one that was removed; it must
 * not say "ok" of a queue that it could not lock; and each fault that is planted
 * must turn its verdict. Planted faults are seen by one read of the audit only:
 * the kernel's queues are not touched.
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
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_util.h"

#define NR_THPS		3
#define HOLD_MS		2000

static char report[1 << 20];

/* Sets the knobs, if the audit can be tested here; else the reason in words. */
static const char *audit_unusable(void)
{
	const char *why = ds_setup(1);

	if (!why && !ds_have_module())
		why = "needs the splitq module";
	if (!why && !ds_have_audit())
		why = "this splitq module has no audit";
	return why;
}

/* The whole report; its last line, or a reason why there is none. */
static const char *audit_once(const char *file)
{
	char path[128];
	size_t len = 0;
	ssize_t n;
	char *last;
	int fd;

	snprintf(path, sizeof(path), DS_SPLITQ "%s", file);
	report[0] = '\0';
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return "cannot be opened";
	while ((n = read(fd, report + len, sizeof(report) - 1 - len)) > 0)
		len += n;
	close(fd);
	report[len] = '\0';
	if (!len || report[len - 1] != '\n')
		return "the report has no end";
	report[len - 1] = '\0';
	last = strrchr(report, '\n');
	last = last ? last + 1 : report;
	return last;
}

/* The same; an audit that says that something has changed while it looked is repeated. */
static const char *audit(const char *file)
{
	const char *last = audit_once(file);
	int i;

	for (i = 0; i < 20 && strstr(last, "changed meanwhile"); i++) {
		usleep(50000);
		last = audit_once(file);
	}
	return last;
}

/* The two numbers of an "ok". */
static bool read_ok(const char *last, const char *format, long *a, long *b)
{
	return sscanf(last, format, a, b) == 2;
}

static bool starts_with(const char *s, const char *start)
{
	return !strncmp(s, start, strlen(start));
}

static bool plant(const char *fault)
{
	int fd = open(DS_SPLITQ "audit_plant", O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, fault, strlen(fault)) == (ssize_t)strlen(fault);

	close(fd);
	return ok;
}

/*
 * The numbers of the memcg's queue, or of those that it has on each node together,
 * from the last report. False: there is no line of it, or it is not read as such.
 */
static bool queue_of(unsigned long ino, long *count, long *entries, long *partially_mapped)
{
	char start[64], *line = report;
	bool found = false;
	long c, e, p;

	*count = *entries = *partially_mapped = 0;
	snprintf(start, sizeof(start), "queue memcg=%lu nid=", ino);
	while ((line = strstr(line, start))) {
		line += strlen(start);
		if (sscanf(line, "%*s count=%ld entries=%ld partially_mapped=%ld", &c, &e, &p) != 3)
			return false;
		*count += c;
		*entries += e;
		*partially_mapped += p;
		found = true;
	}
	return found;
}

/* Does the shrinker count on each queue of the memcg what the last report does? */
static bool shrinker_counts_the_same(const struct ds_memcg *memcg)
{
	char start[64], *line = report;
	bool found = false;
	long count;

	snprintf(start, sizeof(start), "queue memcg=%lu nid=", memcg->ino);
	while ((line = strstr(line, start))) {
		/* "-", for which atoi() is 0: one queue for all nodes */
		line += strlen(start);
		if (sscanf(line, "%*s count=%ld", &count) != 1 ||
		    ds_count_node(memcg, atoi(line)) != count)
			return false;
		found = true;
	}
	return found;
}

FIXTURE(audit) {
	struct ds_memcg memcg;
	char *thps[NR_THPS];
	long marked;			/* of these */
	size_t size;
	pid_t child;
};

FIXTURE_SETUP(audit)
{
	const char *why = audit_unusable();
	int i;

	if (why)
		SKIP(return, "%s", why);
	self->size = ds_thp_size();
	self->marked = ds_need_pmd() ? NR_THPS : 0;
	/* khugepaged at work all the time: what is asserted does not hang on its clock. */
	ASSERT_EQ(NULL, ds_knob_set(DS_KHUGEPAGED "scan_sleep_millisecs", "1"));
	ds_memcg_create(&self->memcg);
	ASSERT_TRUE(ds_memcg_enter(&self->memcg));
	for (i = 0; i < NR_THPS; i++) {
		self->thps[i] = ds_map_queued();
		if (!self->thps[i])
			SKIP(return, DS_NO_THP);
	}
}

/* Out of the memcg: it cannot be removed as long as somebody is in it. */
static void leave_memcg(void)
{
	struct ds_memcg root = { .dir = "/sys/fs/cgroup/" };

	ds_memcg_enter(&root);
}

FIXTURE_TEARDOWN(audit)
{
	int i;

	if (self->child > 0) {
		ds_pause_off();
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	plant("none");
	for (i = 0; i < NR_THPS; i++)
		if (self->thps[i])
			munmap(self->thps[i], self->size);
	leave_memcg();
	ds_memcg_remove(&self->memcg);
	ds_knobs_restore();
}

TEST_F(audit, counts_what_is_queued)
{
	long count, entries, partially_mapped, queues = 0, all = -1;
	const char *last = audit("audit");

	ASSERT_TRUE(read_ok(last, "audit ok queues=%ld entries=%ld", &queues, &all))
		TH_LOG("%s", report);
	ASSERT_TRUE(queue_of(self->memcg.ino, &count, &entries, &partially_mapped))
		TH_LOG("%s", report);
	ASSERT_GE(count, NR_THPS) TH_LOG("THPs are not queued at fault here");
	EXPECT_EQ(count, entries);
	EXPECT_EQ(self->marked, partially_mapped);
	EXPECT_TRUE(shrinker_counts_the_same(&self->memcg)) TH_LOG("%s", report);
	EXPECT_GE(all, entries);
	EXPECT_GE(queues, 2);

	/* Marked by a partial unmap, and still queued. */
	madvise(self->thps[0] + self->size / 2, self->size / 2, MADV_DONTNEED);
	EXPECT_TRUE(starts_with(audit("audit"), "audit ok ")) TH_LOG("%s", report);
	TH_LOG("%s", report);
	ASSERT_TRUE(queue_of(self->memcg.ino, &count, &entries, &partially_mapped));
	EXPECT_GE(entries, NR_THPS);
	EXPECT_EQ(count, entries);
	EXPECT_EQ(self->marked ?: 1, partially_mapped);

	/* Gone when they are freed. */
	munmap(self->thps[1], self->size);
	self->thps[1] = NULL;
	EXPECT_TRUE(starts_with(audit("audit"), "audit ok ")) TH_LOG("%s", report);
	ASSERT_TRUE(queue_of(self->memcg.ino, &count, &all, &partially_mapped));
	EXPECT_EQ(entries - 1, all);
}

TEST_F(audit, finds_what_is_marked)
{
	long before = ds_thp_stat("nr_anon_partially_mapped"), marked = -1, queued = -1;
	const char *last;

	madvise(self->thps[0] + self->size / 2, self->size / 2, MADV_DONTNEED);
	madvise(self->thps[1] + self->size / 2, self->size / 2, MADV_DONTNEED);
	last = audit("audit_marked");
	EXPECT_TRUE(read_ok(last, "audit ok marked=%ld queued=%ld", &marked, &queued));
	TH_LOG("%s", report);
	EXPECT_EQ(before + (self->marked ? 0 : 2), marked);
	EXPECT_EQ(marked, queued);
}

/* An offline memcg keeps its queue (or its parent gets it): no entry is forgotten. */
TEST_F(audit, counts_a_memcg_that_was_removed)
{
	long queues, before = -1, after = -1;
	const char *last;

	last = audit("audit");
	ASSERT_TRUE(read_ok(last, "audit ok queues=%ld entries=%ld", &queues, &before))
		TH_LOG("%s", report);
	if (!self->memcg.dir[0])
		SKIP(return, "needs a memory cgroup of its own");
	leave_memcg();
	ds_memcg_remove(&self->memcg);
	ASSERT_EQ(0, self->memcg.dir[0]) TH_LOG("the memory cgroup cannot be removed");
	last = audit("audit");
	EXPECT_TRUE(read_ok(last, "audit ok queues=%ld entries=%ld", &queues, &after))
		TH_LOG("%s", report);
	EXPECT_EQ(before, after);
}

/* A CPU is held while it adds a folio, with the queue's lock. */
TEST_F(audit, does_not_call_a_locked_queue_ok)
{
	char want[128];
	double end;
	int err, i;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	if (!self->memcg.dir[0])
		SKIP(return, "needs a memory cgroup of its own");
	/* 7.2 and later call set_shrinker_bit() only for the first on a queue. */
	for (i = 0; i < NR_THPS; i++) {
		munmap(self->thps[i], self->size);
		self->thps[i] = NULL;
	}
	ASSERT_TRUE(ds_pin_to_cpu(0));
	self->child = fork();
	ASSERT_GE(self->child, 0);
	if (!self->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ds_pin_to_cpu(1);
		raise(SIGSTOP);
		ds_map_queued();
		_exit(0);
	}
	ASSERT_EQ(self->child, waitpid(self->child, NULL, WUNTRACED));
	err = ds_pause_arm(0, "set_shrinker_bit", 0, self->child, HOLD_MS);
	if (err)
		SKIP(return, "no pause point in set_shrinker_bit(): error %d", -err);
	kill(self->child, SIGCONT);
	for (end = ds_now() + 10; ds_now() < end && ds_pause_state(0) == DS_ARMED;)
		;
	ASSERT_EQ(DS_HELD, ds_pause_state(0)) TH_LOG("the other CPU was not held");
	snprintf(want, sizeof(want), "audit unknown: could not look: queue memcg=%lu ",
		 self->memcg.ino);
	EXPECT_TRUE(starts_with(audit("audit"), want)) TH_LOG("%s", report);
	EXPECT_EQ(DS_HELD, ds_pause_state(0)) TH_LOG("the audit waited for the held CPU");
	ds_pause_release(0);
	ds_pause_off();
	ASSERT_EQ(self->child, waitpid(self->child, NULL, 0));
	self->child = 0;
	EXPECT_TRUE(starts_with(audit("audit"), "audit ok ")) TH_LOG("%s", report);
}

FIXTURE(planted) {
	char *thp;
};

FIXTURE_VARIANT(planted) {
	const char *fault, *file, *wrong;
};

FIXTURE_VARIANT_ADD(planted, count) {
	.fault = "count", .file = "audit", .wrong = "the count is ",
};

FIXTURE_VARIANT_ADD(planted, link) {
	.fault = "link", .file = "audit", .wrong = "its prev is not the entry before it",
};

FIXTURE_VARIANT_ADD(planted, memcg) {
	.fault = "memcg", .file = "audit", .wrong = "is on the queue of another memcg",
};

FIXTURE_VARIANT_ADD(planted, marked) {
	.fault = "marked", .file = "audit_marked", .wrong = "nr_anon_partially_mapped is ",
};

FIXTURE_SETUP(planted)
{
	const char *why = audit_unusable();

	if (why)
		SKIP(return, "%s", why);
	self->thp = ds_map_queued();
	if (!self->thp)
		SKIP(return, DS_NO_THP);
}

FIXTURE_TEARDOWN(planted)
{
	plant("none");
	if (self->thp)
		munmap(self->thp, ds_thp_size());
	ds_knobs_restore();
}

TEST_F(planted, fault_is_found)
{
	const char *other = strcmp(variant->file, "audit") ? "audit" : "audit_marked";

	EXPECT_TRUE(starts_with(audit(variant->file), "audit ok ")) TH_LOG("%s", report);
	ASSERT_TRUE(plant(variant->fault));
	/* The other file leaves it alone ... */
	EXPECT_TRUE(starts_with(audit(other), "audit ok ")) TH_LOG("%s", report);
	/* ... this one shows it ... */
	EXPECT_TRUE(starts_with(audit(variant->file), "audit wrong problems="))
		TH_LOG("%s", report);
	EXPECT_NE(NULL, strstr(report, variant->wrong)) TH_LOG("%s", report);
	TH_LOG("%s", report);
	/* ... once. */
	EXPECT_TRUE(starts_with(audit(variant->file), "audit ok ")) TH_LOG("%s", report);
}

TEST_HARNESS_MAIN
