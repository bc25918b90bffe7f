#!/usr/bin/env python3
"""Run the same tests on stock and on the series, and say what both must show.

Stock must be red where the bugs are that the series fixes, the series green
everywhere. Exit status 0 only if both are so.
"""
import argparse
import sys

import common
import judge
import run
from common import say

# On the stock kernel of each base: what must be red, and a word of its complaint.
RED_ON_STOCK = {
    "6.12": {
        # B39, B29, list_empty() of a folio that is on a private list, B54, B41, B53, B52,
        # B46, B48, B39 in a migration, B55
        "kunit/deferred_split": (r"not ok \d+ a_frozen_folio_is_left_alone",
                                 r"not ok \d+ a_locked_underused_folio_is_put_back",
                                 r"not ok \d+ a_held_folio_is_not_queued_nor_counted",
                                 r"not ok \d+ an_underused_thp_is_put_back_while_referenced",
                                 r"not ok \d+ an_underused_thp_is_not_split_while_mlocked",
                                 r"not ok \d+ a_migrated_thp_is_not_marked",
                                 r"not ok \d+ a_half_unmapped_while_migrated_is_seen",
                                 r"not ok \d+ a_thp_unmapped_when_a_scan_lets_go_of_it_is_not_lost",
                                 r"not ok \d+ a_thp_is_not_queued_between_the_stores_of_list_del_init",
                                 r"not ok \d+ a_folio_that_migration_has_frozen_is_left_alone",
                                 r"not ok \d+ reclaim_comes_to_what_a_dead_memcg_owns"),
        "selftests/unmap_is_not_lost": "LOST: ",                             # B46
        "selftests/unmap_does_not_corrupt": "CORRUPT: |list_(add|del) corruption",   # B48
        "selftests/whole": ("MARKED: partially mapped after move 1",        # B53
                            "split by move 2",
                            "SPLIT: mlocked",                                # B41
                            "FORGOTTEN: it was moved in the swap cache"),    # B56
        "selftests/scan": ("STUCK: its memcg is gone",                      # B55
                           "FORGOTTEN: it could not be split once"),        # B54
        "selftests/charge_move": "SPLIT: the move has split a THP",
        "selftests/partial": "LOST: unmap_half_of_queued",                  # B46
        "selftests/migrate": ("FORGOTTEN: move_underused",                  # B29, B54
                              "(UNMARKED|STUCK|SPLAT): move_and_unmap_half"),   # B52, B28
        "selftests/fork": "FORGOTTEN: ",                                     # B54
    },
    "7.3": {
        # the unlocked unlink, B48, B49, B54, B53, B52
        "kunit/deferred_split": (r"not ok \d+ a_thp_unmapped_when_a_scan_lets_go_of_it_is_not_lost",
                                 r"not ok \d+ a_thp_is_not_queued_between_the_stores_of_list_del_init",
                                 r"not ok \d+ migration_sees_that_a_scan_has_put_the_source_back",
                                 r"not ok \d+ an_underused_thp_is_put_back_while_referenced",
                                 r"not ok \d+ a_migrated_thp_is_not_marked",
                                 r"not ok \d+ a_half_unmapped_while_migrated_is_seen",
                                 # and its last case, B57
                                 "NULL pointer dereference.*__memcg_list_lru_alloc"),
        "selftests/unmap_does_not_corrupt": "CORRUPT: |list_(add|del) corruption",   # B48
        "selftests/whole": ("MARKED: partially mapped after move 1",        # B53
                            "split by move 2",
                            "FORGOTTEN: it was moved in the swap cache"),    # B56
    },
}
# What cannot run on a base: charges do not move any more since 6.14. The device is
# there with DEBUG=hmm only, and has THPs of its own since 6.19.
CANNOT_RUN = {"6.12": ("selftests/device",),
              "7.3": ("selftests/charge_move", "selftests/device")}


def said(row):
    """All that a test and its guest said about it."""
    text = row.get("detail") or ""
    report = judge.Report(judge.read(row["run"], "results.log"))
    text += "\n".join(report.tests.get(row["test"], {"out": []})["out"])
    return text + judge.read(row["run"], "console.log")


def check_red(rows, expected):
    """The tests of `expected` that are not red for the expected reason: [(test, why)]."""
    import re
    bad = []
    for test, words in sorted(expected.items()):
        row = next((r for r in rows if r["test"] == test), None)
        if row is None:
            bad.append((test, "no verdict"))
        elif row["verdict"] != judge.FAIL:
            bad.append((test, "%s, must be FAIL" % row["verdict"]))
        else:
            text = said(row)
            bad += [(test, "FAIL, but without '%s'" % w)
                    for w in ((words,) if isinstance(words, str) else words)
                    if not re.search(w, text)]
    return bad


def must_be(base, test):
    """The verdict that a test must come to with the series."""
    return judge.SKIP if test in CANNOT_RUN.get(base, ()) else judge.PASS


def need_usual_pages(args):
    """With 64K much of what must be red takes a THP of 512 MiB, and is skipped."""
    if common.Kernel(args).machine != args.arch:
        common.die("PAGES=%s: what must be red is known for base pages of 4K" % args.pages,
                   "use make run, with SERIES=0 and SERIES=1")


def compare(args, clock, show=say):
    """Returns (stock rows, series rows, problems)."""
    need_usual_pages(args)
    args.series = "1"
    series, run2 = run.execute(args, clock)
    args.series = "0"
    stock, run1 = run.execute(args, clock)
    wanted = {r["test"] for r in series}
    expected = {t: w for t, w in RED_ON_STOCK[args.base].items() if t in wanted}
    problems = ["stock: %s: %s" % b for b in check_red(stock, expected)]
    problems += ["stock: %s: %s" % (r["test"], r["verdict"]) for r in stock
                 if r["verdict"] in (judge.ERROR, judge.VACUOUS)]
    for r in series:
        must = must_be(args.base, r["test"])
        if r["verdict"] != must:
            problems.append("series: %s: %s, must be %s" % (r["test"], r["verdict"], must))
    show(judge.table(stock + series, sys.stdout.isatty()))
    show("case files: %s %s" % (run1, run2))
    return stock, series, problems


def repeat(args, clock, times, parallel):
    """The same, many times: how often was stock red with each word, the series green?"""
    need_usual_pages(args)
    problems, expected = [], RED_ON_STOCK[args.base]
    for series in ("1", "0"):
        runs = run.Runs(argparse.Namespace(**dict(vars(args), series=series)), clock)
        found = runs.many(times, parallel, red_wanted=series == "0")
        clock.lap("guests (%s)" % runs.kernel.label)
        say(runs.describe(times, parallel))
        if series == "1":
            say(run.times_table(found))
            for r in [r for rows in found for r in rows]:
                if r["verdict"] != must_be(args.base, r["test"]):
                    problems.append("series: %s: %s: %s" % (r["test"], r["verdict"], r["run"]))
            continue
        problems += ["stock: %s: %s: %s" % (r["test"], r["verdict"], r["run"])
                     for rows in found for r in rows
                     if r["verdict"] in (judge.ERROR, judge.VACUOUS)]
        for test, words in sorted(expected.items()):
            if test not in {r["test"] for r in found[0]}:
                continue
            for word in (words,) if isinstance(words, str) else words:
                red = sum(not check_red(rows, {test: word}) for rows in found)
                say("%-36s red %d of %d: %s" % (test, red, times, word))
                if red < times:
                    problems.append("stock: %s: red %d of %d: %s" % (test, red, times, word))
    return problems


def finish(problems, clock):
    for p in problems:
        say("not as it must be: " + p)
    say(clock.report())
    say("verdict: %s" % (judge.FAIL if problems else
                         "PASS: stock is red where it must be, the series is green"))
    return 1 if problems else 0


def verb():
    args = run.repeat_arguments(run.run_arguments(__doc__)).parse_args()
    clock = common.Clock()
    times, parallel = run.repeats(args)
    if times > 1:
        return finish(repeat(args, clock, times, parallel), clock)
    _, _, problems = compare(args, clock)
    return finish(problems, clock)


if __name__ == "__main__":
    common.main(verb)
