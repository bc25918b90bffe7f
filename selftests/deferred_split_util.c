// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
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

size_t ds_thp_size(void)
{
	static long size;

	if (!size)
		size = read_number(THP_DIR "hpage_pmd_size");
	return size > 0 ? size : 0;
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
		return "no deferred split shrinker";
	if (ds_thp_stat("nr_anon_partially_mapped") < 0)
		return "no nr_anon_partially_mapped: kernel before 6.12?";
	return NULL;
}

#define NR_KNOBS	16

/* What knobs were set to before. */
static struct {
	char path[128], old[64];
} knobs[NR_KNOBS];

/* Returns NULL, or the knob that could not be set. */
static const char *knob_set(const char *path, const char *value)
{
	char buf[64], *old;
	size_t i;

	for (i = 0; i < NR_KNOBS && knobs[i].old[0]; i++)
		if (!strcmp(knobs[i].path, path))
			return ds_write_file(path, value) ? path : NULL;
	if (i == NR_KNOBS || read_file(path, buf, sizeof(buf)) <= 0)
		return path;
	/* "always [madvise] never", or just the value */
	old = strchr(buf, '[');
	old = old ? old + 1 : buf;
	old[strcspn(old, "]\n")] = '\0';
	snprintf(knobs[i].path, sizeof(knobs[i].path), "%s", path);
	snprintf(knobs[i].old, sizeof(knobs[i].old), "%s", old);
	return ds_write_file(path, value) ? path : NULL;
}

const char *ds_knobs_set(void)
{
	static bool registered;
	const char *why;

	if (!registered)
		atexit(ds_knobs_restore);
	registered = true;
	why = knob_set(THP_DIR "enabled", "madvise");
	why = why ?: knob_set(THP_DIR "defrag", "madvise");
	why = why ?: knob_set(THP_DIR "shrink_underused", "1");
	return why ?: ds_set_underused(false);
}

const char *ds_set_underused(bool underused)
{
	char value[32];

	snprintf(value, sizeof(value), "%lu",
		 underused ? 0 : ds_thp_size() / sysconf(_SC_PAGESIZE) - 1);
	return knob_set(THP_DIR "khugepaged/max_ptes_none", value);
}

const char *ds_set_size_enabled(size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/enabled", size / 1024);
	return knob_set(path, "madvise") ? "there are no THPs of that size" : NULL;
}

void ds_knobs_restore(void)
{
	size_t i;

	for (i = 0; i < NR_KNOBS; i++) {
		if (knobs[i].old[0])
			ds_write_file(knobs[i].path, knobs[i].old);
		knobs[i].old[0] = '\0';
	}
}

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

void ds_memcg_create(struct ds_memcg *memcg)
{
	static int number;
	struct stat st;

	memcg->v1 = false;
	ds_write_file(CGROUP_DIR "cgroup.subtree_control", "+memory");
	/* Not a name twice: what was removed may have its folios still. */
	snprintf(memcg->dir, sizeof(memcg->dir), CGROUP_DIR "deferred_split.%d.%d/", getpid(),
		 number++);
	if (!mkdir(memcg->dir, 0755)) {
		char path[300];

		snprintf(path, sizeof(path), "%smemory.current", memcg->dir);
		if (!access(path, F_OK) && !stat(memcg->dir, &st)) {
			memcg->ino = st.st_ino;
			return;
		}
		rmdir(memcg->dir);
	}
	memcg->dir[0] = '\0';
	memcg->ino = !stat(CGROUP_DIR, &st) && st.st_ino ? st.st_ino : 1;
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

const char *ds_memcg_create_v1(struct ds_memcg *memcg, const char *name)
{
	const char *top = cgroup_v1_dir();
	char path[300];
	struct stat st;
	int tries;

	mkdir(top, 0755);
	snprintf(path, sizeof(path), "%smemory.move_charge_at_immigrate", top);
	if (access(path, F_OK)) {
		/* A controller is free when its last cgroup of the other kind is gone. */
		ds_write_file(CGROUP_DIR "cgroup.subtree_control", "-memory");
		for (tries = 0; mount("none", top, "cgroup", 0, "memory"); tries++) {
			if (tries == 300)
				return "cgroup v1 memory cannot be mounted";
			usleep(10000);
		}
	}
	snprintf(memcg->dir, sizeof(memcg->dir), "%s%s/", top, name);
	snprintf(path, sizeof(path), "%smemory.move_charge_at_immigrate", memcg->dir);
	if ((mkdir(memcg->dir, 0755) && errno != EEXIST) || stat(memcg->dir, &st))
		return "no cgroup v1 cgroup can be made";
	if (ds_write_file(path, "3"))
		return "charge moving is not in this kernel";
	memcg->ino = st.st_ino;
	memcg->v1 = true;
	return NULL;
}

void ds_memcg_remove(struct ds_memcg *memcg)
{
	int tries;

	/* A process that was waited for may still be leaving its cgroup. */
	for (tries = 0; memcg->dir[0] && tries < 100; tries++) {
		if (!rmdir(memcg->dir) || errno == ENOENT)
			memcg->dir[0] = '\0';
		else
			usleep(10000);
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
	if (ds_is_thp(thp))
		return thp;
	munmap(thp, size);
	return NULL;
}

bool ds_is_thp(const void *addr)
{
	uint64_t entry = 0, flags = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	off_t page = (uintptr_t)addr / sysconf(_SC_PAGESIZE);

	if (fd < 0 || pread(fd, &entry, 8, page * 8) != 8)
		entry = 0;
	close(fd);
	if (!(entry >> 63))
		return false;
	fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &flags, 8, (entry & ((1ULL << 55) - 1)) * 8) != 8)
		flags = 0;
	close(fd);
	return flags >> 22 & 1;		/* KPF_THP */
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

enum ds_pause ds_pause_state(int id)
{
	static const char * const names[] = { "off", "armed", "held", "released", "expired" };
	char buf[768], want[16], state[32], *line;
	unsigned int i;

	snprintf(want, sizeof(want), "id=%d ", id);
	if (kept_read(&pause_file, DS_SPLITQ "pause", buf, sizeof(buf)) <= 0)
		return DS_OFF;
	line = strstr(buf, want);
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
