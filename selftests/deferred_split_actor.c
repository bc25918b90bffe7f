// SPDX-License-Identifier: GPL-2.0
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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_actor.h"

#define ANSWER_MS	15000
#define ACTORS_MAX	8

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* -- Actions -------------------------------------------------------------- */

/* What each page is to hold: never 0. */
static unsigned long content(size_t offset)
{
	return offset + 1;
}

/* What the owner has done to its pages, for who looks at them afterwards. */
static struct {
	bool half_may_be_zero, all_may_be_zero, half_written;
} owner_did;

static int munmap_half(struct ds_subject *s)
{
	owner_did.half_may_be_zero = true;
	return munmap(s->thp + s->size / 2, s->size / 2) ? -errno : 0;
}

static int munmap_all(struct ds_subject *s)
{
	return munmap(s->thp, s->size) ? -errno : 0;
}

static int madvise_half(struct ds_subject *s, int advice)
{
	owner_did.half_may_be_zero = true;
	return madvise(s->thp + s->size / 2, s->size / 2, advice) ? -errno : 0;
}

static int dontneed_half(struct ds_subject *s)
{
	return madvise_half(s, MADV_DONTNEED);
}

static int dontneed_all(struct ds_subject *s)
{
	owner_did.all_may_be_zero = true;
	return madvise(s->thp, s->size, MADV_DONTNEED) ? -errno : 0;
}

static int free_half(struct ds_subject *s)
{
	return madvise_half(s, MADV_FREE);
}

static int mremap_half(struct ds_subject *s)
{
	void *to;

	owner_did.half_may_be_zero = true;
	to = mremap(s->thp + s->size / 2, s->size / 2, s->size / 2,
		    MREMAP_MAYMOVE | MREMAP_FIXED, s->thp - s->size / 2);

	if (to == MAP_FAILED)
		return -errno;
	/* Nobody needs it there. */
	return munmap(to, s->size / 2) ? -errno : 0;
}

static int fork_exit(struct ds_subject *s)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid ? 0 : -errno;
}

static int exit_now(struct ds_subject *s)
{
	_exit(0);
}

/* After a fork a store faults: is the page ours alone, or must it be copied? */
static int write_fault(struct ds_subject *s)
{
	size_t page = sysconf(_SC_PAGESIZE);
	int err = fork_exit(s);

	/* What is there already. Atomic, so that no compiler leaves it out. */
	__atomic_store_n((unsigned long *)(s->thp + page), s->fill ? content(page) : 0,
			 __ATOMIC_RELAXED);
	return err;
}

static int write_half(struct ds_subject *s)
{
	size_t page = sysconf(_SC_PAGESIZE), i;

	for (i = s->size / 2; i < s->size; i += page)
		__atomic_store_n((unsigned long *)(s->thp + i), content(i), __ATOMIC_RELAXED);
	owner_did.half_written = true;
	return 0;
}

static int lock_half(struct ds_subject *s)
{
	int err = mlock(s->thp, s->size / 2) ? -errno : 0;

	munlock(s->thp, s->size / 2);
	return err;
}

static int soft_offline(struct ds_subject *s)
{
	return madvise(s->thp, sysconf(_SC_PAGESIZE), MADV_SOFT_OFFLINE) ? -errno : 0;
}

static int scan(struct ds_subject *s)
{
	return ds_scan(&s->memcg, s->nid, 8);
}

static int migrate(struct ds_subject *s)
{
	int node = !s->nid, status = -1;
	void *page = s->thp;

	if (syscall(SYS_move_pages, s->owner, 1UL, &page, &node, &status, 4 /* MOVE_ALL */))
		return -errno;
	/* Held by a scanner or split meanwhile: the page, or nothing, moves. */
	return status < 0 ? status : 0;
}

static int foreign_madvise(struct ds_subject *s, int advice)
{
	struct iovec iov = { s->thp, s->size };
	int fd = syscall(SYS_pidfd_open, s->owner, 0);
	long ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_process_madvise, fd, &iov, 1UL, advice, 0);
	ret = ret < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int pageout(struct ds_subject *s)
{
	return foreign_madvise(s, MADV_PAGEOUT);
}

static int collapse(struct ds_subject *s)
{
	return foreign_madvise(s, MADV_COLLAPSE);
}

static int split_debugfs(struct ds_subject *s)
{
	char line[96];

	snprintf(line, sizeof(line), "%d,0x%lx,0x%lx,0", s->owner, (unsigned long)s->thp,
		 (unsigned long)s->thp + s->size);
	return ds_write_file("/sys/kernel/debug/split_huge_pages", line);
}

/* All of its pages, as get_user_pages() finds them. */
static int peek(struct ds_subject *s)
{
	size_t page = sysconf(_SC_PAGESIZE), i;
	unsigned long word;
	char path[64];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/proc/%d/mem", s->owner);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (i = 0; i < s->size && !err; i += page)
		if (pread(fd, &word, sizeof(word), (uintptr_t)(s->thp + i)) != sizeof(word))
			err = -errno;
	close(fd);
	return err;
}

/* Of its memcg, more than there is. */
static int reclaim_memcg(struct ds_subject *s)
{
	char path[300];
	int err;

	snprintf(path, sizeof(path), "%smemory.reclaim", s->memcg.dir);
	err = ds_write_file(path, "64M");
	return err == -EAGAIN ? 0 : err;
}

static int compact(struct ds_subject *s)
{
	return ds_write_file("/proc/sys/vm/compact_memory", "1");
}

/* The file of a subject in shared memory, as everybody can open it. */
static const char *shmem_path(const struct ds_subject *s)
{
	static char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", s->owner, DS_SHMEM_FD);
	return path;
}

static int split_file(struct ds_subject *s)
{
	char line[128];

	snprintf(line, sizeof(line), "%s,0x0,0x%lx,0", shmem_path(s),
		 s->size / sysconf(_SC_PAGESIZE));
	return ds_write_file("/sys/kernel/debug/split_huge_pages", line);
}

static int shrink_file(struct ds_subject *s, bool punch)
{
	int fd = open(shmem_path(s), O_RDWR | O_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	if (punch)
		err = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, s->size);
	else
		err = ftruncate(fd, 0);
	err = err ? -errno : 0;
	close(fd);
	return err;
}

static int truncate_file(struct ds_subject *s)
{
	return shrink_file(s, false);
}

static int punch_hole(struct ds_subject *s)
{
	return shrink_file(s, true);
}

static int move_owner(struct ds_subject *s, const char *dir)
{
	char path[300], pid[16];

	snprintf(path, sizeof(path), "%scgroup.procs", dir);
	snprintf(pid, sizeof(pid), "%d", s->owner);
	return ds_write_file(path, pid);
}

/* Moving a task waits for all CPUs. */
static int cgroup_leave(struct ds_subject *s)
{
	char parent[260];

	if (!s->memcg.dir[0])
		return -ENOENT;
	snprintf(parent, sizeof(parent), "%s", s->memcg.dir);
	/* "/a/b/": without the slash at its end, without b */
	parent[strlen(parent) - 1] = '\0';
	strrchr(parent, '/')[1] = '\0';
	return move_owner(s, parent);
}

static int cgroup_remove(struct ds_subject *s)
{
	return rmdir(s->memcg.dir) ? -errno : 0;
}

static int charge_move(struct ds_subject *s)
{
	return move_owner(s, s->other.dir);
}

const struct ds_action ds_actions[] = {
	{ .name = "munmap-half", .by_owner = true, .run = munmap_half, .leaves = DS_HALF,
	  .effect = DS_UNMAPPED },
	{ .name = "munmap-all", .by_owner = true, .run = munmap_all, .leaves = DS_NOTHING,
	  .effect = DS_UNMAPPED },
	{ .name = "dontneed-half", .by_owner = true, .run = dontneed_half, .leaves = DS_HALF,
	  .effect = DS_UNMAPPED },
	{ .name = "dontneed-all", .by_owner = true, .run = dontneed_all, .leaves = DS_NOTHING,
	  .effect = DS_UNMAPPED },
	{ .name = "free-half", .by_owner = true, .run = free_half, .leaves = DS_WHOLE,
	  .effect = DS_SPLIT },
	{ .name = "mremap-half", .by_owner = true, .run = mremap_half, .leaves = DS_HALF,
	  .effect = DS_UNMAPPED },
	{ .name = "fork-exit", .by_owner = true, .run = fork_exit, .leaves = DS_WHOLE },
	{ .name = "exit", .by_owner = true, .ends_owner = true, .run = exit_now,
	  .leaves = DS_NOTHING, .effect = DS_UNMAPPED },
	{ .name = "write-fault", .by_owner = true, .run = write_fault, .leaves = DS_WHOLE },
	{ .name = "write-half", .by_owner = true, .run = write_half, .leaves = DS_WHOLE },
	{ .name = "mlock-half", .by_owner = true, .run = lock_half, .leaves = DS_WHOLE },
	{ .name = "soft-offline", .by_owner = true, .ends_page = true, .run = soft_offline,
	  .effect = DS_SPLIT },
	{ .name = "scan", .run = scan, .leaves = DS_WHOLE, .effect = DS_SCANNED },
	{ .name = "migrate", .run = migrate, .leaves = DS_WHOLE, .effect = DS_MOVED,
	  .stages = { "migrate_pages_batch", "migrate_pages" }, .earlier = "folio_walk_start" },
	{ .name = "pageout", .run = pageout, .effect = DS_SPLIT },
	/* In 6.12 the swap is charged, and the folio's memcg gone before it is freed. */
	{ .name = "pageout-v1", .v1 = true, .run = pageout, .effect = DS_SPLIT },
	{ .name = "collapse", .run = collapse, .leaves = DS_WHOLE, .effect = DS_COLLAPSED,
	  .stages = { "hpage_collapse_scan_pmd", "collapse_scan_pmd" } },
	{ .name = "split-debugfs", .run = split_debugfs, .effect = DS_SPLIT },
	{ .name = "peek", .run = peek, .leaves = DS_WHOLE },
	{ .name = "reclaim", .run = reclaim_memcg, .effect = DS_SPLIT },
	{ .name = "compact", .run = compact, .leaves = DS_WHOLE,
	  .stages = { "compact_zone" } },
	{ .name = "split-file", .run = split_file, .leaves = DS_WHOLE },
	{ .name = "truncate", .run = truncate_file, .leaves = DS_NOTHING, .effect = DS_UNMAPPED },
	{ .name = "punch-hole", .run = punch_hole, .leaves = DS_NOTHING, .effect = DS_UNMAPPED },
	{ .name = "cgroup-remove", .ends_owner = true, .ends_memcg = true,
	  .prepare = cgroup_leave, .run = cgroup_remove, .leaves = DS_WHOLE,
	  .effect = DS_OFFLINE },
	{ .name = "charge-move", .v1 = true, .run = charge_move, .leaves = DS_WHOLE,
	  .effect = DS_RECHARGED, .stages = { "mem_cgroup_move_charge_pte_range" } },
};

const size_t ds_nr_actions = ARRAY_SIZE(ds_actions);

const struct ds_action *ds_find_action(const char *name)
{
	size_t i;

	for (i = 0; i < ds_nr_actions; i++)
		if (!strcmp(ds_actions[i].name, name))
			return &ds_actions[i];
	return NULL;
}

/* -- Actors --------------------------------------------------------------- */

struct order {
	enum ds_order what;
	int cpu;
	double at;
	size_t action;
	struct ds_subject subject;
};

static struct ds_actor *actors[ACTORS_MAX];

/* The owner's folio, with room below for mremap_half() that nothing else may take. */
static char *reserved;

#define PAGES_VERIFIED	8

static void owner_fill(char *thp, size_t size, size_t page)
{
	size_t i;

	for (i = 0; i < size; i += page)
		*(unsigned long *)(thp + i) = content(i);
}

static bool is_right(const struct ds_subject *s, size_t i, size_t page, unsigned long found)
{
	bool half = i >= s->size / 2;

	/* What is unmapped of a file is in the file. */
	if (!found && s->shmem)
		return s->punched;
	if (!found && (owner_did.all_may_be_zero || (half && owner_did.half_may_be_zero) ||
		       (s->partial && i + page == s->size)))
		return true;
	return found == (s->fill || (half && owner_did.half_written) ? content(i) : 0);
}

/* Not loads: it may not be mapped. */
static int owner_verify(const struct ds_subject *s, size_t page)
{
	size_t step = s->all_pages ? page : s->size / PAGES_VERIFIED, i;
	unsigned long found;
	int fd, err = 0;

	fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (i = 0; i < s->size && !err; i += step > page ? step : page)
		if (pread(fd, &found, sizeof(found), (uintptr_t)(s->thp + i)) == sizeof(found) &&
		    !is_right(s, i, page, found))
			err = -EIO;
	close(fd);
	return err;
}

static size_t owner_room(const struct ds_subject *s)
{
	return ds_thp_size() > s->size ? ds_thp_size() : s->size;
}

static size_t reserved_size(const struct ds_subject *s)
{
	return (3 + s->neighbours) * owner_room(s);
}

/* Huge, of a size that cannot be had again. */
static bool shmem_map(char *at, size_t size)
{
	int fd = memfd_create("deferred_split", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, size) || dup3(fd, DS_SHMEM_FD, O_CLOEXEC) < 0)
		return false;
	close(fd);
	return mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, DS_SHMEM_FD, 0) ==
	       at;
}

static char *owner_map(const struct ds_subject *s, size_t page)
{
	size_t size = s->size, room = owner_room(s);
	unsigned int i;
	char *thp, *at;

	memset(&owner_did, 0, sizeof(owner_did));
	reserved = mmap(NULL, reserved_size(s), PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserved == MAP_FAILED)
		return NULL;
	thp = (char *)(((uintptr_t)reserved + 2 * room - 1) & ~(room - 1));
	if (s->shmem ? !shmem_map(thp, size) : mprotect(thp, size, PROT_READ | PROT_WRITE))
		return NULL;
	if (madvise(thp, size, MADV_HUGEPAGE))
		return NULL;
	/* All of it zero: with max_ptes_none 0 that makes it underused. */
	__atomic_store_n(thp, 0, __ATOMIC_RELAXED);
	if (s->fill)
		owner_fill(thp, size, page);
	if (s->partial && madvise(thp + size - page, page, MADV_DONTNEED))
		return NULL;
	/* On the queue, some before it would be, some behind it. */
	for (i = 0, at = thp + room; i < s->neighbours; i++, at += room) {
		if (mprotect(at, size, PROT_READ | PROT_WRITE) || madvise(at, size, MADV_HUGEPAGE))
			return NULL;
		__atomic_store_n(at, 1, __ATOMIC_RELAXED);
		if (s->partial && madvise(at + size - page, page, MADV_DONTNEED))
			return NULL;
	}
	return thp;
}

static void wait_until(double at)
{
	while (ds_now() < at)
		;
}

static void actor_loop(int in, int out, const struct ds_memcg *memcg)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct ds_answer a;
	struct order o;

	if (memcg && !ds_memcg_enter(memcg))
		_exit(1);
	while (read(in, &o, sizeof(o)) == sizeof(o)) {
		struct ds_subject *s = &o.subject;

		ds_pin_to_cpu(o.cpu);
		memset(&a, 0, sizeof(a));
		switch (o.what) {
		case DS_DO_MAP:
			a.thp = owner_map(s, page);
			break;
		case DS_DO_ACTION:
			wait_until(o.at);
			a.began = ds_now();
			a.result = ds_actions[o.action].run(s);
			a.ended = ds_now();
			break;
		case DS_DO_UNMAP:
			a.result = owner_verify(s, page);
			munmap(reserved, reserved_size(s));
			if (s->shmem)
				close(DS_SHMEM_FD);
			break;
		}
		if (write(out, &a, sizeof(a)) != sizeof(a))
			break;
	}
	_exit(0);
}

bool ds_actor_start(struct ds_actor *actor, const struct ds_memcg *memcg)
{
	int to[2], from[2], i, place = -1;

	for (i = 0; i < ACTORS_MAX; i++)
		if (!actors[i])
			place = i;
	if (place < 0 || pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return false;
	fflush(stdout);
	actor->pid = fork();
	if (actor->pid < 0) {
		/* Who stops it nevertheless must not kill(-1). */
		actor->pid = 0;
		return false;
	}
	if (!actor->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		/* Else the end of another would go unseen as long as this one lives. */
		for (i = 0; i < ACTORS_MAX; i++)
			if (actors[i]) {
				close(actors[i]->to);
				close(actors[i]->from);
			}
		actor_loop(to[0], from[1], memcg);
	}
	close(to[0]);
	close(from[1]);
	actor->to = to[1];
	actor->from = from[0];
	actors[place] = actor;
	return true;
}

void ds_actor_stop(struct ds_actor *actor)
{
	int i;

	if (!actor->pid)
		return;
	kill(actor->pid, SIGKILL);
	waitpid(actor->pid, NULL, 0);
	close(actor->to);
	close(actor->from);
	actor->pid = 0;
	for (i = 0; i < ACTORS_MAX; i++)
		if (actors[i] == actor)
			actors[i] = NULL;
}

void ds_actor_send_at(struct ds_actor *actor, enum ds_order order, const struct ds_action *action,
		      int cpu, const struct ds_subject *subject, double at)
{
	struct order o = {
		.what = order, .cpu = cpu, .action = action ? action - ds_actions : 0,
		.subject = *subject, .at = at,
	};

	/* If it is gone, its answer says so. */
	if (write(actor->to, &o, sizeof(o)) != sizeof(o))
		return;
}

void ds_actor_send(struct ds_actor *actor, enum ds_order order, const struct ds_action *action,
		   int cpu, const struct ds_subject *subject)
{
	ds_actor_send_at(actor, order, action, cpu, subject, 0);
}

bool ds_actor_ready(struct ds_actor *actor, int ms)
{
	struct pollfd pfd = { .fd = actor->from, .events = POLLIN };

	return poll(&pfd, 1, ms) == 1;
}

int ds_actor_answer(struct ds_actor *actor, struct ds_answer *answer)
{
	memset(answer, 0, sizeof(*answer));
	if (!ds_actor_ready(actor, ANSWER_MS))
		return -ETIMEDOUT;
	if (read(actor->from, answer, sizeof(*answer)) != sizeof(*answer)) {
		answer->gone = true;
		answer->result = -ESRCH;
	}
	return 0;
}
