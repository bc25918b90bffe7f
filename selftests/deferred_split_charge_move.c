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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "deferred_split_actor.h"

/* Walked before what mmap() chooses. The heap is put somewhere below 1 GiB, too. */
#define LOW_ADDR	0x10000000UL
#define LOW_STEP	0x10000000UL
#define LOW_TRIES	4
#define LOW_SIZE	(768UL * sysconf(_SC_PAGESIZE))
#define NR_THPS		4
#define HOLD_MS		60
#define CPU_MOVE	0
#define LOOK_MS		200
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

static uint64_t memcg_of(unsigned long pfn)
{
	return ds_page_word("/proc/kpagecgroup", pfn);
}

/* What the owner tells: the first small page, and its THPs. */
struct owned {
	char *low, *thps[NR_THPS];
};

struct owner {
	pid_t pid;
	int to, from;
};

static void owner_loop(int in, int out)
{
	struct owned owned = { 0 };
	struct iovec iov = { .iov_len = 1 };
	size_t page = sysconf(_SC_PAGESIZE), i;
	int pipefd[2];
	char command;

	owned.low = MAP_FAILED;
	for (i = 0; owned.low == MAP_FAILED && i < LOW_TRIES; i++)
		owned.low = mmap((void *)(LOW_ADDR + i * LOW_STEP), LOW_SIZE,
				 PROT_READ | PROT_WRITE,
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

static bool owner_start(struct owner *o)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return false;
	fflush(stdout);
	o->pid = fork();
	if (o->pid < 0)
		return false;
	if (!o->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		owner_loop(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	o->to = to[1];
	o->from = from[0];
	return true;
}

static void owner_stop(struct owner *o)
{
	if (o->pid <= 0)
		return;
	close(o->to);
	close(o->from);
	waitpid(o->pid, NULL, 0);
	o->pid = 0;
}

static bool owner_do(struct owner *o, char command, struct owned *owned)
{
	struct pollfd pfd = { .fd = o->from, .events = POLLIN };

	return write(o->to, &command, 1) == 1 && poll(&pfd, 1, 10000) == 1 &&
	       read(o->from, owned, sizeof(*owned)) == sizeof(*owned);
}

FIXTURE(charge) {
	char root[64], dir[2][128];
	unsigned long ino[2];
	bool mounted;
	struct owner owner;
	struct ds_actor scanner, mover;
	struct ds_subject subject;
	struct owned owned;
};

/* Writes the owner into one of the two memcgs. */
static void start_move(FIXTURE_DATA(charge) *self, int to)
{
	struct ds_memcg *memcg = &self->subject.other;

	snprintf(memcg->dir, sizeof(memcg->dir), "%s/", self->dir[to]);
	ds_actor_send(&self->mover, DS_DO_ACTION, ds_find_action("charge-move"), CPU_MOVE,
		      &self->subject);
}

/* Whether it is through, in time, and nothing went wrong. */
static bool done(struct ds_actor *actor)
{
	struct ds_answer a;

	return !ds_actor_answer(actor, &a) && !a.result;
}

FIXTURE_SETUP(charge)
{
	/* What is mapped by PTEs is not moved. */
	const char *why = ds_need_pmd() ?: ds_setup(2) ?: ds_set_underused(true);
	char path[300];
	int i;

	if (!why && (!ds_have_module() || !ds_have_audit()))
		why = "needs the splitq module";
	if (!why && access("/proc/kpagecgroup", R_OK))
		why = "no /proc/kpagecgroup: CONFIG_PROC_PAGE_MONITOR?";
	if (why)
		SKIP(return, "%s", why);

	snprintf(self->root, sizeof(self->root), "%s/deferred_split.XXXXXX",
		 getenv("TMPDIR") ?: P_tmpdir);
	ASSERT_NE(NULL, mkdtemp(self->root));
	why = ds_v1_mount(self->root);
	self->mounted = !why;
	if (why) {
		rmdir(self->root);
		SKIP(return, "%s", why);
	}
	/* A fixture that skips is not torn down. */
	snprintf(path, sizeof(path), "%s/memory.move_charge_at_immigrate", self->root);
	if (!write_text(path, "3")) {
		ds_v1_unmount(self->root);
		rmdir(self->root);
		ds_knobs_restore();
		SKIP(return, "this kernel does not move charges");
	}
	write_text(path, "0");
	for (i = 0; i < 2; i++) {
		snprintf(self->dir[i], sizeof(self->dir[i]), "%s/%d", self->root, i);
		ASSERT_EQ(0, mkdir(self->dir[i], 0755));
		self->ino[i] = inode_of(self->dir[i]);
		snprintf(path, sizeof(path), "%s/memory.move_charge_at_immigrate", self->dir[i]);
		ASSERT_TRUE(write_text(path, "3"));
	}

	ASSERT_TRUE(ds_pin_to_cpu(CPU_MOVE));
	ASSERT_TRUE(owner_start(&self->owner));
	self->subject.owner = self->owner.pid;
	self->subject.memcg.v1 = true;
	ASSERT_TRUE(ds_actor_start(&self->scanner, NULL));
	ASSERT_TRUE(ds_actor_start(&self->mover, NULL));
	start_move(self, 0);
	ASSERT_TRUE(done(&self->mover)) TH_LOG("cannot move the owner");
}

FIXTURE_TEARDOWN(charge)
{
	int i, tries;

	if (!self->root[0])
		return;
	if (ds_have_module())
		ds_pause_off();
	ds_actor_stop(&self->mover);
	ds_actor_stop(&self->scanner);
	owner_stop(&self->owner);
	for (i = 0; i < 2; i++)
		for (tries = 0; self->ino[i] && tries < 100 && rmdir(self->dir[i]); tries++)
			usleep(10000);
	if (self->mounted && !ds_v1_unmount(self->root))
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
		pfn[i] = ds_pfn_of(self->owner.pid, self->owned.thps[i]);
		ASSERT_EQ(self->ino[0], memcg_of(pfn[i]));
		ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[i], &folio));
		ASSERT_STREQ("linked", folio.list) TH_LOG("THPs are not queued at fault here");
	}
	start_move(self, 1);
	ASSERT_TRUE(done(&self->mover));
	for (i = 0; i < NR_THPS; i++) {
		EXPECT_TRUE(ds_pfn_is_thp(pfn[i])) TH_LOG("SPLIT: the move has split a THP");
		EXPECT_EQ(self->ino[1], memcg_of(pfn[i]));
		ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[i], &folio));
		EXPECT_STREQ("linked", folio.list);
	}
	EXPECT_EQ(NULL, ds_audit_complaint()) TH_LOG("%s", ds_audit_complaint());
}

/* Functions in which the shrinker puts a folio back. */
static const char * const functions[] = {
	"deferred_split_requeue", "folio_split_queue_lock_irqsave", "split_queue_add",
	"__split_queue_add", NULL
};

struct tally {
	int points, entered, blocked, late, left, seen;
	char wrong[256];
};

/*
 * Look at the queues when the scan of one of them is through: the next one, of the
 * other node, would take a folio off that is where it does not belong.
 */
static void look_behind_scan(FIXTURE_DATA(charge) *self, struct tally *tally)
{
	const char *complaint;

	while (ds_pause_state(1) == DS_ARMED && !ds_actor_ready(&self->scanner, 0))
		usleep(200);
	if (ds_pause_state(1) != DS_HELD)
		return;
	complaint = ds_audit_complaint();
	snprintf(tally->wrong, sizeof(tally->wrong), "%s", complaint ?: "");
	tally->seen++;
	ds_pause_release(1);
}

/* Move the owner to memcg @to, with the scanner held at one instruction meanwhile. */
static bool try_point(struct __test_metadata *_metadata, FIXTURE_DATA(charge) *self, int to,
		      unsigned long low, unsigned long thp, struct tally *tally)
{
	enum ds_pause state = DS_ARMED;
	bool moved = false;
	char line[128];

	snprintf(line, sizeof(line), "id=1 deferred_split_scan%%return pid=%d hold_ms=%d",
		 self->scanner.pid, LOOK_MS);
	ASSERT_EQ(0, ds_pause_line(line));
	start_move(self, to);
	while (memcg_of(low) != self->ino[to] && !ds_actor_ready(&self->mover, 0))
		usleep(200);
	/* All slabs are shrunk: the debugfs file cannot name a memcg of v1. */
	ds_actor_send(&self->scanner, DS_DO_ACTION, ds_find_action("scan"), CPU_SCAN,
		      &self->subject);
	/* Held behind the scan it has not come by. */
	while (state == DS_ARMED && ds_pause_state(1) != DS_HELD &&
	       !ds_actor_ready(&self->scanner, 0))
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
	look_behind_scan(self, tally);
	ASSERT_TRUE(done(&self->scanner)) TH_LOG("the scan does not end");
	ASSERT_TRUE(done(&self->mover)) TH_LOG("the move does not end");
	return state == DS_HELD;
}

TEST_F_TIMEOUT(charge, put_back_where_it_belongs, 120)
{
	struct ds_symbol symbols[MAX_SYMBOLS];
	unsigned long low, thp;
	struct tally tally = { 0 };
	struct ds_folio folio;
	const char *complaint;
	unsigned int offset;
	int n, i, at = 0;

	n = ds_find_symbols(functions, symbols, MAX_SYMBOLS);
	if (!n)
		SKIP(return, "this kernel's scanner does not put folios back one by one");
	ASSERT_TRUE(owner_do(&self->owner, 'l', &self->owned));
	ASSERT_TRUE(owner_do(&self->owner, 'z', &self->owned));
	ASSERT_NE(NULL, self->owned.thps[0]) TH_LOG("no THP to be had");
	low = ds_pfn_of(self->owner.pid, self->owned.low);
	thp = ds_pfn_of(self->owner.pid, self->owned.thps[0]);
	ASSERT_NE(0, low);

	for (i = 0; i < n; i++)
		for (offset = 0; offset < symbols[i].size && offset < 0x4000; offset++) {
			if (ds_pause_arm(0, symbols[i].name, offset, self->scanner.pid, HOLD_MS))
				continue;	/* in the middle of an instruction */
			try_point(_metadata, self, !at, low, thp, &tally);
			at = !at;
			complaint = tally.wrong[0] ? tally.wrong : ds_audit_complaint();
			ASSERT_EQ(NULL, complaint)
				TH_LOG("CORRUPT: %s+0x%x: %s", symbols[i].name, offset, complaint);
			ASSERT_EQ(0, ds_folio(self->owner.pid, self->owned.thps[0], &folio));
			ASSERT_STREQ("linked", folio.list)
				TH_LOG("LOST: %s+0x%x: not queued any more",
				       symbols[i].name, offset);
			ASSERT_TRUE(ds_pfn_is_thp(thp));
			/* The mover leaves a folio behind that is locked when it comes. */
			if (memcg_of(thp) != self->ino[at])
				tally.left++;
		}
	TH_LOG("window %s points=%d entered=%d completed=%d blocked=%d late=%d left=%d red=0",
	       "put_back_where_it_belongs", tally.points, tally.entered, tally.entered,
	       tally.blocked, tally.late, tally.left);
	if (!tally.entered || !tally.seen)
		SKIP(return, "VACUOUS: no charge was moved while the scanner was held");
}

TEST_HARNESS_MAIN
