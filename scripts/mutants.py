#!/usr/bin/env python3
"""Run every mutant against every detector: all of them must be caught.

A mutant is a known bug, put back on top of the series: patches/mutants. Its header
names what must turn red, and by what word:

  Red: TEST WORDS               a test of make run
  Explore: VICTIM/ACTION/OP/STATE WORDS
                                a schedule of make explore; of two preemptions
                                VICTIM/ACTION/VICTIM2/OP/STATE. VICTIM may be a
                                list: the first that is in the kernel is taken
  Litmus: NAME                  a test of make litmus that has its shape: herd7
                                must find there what goes wrong. It looks at the
                                model and not at the kernel, so it catches nothing

All mutants are in one kernel, and chosen when it boots (see combine.py); --only (M)
is some of them, or any patch, which is built as a kernel of its own. Each runs in
guests of its own. The first row is that kernel with none of them: all of it must be
green. A mutant that is not caught by what its header names fails, and so does one
that nothing catches. The time is that of the test in the guest, or of the explorer,
up to the first thing that is wrong.

Each meets what its header names and the KUnit suite; with --every (EVERY=1), and if
it names nothing, all that make run has, and the explorer's schedules of make check.
With --tests (TESTS) these tests instead. Several mutants run at a time, as processors
and memory allow (--parallel). Without --only (M) and --tests the table in
patches/mutants/README.md is written, and which of KUnit's cases no mutant turned red.
With --named only what the headers name is run, and the series is explored in the
schedules of make check instead of in all of these.

With --repeat N (REPEAT=N) each mutant is to be red N times of N, each time in a fresh
guest, by one deterministic detector that its header names: the KUnit suite, of which
only the case runs that is named; or else its schedule of the explorer, or a test.
"""
import argparse
import concurrent.futures
import copy
import json
import os
import platform
import re
import sys
import threading
import time
import types

import boot
import build
import common
import compare
import explore
import guest
import judge
import litmus
import run
import torture
from common import TOP, die, say

README = os.path.join(TOP, "patches", "mutants", "README.md")
EXPLORER, QUICK, TORTURE, LITMUS = "explorer", "explorer, quick", "torture", "litmus"
# These take long, and are about a few mutants, whose headers name them; or are the kit's
# own tests of its module.
WHERE_NAMED = ("selftests/unmap_is_not_lost", "selftests/unmap_does_not_corrupt",
               "selftests/charge_move", "selftests/audit", "selftests/pause",
               "selftests/jitter")
SOME = 6                # mutants that are named for a case of the suite
CAUGHT, MISSED, SURVIVED, BROKEN = "caught", "MISSED", "SURVIVED", "ERROR"
RED, GREEN, NONE, ERROR = "red", "green", "-", "error"
PAIR_SECONDS = 60
GUEST_MORE = 300        # MiB that QEMU takes beyond the guest's memory, at most


class Mutant:
    """A patch, and what its header says must catch it."""

    def __init__(self, patch, name=None):
        self.patch = patch
        self.name = name or common.mutant_id(patch)
        text = common.file_bytes(patch).decode(errors="replace").split("\n---\n")[0]
        m = re.search(r"^Subject: .*?(?:mutant \w+: )?([^:\n]+)$", text, re.M)
        self.subject = m.group(1) if m else os.path.basename(patch)
        self.red = {}
        for test, words in re.findall(r"^Red: (\S+) (.+)$", text, re.M):
            self.red.setdefault(test, []).append(words)
        self.explore = []
        for where, words in re.findall(r"^Explore: (\S+) (\S+)$", text, re.M):
            parts = where.split("/")
            if len(parts) not in (4, 5):
                die("%s: Explore: %s" % (os.path.basename(patch), where),
                    "it is VICTIM/ACTION/OP/STATE, or VICTIM/ACTION/VICTIM2/OP/STATE")
            self.explore.append((parts, words.split("|")))
        self.litmus = re.findall(r"^Litmus: (\S+)$", text, re.M)
        broken = broken_litmus_tests() if self.litmus else ()
        for test in self.litmus:
            if test not in broken:
                die("%s: Litmus: %s" % (os.path.basename(patch), test),
                    "it is one of the broken ones: %s" % " ".join(broken))
        known = [t[0] for t in run.suites()]
        for test in self.red:
            if test not in known:
                die("%s: Red: there is no test %s" % (os.path.basename(patch), test),
                    "it is one of: %s" % " ".join(known))

    @property
    def named(self):
        """The detectors that its header names."""
        return list(self.red) + ([EXPLORER] if self.explore else [])


def broken_litmus_tests():
    """Those in which the bad outcome is to be found."""
    return sorted(t.name for t in litmus.choose("", litmus.TESTS)[0]
                  if t.result not in (None, "Never"))


def find(base, words=()):
    """The mutants of a base, or those of them that are asked for."""
    known = common.mutants(base)
    if not known:
        die("there are no mutants for base %s" % base)
    for word in words:
        if word not in known:
            die("no mutant '%s' for base %s" % (word, base),
                "M is one of: %s, or a patch" % " ".join(known))
    return [Mutant(known[name]) for name in words or sorted(known)]


def choose(base, text):
    """The mutants that M names: ids, or patches; none if it is empty."""
    chosen = []
    for word in text.replace(",", " ").split():
        if os.sep in word or word.endswith(".patch"):
            if not os.path.isfile(word):
                die("M=%s" % word, "there is no such patch")
            chosen.append(Mutant(os.path.abspath(word)))
        else:
            chosen += find(base, [word])
    return chosen


class Cell:
    """What one detector said about one mutant."""

    def __init__(self, state, seconds=None, detail="", matches=True):
        self.state, self.seconds, self.detail, self.matches = state, seconds, detail, matches
        self.cases = {}         # of KUnit: what it said, by name

    def __str__(self):
        return "%.1f" % self.seconds if self.state == RED else \
            "" if self.state == GREEN else self.state


class Row:
    """One mutant: a cell for each detector, and what they come to."""

    def __init__(self, mutant):
        self.mutant, self.cells = mutant, {}

    @property
    def verdict(self):
        cells = [c for d, c in self.cells.items() if d != LITMUS]
        if self.cells.get(LITMUS) and self.cells[LITMUS].state == ERROR:
            return BROKEN
        if not self.mutant:
            # Nothing chosen: the series.
            bad = [c for c in cells if c.state in (RED, ERROR)]
            return judge.FAIL if bad or not cells else judge.PASS
        if any(not self.caught(d) for d in self.mutant.named if d in self.cells):
            return BROKEN if any(self.cells[d].state == ERROR for d in self.mutant.named
                                 if d in self.cells) else MISSED
        if any(c.state == RED for c in cells):
            return CAUGHT
        return BROKEN if any(c.state == ERROR for c in cells) else SURVIVED

    def caught(self, detector):
        cell = self.cells[detector]
        return cell.state == RED and cell.matches

    @property
    def good(self):
        return self.verdict in (CAUGHT, judge.PASS)

    @property
    def catchers(self):
        """What the detectors said that caught it."""
        return [c for d, c in self.cells.items() if d != LITMUS and c.state == RED]

    @property
    def first(self):
        """The quickest of what caught it, seconds; None if nothing did."""
        return min((c.seconds for c in self.catchers), default=None)


def resolve(victims, name, symbols):
    """The first of the victims that is in the kernel; its copy, where the mutant has one.

    The compiler may have split it, or specialised it: f.part.0, f.constprop.0.
    """
    for victim in victims.split(","):
        for symbol in ["%s__%s" % (victim, name), victim] + \
                sorted(s for s in symbols if s.startswith(victim + ".")):
            if symbol in symbols:
                return symbol
    return victims.split(",")[0]


def kernel_symbols(built):
    with open(os.path.join(built.dir, "System.map")) as f:
        return {line.split()[2] for line in f}


def kunit_seconds(where, fallback):
    """From the suite's first line on the console to its first complaint: the guest's clock."""
    start = None
    for line in judge.clean(judge.read(where, "console.log")).split("\n"):
        m = re.match(r"\[\s*(\d+\.\d+)\](.*)", line)
        if not m:
            continue
        if re.search(r"# Subtest: deferred_split\s*$", line):
            start = float(m.group(1))
        elif start is not None and (re.search(r"\bnot ok \d", m.group(2)) or
                                    any(p.search(line) for p in judge.SPLATS)):
            return float(m.group(1)) - start
    return fallback


def kunit_cases(text):
    """The suite's cases and what each said, "ok" or "not ok"; not each parameter's."""
    return {name: word for word, name in re.findall(
        r"^(?:\[[^]]*\] )?    (ok|not ok) \d+ (\w+)$", judge.clean(text), re.M)}


def broken_cases(rows):
    """{case of the suite: the mutants that turned it red}, by the rows."""
    cells = [c for r in rows if not r.mutant for d, c in r.cells.items() if d.startswith("kunit/")]
    return {name: [r.mutant.name for r in rows if r.mutant and any(
        c.cases.get(name) == "not ok" for c in r.cells.values())]
            for name in sorted({name for c in cells for name in c.cases})}


class Bench:
    """What all mutants share: the kernel with all of them, the directory, the settings."""

    def __init__(self, args, clock):
        self.args = args
        combined = common.Kernel(self.arguments("all"))
        self.built = build.Built(combined, clock)
        self.accel = boot.accelerator(self.built)
        self.symbols = kernel_symbols(self.built)
        self.alone = self.which_alone(combined)
        self.where = run.new_run_dir("mutants")
        clock.lap("the kernel")

    def which_alone(self, kernel):
        import combine
        return combine.combine(kernel, self.built.source).alone

    def run_litmus(self, names):
        """Once, for all mutants: the rows of these litmus tests, by name."""
        self.litmus_rows = {}
        if names:
            rows, _ = litmus.execute(types.SimpleNamespace(
                base=self.args.base, linux=self.args.linux, tests=",".join(sorted(names))))
            self.litmus_rows = {r["test"]: r for r in rows}

    def litmus(self, names):
        """A cell: red if herd7 finds the bad outcome in each of the tests."""
        # Without a herd7 there is one row, for all.
        rows = [self.litmus_rows.get("litmus/" + n) or self.litmus_rows["litmus"] for n in names]
        bad = [r for r in rows if r["verdict"] not in (judge.PASS, judge.SKIP)]
        if bad:
            return Cell(ERROR, detail="%s: %s" % (bad[0]["test"], bad[0]["detail"]))
        skipped = [r["detail"] for r in rows if r["verdict"] == judge.SKIP]
        return Cell(NONE, detail=skipped[0]) if skipped else \
            Cell(RED, sum(r["seconds"] for r in rows), " ".join(names))

    def arguments(self, mutant):
        return types.SimpleNamespace(**dict(vars(self.args), mutant=mutant))

    def word(self, mutant):
        """What MUTANT is for a mutant; for None, the series' behaviour."""
        if mutant is None:
            return "all"
        known = common.mutants(self.args.base).get(mutant.name) == mutant.patch
        return "all:" + mutant.name if known and mutant.name not in self.alone else mutant.patch

    def kernel(self, mutant):
        """(built, symbols) of one mutant."""
        if mutant is None:
            return self.built, self.symbols
        built = build.Built(common.Kernel(self.arguments(self.word(mutant))))
        return built, self.symbols if built.dir == self.built.dir else kernel_symbols(built)


def run_selftests(bench, built, mutant, tests, where):
    """The cells of the tests of make run."""
    cells, rows = {}, []
    # The suite has a guest to itself: it may hang, and it may leave a queue that is corrupt.
    for name, some in (("kunit", [t for t in tests if t[0].startswith("kunit/")]),
                       ("selftests", [t for t in tests if not t[0].startswith("kunit/")])):
        if some:
            rows += run.run_tests(built, some, bench.args, bench.accel,
                                  os.path.join(where, name), show=False)
    by_name = {r["test"]: r for r in rows}
    for test, *_ in tests:
        row = by_name.get(test)
        if test.startswith("kunit/") and not built.kernel.has_kunit:
            continue
        # Who does not come up died of the built-in suite.
        if test.startswith("kunit/") and "boot" in by_name and \
                (row is None or row["verdict"] == judge.ERROR):
            row = dict(by_name["boot"], test=test)
        if row is None or row["verdict"] in (judge.ERROR, judge.VACUOUS):
            cells[test] = Cell(ERROR, detail="%s %s" % (row["verdict"], row["detail"])
                               if row else "no verdict")
        elif row["verdict"] == judge.FAIL:
            text = compare.said(row)
            seconds = row["seconds"]
            if test.startswith("kunit/"):
                seconds = kunit_seconds(row["run"], seconds)
            words = mutant.red.get(test, ()) if mutant else ()
            cells[test] = Cell(RED, seconds, row["detail"],
                               all(re.search(w, text) for w in words))
        else:
            cells[test] = Cell(GREEN if row["verdict"] == judge.PASS else NONE,
                               row["seconds"], row.get("detail") or "")
        if row is not None and test.startswith("kunit/"):
            cells[test].cases = kunit_cases(judge.read(row["run"], "console.log"))
    return cells


PATIENCE = 500


def with_patience(chosen):
    """Each combination; what is named and was not red once more, if something was blocked
    only because the machine was slow. That costs the time of all that is blocked.
    """
    for c, words in chosen:
        yield c, words
        if words and not c.red and not c.victim2 and c.count("blocked"):
            again = explore.Combination(c.victim, c.action, c.op, c.state)
            again.patience = PATIENCE
            yield again, words


def explore_some(bench, built, chosen, where):
    """Explore combinations, [(Combination, words)], each to its first red point: a cell."""
    start, notes, seen = time.monotonic(), [], []
    with guest.Sessions(built, where, bench.accel, max(bench.args.smp, explore.CPUS),
                        bench.args.mem) as sessions:
        # A snapshot takes longer than the few guests that there will be.
        sessions.why_not = "few guests"
        for c, words in with_patience(chosen):
            if c.v1:
                sessions.drop()
            try:
                explore.explore_one(sessions, c, seconds=PAIR_SECONDS, first_red=True)
            except guest.Lost as e:
                notes.append("%s: %s" % (c.name, e))
            if c.red:
                word = c.red[0][1]
                seen.append(word)
                return Cell(RED, time.monotonic() - start, "%s: %s" % (c.name, word),
                            not words or word in words)
            if c.verdict == judge.ERROR or (c.verdict == judge.VACUOUS and words):
                notes.append("%s: %s" % (c.name, c.note or c.verdict))
    if notes and not any(c.held for c, _ in chosen):
        return Cell(ERROR, detail="; ".join(notes))
    return Cell(GREEN if any(c.held for c, _ in chosen) else NONE, time.monotonic() - start,
                "; ".join(c.note or "" for c, _ in chosen).strip("; "))


def combination(parts, name, symbols):
    if len(parts) == 4:
        return explore.Combination(resolve(parts[0], name, symbols), *parts[1:])
    victim, action, victim2, op, state = parts
    return explore.Combination(resolve(victim, name, symbols), action, op, state,
                               resolve(victim2, name, symbols))


def runs(test, mutant, named, every, chosen):
    """Does a test run on this mutant (None: the series)?

    every, or nothing in the header: all but those that only run where they are named;
    chosen: what --tests (TESTS) says.
    """
    if not mutant or test in mutant.red:
        return True
    if named or test in WHERE_NAMED:
        return False
    return chosen or every or not mutant.named or test.startswith("kunit/")


def run_mutant(bench, mutant, built, symbols, tests, named, seconds, everybody=(), every=False):
    """The detectors of one mutant, or those that its header names; or of none (None)."""
    row = Row(mutant)
    name = mutant.name if mutant else None
    where = os.path.join(bench.where, name or "none")
    wanted = [t for t in tests if runs(t[0], mutant, named, every, bench.args.tests)]
    if wanted:
        row.cells.update(run_selftests(bench, built, mutant, wanted, where))
    if mutant:
        schedules = [(combination(p, name, symbols), words) for p, words in mutant.explore]
    elif named:
        schedules = [(explore.Combination(*q), ()) for q in explore.QUICK]
    else:
        schedules = [(combination(p, name, symbols), ())
                     for p in sorted({tuple(p) for m in everybody for p, _ in m.explore})]
    if schedules:
        row.cells[EXPLORER] = explore_some(bench, built, schedules,
                                           os.path.join(where, "explore"))
    if mutant and not named and (every or not mutant.named) and not bench.args.tests:
        quick = [(explore.Combination(resolve(v, name, symbols), *rest), ())
                 for v, *rest in explore.QUICK]
        row.cells[QUICK] = explore_some(bench, built, quick, os.path.join(where, "quick"))
    if seconds:
        row.cells[TORTURE] = run_torture(bench, mutant, seconds)
    if mutant and mutant.litmus and not named and not bench.args.tests:
        row.cells[LITMUS] = bench.litmus(mutant.litmus)
    return row


def run_torture(bench, mutant, seconds):
    args = bench.arguments(bench.word(mutant))
    args.smp, args.time, args.seed, args.plant = 4, seconds, 1, None
    (got, *_), _ = torture.torture(args, show=False)
    if got["verdict"] == judge.FAIL:
        return Cell(RED, got["seconds"], got["detail"])
    return Cell(GREEN if got["verdict"] == judge.PASS else ERROR, got["seconds"], got["detail"])


class Progress:
    """A line for each mutant as it is through, with what is left."""

    def __init__(self, total):
        self.total, self.done, self.start, self.lock = total, 0, time.monotonic(), \
            threading.Lock()

    def __call__(self, row):
        with self.lock:
            self.done += 1
            spent = time.monotonic() - self.start
            left = spent / self.done * (self.total - self.done)
            name = row.mutant.name if row.mutant else "none"
            by = ["%s %.1f s%s" % (d.split("/")[-1], c.seconds,
                                   "" if c.matches else " (other words)")
                  for d, c in row.cells.items() if c.state == RED and d != LITMUS]
            say("%d of %d, %d s left: %-5s %-8s %s" % (self.done, self.total, left, name,
                                                       row.verdict, ", ".join(by)))
            for detector, cell in row.cells.items():
                wrong = cell.state == ERROR or (not row.mutant and cell.state == RED) or \
                    (row.mutant and detector in row.mutant.named and not row.caught(detector))
                if wrong:
                    say("         %s: %s %s" % (detector, cell.state, cell.detail))


def default_parallel():
    """Of guests with two processors."""
    return max(1, common.jobs() // 2)


def fits(parallel, mem):
    """As many guests as were asked for, or as memory is there for."""
    try:
        with open("/proc/meminfo") as f:
            free = int(re.search(r"^MemAvailable:\s+(\d+) kB", f.read(), re.M).group(1)) // 1024
    except (OSError, AttributeError):
        return parallel
    most = max(1, free // (mem + GUEST_MORE))
    if parallel > most:
        say("%d guests at a time and not %d: %d MiB are free" % (most, parallel, free))
    return min(parallel, most)


def matrix(args, chosen, named=False, seconds=0, parallel=1, clock=None, show=Progress,
           every=False):
    """Run the chosen mutants and, first, none of them: (rows, bench)."""
    clock = clock or common.Clock()
    boot.check_size(args)
    tests = run.choose(args.tests, args.arch)
    bench = Bench(args, clock)
    jobs = [(None,) + bench.kernel(None)]
    jobs += [(m,) + bench.kernel(m) for m in chosen]
    clock.lap("kernels of their own")
    if not named and not args.tests and any(m.litmus for m in chosen):
        bench.run_litmus({name for m in chosen for name in m.litmus})
        clock.lap("litmus")
    parallel = fits(parallel, args.mem)
    progress = show(len(jobs))
    # The series meets what any of them does.
    tests = [t for t in tests if any(runs(t[0], m, named, every, args.tests) for m in chosen)]

    done, lock = {}, threading.Lock()

    def one(job):
        row = run_mutant(bench, *job, tests, named, seconds, chosen, every)
        with lock:
            done[job[0]] = row
            progress(row)
            # Each time: who is stopped has what there was, for --table.
            save([done[m] for m, *_ in jobs if m in done], bench)
        return row

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        rows = list(pool.map(one, jobs))
    clock.lap("%d mutants" % len(chosen))
    return rows, bench


def detector(mutant, has_kunit):
    """The one that is to see the mutant each time, of what its header names; None if it
    names nothing that runs on this base.
    """
    suites = [t for t in mutant.red if t.startswith("kunit/") and has_kunit]
    tests = [t for t in mutant.red if not t.startswith("kunit/")]
    return (suites + [EXPLORER] * bool(mutant.explore) + tests + [None])[0]


def case_filter(mutant, test):
    """What has the KUnit suite run nothing but the case that the header names: SUITE.CASE*,
    or "" if it names none, or several.
    """
    found = [re.fullmatch(r"not ok \\d\+ (\w+)", words) for words in mutant.red[test]]
    if len(found) != 1 or not found[0]:
        return ""
    return "%s.%s*" % (test.split("/", 1)[1], found[0].group(1))


def meet(bench, mutant, test, built, symbols, where):
    """The mutant and one detector, in a guest of their own: a cell."""
    if test == EXPLORER:
        return explore_some(bench, built, [(combination(p, mutant.name, symbols), words)
                                           for p, words in mutant.explore], where)
    if test.startswith("kunit/"):
        built = copy.copy(built)
        built.kernel = copy.copy(built.kernel)
        built.kernel.kunit_filter = case_filter(mutant, test)
    suite = [t for t in run.choose("", bench.args.arch) if t[0] == test]
    return run_selftests(bench, built, mutant, suite, where)[test]


def times_line(name, test, cells):
    """How often one detector saw one mutant: (line, each time?)."""
    red = [c for c in cells if c.state == RED and c.matches]
    line = "%-5s %d of %d by %s" % (name, len(red), len(cells), test)
    if red:
        line += ", %.1f to %.1f s" % (min(c.seconds for c in red), max(c.seconds for c in red))
    other = next((c for c in cells if c not in red), None)
    if other:
        line += "; not: %s %s" % (other.state if other.matches else "other words", other.detail)
    return line, not other


def repeat(args, chosen, times, clock):
    """Each mutant so many times, each in a fresh guest: those that were not red each time."""
    boot.check_size(args)
    bench = Bench(args, clock)
    met = {m.name: detector(m, bench.built.kernel.has_kunit) for m in chosen}
    bad = [name for name, test in met.items() if test is None]
    for name in bad:
        say("%-5s names no detector that runs here" % name)
    chosen = [m for m in chosen if m.name not in bad]
    kernels = {m.name: bench.kernel(m) for m in chosen}
    clock.lap("kernels of their own")
    cells, lock, start = {m.name: [] for m in chosen}, threading.Lock(), time.monotonic()

    def one(job):
        m, n = job
        cell = meet(bench, m, met[m.name], *kernels[m.name],
                    os.path.join(bench.where, m.name, str(n)))
        with lock:
            cells[m.name].append(cell)
            if len(cells[m.name]) == times:
                done = sum(len(c) for c in cells.values())
                line, good = times_line(m.name, met[m.name], cells[m.name])
                bad.extend([m.name] * (not good))
                say("%s (%d s left)" % (line, (time.monotonic() - start) / done *
                                        (times * len(chosen) - done)))
            common.write_atomically(os.path.join(bench.where, "repeats.json"), json.dumps(
                {"kernel": bench.built.info, "accel": bench.accel, "times": times, "mutants": {
                    name: {"detector": met[name], "cells": [vars(c) for c in found]}
                    for name, found in cells.items()}}, indent=1))

    with concurrent.futures.ThreadPoolExecutor(fits(args.parallel, args.mem)) as pool:
        list(pool.map(one, [(m, n) for m in chosen for n in range(times)]))
    clock.lap("%d guests" % (times * len(chosen)))
    say("case files: %s" % bench.where)
    return bad


def save(rows, bench):
    common.write_atomically(os.path.join(bench.where, "results.json"), json.dumps(
        {"kernel": bench.built.info, "alone": bench.alone, "accel": bench.accel,
         "smp": bench.args.smp, "rows": [
            {"mutant": r.mutant.name if r.mutant else None, "verdict": r.verdict,
             "cells": {d: vars(c) for d, c in r.cells.items()}} for r in rows]}, indent=1))


def read_runs(runs):
    """(rows, what write_readme() wants of a Bench) of runs' directories; later ones win."""
    cells, last = {}, None
    for where in runs:
        try:
            with open(os.path.join(where, "results.json")) as f:
                got = json.load(f)
        except (OSError, ValueError) as e:
            die("--table %s" % where, "it is the directory of a run of make mutants: %s" % e)
        if last and [got["kernel"][k] for k in ("base", "arch")] != \
                [last["kernel"][k] for k in ("base", "arch")]:
            die("--table: %s is of another base or architecture" % where)
        last = got
        for row in got["rows"]:
            for detector, c in row["cells"].items():
                cell = Cell(c["state"], c["seconds"], c["detail"], c["matches"])
                cell.cases = c.get("cases", {})
                cells.setdefault(row["mutant"], {})[detector] = cell
    known = common.mutants(last["kernel"]["base"])
    rows = []
    for name in [None] + sorted(n for n in cells if n in known):
        rows.append(Row(Mutant(known[name]) if name else None))
        rows[-1].cells = cells.get(name, {})
    return rows, types.SimpleNamespace(
        built=types.SimpleNamespace(info=last["kernel"]), alone=last["alone"],
        accel=last.get("accel", "tcg"), args=types.SimpleNamespace(smp=last.get("smp", 2)))


def columns(rows):
    order = [t[0] for t in run.suites()] + [EXPLORER, QUICK, TORTURE, LITMUS]
    return [d for d in order if any(d in r.cells for r in rows)]


def table(rows):
    """The matrix in Markdown."""
    shown = columns(rows)
    lines = ["| mutant | | %s |" % " | ".join(d.split("/")[-1] for d in shown),
             "|---|---|%s" % ("--:|" * len(shown))]
    for row in rows:
        cells = []
        for d in shown:
            text = str(row.cells[d]) if d in row.cells else NONE
            if row.mutant and d in row.mutant.named and row.cells.get(d) and row.caught(d):
                text = "**%s**" % text
            cells.append(text)
        name = row.mutant.name if row.mutant else "none"
        what = row.mutant.subject if row.mutant else "the series"
        verdict = "" if row.good else " (%s)" % row.verdict
        lines.append("| %s | %s%s | %s |" % (name, what, verdict, " | ".join(cells)))
    return "\n".join(lines)


def summary(rows):
    """In words: how many, by how many detectors, how quick."""
    mutants = [r for r in rows if r.mutant]
    caught = [r for r in mutants if r.verdict == CAUGHT]
    twice = [r for r in caught if len(r.catchers) > 1]
    first = sorted(r.first for r in caught)
    text = "%d mutants, %d caught, %d of them by two detectors or more" % (
        len(mutants), len(caught), len(twice))
    if first:
        text += "; median time to the first detection %.1f s" % first[len(first) // 2]
    left = [r.mutant.name for r in mutants if r.verdict != CAUGHT]
    return text + ("; not caught: %s" % " ".join(left) if left else "")


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f
                      if line.startswith("model name")), platform.machine())
    return "%s, %d CPUs" % (model, len(os.sched_getaffinity(0)))


def write_readme(rows, bench, path=README, ran=""):
    """Replace the table of this base and architecture, or append it."""
    info = bench.built.info
    mark = "%s %s" % (info["base"], info["arch"])
    begin, end = "<!-- make mutants: %s -->" % mark, "<!-- end of %s -->" % mark
    lines = [begin, "## %s" % mark, "",
             "%s with the series, all mutants in one kernel%s; %s, %d vCPUs (%d for the explorer), "
             "%s, on %s%s. %s." % (
                 info["source"], "" if not bench.alone else " but for %s" % " ".join(bench.alone),
                 bench.accel, bench.args.smp, max(bench.args.smp, explore.CPUS),
                 time.strftime("%Y-%m-%d"), machine(),
                 ran, summary(rows)), "", table(rows)]
    cases = broken_cases(rows)
    if cases:
        lines += ["", "Of the %d cases of the KUnit suite that run here, %d were turned red by a "
                  "mutant or more:" % (len(cases), len([1 for red in cases.values() if red])), "",
                  "| case | red with |", "|---|---|"]
        lines += ["| `%s` | %s |" % (case, " ".join(red[:SOME]) + (
            " and %d more" % (len(red) - SOME) if len(red) > SOME else "") if red else "nothing")
                  for case, red in cases.items()]
    lines.append(end)
    with open(path) as f:
        text = f.read()
    if begin in text:
        before, after = text.split(begin)[0], text.split(end, 1)[1]
        text = before + "\n".join(lines) + after
    else:
        text = text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"
    common.write_atomically(path, text)


def arguments():
    env = os.environ.get
    parser = run.run_arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-m", "--only", default=env("M") or "", metavar="ID-OR-PATCH",
                        help="ids, or a patch that somebody wrote (M, all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--named", action="store_true",
                       help="only the detectors that the headers name")
    which.add_argument("--every", action="store_true", default=env("EVERY", "0") == "1",
                       help="every detector (EVERY=1)")
    parser.add_argument("--time", default=env("TIME") or "0",
                        help="seconds of torture for each, too (TIME, 0)")
    parser.add_argument("--repeat", default=env("REPEAT") or "0", metavar="N",
                        help="each N times by one detector, and nothing else (REPEAT)")
    parser.add_argument("--table", default="", metavar="RUN,RUN...",
                        help="run nothing: write the table of these runs, later ones win")
    parser.add_argument("--parallel", type=int, metavar="N",
                        default=env("PARALLEL") or default_parallel(),
                        help="mutants at a time, if memory allows it (PARALLEL, half of JOBS)")
    return parser


def ran(args):
    """What was run, for the head of the table."""
    if args.every:
        return ""
    return "; of the detectors those that the header names%s" % (
        "" if args.named else " and the KUnit suite")


def verb():
    args = arguments().parse_args()
    if args.det:
        die("make mutants has no deterministic mode")
    if args.parallel < 1:
        die("--parallel %d" % args.parallel, "it is a number of guests")
    if args.table:
        runs = args.table.split(",")
        rows, bench = read_runs(runs)
        write_readme(rows, bench, ran=ran(args) + "; from %d runs, some of a part" % len(runs))
        say("%s\nwritten: %s" % (summary(rows), README))
        return 0
    compare.need_usual_pages(args)
    chosen = choose(args.base, args.only)
    seconds = common.number("TIME", args.time, 0)
    times = common.number("REPEAT", args.repeat, 0)
    clock = common.Clock()
    if times:
        if args.tests or args.every or seconds:
            die("REPEAT with TESTS, EVERY or TIME", "each header says what is repeated")
        chosen = chosen or find(args.base)
        bad = repeat(args, chosen, times, clock)
        say(clock.report())
        say("verdict: %s (%d of %d mutants red %d times of %d%s)" % (
            judge.FAIL if bad else judge.PASS, len(chosen) - len(bad), len(chosen), times, times,
            "; not: " + " ".join(bad) if bad else ""))
        return 1 if bad else 0
    rows, bench = matrix(args, chosen or find(args.base), args.named, seconds, args.parallel,
                         clock, every=args.every)
    say(table(rows))
    if judge.limits_of(args.arch):
        say(judge.limits_of(args.arch))
    say("case files: %s" % bench.where)
    say(clock.report())
    if not chosen and not args.tests:
        write_readme(rows, bench, ran=ran(args))
        say("written: %s" % README)
    good = all(r.good for r in rows)
    say("verdict: %s (%s)" % (judge.PASS if good else judge.FAIL, summary(rows)))
    return 0 if good else 1


if __name__ == "__main__":
    common.main(verb)
