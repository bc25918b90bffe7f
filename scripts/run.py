#!/usr/bin/env python3
"""Build a kernel, boot it, run the tests in it, and say what they found.

All tests share a guest as long as they pass, but for those that change it. After
one that does not, the rest go on in a fresh guest: what follows a corruption is
noise. Exit status 0 only if
something passed and nothing failed, was vacuous, or could not be judged.
"""
import collections
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import time

import boot
import build
import common
import judge
from common import TOP, die, say

KEEP_RUNS = 60
KEEP_OF_A_KIND = 10     # however many others came after: a matrix takes long to run again
BUSY = 3600         # seconds: who has written to his run since then is still at it
# What leaves a guest other than it was. They take the memory controller to cgroup
# v1; and 6.12 warns of a page_counter underflow when kernel objects that
# were charged to cgroups before that are freed.
ALONE = ("selftests/charge_move", "selftests/memsw")


def suites():
    found = []
    with open(os.path.join(TOP, "scripts", "suites")) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                name, seconds, command, quick = (line.rstrip("\n").split("\t") + [""])[:4]
                found.append((name, int(seconds), command, quick))
    return found


def choose(wanted, arch="x86_64"):
    """The tests whose name contains one of the words; 'quick' is a choice of short ones."""
    found = [(name, seconds * common.ARCHES[arch]["patience"], command, quick)
             for name, seconds, command, quick in suites()]
    if wanted == "quick":
        return [(name, seconds, command if quick == "-" else command + " " + quick)
                for name, seconds, command, quick in found if quick]
    tests = [t[:3] for t in found]
    words = (wanted or "").replace(",", " ").split()
    for word in words:
        if not any(word in t[0] for t in tests):
            die("no test is called '%s'" % word, "TESTS is a list of: %s"
                % " ".join(t[0] for t in tests))
    return [t for t in tests if not words or any(w in t[0] for w in words)]


def written(path):
    """When something below a directory was written last."""
    latest = os.path.getmtime(path)
    for where, _, names in os.walk(path):
        for name in names:
            try:
                latest = max(latest, os.lstat(os.path.join(where, name)).st_mtime)
            except OSError:
                pass            # somebody else removes it
    return latest


def too_many(names):
    """Of the names of all runs, the oldest first, those that need not be kept."""
    kinds = collections.defaultdict(list)
    for name in names:
        kinds[name.split("-", 2)[-1]].append(name)
    kept = {name for same in kinds.values() for name in same[-KEEP_OF_A_KIND:]}
    return [name for name in names[:-KEEP_RUNS] if name not in kept]


def new_run_dir(label):
    root = common.cache_dir("runs")
    old = sorted(d for d in os.listdir(root) if os.path.isdir(os.path.join(root, d))
                 and not os.path.islink(os.path.join(root, d)))
    for name in too_many(old):
        try:
            if time.time() - written(os.path.join(root, name)) > BUSY:
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        except OSError:
            pass                # another run has removed it
    for n in range(1000):
        name = time.strftime("%Y%m%d-%H%M%S") + "-" + label + ("-%d" % n if n else "")
        try:
            os.mkdir(os.path.join(root, name))
        except FileExistsError:
            continue
        last = os.path.join(root, "last")
        tmp = "%s.%d" % (last, os.getpid())
        os.symlink(name, tmp)
        os.rename(tmp, last)
        return os.path.join(root, name)
    die("cannot make a run directory in %s" % root)


def again(kernel, args):
    """The command that repeats a run."""
    words = ["make run", "BASE=" + kernel.base, "ARCH=" + kernel.arch, "PAGES=" + kernel.pages, "SERIES=" + args.series]
    if kernel.mutant:
        words.append("MUTANT=" + kernel.mutant)
    words.append("DEBUG=" + ",".join(kernel.debug))
    words.append("SMP=%d MEM=%d" % (args.smp, args.mem))
    if kernel.linux:
        words.append("LINUX=" + os.path.abspath(kernel.linux))
    if getattr(args, "module", "1") == "0":
        words.append("MODULE=0")
    if kernel.kunit_filter:
        words.append("KUNIT_FILTER='%s'" % kernel.kunit_filter)
    if args.tests:
        words.append("TESTS='%s'" % args.tests)
    if args.det:
        words.append("DET=1")
    return " ".join(words)


class Ticker:
    """While a guest runs: which test, for how long, on a terminal only."""

    def __init__(self, run, label, limit):
        self.run, self.label, self.limit, self.shown = run, label, limit, 0
        self.tty = sys.stdout.isatty()

    def __call__(self, seconds):
        if not self.tty or seconds - self.shown < 0.5:
            return
        self.shown = seconds
        report = judge.Report(judge.read(self.run, "results.log"))
        name = list(report.tests)[-1] if report.tests else "booting"
        sys.stdout.write("\r\033[K%s: %s, %d s" % (self.label, name, seconds))
        sys.stdout.flush()

    def end(self):
        if self.tty:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()


def decode(built, where):
    """The console with source lines in its traces, by the kernel's own script."""
    script = os.path.join(built.dir, "linux/scripts/decode_stacktrace.sh")
    try:
        with open(os.path.join(where, "console.log")) as console, \
                open(os.path.join(where, "console.decoded"), "w") as out:
            subprocess.run(["bash", script, built.vmlinux], stdin=console, stdout=out,
                           stderr=subprocess.DEVNULL, timeout=60,
                           env=dict(os.environ, CROSS_COMPILE=common.cross(built.kernel.arch)))
    except (OSError, subprocess.TimeoutExpired):
        pass                    # a convenience: the console itself is there


def skipped(built, tests, args, accel, run):
    """The rows of the tests that this base cannot run."""
    return [{"test": name, "verdict": judge.SKIP, "base": built.info["base"],
             "kernel": built.info["label"], "series": built.info["series"],
             "arch": built.info["arch"], "machine": built.kernel.machine, "accel": accel + (" icount" if args.det else ""),
             "cpus": args.smp, "release": built.info["release"], "source": built.info["source"],
             "run": run,
             "windows": {}, "counts": {}, "seconds": 0.0,
             "detail": "the KUnit suite is not built on %s, only on %s"
             % (built.info["base"], " ".join(common.KUNIT_BASES))}
            for name, _, _ in tests if name.startswith("kunit/") and not built.kernel.has_kunit]


def set_aside(found, tried, guest):
    """Take the tests of which QEMU, and not the kernel, made an end out of the rows that were
    found, once each: returns their names. tried: name -> in which guest that was; a row of a
    test that has been tried before says so.
    """
    again = []
    for row in list(found):
        name = row["test"]
        if name in tried:
            row["detail"] = "%s (before, in %s: %s)" % (row.get("detail") or "", tried[name],
                                                        judge.STALE)
        elif row["verdict"] == judge.ERROR and row.get("detail") == judge.STALE:
            tried[name] = guest
            found.remove(row)
            again.append(name)
    return again


def run_tests(built, tests, args, accel, run, show=True):
    """Run the tests in as many guests as it takes; returns the judged rows.

    show: on a terminal, which one runs; and traces get source lines.
    """
    rows, guest, tried = skipped(built, tests, args, accel, run), 0, {}
    waiting = [t for t in tests if t[0] not in {r["test"] for r in rows}]
    while waiting:
        guest += 1
        others = [n for n, t in enumerate(waiting) if t[0] in ALONE] + [len(waiting)]
        pending = waiting[:others[0] or 1]
        where = os.path.join(run, "guest-%d" % guest)
        limit = 60 + sum(t[1] for t in pending)
        ticker = Ticker(where, built.info["label"], limit)
        boot.boot(built, where, pending, accel, args.smp, args.mem,
                  kunit=any(t[0].startswith("kunit/") for t in pending), det=args.det,
                  limit=limit, on_tick=ticker if show else None)
        if show:
            ticker.end()
        found, left = judge.judge_run(where)
        once_more = set_aside(found, tried, os.path.basename(where))
        rows += found
        if show and any("splat: " in (r.get("detail") or "") for r in found):
            decode(built, where)
        if once_more:
            waiting = [t for t in pending if t[0] in left + once_more] + waiting[len(pending):]
            continue
        judged = {r["test"] for r in found}
        suites = [t for t in pending if t[0].startswith("kunit/")]
        if len(left) == len(pending) > len(suites) > 0:
            # Not one test began: the built-in suite may be why. The others without it.
            rows += [dict(found[0], test=t[0], verdict=judge.ERROR,
                          detail="no result: the guest did not come up")
                     for t in suites if t[0] not in judged]
            waiting = [t for t in pending if t not in suites] + waiting[len(pending):]
            continue
        if len(left) == len(pending):
            # Once more would show the same.
            rows += [dict(found[0], test=name, verdict=judge.ERROR,
                          detail="not run: the guest did not come up") for name in left
                     if name not in judged]
            break
        waiting = [t for t in pending if t[0] in left] + waiting[len(pending):]
    return rows


class Runs:
    """The chosen tests on one kernel, which is built once, as often as wanted."""

    def __init__(self, args, clock):
        self.args, self.kernel = args, common.Kernel(args)
        self.tests = choose(args.tests, args.arch)
        boot.check_size(args)
        self.built = build.Built(self.kernel, clock)
        self.without_module = getattr(args, "module", "1") == "0"
        if self.without_module:
            self.built.module = None
        self.accel = "tcg" if args.det else boot.accelerator(self.built)
        clock.lap("accelerator")

    def once(self, where, show=True):
        """All tests, in guests of their own: returns the judged rows."""
        args, kernel, info = self.args, self.kernel, self.built.info
        common.write_atomically(os.path.join(where, "again.sh"),
                                "#!/bin/sh\n# Run this case once more, from the top of the kit.\n" +
                                again(kernel, args) + "\n")
        rows = run_tests(self.built, self.tests, args, self.accel, where, show)
        if self.without_module:
            for row in rows:
                row["detail"] = ("%s [without splitq.ko]" % (row.get("detail") or "")).strip()
        if not info["pinned"]:
            for row in rows:
                row["detail"] = (row.get("detail") or "") + " [not the pinned source: %s]" \
                    % info["source"]
        common.write_atomically(os.path.join(where, "results.json"), json.dumps(
            {"kernel": info, "again": again(kernel, args), "limits": judge.limits(rows),
             "rows": rows}, indent=1))
        common.write_atomically(os.path.join(where, "results.tap"), judge.ktap(rows))
        common.write_atomically(os.path.join(where, "results.txt"), judge.table(rows) + "\n")
        return rows

    def many(self, times, parallel, red_wanted=False):
        """So many times: a list of rows of each. Says which were not good, unless that is wanted."""
        top = new_run_dir(self.kernel.label)

        def one(n):
            where = os.path.join(top, "run-%d" % n)
            os.mkdir(where)
            rows = self.once(where, show=False)
            if not red_wanted and not judge.good(rows):
                say("run %d of %d: %s: %s" % (n, times, judge.summary(rows), where))
            return rows

        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(one, range(1, times + 1)))

    def describe(self, times, parallel):
        return "%d runs, %d at a time: %s %s %s, %s, %d vCPUs%s" % (
            times, parallel, self.built.info["base"], self.kernel.label, self.kernel.machine,
            self.accel, self.args.smp, ", without splitq.ko" if self.without_module else "")


def execute(args, clock=None):
    """make run for one kernel: returns (rows, run directory)."""
    clock = clock or common.Clock()
    runs = Runs(args, clock)
    where = new_run_dir(runs.kernel.label)
    rows = runs.once(where)
    clock.lap("guests (%s)" % runs.kernel.label)
    return rows, where


def times_table(found):
    """Of many runs: per test how often it came to which verdict, and how long it took."""
    lines, rows = [], [row for mine in found for row in mine]
    for test in dict.fromkeys(row["test"] for row in rows):
        mine = [row for row in rows if row["test"] == test]
        counts = collections.Counter(row["verdict"] for row in mine)
        seconds = sorted(row["seconds"] for row in mine)
        lines.append("%-36s %s   %.1f to %.1f s" % (
            test, " ".join("%d of %d %s" % (counts[v], len(found), v) for v in sorted(counts)),
            seconds[0], seconds[-1]))
    return "\n".join(lines)


def run_arguments(description):
    parser = common.kernel_arguments(description)
    boot.boot_arguments(parser)
    parser.add_argument("--tests", default=os.environ.get("TESTS") or "",
                        help="only tests whose name contains one of these words (TESTS)")
    return parser


def repeat_arguments(parser):
    parser.add_argument("--repeat", default=os.environ.get("REPEAT") or "1",
                        help="run them so many times, each in a fresh guest (REPEAT, 1)")
    parser.add_argument("--parallel", default=os.environ.get("PARALLEL") or "1",
                        help="with --repeat: so many guests at a time (PARALLEL, 1)")
    return parser


def repeats(args):
    """(how often, how many at a time)."""
    return common.number("REPEAT", args.repeat, 1), common.number("PARALLEL", args.parallel, 1)


def repeat(args, clock, times, parallel):
    """make run, many times: the exit status."""
    runs = Runs(args, clock)
    found = runs.many(times, parallel)
    clock.lap("guests (%s)" % runs.kernel.label)
    say(times_table(found))
    say(runs.describe(times, parallel))
    say(clock.report())
    say(judge.summary([row for mine in found for row in mine]))
    return 0 if all(judge.good(mine) for mine in found) else 1


def verb():
    parser = repeat_arguments(run_arguments(__doc__))
    parser.add_argument("--module", default=os.environ.get("MODULE") or "1",
                        help="0: a guest without splitq.ko, as a machine has it on which nobody "
                        "built it (MODULE, 1)")
    args = parser.parse_args()
    if args.module not in ("0", "1"):
        die("MODULE=%s" % args.module, "0 is without splitq.ko, 1 with it")
    clock = common.Clock()
    times, parallel = repeats(args)
    if times > 1:
        return repeat(args, clock, times, parallel)
    rows, run = execute(args, clock)
    say(judge.table(rows, sys.stdout.isatty()))
    say("case file: %s" % run)
    say(clock.report())
    say(judge.summary(rows))
    return 0 if judge.good(rows) else 1


if __name__ == "__main__":
    common.main(verb)
