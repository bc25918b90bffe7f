#!/usr/bin/env python3
"""Build and boot every prefix of the series, and see that no patch breaks anything.

Patches 1 to N for each N, stock first: each kernel is built and booted and the tests
(TESTS) run on it. A test or KUnit case that has passed must pass with all patches
that follow; with the last one all do. A KUnit case that does not is run once more, alone
in a fresh guest: what failed before it may have left a queue behind that is not as it
was. The table shows which patch turns which test green. Exit status 0 only if all of
that is so.
"""
import re

import common
import judge
import run
from common import say

SIGNS = {judge.PASS: ".", judge.FAIL: "F", judge.SKIP: "s", judge.VACUOUS: "v",
         judge.ERROR: "E"}


def cases(row):
    """What a row of results consists of: name -> verdict; a test without cases is its own."""
    report = judge.Report(judge.read(row["run"], "results.log"))
    lines = report.tests.get(row["test"], {"out": []})["out"]
    found = {}
    for line in lines:
        m = re.match(r"\s*(ok|not ok) \d+ ?-? ?([\w.-]+)(.*)$", line)
        if m:
            name = m.group(2).split(".")[-1] if row["test"].startswith("selftests/") else m.group(2)
            skip = "SKIP" in m.group(3)
            found["%s:%s" % (row["test"].split("/")[-1], name)] = \
                judge.FAIL if m.group(1) == "not ok" else judge.SKIP if skip else judge.PASS
    if row["verdict"] in (judge.VACUOUS, judge.ERROR) or not found:
        found = {row["test"].split("/")[-1]: row["verdict"]}
    elif row["verdict"] == judge.FAIL and judge.FAIL not in found.values():
        # A splat, taint, no progress: all that was said before is in doubt.
        found = {name: judge.FAIL for name in found}
    return found


def regressions(columns):
    """What passed once and then did not; what the last prefix does not pass: a list of
    (name, with how many patches, in words).

    columns: per prefix, a dictionary of name -> verdict.
    """
    bad = []
    for name in sorted(set().union(*columns)):
        green = None
        for n, column in enumerate(columns):
            verdict = column.get(name)
            if verdict == judge.PASS and green is None:
                green = n
            elif verdict not in (judge.PASS, judge.SKIP) and green is not None:
                bad.append((name, n, "%s: passes with %d patches, %s with %d"
                            % (name, green, verdict or "missing", n)))
                break
            elif n == len(columns) - 1 and verdict not in (judge.PASS, judge.SKIP):
                bad.append((name, n, "%s: %s with the whole series"
                            % (name, verdict or "missing")))
    return bad


def word(n):
    """What SERIES is for the first n patches."""
    return "first-%d" % n if n else "0"


def run_alone(args, name, n):
    """One KUnit case, suite:case, with the first n patches, in a guest of its own: what it
    came to, and where that is.
    """
    suite, case = name.split(":")
    args.series, args.tests = word(n), "kunit/" + suite
    runs = run.Runs(args, common.Clock())
    runs.kernel.kunit_filter = "%s.%s" % (suite, case)
    where = run.new_run_dir(runs.kernel.label)
    found = {}
    for row in runs.once(where):
        found.update(cases(row))
    return found.get(name, judge.ERROR), where


def is_case(name, suites):
    """Is it a case of a KUnit suite, and not the suite as a whole?"""
    suite, _, case = name.partition(":")
    return suite in suites and case not in ("", suite)


def without_noise(columns, suites, alone):
    """The regressions that are left when each KUnit case was run alone that is one; those
    that pass then are put right in columns.

    alone: run_alone(), without its first argument.
    """
    tried = set()
    while True:
        bad = regressions(columns)
        again = [(name, n) for name, n, _ in bad
                 if (name, n) not in tried and is_case(name, suites)]
        if not again:
            return bad
        for name, n in again:
            tried.add((name, n))
            verdict, where = alone(name, n)
            say("%-10s %s: %s alone  %s" % (word(n), name, verdict, where))
            if verdict == judge.PASS:
                columns[n][name] = verdict


def table(columns):
    """One line a test that is not green throughout, one sign a prefix."""
    names = sorted(set().union(*columns))
    signs = {name: "".join(SIGNS.get(c.get(name), "-") for c in columns) for name in names}
    quiet = [name for name in names if set(signs[name]) <= {".", "s"}]
    width = max([len(n) for n in names if n not in quiet] + [10])
    lines = ["%-*s  0 to %d patches (. pass, F fail, v vacuous, E error, s skip, - missing)"
             % (width, "test", len(columns) - 1)]
    lines += ["%-*s  %s" % (width, name, signs[name]) for name in names if name not in quiet]
    lines.append("%d more pass with every prefix" % len(quiet))
    return "\n".join(lines)


def verb():
    args = run.run_arguments(__doc__).parse_args()
    clock = common.Clock()
    patches = common.series_patches(args.base)
    if not patches:
        common.die("there is no series for %s yet" % args.base, "BASE is one that has patches")
    columns = []
    for n in range(len(patches) + 1):
        args.series = word(n)
        rows, where = run.execute(args, common.Clock())
        column = {}
        for row in rows:
            column.update(cases(row))
        columns.append(column)
        say("%-10s %s  %s" % (args.series, " ".join(
            "%d %s" % (sum(v == verdict for v in column.values()), verdict)
            for verdict in SIGNS if verdict in column.values()), where))
    clock.lap("%d kernels" % len(columns))
    suites = [t[0].split("/")[1] for t in run.suites() if t[0].startswith("kunit/")]
    bad = without_noise(columns, suites, lambda name, n: run_alone(args, name, n))
    say(table(columns))
    if judge.limits(rows):
        say(judge.limits(rows))
    for _, _, line in bad:
        say("not as it must be: " + line)
    say(clock.report())
    say("verdict: %s" % (judge.FAIL if bad else judge.PASS))
    return 1 if bad else 0


if __name__ == "__main__":
    common.main(verb)
