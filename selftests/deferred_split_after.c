// SPDX-License-Identifier: GPL-2.0
/*
 * Run a command, and look at the deferred split queue after it: for tests that do
 * not look there themselves. No test of its own; scripts/mmtests.py runs the
 * kernel's own mm selftests by it.
 *
 *	deferred_split_after [-t SECONDS] [-p FAULT] COMMAND [ARG...]
 *
 * What the command had mapped is freed when it has ended. Then, soon,
 *
 * - nr_anon and nr_anon_partially_mapped of every size of THP, and the length of the
 *   root memcg's queue, are what they were before (LEAK);
 * - the audits of the splitq module, if it is loaded, find nothing wrong (AUDIT).
 *
 * Means something only if nobody else uses THPs meanwhile. After SECONDS (300) the
 * command is stopped; what it has left behind is looked at nevertheless, but that is
 * VACUOUS at best. "-p leak|count|marked" plants what must be found.
 *
 * The last lines say "# after: exit=N secs=N" or "# after: signal=N", and the result.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "deferred_split_util.h"

#define SIZES		"/sys/kernel/mm/transparent_hugepage/hugepages-"
#define NR_COUNTERS	64
#define SETTLE_SECONDS	10
#define END_SECONDS	10	/* between SIGTERM, which a test may heed, and SIGKILL */

static struct counter {
	char name[64];
	size_t size;		/* 0: length of the root memcg's queue */
	bool marked;
	long before, now;
} counters[NR_COUNTERS];

static int nr_counters;
static struct ds_memcg root;

static void counter_add(const char *name, size_t size, bool marked)
{
	struct counter *c = &counters[nr_counters];

	if (nr_counters == NR_COUNTERS)
		ksft_exit_fail_msg("more than %d counters\n", NR_COUNTERS);
	if (size)
		snprintf(c->name, sizeof(c->name), "%s of %zukB", name, size / 1024);
	else
		snprintf(c->name, sizeof(c->name), "%s", name);
	c->size = size;
	c->marked = marked;
	nr_counters++;
}

static long counter_read(const struct counter *c)
{
	if (!c->size)
		return ds_count(&root);
	return ds_size_stat(c->size, c->marked ? "nr_anon_partially_mapped" : "nr_anon");
}

static void counters_start(void)
{
	glob_t sizes;
	size_t i;

	if (glob(SIZES "*kB", 0, NULL, &sizes))
		ksft_exit_fail_msg("no " SIZES "*\n");
	for (i = 0; i < sizes.gl_pathc; i++) {
		size_t size = strtoul(sizes.gl_pathv[i] + strlen(SIZES), NULL, 10) * 1024;

		/* An order 1 folio has a size, but no counters where it cannot be anonymous. */
		if (ds_size_stat(size, "nr_anon") < 0)
			continue;
		counter_add("nr_anon", size, false);
		counter_add("nr_anon_partially_mapped", size, true);
	}
	globfree(&sizes);
	ds_memcg_root(&root);
	counter_add("the length of the root memcg's queue", 0, false);
	for (i = 0; i < (size_t)nr_counters; i++) {
		counters[i].before = counter_read(&counters[i]);
		if (counters[i].before < 0)
			ksft_exit_fail_msg("%s cannot be read\n", counters[i].name);
	}
}

/* Wait until all is what it was; returns the first that is not, or NULL. */
static const struct counter *counters_settle(void)
{
	double end = ds_now() + SETTLE_SECONDS;
	const struct counter *bad;
	int i;

	do {
		ds_drain();
		for (bad = NULL, i = nr_counters; i--;) {
			counters[i].now = counter_read(&counters[i]);
			if (counters[i].now != counters[i].before)
				bad = &counters[i];
		}
		if (bad)
			usleep(20000);
	} while (bad && ds_now() < end);
	return bad;
}

static bool plant(const char *fault)
{
	char *thp;

	if (strcmp(fault, "leak"))
		return !ds_write_file(DS_SPLITQ "audit_plant", fault);
	thp = ds_map_thp();
	return thp && !munmap(thp + ds_thp_size() / 2, ds_thp_size() / 2);
}

/* Run the command; returns whether it had to be stopped. */
static bool run_command(char **argv, double seconds, int *status)
{
	double end = ds_now() + seconds;
	bool late = false;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		execv(argv[0], argv);
		printf("cannot run %s: %s\n", argv[0], strerror(errno));
		fflush(stdout);
		_exit(127);
	}
	while (!waitpid(pid, status, WNOHANG)) {
		if (ds_now() > end + END_SECONDS)
			kill(-pid, SIGKILL);
		else if (!late && ds_now() > end)
			kill(-pid, SIGTERM);
		late = late || ds_now() > end;
		usleep(20000);
	}
	/* What it has started and left. */
	kill(-pid, SIGKILL);
	return late;
}

/* Prints all that is wrong; returns whether something is. */
static bool look(void)
{
	const struct counter *bad = counters_settle();
	bool wrong = bad;
	const char *said;
	int i;

	for (i = 0; bad && i < nr_counters; i++)
		if (counters[i].now != counters[i].before)
			ksft_print_msg("LEAK: %s is %ld, was %ld\n", counters[i].name,
				       counters[i].now, counters[i].before);
	if (ds_have_audit()) {
		said = ds_audit_complaint();
		if (said)
			ksft_print_msg("AUDIT: %s\n", said);
		wrong = wrong || said;
		said = ds_audit_marked_complaint();
		if (said)
			ksft_print_msg("AUDIT: %s\n", said);
		wrong = wrong || said;
	}
	return wrong;
}

int main(int argc, char **argv)
{
	const char *fault = NULL, *why;
	double seconds = 300, start;
	bool late, wrong;
	int opt, status;

	while ((opt = getopt(argc, argv, "+t:p:h")) != -1) {
		if (opt == 't' && atof(optarg) > 0) {
			seconds = atof(optarg);
		} else if (opt == 'p') {
			fault = optarg;
		} else {
			printf("usage: %s [-t SECONDS] [-p FAULT] COMMAND [ARG...]\n", argv[0]);
			return opt == 'h' ? 0 : 2;
		}
	}
	if (optind == argc)
		ksft_exit_fail_msg("no command; -h tells\n");
	why = ds_unusable();
	if (why)
		ksft_exit_skip("%s\n", why);

	counters_start();
	start = ds_now();
	late = run_command(argv + optind, seconds, &status);
	if (WIFEXITED(status))
		ksft_print_msg("after: exit=%d secs=%.2f\n", WEXITSTATUS(status), ds_now() - start);
	else
		ksft_print_msg("after: signal=%d secs=%.2f\n", WTERMSIG(status), ds_now() - start);
	if (fault && !plant(fault))
		ksft_exit_fail_msg("%s cannot be planted\n", fault);
	wrong = look();
	if (wrong) {
		ksft_test_result_fail("something is left behind\n");
		return KSFT_FAIL;
	}
	if (late) {
		ksft_test_result_skip("VACUOUS: stopped after %.0f s, nothing wrong until then\n",
				      seconds);
		return KSFT_SKIP;
	}
	ksft_test_result_pass("nothing is left behind%s\n",
			      ds_have_audit() ? "" : ", as far as counters tell");
	if (!WIFEXITED(status)) {
		ksft_print_msg("KILLED: the command, by signal %d\n", WTERMSIG(status));
		return KSFT_FAIL;
	}
	return WEXITSTATUS(status);
}
