// SPDX-License-Identifier: GPL-2.0
/*
 * init of the guest: mounts what tests need, runs what /splitq.run says, and
 * reports on a virtio-serial port of its own, so that console noise cannot be
 * taken for a result and a result cannot be lost in console noise.
 *
 * /splitq.run, one test a line, fields separated by a tab:
 *
 *	NAME	SECONDS	COMMAND ARG...
 *
 * COMMAND "@kunit SUITE" copies a KUnit suite's results from debugfs, "@shell"
 * is an interactive shell on the console, "@session" takes more lines of this kind
 * from a second port, one after the other, until that says "end". The first test
 * that does not pass ends the run: after a corruption, everything that follows is
 * noise. The host goes on with the rest in a fresh guest. In a session the host
 * decides whether the guest is still good.
 *
 * A report is a line "SEQ TYPE ..."; SEQ counts from 1, so that the host sees a
 * lost line. Types: hello, note, session, begin, out, end, beat, gcov, bye. With
 * gcov in the kernel, the last before bye are its counts: file, offset, data in hex.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME	"splitq.results"
#define COMMANDS_NAME	"splitq.commands"
#define PORTS_DIR	"/sys/class/virtio-ports"
#define KUNIT_DIR	"/sys/kernel/debug/kunit"
#define GCOV_DIR	"/sys/kernel/debug/gcov"
#define BEAT_SECONDS	2
#define KSFT_SKIP	4

/*
 * Taint that says nothing about the kernel's health: out of tree module (12),
 * unsigned module (13), in-kernel test (18).
 */
#define TAINT_HARMLESS	((1UL << 12) | (1UL << 13) | (1UL << 18))

static FILE *port;
static int kmsg = -1;
static unsigned long seq;

__attribute__((format(printf, 1, 2)))
static void report(const char *fmt, ...)
{
	va_list ap;

	if (!port)
		return;
	fprintf(port, "%lu ", ++seq);
	va_start(ap, fmt);
	vfprintf(port, fmt, ap);
	va_end(ap);
	fputc('\n', port);
	fflush(port);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static bool read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "r");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, size, f);
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

static unsigned long taint(void)
{
	char buf[32];

	return read_line("/proc/sys/kernel/tainted", buf, sizeof(buf)) ? strtoul(buf, NULL, 10) : 0;
}

static void mount_at(const char *type, const char *dir)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, NULL) && errno != EBUSY)
		report("note mount of %s on %s failed: %s", type, dir, strerror(errno));
}

/* A port of the host, by its name. */
static FILE *open_port(const char *port_name, const char *mode)
{
	char path[300], name[64];
	struct dirent *d;
	FILE *f = NULL;
	int tries;

	/* The driver announces a port when the host has named it: a moment later. */
	for (tries = 0; tries < 200 && !f; tries++) {
		DIR *dir = opendir(PORTS_DIR);

		while (dir && !f && (d = readdir(dir))) {
			snprintf(path, sizeof(path), PORTS_DIR "/%s/name", d->d_name);
			if (d->d_name[0] == '.' || !read_line(path, name, sizeof(name)) ||
			    strcmp(name, port_name))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", d->d_name);
			f = fopen(path, mode);
		}
		if (dir)
			closedir(dir);
		if (!f)
			usleep(10000);
	}
	return f;
}

/* zram0 as swap; the header is the one that mkswap would write. */
static void swap_on_zram(const char *size)
{
	long page = sysconf(_SC_PAGESIZE);
	unsigned int *header;
	int fd;

	if (!write_file("/sys/block/zram0/disksize", size))
		return;
	header = calloc(1, page);
	header[1024 / 4] = 1;					/* version */
	header[1024 / 4 + 1] = strtoull(size, NULL, 0) / page - 1;	/* last page */
	memcpy((char *)header + page - 10, "SWAPSPACE2", 10);
	fd = open("/dev/zram0", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, header, page) != page || fsync(fd) || close(fd) ||
	    swapon("/dev/zram0", 0))
		report("note swap on zram0 failed: %s", strerror(errno));
	free(header);
}

static void load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (syscall(SYS_finit_module, fd, "", 0))
		report("note insmod %s failed: %s", path, strerror(errno));
	close(fd);
}

/* Prints a KUnit suite's results; in the child that stands for the test. */
static int print_kunit(const char *suite)
{
	char path[256], line[1024];
	bool failed = false;
	FILE *f;

	snprintf(path, sizeof(path), KUNIT_DIR "/%s/results", suite);
	f = fopen(path, "r");
	if (!f) {
		printf("no %s: is the suite in this kernel, and kunit.enable=1?\n", path);
		return 1;
	}
	while (fgets(line, sizeof(line), f)) {
		fputs(line, stdout);
		if (!strncmp(line + strspn(line, " "), "not ok ", 7))
			failed = true;
	}
	fclose(f);
	return failed;
}

static int interactive_shell(void)
{
	char *argv[] = { "sh", "-l", NULL };

	setsid();
	ioctl(0, TIOCSCTTY, 1);
	puts("\nsplitq: kselftests in /selftests, /splitq.ko is loaded; 'exit' ends the guest");
	setenv("PATH", "/bin:/selftests", 1);
	setenv("HOME", "/", 1);
	setenv("PS1", "splitq# ", 1);
	execv("/bin/busybox", argv);
	perror("/bin/busybox");
	return 127;
}

static int run_child(char *command)
{
	char *argv[64];
	int n = 0;
	char *p;

	for (p = strtok(command, " "); p && n < 63; p = strtok(NULL, " "))
		argv[n++] = p;
	argv[n] = NULL;
	if (!n)
		return 127;
	if (!strcmp(argv[0], "@kunit"))
		return print_kunit(n > 1 ? argv[1] : "");
	execv(argv[0], argv);
	printf("cannot run %s: %s\n", argv[0], strerror(errno));
	return 127;
}

/* Returns whether the run may go on: the test passed and the kernel is well. */
static bool run_test(const char *name, double seconds, char *command)
{
	unsigned long taint_before = taint();
	double start = now(), beat = start;
	char buf[4096], line[1024];
	size_t used = 0;
	bool late = false;
	int fds[2], status = 0;
	pid_t pid;

	report("begin %s", name);
	/* So that a splat on the console can be told to be this test's. */
	snprintf(line, sizeof(line), "<5>splitq: begin %s\n", name);
	if (write(kmsg, line, strlen(line)) < 0)
		report("note cannot write to /dev/kmsg: %s", strerror(errno));
	if (!strcmp(command, "@shell")) {
		pid = fork();
		if (!pid)
			_exit(interactive_shell());
		waitpid(pid, &status, 0);
		report("end %s exit=%d secs=%.2f tainted=%lu", name, WEXITSTATUS(status),
		       now() - start, taint());
		return true;
	}

	if (pipe2(fds, O_CLOEXEC)) {
		report("end %s exit=127 secs=0 tainted=%lu", name, taint());
		return false;
	}
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_RDONLY);
		int status;

		setsid();
		dup2(null, 0);
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		status = run_child(command);
		fflush(stdout);
		_exit(status);
	}
	close(fds[1]);

	for (;;) {
		struct pollfd pfd = { .fd = fds[0], .events = POLLIN };
		ssize_t n, i;

		if (poll(&pfd, 1, 200) > 0) {
			n = read(fds[0], buf, sizeof(buf));
			if (n <= 0)
				break;
			for (i = 0; i < n; i++) {
				if (buf[i] != '\n' && used < sizeof(line) - 1) {
					line[used++] = buf[i];
					continue;
				}
				line[used] = '\0';
				used = 0;
				report("out %s %s", name, line);
				if (buf[i] != '\n')
					line[used++] = buf[i];
			}
		} else {
			siginfo_t info = { .si_pid = 0 };

			/* Ended, but somebody else still holds the pipe? */
			if (!waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid)
				break;
		}
		if (now() - beat > BEAT_SECONDS) {
			beat = now();
			report("beat %.1f", beat);
		}
		if (!late && now() - start > seconds) {
			late = true;
			kill(-pid, SIGKILL);
		}
		if (late && now() - start > seconds + 5) {
			report("end %s stuck secs=%.2f tainted=%lu", name, now() - start, taint());
			return false;
		}
	}
	if (used) {
		line[used] = '\0';
		report("out %s %s", name, line);
	}
	close(fds[0]);
	waitpid(pid, &status, 0);
	kill(-pid, SIGKILL);	/* what the test left behind */

	if (late)
		report("end %s timeout secs=%.2f tainted=%lu", name, now() - start, taint());
	else if (WIFSIGNALED(status))
		report("end %s signal=%d secs=%.2f tainted=%lu", name, WTERMSIG(status),
		       now() - start, taint());
	else
		report("end %s exit=%d secs=%.2f tainted=%lu", name, WEXITSTATUS(status),
		       now() - start, taint());

	if ((taint() ^ taint_before) & ~TAINT_HARMLESS)
		return false;
	return !late && WIFEXITED(status) &&
	       (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == KSFT_SKIP);
}

/* Runs one line of /splitq.run, or of a session; returns whether it may go on. */
static bool run_line(char *line, int *tests)
{
	char *save, *name, *seconds, *command;

	line[strcspn(line, "\n")] = '\0';
	name = strtok_r(line, "\t", &save);
	seconds = strtok_r(NULL, "\t", &save);
	command = strtok_r(NULL, "\t", &save);
	if (!command)
		return true;
	++*tests;
	return run_test(name, atof(seconds), command);
}

static void run_session(int *tests)
{
	FILE *commands = open_port(COMMANDS_NAME, "re");
	char line[1024];

	if (!commands) {
		report("note no virtio port " COMMANDS_NAME);
		return;
	}
	report("session");
	while (fgets(line, sizeof(line), commands) && strcmp(line, "end\n"))
		run_line(line, tests);
	fclose(commands);
}

/* What gcov has counted in one object. */
static void report_counts(const char *path)
{
	const char *name = path + strlen(GCOV_DIR);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned char data[1024];
	char hex[2 * sizeof(data) + 1];
	size_t offset = 0;
	ssize_t n = -1, i;

	while (fd >= 0 && (n = read(fd, data, sizeof(data))) > 0) {
		for (i = 0; i < n; i++)
			sprintf(hex + 2 * i, "%02x", data[i]);
		report("gcov %s %zu %s", name, offset, hex);
		offset += n;
	}
	report("gcov %s %zu %s", name, offset, n < 0 ? "lost" : "end");
	if (fd >= 0)
		close(fd);
}

/* The same for all below a directory; nothing where the kernel has no gcov. */
static void report_all_counts(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *d;
	char below[1024];
	size_t length;

	while (dir && (d = readdir(dir))) {
		length = snprintf(below, sizeof(below), "%s/%s", path, d->d_name);
		/* Other names with a dot are directories of where the kernel was built. */
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..") || length >= sizeof(below))
			continue;
		if (d->d_type == DT_DIR)
			report_all_counts(below);
		else if (d->d_type == DT_REG && !strcmp(below + length - 5, ".gcda"))
			report_counts(below);
	}
	if (dir)
		closedir(dir);
}

static void run_all(void)
{
	FILE *f = fopen("/splitq.run", "re");
	char line[1024];
	int tests = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (strstr(line, "\t@session\n"))
			run_session(&tests);
		else if (!run_line(line, &tests))
			break;
	}
	if (f)
		fclose(f);
	report_all_counts(GCOV_DIR);
	report("bye tests=%d tainted=%lu", tests, taint());
}

int main(void)
{
	struct utsname u;

	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	port = open_port(PORT_NAME, "we");
	if (!port)
		fprintf(stderr, "init: no virtio port " PORT_NAME ": nothing can be reported\n");
	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	uname(&u);
	report("hello release=%s machine=%s cpus=%ld", u.release, u.machine,
	       sysconf(_SC_NPROCESSORS_ONLN));

	mount_at("debugfs", "/sys/kernel/debug");
	mount_at("cgroup2", "/sys/fs/cgroup");
	mount_at("tmpfs", "/tmp");
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	swap_on_zram("268435456");
	load_module("/splitq.ko");

	setenv("PATH", "/bin:/selftests", 1);
	run_all();
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
