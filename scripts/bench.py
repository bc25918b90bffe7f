#!/usr/bin/env python3
"""Measure designs of the deferred split queue against each other, in one kernel.

Builds a kernel with the series and, beside it, the variants of patches/variants,
boots it, and has selftests/deferred_split_bench.c measure each in turn, so that all
of them meet the same machine in the same state. What runs is chosen at run time,
and every row is of a variant of which the kernel's own counters say that it ran.
The kernel has no debug option, but for those of DEBUG.

It is measured twice: in a guest in which time is time, and once more under -icount,
where it is instructions: that is the same on every machine, and has no noise, but
says nothing of caches and of other CPUs. Only what one CPU does alone is counted so.
With DET=1 that is all that is done.

BENCH=quick is about two minutes, and full at most fifteen, when the kernel is built.
No number is judged: PASS says that all was measured. The rows, for make report, are
in bench.json in the case file:

  {"meta": {...}, "rows": [{"bench", "variant", "case", "params": {"queue",
   "nr_to_scan", "tasks"}, "round", "warmup", "clock": "time" or "icount",
   "metric", "value", "hist": [[upper, count], ...] or null}]}

Metrics whose name contains ns are times; under -icount it contains instructions
instead. The value of unmap_ns and free_ns is the 99.99th percentile. Round 0 is the
warm-up.
"""
import argparse
import json
import os
import re
import statistics
import sys
import time

import boot
import build
import common
import judge
import run
from common import die, say

TIME, ICOUNT = "time", "icount"
SERIES, STOCK, NOSYNC = "series", "stock", "nosync"
NAME = "bench/"
# What is measured in each guest: name, seconds at most, arguments of the driver. The
# rounds are those behind the warm-up.
PLANS = {
    ("quick", TIME): (("scan", 300, "-r 2 -q 1024"), ("hold", 300, "-r 2 -q 10000"),
                      ("latency", 300, "-r 2 -q 2000 -s 100 -t 2"),
                      ("workload", 300, "-r 1"), ("ttu_sync", 300, "-r 2 -s 100")),
    ("quick", ICOUNT): (("scan", 300, "-r 1 -q 256"), ("hold", 300, "-r 1 -q 10000")),
    ("full", TIME): (("scan", 400, "-r 8 -q 2048"), ("hold", 400, "-r 8 -q 100000"),
                     ("latency", 900, "-r 8 -q 10000 -s 650 -t 8"),
                     ("workload", 600, "-r 6"), ("ttu_sync", 300, "-r 8 -s 300")),
    ("full", ICOUNT): (("scan", 400, "-r 6 -q 1024"), ("hold", 400, "-r 2 -q 100000")),
}
# What a bench must have a row of, for each variant and round.
METRICS = {
    "scan": ("ns_per_folio", "hold_max_ns", "splits"),
    "locks": ("acquisitions_per_folio",),
    "hold": ("hold_max_ns", "wait_max_ns", "ns_per_folio"),
    "latency": ("unmap_ns", "free_ns"),
    "workload": ("seconds", "splits", "refaults", "hold_max_ns"),
    "ttu_sync": ("splits",),
}
CASES = {
    "scan": ("all-split", "none-split", "half-split", "contended"),
    "locks": ("all-split", "none-split", "half-split", "contended"),
    "hold": ("none-split",),
    "latency": ("quiet", "while-scanning", "while-paced"),
    "workload": ("allocator", "memcg-pressure", "fork-exit"),
    "ttu_sync": ("half-mapped", "zap"),
}
QUICK_MEM, FULL_MEM = 1536, 3584
SILENCE = 60


def variants_of(base, bench):
    """Those that a bench measures, the one to compare with first."""
    if bench == "ttu_sync":
        return [NOSYNC, SERIES]
    names = [v for v in sorted(common.variants(base)) if v not in (NOSYNC, STOCK)]
    return [STOCK] + names + [SERIES]


def in_instructions(metric):
    return re.sub(r"(^|_)ns(_|$)", r"\1instructions\2", metric)


def number(text):
    value = float(text)
    return int(value) if value == int(value) else value


def read_rows(lines, clock):
    """The rows in the driver's output."""
    rows = []
    for line in lines:
        words = line.split()
        if words[:2] == ["#", "row"] and len(words) == 11:
            bench, variant, case, queue, nr, tasks, turn, metric, value = words[2:]
            rows.append({"bench": bench, "variant": variant, "case": case,
                         "params": {"queue": int(queue), "nr_to_scan": int(nr),
                                    "tasks": int(tasks)},
                         "round": int(turn), "warmup": turn == "0", "clock": clock,
                         "metric": metric, "value": number(value), "hist": None})
        elif words[:2] == ["#", "hist"] and rows:
            counts = [int(w) for w in words[2:]]
            rows[-1]["hist"] = (rows[-1]["hist"] or []) + \
                [list(pair) for pair in zip(counts[::2], counts[1::2])]
    return [instructions(row) if clock == ICOUNT else row for row in rows]


def instructions(row):
    """A row of a guest under -icount: its ns are instructions."""
    each = 2 ** boot.ICOUNT_SHIFT
    metric = in_instructions(row["metric"])
    if metric == row["metric"]:
        return row
    return dict(row, metric=metric, value=row["value"] / each,
                hist=row["hist"] and [[upper / each, count] for upper, count in row["hist"]])


def groups(rows, warmup=False):
    """(bench, case, queue, nr_to_scan, tasks, clock, metric) -> variant -> {round: value}."""
    found = {}
    for row in rows:
        if row["warmup"] and not warmup:
            continue
        p = row["params"]
        key = (row["bench"], row["case"], p["queue"], p["nr_to_scan"], p["tasks"], row["clock"],
               row["metric"])
        found.setdefault(key, {}).setdefault(row["variant"], {})[row["round"]] = row["value"]
    return found


def missing(rows, base, plans):
    """What should have been measured and was not: a list of words. plans: clock -> plan."""
    bad = []
    found = groups(rows, warmup=True)
    for clock, plan in plans.items():
        for name, _, words in plan:
            last = int(re.search(r"-r (\d+)", words).group(1))
            for bench in [name] + ["locks"] * (name == "scan"):
                for case in CASES[bench]:
                    for metric in METRICS[bench]:
                        if clock == ICOUNT:
                            metric = in_instructions(metric)
                        keys = [k for k in found if (k[0], k[1], k[5], k[6]) ==
                                (bench, case, clock, metric)]
                        if not keys:
                            bad.append("%s %s has no %s (%s)" % (bench, case, metric, clock))
                        for key in keys:
                            for variant in variants_of(base, bench):
                                if set(found[key].get(variant, {})) != set(range(last + 1)):
                                    bad.append("%s %s %s of %s has not the rounds 0 to %d (%s)"
                                               % (bench, case, metric, variant, last, clock))
    # A round that is all zeros was not measured.
    for key, values in found.items():
        if key[6] in ("ns_per_folio", "instructions_per_folio", "seconds", "unmap_ns") and \
                any(v <= 0 for by_round in values.values() for v in by_round.values()):
            bad.append("%s %s: a %s of 0" % (key[0], key[1], key[6]))
    return bad


SHOWN = (("scan", "_per_folio"), ("locks", "acquisitions_per_folio"), ("hold", "hold_max_"),
         ("latency", "unmap_ns"), ("latency", "free_ns"), ("workload", "seconds"),
         ("workload", "splits"), ("workload", "refaults"), ("ttu_sync", "ns_per_folio"),
         ("ttu_sync", "free_ns"), ("ttu_sync", "splits"))


def shown(value):
    if value is None:
        return "-"
    if value >= 1000 or value == int(value):
        return "%d" % round(value)
    return "%.4g" % value


def table(doc):
    """For people: medians of the rounds behind the warm-up, a line for each measurement."""
    meta, lines = doc["meta"], []
    where = {TIME: "%s %s %s %d vCPUs" % (meta["base"], meta["arch"], meta["accel"],
                                          meta["vcpus"]),
             ICOUNT: "%s %s icount %d vCPUs" % (meta["base"], meta["arch"], meta["vcpus"])}
    for key, values in groups(doc["rows"]).items():
        bench, case, queue, nr, tasks, clock, metric = key
        if not any(bench == b and m in metric for b, m in SHOWN):
            continue
        middle = {v: statistics.median(r.values()) for v, r in values.items()}
        first = STOCK if STOCK in middle else NOSYNC
        ratio = ""
        if middle.get(first) and middle.get(SERIES):
            ratio = "  %s/%s %.3g" % (first, SERIES, middle[first] / middle[SERIES])
        names = [v for v in variants_of(meta["base"], bench) if v in middle]
        lines.append("%-9s %-14s queue %-6s scan %-5s tasks %d  %-29s %s%s   %s" % (
            bench, case, queue, nr, tasks, metric,
            "  ".join("%s %s" % (v, shown(middle[v])) for v in names), ratio, where[clock]))
    return "\n".join(lines)


def median_of(found, bench, case, nr, metric, variant, clock=TIME):
    """Of the longest queue that was measured; None if it was not."""
    keys = [k for k in found if (k[0], k[1], k[3], k[5], k[6]) == (bench, case, nr, clock, metric)]
    if not keys:
        return None
    values = found[max(keys, key=lambda k: k[2])].get(variant)
    return statistics.median(values.values()) if values else None


def targets(doc):
    """What the series is meant to reach, beside what was measured. Told, not judged."""
    found, lines = groups(doc["rows"]), []

    def line(what, value, good):
        lines.append("target    %-64s %s" % (what, "not measured" if value is None else
                                             "%.4g: %s" % (value, "met" if good(value)
                                                           else "NOT MET")))

    def ratio(bench, case, nr, metric, clock=TIME):
        a, b = (median_of(found, bench, case, nr, metric, v, clock) for v in (STOCK, SERIES))
        return a / b if a and b else None

    # By time the worst of hundreds of holds may be one that the host interrupted.
    for clock in (TIME, ICOUNT):
        def name(metric, clock=clock):
            return in_instructions(metric) if clock == ICOUNT else metric

        line("worst hold, 10000 at a time: stock/series >= 20 (%s)" % clock,
             ratio("hold", "none-split", 10000, name("hold_max_ns"), clock), lambda v: v >= 20)
        ends = [median_of(found, "hold", "none-split", n, name("hold_max_ns"), SERIES, clock)
                for n in (100, 10000)]
        line("worst hold of the series, 10000 at a time/100 <= 1.5 (%s)" % clock,
             ends[1] / ends[0] if all(ends) else None, lambda v: v <= 1.5)
        for case in CASES["scan"]:
            for nr in sorted({k[3] for k in found
                              if k[0] == "scan" and k[1] == case and k[5] == clock}):
                line("throughput, %s, %d at a time: series/stock >= 1 (%s)" % (case, nr, clock),
                     ratio("scan", case, nr, name("ns_per_folio"), clock), lambda v: v >= 1)
    # One batch of 31 may be less than full.
    for case, most in (("none-split", 2 / 31), ("all-split", 1 / 31)):
        nrs = [k[3] for k in found if k[0] == "locks" and k[1] == case and k[5] == TIME]
        if nrs:
            line("acquisitions per folio of the series, %s <= %.4f" % (case, most),
                 median_of(found, "locks", case, max(nrs), "acquisitions_per_folio", SERIES),
                 lambda v, most=most, n=max(nrs): v <= most + 2 / n)
    return "\n".join(lines)


class Progress:
    """What is being measured, every ten seconds, and how long the guest may still take."""

    def __init__(self, where, tests):
        self.where, self.tests, self.said = where, [t[0] for t in tests], 0

    def __call__(self, seconds):
        if seconds - self.said < 10:
            return
        self.said = seconds
        text = judge.read(self.where, "results.log")
        begun = re.findall(r"^\d+ begin (\S+)", text, re.M)
        lines = re.findall(r"# row (\S+ \S+ \S+)", text)
        say("%d s: %d of %d, %s" % (seconds, len(begun), len(self.tests),
                                    lines[-1] if lines else "booting"))


def measure(built, args, clock, where, plan, accel):
    """One guest: (rows of bench.json, judged rows)."""
    tests = [(NAME + name, seconds, "/selftests/deferred_split_bench -b %s %s%s" % (
        name, words, " -p" if args.plant else "")) for name, seconds, words in plan]
    guest = os.path.join(where, "guest-" + clock)
    boot.boot(built, guest, tests, accel, args.smp, args.mem, det=clock == ICOUNT,
              limit=SILENCE + sum(t[1] for t in tests), nodes=1,
              on_tick=Progress(guest, tests))
    judged, left = judge.judge_run(guest)
    judged += [dict(judged[0], test=name, verdict=judge.ERROR, detail="not run")
               for name in left if name not in {r["test"] for r in judged}]
    report = judge.Report(judge.read(guest, "results.log"))
    rows = [row for test in report.tests.values() for row in read_rows(test["out"], clock)]
    return rows, judged


def plans_of(args):
    """What is to be measured by which clock: clock -> plan."""
    if args.series not in ("1", "all"):
        die("SERIES=%s" % args.series, "make bench has stock and the series in one kernel")
    only = args.only.replace(",", " ").split()
    plans = {}
    for clock in (ICOUNT,) if args.det else (TIME, ICOUNT):
        plan = PLANS[args.bench, clock]
        plans[clock] = [p for p in plan if not only or p[0] in only]
    plans = {clock: plan for clock, plan in plans.items() if plan}
    if not plans:
        die("nothing is called '%s'" % args.only,
            "--only is a list of: scan hold latency workload ttu_sync")
    return plans


def again(kernel, args):
    words = run.again(kernel, args).split()
    words = [w for w in words if not w.startswith(("SERIES=", "MUTANT="))]
    return " ".join(["make bench", "BENCH=" + args.bench] + words[2:])


def bench(args, timer=None):
    """make bench: returns (bench.json's content, judged rows, directory)."""
    timer = timer or common.Clock()
    plans = plans_of(args)
    args.mutant = "bench"
    args.mem = args.mem or (QUICK_MEM if args.bench == "quick" else FULL_MEM)
    boot.check_size(args)
    kernel = common.Kernel(args)
    built = build.Built(kernel, timer)
    accel = "tcg" if args.det else boot.accelerator(built)
    where = run.new_run_dir("bench")
    common.write_atomically(os.path.join(where, "again.sh"),
                            "#!/bin/sh\n# Measure this once more, from the top of the kit.\n" +
                            again(kernel, args) + "\n")
    rows, judged = [], []
    for clock, plan in plans.items():
        got = measure(built, args, clock, where, plan, "tcg" if clock == ICOUNT else accel)
        rows, judged = rows + got[0], judged + got[1]
        timer.lap("guest (%s)" % clock)
    doc = {"meta": {"base": kernel.base, "arch": kernel.arch, "accel": accel,
                    "vcpus": args.smp, "mem": args.mem, "kernel": built.info["release"],
                    "source": built.info["source"], "date": time.strftime("%Y-%m-%d %H:%M:%S"),
                    "debug": ",".join(kernel.debug) or "none", "quick": args.bench == "quick",
                    "planted": bool(args.plant)},
           "rows": rows}
    bad = missing(rows, kernel.base, plans)
    if bad:
        judged.append(dict(judged[0], test=NAME + "complete", verdict=judge.ERROR, seconds=0.0,
                           counts={}, windows={}, detail="%s%s" % (
                               bad[0], "; and %d more" % (len(bad) - 1) if bad[1:] else "")))
    common.write_atomically(os.path.join(where, "bench.json"), json.dumps(doc))
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "again": again(kernel, args), "rows": judged}, indent=1))
    return doc, judged, where


def arguments():
    env = os.environ.get
    parser = common.kernel_arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    boot.boot_arguments(parser)
    # What is measured is the kernel, not its debug options.
    parser.set_defaults(debug=env("DEBUG") or "", mem=int(env("MEM") or 0), tests="")
    parser.add_argument("--bench", choices=("quick", "full"), default=env("BENCH") or "full",
                        help="how much (BENCH, full)")
    parser.add_argument("--only", default="", metavar="LIST",
                        help="of scan hold latency workload ttu_sync")
    parser.add_argument("--plant", action="store_true",
                        help="plant a fault: variants are not switched")
    return parser


def verb():
    args = arguments().parse_args()
    if args.bench not in ("quick", "full"):
        die("BENCH=%s" % args.bench, "use quick or full")
    timer = common.Clock()
    doc, judged, where = bench(args, timer)
    text = table(doc) + "\n" + targets(doc) + "\n"
    common.write_atomically(os.path.join(where, "results.txt"), text)
    say(text + judge.table(judged, sys.stdout.isatty()))
    say("case file: %s" % where)
    say(timer.report())
    say(judge.summary(judged))
    return 0 if judge.good(judged) else 1


if __name__ == "__main__":
    common.main(verb)
