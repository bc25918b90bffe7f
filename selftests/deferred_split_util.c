// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_util.h"

#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define SHRINKER_DIR	"/sys/kernel/debug/shrinker/"
#define CGROUP_DIR	"/sys/fs/cgroup/"

static int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = '\0';
	return n;
}

int ds_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/*
 * A file of debugfs or sysfs that is read or written again and again stays open.
 * Not across fork(): what is behind it may belong to who has opened it.
 */
struct kept_file {
	pid_t pid;
	int fd;
};

static int keep_open(struct kept_file *kept, const char *path, int flags)
{
	if (kept->pid == getpid())
		return kept->fd;
	if (kept->pid)
		close(kept->fd);
	kept->pid = 0;
	kept->fd = open(path, flags | O_CLOEXEC);
	if (kept->fd < 0)
		return -errno;
	kept->pid = getpid();
	return kept->fd;
}

static int kept_read(struct kept_file *kept, const char *path, char *buf, size_t size)
{
	int fd = keep_open(kept, path, O_RDWR);
	ssize_t n;

	if (fd == -EACCES)
		fd = keep_open(kept, path, O_RDONLY);
	if (fd < 0)
		return fd;
	n = pread(fd, buf, size - 1, 0);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

static int kept_write(struct kept_file *kept, const char *path, int flags, const char *text)
{
	int fd = keep_open(kept, path, flags);

	if (fd < 0)
		return fd;
	/* Not pwrite(): the shrinker's files cannot seek. */
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static long read_number(const char *path)
{
	char buf[64];

	return read_file(path, buf, sizeof(buf)) > 0 ? strtol(buf, NULL, 0) : -1;
}

static size_t pmd_size(void)
{
	static long size;

	if (!size)
		size = read_number(THP_DIR "hpage_pmd_size");
	return size > 0 ? size : 0;
}

static unsigned int thps_needed = 4;

void ds_need_thps(unsigned int nr)
{
	thps_needed = nr;
}

/* As much again is for others, but for what the kernel itself has. */
static size_t memory_needed(void)
{
	return 2 * thps_needed * pmd_size();
}

static bool pmd_fits(void)
{
	size_t total = sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);

	return total > memory_needed() - memory_needed() / 8;
}

#define SMALLER_MAX	(2UL << 20)

/* The largest of the THPs that are smaller than a PMD, up to SMALLER_MAX; 0: there are none. */
static size_t smaller_size(void)
{
	size_t size = pmd_size() / 2, least = 4 * sysconf(_SC_PAGESIZE);
	char path[128];

	if (size > SMALLER_MAX)
		size = SMALLER_MAX;
	for (; size >= least; size /= 2) {
		snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/enabled", size / 1024);
		if (!access(path, F_OK))
			return size;
	}
	return 0;
}

size_t ds_thp_size(void)
{
	static size_t size;

	if (!size)
		size = pmd_size() && !pmd_fits() ? smaller_size() ?: pmd_size() : pmd_size();
	return size;
}

const char *ds_need_pmd(void)
{
	static char why[96];

	if (ds_thp_size() == pmd_size())
		return NULL;
	snprintf(why, sizeof(why), "a THP of a PMD is %zu MiB here: needs %zu MiB of memory",
		 pmd_size() >> 20, memory_needed() >> 20);
	return why;
}

/* The directory of the shrinker; its number depends on the boot. */
static const char *shrinker_dir(void)
{
	static char path[300];
	struct dirent *d;
	DIR *dir;

	if (path[0])
		return path;
	dir = opendir(SHRINKER_DIR);
	while (dir && (d = readdir(dir)))
		if (!strncmp(d->d_name, "thp-deferred_split", 18))
			snprintf(path, sizeof(path), SHRINKER_DIR "%s/", d->d_name);
	if (dir)
		closedir(dir);
	return path[0] ? path : NULL;
}

const char *ds_unusable(void)
{
	if (geteuid())
		return "must be root";
	if (!ds_thp_size())
		return "no CONFIG_TRANSPARENT_HUGEPAGE";
	if (access(SHRINKER_DIR, F_OK))
		return "no " SHRINKER_DIR ": CONFIG_SHRINKER_DEBUG, and debugfs mounted?";
	if (!shrinker_dir())
		return "no deferred split shrinker: THPs off, or less than 512 MiB of memory?";
	if (ds_thp_stat("nr_anon_partially_mapped") < 0)
		return "no nr_anon_partially_mapped: kernel before 6.12?";
	return NULL;
}

/* -- What must be put back ------------------------------------------------ */

#define NR_UNDOS	48
#define OTHER_SECONDS	30

/*
 * What the machine was like before, in memory that is shared with a guard: a process
 * that outlives the test, however it ends, and puts back what the test has not.
 */
static struct undo {
	enum { UNDO_NONE, UNDO_WRITE, UNDO_RMDIR, UNDO_SWAPOFF } what;
	bool knob;			/* put back by ds_knobs_restore() */
	char path[256], old[64];
} *undos;

static void undo_one(struct undo *u)
{
	int tries;

	switch (u->what) {
	case UNDO_WRITE:
		ds_write_file(u->path, u->old);
		break;
	case UNDO_SWAPOFF:
		swapoff(u->path);
		break;
	case UNDO_RMDIR:
		/* Those in it may still be ending. */
		for (tries = 0; tries < 200 && rmdir(u->path) && errno == EBUSY; tries++)
			usleep(10000);
		break;
	case UNDO_NONE:
		break;
	}
	u->what = UNDO_NONE;
}

#define GUARD_NAME	"ds_guard"

static void guard(int test)
{
	struct pollfd pfd = { .fd = test, .events = POLLIN };
	static const int deaf[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM };
	size_t i;
	int fd;

	/* What ends a test by its terminal or process group must not end this. */
	setsid();
	for (i = 0; i < ARRAY_SIZE(deaf); i++)
		signal(deaf[i], SIG_IGN);
	/* Nobody shall wait for us to close a pipe. */
	for (fd = 0; fd < 256; fd++)
		if (fd != test)
			close(fd);
	while (poll(&pfd, 1, -1) != 1)
		;
	for (i = NR_UNDOS; i--;)
		undo_one(&undos[i]);
	/* Who is not waited for keeps its name. */
	prctl(PR_SET_NAME, GUARD_NAME " done");
	_exit(0);
}

static bool is_guarded(void)
{
	char path[300], name[32];
	bool found = false;
	struct dirent *d;
	DIR *dir = opendir("/proc");

	while (dir && !found && (d = readdir(dir))) {
		if (d->d_name[0] < '0' || d->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", d->d_name);
		found = read_file(path, name, sizeof(name)) > 0 && !strcmp(name, GUARD_NAME "\n");
	}
	if (dir)
		closedir(dir);
	return found;
}

/*
 * One test at a time, and not before the guard of the last one has done its work:
 * what it had set would be taken for the machine's own. NULL, or what went wrong.
 */
static const char *guard_start(void)
{
	double end = ds_now() + OTHER_SECONDS;
	int test;
	pid_t pid;

	if (undos)
		return NULL;
	test = syscall(SYS_pidfd_open, getpid(), 0);
	if (test < 0)
		return "no guard of the knobs: no pidfd_open()?";
	while (is_guarded()) {
		if (ds_now() > end)
			return "another test of this kind is running";
		usleep(10000);
	}
	undos = ds_shared(NR_UNDOS * sizeof(*undos));
	if (!undos)
		return "no guard of the knobs: no memory";
	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* Nobody's child: a test may wait for all of its own. */
		prctl(PR_SET_NAME, GUARD_NAME);
		if (!fork())
			guard(test);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	close(test);
	return pid > 0 ? NULL : "no guard of the knobs: no process";
}

static struct undo *undo_find(int what, const char *path)
{
	size_t i;

	for (i = 0; undos && i < NR_UNDOS; i++)
		if ((int)undos[i].what == what && (!path || !strcmp(undos[i].path, path)))
			return &undos[i];
	return NULL;
}

/* To be done when the test is over, last added first. */
static struct undo *undo_add(int what, const char *path, const char *old)
{
	struct undo *u = undos;
	size_t i;

	/* Behind all others: not where something older was done already. */
	for (i = 0; undos && i < NR_UNDOS; i++)
		if (undos[i].what != UNDO_NONE)
			u = &undos[i + 1];
	if (!undos || u == &undos[NR_UNDOS])
		return NULL;
	u->knob = false;
	snprintf(u->path, sizeof(u->path), "%s", path);
	snprintf(u->old, sizeof(u->old), "%s", old);
	u->what = what;
	return u;
}

static void undo_forget(int what, const char *path)
{
	struct undo *u = undo_find(what, path);

	if (u)
		u->what = UNDO_NONE;
}

static const char *cannot_set(const char *path, const char *value, int err)
{
	static char why[320];

	snprintf(why, sizeof(why), "cannot set %.200s to %.32s: %s", path, value, strerror(err));
	return why;
}

const char *ds_knob_set(const char *path, const char *value)
{
	struct undo *u = undo_find(UNDO_WRITE, path);
	char buf[64], *old;
	int err;

	if (!u) {
		err = read_file(path, buf, sizeof(buf));
		if (err < 0)
			return cannot_set(path, value, -err);
		/* "always [madvise] never", or just the value */
		old = strchr(buf, '[');
		old = old ? old + 1 : buf;
		old[strcspn(old, "]\n")] = '\0';
		u = undo_add(UNDO_WRITE, path, old);
		if (!u)
			return cannot_set(path, value, ENOSPC);
		u->knob = true;
	}
	err = ds_write_file(path, value);
	return err ? cannot_set(path, value, -err) : NULL;
}

const char *ds_knobs_set(void)
{
	static bool registered;
	const char *why = guard_start();

	if (!registered)
		atexit(ds_knobs_restore);
	registered = true;
	why = why ?: ds_knob_set(THP_DIR "enabled", "madvise");
	why = why ?: ds_knob_set(THP_DIR "defrag", "madvise");
	why = why ?: ds_knob_set(THP_DIR "shrink_underused", "1");
	if (!why && ds_need_pmd())
		why = ds_set_size_enabled(ds_thp_size());
	return why ?: ds_set_underused(false);
}

const char *ds_setup(int cpus)
{
	const char *why = ds_unusable();

	if (!why && sysconf(_SC_NPROCESSORS_ONLN) < cpus)
		why = "needs two CPUs";
	return why ?: ds_knobs_set();
}

const char *ds_set_underused(bool underused)
{
	char value[32];

	snprintf(value, sizeof(value), "%lu",
		 underused ? 0 : pmd_size() / sysconf(_SC_PAGESIZE) - 1);
	return ds_knob_set(THP_DIR "khugepaged/max_ptes_none", value);
}

const char *ds_set_size_enabled(size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/enabled", size / 1024);
	return ds_knob_set(path, "madvise") ? "there are no THPs of that size" : NULL;
}

void ds_knobs_restore(void)
{
	size_t i;

	for (i = NR_UNDOS; undos && i--;)
		if (undos[i].knob)
			undo_one(&undos[i]);
}

/* -- Swap of our own ------------------------------------------------------- */

#define ZRAM_CONTROL	"/sys/class/zram-control/"

static char swap_device[32];

const char *ds_swap_create(size_t size)
{
	long page = sysconf(_SC_PAGESIZE);
	char path[64], text[32];
	unsigned int *header;
	long id;
	int fd;

	/* Reading it makes a device, and says which. */
	id = read_number(ZRAM_CONTROL "hot_add");
	if (id < 0)
		return "no zram: CONFIG_ZRAM, modprobe zram";
	snprintf(text, sizeof(text), "%ld", id);
	undo_add(UNDO_WRITE, ZRAM_CONTROL "hot_remove", text);
	snprintf(path, sizeof(path), "/sys/block/zram%ld/disksize", id);
	snprintf(text, sizeof(text), "%zu", size);
	if (ds_write_file(path, text))
		return "no zram: the size of a device cannot be set";
	snprintf(path, sizeof(path), "/sys/block/zram%ld/reset", id);
	undo_add(UNDO_WRITE, path, "1");

	/* What mkswap writes: version 1, the last page, the magic. */
	snprintf(swap_device, sizeof(swap_device), "/dev/zram%ld", id);
	header = calloc(1, page);
	if (!header)
		return "no memory";
	header[1024 / 4] = 1;
	header[1024 / 4 + 1] = size / page - 1;
	memcpy((char *)header + page - 10, "SWAPSPACE2", 10);
	fd = open(swap_device, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, header, page) != page || fsync(fd))
		id = -1;
	close(fd);
	free(header);
	if (id < 0)
		return "no zram: the device cannot be written to";
	return ds_swap_on() ? "no swap: swapon() failed" : NULL;
}

bool ds_swap_fail_writes(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/%s/mem_limit", swap_device + strlen("/dev/"));
	return !ds_write_file(path, "1");
}

bool ds_swap_ios(long *reads, long *writes)
{
	char path[64], line[256];

	snprintf(path, sizeof(path), "/sys/block/%s/stat", swap_device + strlen("/dev/"));
	return read_file(path, line, sizeof(line)) > 0 &&
	       sscanf(line, "%ld %*d %*d %*d %ld", reads, writes) == 2;
}

int ds_swap_on(void)
{
	/* Before any other. */
	if (swapon(swap_device, SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK))
		return -errno;
	undo_add(UNDO_SWAPOFF, swap_device, "");
	return 0;
}

int ds_swap_off(void)
{
	if (swapoff(swap_device))
		return -errno;
	undo_forget(UNDO_SWAPOFF, swap_device);
	return 0;
}

void ds_swap_remove(void)
{
	char path[64];
	struct undo *u;

	if (!swap_device[0])
		return;
	u = undo_find(UNDO_SWAPOFF, swap_device);
	if (u)
		undo_one(u);
	snprintf(path, sizeof(path), "/sys/block/%s/reset", swap_device + strlen("/dev/"));
	u = undo_find(UNDO_WRITE, path);
	if (u)
		undo_one(u);
	u = undo_find(UNDO_WRITE, ZRAM_CONTROL "hot_remove");
	if (u)
		undo_one(u);
	swap_device[0] = '\0';
}

/* -------------------------------------------------------------------------- */

long ds_size_stat(size_t size, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/stats/%s", size / 1024, name);
	return read_number(path);
}

long ds_thp_stat(const char *name)
{
	return ds_size_stat(ds_thp_size(), name);
}

long ds_vmstat(const char *name)
{
	size_t len = strlen(name);
	char line[128];
	long value = -1;
	FILE *f = fopen("/proc/vmstat", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ' ')
			value = atol(line + len);
	if (f)
		fclose(f);
	return value;
}

void ds_memcg_enable(void)
{
	static const char path[] = CGROUP_DIR "cgroup.subtree_control";
	char controllers[256], *word, *save;
	struct undo *u;

	if (read_file(path, controllers, sizeof(controllers)) < 0)
		return;
	for (word = strtok_r(controllers, "\n ", &save); word; word = strtok_r(NULL, "\n ", &save))
		if (!strcmp(word, "memory"))
			return;
	/* Done after the memcgs, which come later, are removed. */
	u = undo_add(UNDO_WRITE, path, "-memory");
	if (u)
		u->knob = true;
	ds_write_file(path, "+memory");
}

void ds_memcg_create(struct ds_memcg *memcg)
{
	static int number;
	struct stat st;

	memcg->v1 = false;
	ds_memcg_enable();
	/* Not a name twice: what was removed may have its folios still. */
	snprintf(memcg->dir, sizeof(memcg->dir), CGROUP_DIR "deferred_split.%d.%d/", getpid(),
		 number++);
	if (!mkdir(memcg->dir, 0755)) {
		char path[300];

		snprintf(path, sizeof(path), "%smemory.current", memcg->dir);
		if (!access(path, F_OK) && !stat(memcg->dir, &st)) {
			memcg->ino = st.st_ino;
			undo_add(UNDO_RMDIR, memcg->dir, "");
			return;
		}
		rmdir(memcg->dir);
	}
	memcg->dir[0] = '\0';
	memcg->ino = !stat(CGROUP_DIR, &st) && st.st_ino ? st.st_ino : 1;
}

void ds_rmdir_later(const char *dir)
{
	undo_add(UNDO_RMDIR, dir, "");
}

bool ds_memcg_enter(const struct ds_memcg *memcg)
{
	char path[300];

	if (!memcg->dir[0])
		return true;
	snprintf(path, sizeof(path), "%scgroup.procs", memcg->dir);
	return !ds_write_file(path, "0");
}

void ds_memcg_root(struct ds_memcg *memcg)
{
	struct stat st;

	memcg->v1 = false;
	memcg->dir[0] = '\0';
	memcg->ino = !stat(CGROUP_DIR, &st) && st.st_ino ? st.st_ino : 1;
}

/* Below the directory of the machine's own choice; the same for every process. */
static const char *cgroup_v1_dir(void)
{
	static char dir[128];
	const char *top = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/deferred_split_v1/", top ?: P_tmpdir);
	return dir;
}

/* Somebody else's: of ours there is none any more. */
static bool has_cgroups(void)
{
	DIR *dir = opendir(CGROUP_DIR);
	struct dirent *d;
	bool found = false;

	while (dir && !found && (d = readdir(dir)))
		found = d->d_type == DT_DIR && d->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return found;
}

/*
 * The memory controller goes to a v1 hierarchy, if no cgroup uses it: one that
 * was removed does so until its last page is freed.
 */
const char *ds_v1_mount(const char *where)
{
	int tries;

	if (has_cgroups())
		return "there are cgroups that would lose their memory limits to cgroup v1";
	ds_write_file(CGROUP_DIR "cgroup.subtree_control", "-memory");
	for (tries = 0; tries < 50; tries++) {
		if (!mount("cgroup", where, "cgroup", 0, "memory"))
			return NULL;
		if (errno != EBUSY)
			return "cgroup v1 memory cannot be mounted: CONFIG_MEMCG_V1?";
		ds_write_file("/proc/sys/vm/drop_caches", "3");
		usleep(100000);
	}
	return "cgroup v1 memory cannot be mounted: the controller is in use";
}

/* Only without cgroups, removed ones too, does it go away with its mount. */
bool ds_v1_unmount(const char *where)
{
	int tries, waits;

	for (tries = 0; tries < 2; tries++) {
		ds_write_file("/proc/sys/vm/drop_caches", "3");
		umount(where);
		for (waits = 0; waits < 10; waits++) {
			if (!ds_write_file(CGROUP_DIR "cgroup.subtree_control", "+memory"))
				return true;
			usleep(25000);
		}
		if (mount("cgroup", where, "cgroup", 0, "memory"))
			return false;
	}
	return false;
}

bool ds_memcg_has(const struct ds_memcg *memcg, const char *file)
{
	char path[320];

	snprintf(path, sizeof(path), "%s%s", memcg->dir, file);
	return !access(path, F_OK);
}

const char *ds_memcg_moves_charges(const struct ds_memcg *memcg)
{
	char path[320];

	snprintf(path, sizeof(path), "%smemory.move_charge_at_immigrate", memcg->dir);
	return ds_write_file(path, "3") ? "charge moving is not in this kernel" : NULL;
}

const char *ds_memcg_create_v1(struct ds_memcg *memcg, const char *name)
{
	const char *top = cgroup_v1_dir();
	char path[300];
	const char *why = NULL;
	struct stat st;

	mkdir(top, 0755);
	snprintf(path, sizeof(path), "%smemory.limit_in_bytes", top);
	if (access(path, F_OK))
		why = ds_v1_mount(top);
	if (why)
		return why;
	snprintf(memcg->dir, sizeof(memcg->dir), "%s%s/", top, name);
	if ((mkdir(memcg->dir, 0755) && errno != EEXIST) || stat(memcg->dir, &st))
		return "no cgroup v1 cgroup can be made";
	undo_add(UNDO_RMDIR, memcg->dir, "");
	memcg->ino = st.st_ino;
	memcg->v1 = true;
	return NULL;
}

bool ds_memcg_v1_end(void)
{
	return ds_v1_unmount(cgroup_v1_dir()) && !rmdir(cgroup_v1_dir());
}

void ds_memcg_remove(struct ds_memcg *memcg)
{
	int tries;

	/* A process that was waited for may still be leaving its cgroup. */
	for (tries = 0; memcg->dir[0] && tries < 100; tries++) {
		if (!rmdir(memcg->dir) || errno == ENOENT) {
			undo_forget(UNDO_RMDIR, memcg->dir);
			memcg->dir[0] = '\0';
		} else {
			usleep(10000);
		}
	}
}

int ds_scan(const struct ds_memcg *memcg, int nid, unsigned long nr)
{
	static struct kept_file scan_file;
	char path[320], line[64];

	/* The shrinker's files know the memcgs of cgroup v2 only. */
	if (memcg->v1)
		return ds_write_file("/proc/sys/vm/drop_caches", "2");
	snprintf(path, sizeof(path), "%sscan", shrinker_dir());
	snprintf(line, sizeof(line), "%lu %d %lu", memcg->ino, nid, nr);
	return kept_write(&scan_file, path, O_WRONLY, line);
}

/* The count of one node, or with nid -1 the sum over all of them. */
static long read_count(const struct ds_memcg *memcg, int nid)
{
	char path[320], line[256];
	long count = 0;
	FILE *f;
	int i;

	snprintf(path, sizeof(path), "%scount", shrinker_dir());
	f = fopen(path, "re");
	if (!f)
		return -1;
	/* "INODE NODE0 NODE1 ...", only memcgs with something queued */
	while (fgets(line, sizeof(line), f)) {
		char *p = line, *end;

		if (strtoul(p, &p, 10) != memcg->ino)
			continue;
		for (i = 0; ; i++, p = end) {
			long n = strtol(p, &end, 10);

			if (end == p)
				break;
			if (nid < 0 || nid == i)
				count += n;
		}
	}
	fclose(f);
	return count;
}

long ds_count(const struct ds_memcg *memcg)
{
	return read_count(memcg, -1);
}

long ds_count_node(const struct ds_memcg *memcg, int nid)
{
	return read_count(memcg, nid);
}

char *ds_map_thp(void)
{
	size_t size = ds_thp_size();
	char *map, *thp;

	map = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	thp = (char *)(((uintptr_t)map + size - 1) & ~(size - 1));
	if (thp > map)
		munmap(map, thp - map);
	if (map + size > thp)
		munmap(thp + size, map + size - thp);
	madvise(thp, size, MADV_HUGEPAGE);
	thp[0] = 1;
	/* khugepaged would fill up what is unmapped of it. */
	madvise(thp, size, MADV_NOHUGEPAGE);
	if (ds_is_thp(thp))
		return thp;
	munmap(thp, size);
	return NULL;
}

char *ds_map_queued(void)
{
	size_t size = ds_thp_size(), page = sysconf(_SC_PAGESIZE);
	char *thp = ds_map_thp();

	if (thp && ds_need_pmd() && madvise(thp + size - page, page, MADV_DONTNEED)) {
		munmap(thp, size);
		return NULL;
	}
	return thp;
}

unsigned long ds_pfn_of(pid_t pid, const void *addr)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, 8, (uintptr_t)addr / sysconf(_SC_PAGESIZE) * 8) != 8)
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

unsigned long ds_page_word(const char *file, unsigned long pfn)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &word, 8, pfn * 8) != 8)
		word = 0;
	close(fd);
	return word;
}

bool ds_pfn_is_thp(unsigned long pfn)
{
	return pfn && (ds_page_word("/proc/kpageflags", pfn) >> 22 & 1);	/* KPF_THP */
}

bool ds_is_thp(const void *addr)
{
	return ds_pfn_is_thp(ds_pfn_of(getpid(), addr));
}

bool ds_is_in_swap_cache(const void *addr)
{
	unsigned long pfn = ds_pfn_of(getpid(), addr);

	return pfn && (ds_page_word("/proc/kpageflags", pfn) >> 13 & 1);	/* KPF_SWAPCACHE */
}

/* Moving pages begins with that; here from where it is to where it is. */
void ds_drain(void)
{
	static char *page;
	int node = 0, status;

	if (!page)
		page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (page != MAP_FAILED)
		syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, 2 /* MPOL_MF_MOVE */);
}

bool ds_move(void *addr, int node)
{
	int status = -1;

	return !syscall(SYS_move_pages, 0, 1UL, &addr, &node, &status, 2 /* MPOL_MF_MOVE */) &&
	       status == node;
}

long ds_settle(const struct ds_memcg *memcg, long want)
{
	double end = ds_now() + 2;
	long value;
	int nid;

	do {
		for (nid = 0; nid < ds_nr_nodes(); nid++)
			ds_scan(memcg, nid, 1000);
		ds_drain();
		value = ds_thp_stat("nr_anon_partially_mapped");
	} while (value != want && ds_now() < end);
	return value;
}

bool ds_wait_all(pid_t *pids, int nr)
{
	bool well = true;
	int i, status;

	for (i = 0; i < nr; i++) {
		if (waitpid(pids[i], &status, 0) != pids[i] || status)
			well = false;
		pids[i] = 0;
	}
	return well;
}

int ds_node_of(pid_t pid, const void *addr)
{
	const void *page = addr;
	int status = -EIO;

	if (syscall(SYS_move_pages, pid, 1UL, &page, NULL, &status, 0))
		return -errno;
	return status;
}

int ds_nr_nodes(void)
{
	return access("/sys/devices/system/node/node1", F_OK) ? 1 : 2;
}

/*
 * The compiler may call it deferred_split_isolate.constprop.0. A kernel with all mutants
 * in it has the functions of B48 as deferred_split_isolate__B48, and says +B48 behind its
 * release if that is the one that runs.
 */
static bool is_function(const char *symbol, const char *name, const char *release)
{
	const char *mutant = strrchr(release, '+'), *rest;
	size_t len = strlen(name);

	if (strncmp(symbol, name, len) || strstr(symbol, ".cold"))
		return false;
	rest = symbol + len;
	return !rest[0] || rest[0] == '.' ||
	       (mutant && !strncmp(rest, "__", 2) && !strcmp(rest + 2, mutant + 1));
}

int ds_find_symbols(const char * const *names, struct ds_symbol *symbols, int max)
{
	char line[512], name[256], type;
	unsigned long addr, start = 0;
	struct utsname kernel = { };
	FILE *f = fopen("/proc/kallsyms", "re");
	int n = 0, k;

	uname(&kernel);
	while (f && fgets(line, sizeof(line), f)) {
		char *end;

		addr = strtoul(line, &end, 16);
		/* They come by their addresses: a function ends where the next one starts. */
		if (start && addr > start) {
			symbols[n - 1].size = addr - start;
			start = 0;
		}
		/* Too many lines to take apart all of them. */
		for (k = 0; names[k] && n < max; k++)
			if (strstr(end, names[k]))
				break;
		if (!names[k] || n == max || !addr || sscanf(end, " %c %255s", &type, name) != 2)
			continue;
		for (k = 0; names[k]; k++) {
			if (!is_function(name, names[k], kernel.release))
				continue;
			snprintf(symbols[n].name, sizeof(symbols[n].name), "%.127s", name);
			symbols[n++].size = 0;
			start = addr;
			break;
		}
	}
	if (f)
		fclose(f);
	return n;
}

/* -- What the kernel says -------------------------------------------------- */

/* What a splat leaves behind, bits 5, 7, 9, 14: bad page, died, warning, soft lockup. */
#define TAINT_SPLAT	0x42a0L

static int kmsg = -1;
static long taint_seen;

static long taint_of_splats(void)
{
	long taint = read_number("/proc/sys/kernel/tainted");

	return taint > 0 ? taint & TAINT_SPLAT : 0;
}

bool ds_log_start(void)
{
	if (kmsg >= 0)
		close(kmsg);
	taint_seen = taint_of_splats();
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return kmsg >= 0 && lseek(kmsg, 0, SEEK_END) >= 0;
}

const char *ds_log_complaint(void)
{
	static const char * const splats[] = {
		"WARNING: ", "BUG: ", "BUG at ", "Bad page", "list_add corruption",
		"list_del corruption", "list_add double", "page dumped because",
		"INFO: task ", "detected stall", "suspicious RCU", "possible circular",
		"inconsistent lock", "KASAN: ", "Oops", "Internal error: ",
		"Unable to handle kernel",
	};
	static char first[160];
	char record[8192], *text;
	ssize_t n;
	size_t i;

	first[0] = '\0';
	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		record[n > 0 ? n : 0] = '\0';
		text = strchr(record, ';');
		/* "PRIORITY,...;TEXT"; what is not the kernel's has a facility there. */
		if (!text || atoi(record) > 7 || first[0])
			continue;
		text[strcspn(text, "\n")] = '\0';
		for (i = 0; i < ARRAY_SIZE(splats) && !first[0]; i++)
			if (strstr(text, splats[i]))
				snprintf(first, sizeof(first), "%.150s", text + 1);
	}
	/* In words that are not known here, or the log has wrapped since. */
	if (!first[0] && taint_of_splats() & ~taint_seen)
		snprintf(first, sizeof(first), "the kernel has become tainted: 0x%lx",
			 taint_of_splats());
	taint_seen |= taint_of_splats();
	return first[0] ? first : NULL;
}

void *ds_shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

bool ds_pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

double ds_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

bool ds_have_module(void)
{
	return !access(DS_SPLITQ "pause", W_OK);
}

bool ds_have_audit(void)
{
	return !access(DS_SPLITQ "audit", R_OK);
}

/* The first line of an audit that says what is wrong, or its last if that is not "ok". */
static const char *audit_complaint(const char *path)
{
	static char line[256], first[256];
	FILE *f = fopen(path, "re");

	if (!f)
		return "no audit";
	first[0] = '\0';
	line[0] = '\0';
	while (fgets(line, sizeof(line), f))
		if (!first[0] && !strncmp(line, "wrong", 5))
			snprintf(first, sizeof(first), "%s", line);
	fclose(f);
	if (first[0])
		return first;
	/* "unknown" is not ok either. */
	return strncmp(line, "audit ok", 8) ? line : NULL;
}

const char *ds_audit_complaint(void)
{
	return audit_complaint(DS_SPLITQ "audit");
}

const char *ds_audit_marked_complaint(void)
{
	return audit_complaint(DS_SPLITQ "audit_marked");
}

int ds_cover_start(const char *symbol, pid_t pid)
{
	char text[192];

	snprintf(text, sizeof(text), "%s pid=%d", symbol, pid);
	return ds_write_file(DS_SPLITQ "cover", text);
}

void ds_cover_read(struct ds_points *points)
{
	FILE *f = fopen(DS_SPLITQ "cover", "re");
	char line[300];

	points->nr = 0;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "cover %*s size=%*s probes=%u unprobed=%u",
			   &points->instructions, &points->unprobed) == 2)
			continue;
		if (points->nr < DS_POINTS_MAX &&
		    sscanf(line, "+0x%x %u", &points->offset[points->nr],
			   &points->hits[points->nr]) == 2)
			points->nr++;
	}
	if (f)
		fclose(f);
}

static struct kept_file pause_file, release_file, folio_file;

int ds_pause_arm(int id, const char *symbol, unsigned int offset, pid_t pid, unsigned int hold_ms)
{
	char line[256];

	snprintf(line, sizeof(line), "id=%d %s+0x%x pid=%d hold_ms=%u", id, symbol, offset, pid,
		 hold_ms);
	return ds_pause_line(line);
}

int ds_pause_line(const char *line)
{
	return kept_write(&pause_file, DS_SPLITQ "pause", O_RDWR, line);
}

/* The line about a point, without its end; NULL: it is off. */
static char *pause_line(int id, char *buf, size_t size)
{
	char want[16], *line;

	snprintf(want, sizeof(want), "id=%d ", id);
	if (kept_read(&pause_file, DS_SPLITQ "pause", buf, size) <= 0)
		return NULL;
	line = strstr(buf, want);
	if (line)
		line[strcspn(line, "\n")] = '\0';
	return line;
}

int ds_pause_return(int id, unsigned long *ret)
{
	char buf[768], *line = pause_line(id, buf, sizeof(buf)), *word;

	word = line ? strstr(line, " ret=") : NULL;
	return word && sscanf(word, " ret=%lx", ret) == 1 ? 0 : -ENODATA;
}

enum ds_pause ds_pause_state(int id)
{
	static const char * const names[] = { "off", "armed", "held", "released", "expired" };
	char buf[768], state[32], *line = pause_line(id, buf, sizeof(buf));
	unsigned int i;

	if (line && sscanf(line, "id=%*d state=%31s", state) == 1)
		for (i = 0; i < ARRAY_SIZE(names); i++)
			if (!strcmp(state, names[i]))
				return i;
	return DS_OFF;
}

int ds_pause_release(int id)
{
	char line[16];

	snprintf(line, sizeof(line), "%d", id);
	return kept_write(&release_file, DS_SPLITQ "release", O_WRONLY, line);
}

void ds_pause_off(void)
{
	ds_pause_line("off");
}

void ds_module_close(void)
{
	struct kept_file *files[] = { &pause_file, &release_file, &folio_file };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(files); i++) {
		if (files[i]->pid == getpid())
			close(files[i]->fd);
		files[i]->pid = 0;
	}
}

static int folio_query(const char *query, struct ds_folio *folio)
{
	char buf[256];
	int err;

	err = kept_write(&folio_file, DS_SPLITQ "folio", O_RDWR, query);
	if (err)
		return err;
	if (kept_read(&folio_file, DS_SPLITQ "folio", buf, sizeof(buf)) <= 0)
		return -EIO;
	if (sscanf(buf, "pfn=%lx order=%d refs=%d mapcount=%d anon=%d locked=%d "
		   "partially_mapped=%d list=%15s nid=%d memcg=%lu",
		   &folio->pfn, &folio->order, &folio->refs, &folio->mapcount, &folio->anon,
		   &folio->locked, &folio->partially_mapped, folio->list, &folio->nid,
		   &folio->memcg) != 10)
		return -EPROTO;
	return 0;
}

int ds_folio(pid_t pid, const void *addr, struct ds_folio *folio)
{
	char query[64];

	snprintf(query, sizeof(query), "%d %lx", pid, (unsigned long)addr);
	return folio_query(query, folio);
}

int ds_folio_peek(unsigned long pfn, struct ds_folio *folio)
{
	char query[64];

	snprintf(query, sizeof(query), "pfn %lx", pfn);
	return folio_query(query, folio);
}

int ds_folio_keep(pid_t pid, const void *addr, const char *how)
{
	int fd = open(DS_SPLITQ "folio", O_RDWR | O_CLOEXEC);
	char buf[64];
	int err;

	if (fd < 0)
		return -errno;
	snprintf(buf, sizeof(buf), "%d %lx %s", pid, (unsigned long)addr, how);
	if (write(fd, buf, strlen(buf)) >= 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}
