#!/usr/bin/env python3
"""Explore every schedule with one preemption of the queue's functions.

For a victim function and an operation, one CPU is held at each instruction of
the victim in turn while the operation runs on another CPU; then both finish, and
the queue, its counters and the console are looked at. See
selftests/deferred_split_explore.c. After something that the kernel does not
survive, the guest is started anew and goes on at the next instruction.

A schedule is called FUNCTION+0xOFFSET/VICTIM-ACTION/OPERATION/STATE@KERNEL; make
replay SCHEDULE=... runs it alone, ten times, under TCG in the deterministic mode.
"""
import json
import os
import re
import sys

import boot
import build
import common
import judge
import run
from common import die, say

# Which action runs a function, and what the folio is in before, so that it does.
VICTIMS = {
    "deferred_split_scan": ("scan", ("queued", "underused", "partial")),
    "split_queue_del": ("scan", ("queued", "partial")),
    "deferred_split_folio": ("munmap-half", ("queued",)),
    "__folio_unqueue_deferred_split": ("munmap-all", ("queued", "partial")),
    "split_huge_page_to_list_to_order": ("scan", ("underused", "partial")),
    "migrate_folio_move": ("migrate", ("queued", "underused", "partial")),
    # The compiler may have put it here.
    "migrate_pages_batch": ("migrate", ("queued", "underused", "partial")),
    "remove_migration_ptes": ("migrate", ("queued", "underused")),
    "__folio_migrate_mapping": ("migrate", ("queued", "underused")),
    "__remove_mapping": ("pageout", ("queued",)),
}
OPERATIONS = ("munmap-half", "munmap-all", "dontneed-half", "free-half", "mremap-half",
              "fork-exit", "write-fault", "mlock-half", "scan", "migrate", "pageout", "collapse",
              "split-debugfs")
OWNERS = ("munmap-half", "munmap-all", "dontneed-half", "free-half", "mremap-half", "fork-exit",
          "write-fault", "mlock-half")
# What make check has the time for.
QUICK = (("deferred_split_scan", "munmap-half", "queued"),
         ("deferred_split_scan", "munmap-all", "partial"),
         ("split_queue_del", "munmap-half", "queued"))
SECONDS = 400       # of one victim, operation and state, at most


def plan(victims, operations, states):
    """The (function, action, operation, state) to explore."""
    for name, known, what in ((v, VICTIMS, "VICTIM") for v in victims):
        if name not in known:
            die("unknown %s '%s'" % (what, name), "%s is a list of: %s" % (what, " ".join(known)))
    for name in operations:
        if name not in OPERATIONS:
            die("unknown OP '%s'" % name, "OP is a list of: %s" % " ".join(OPERATIONS))
    found = []
    for victim in victims or VICTIMS:
        action, all_states = VICTIMS[victim]
        for op in operations or OPERATIONS:
            # The owner cannot be held and unmap at the same time.
            if action in OWNERS and op in OWNERS:
                continue
            for state in all_states:
                if not states or state in states:
                    found.append((victim, action, op, state))
    return found


class Explored:
    """What one victim, operation and state came to."""

    def __init__(self, victim, action, op, state):
        self.victim, self.action, self.op, self.state = victim, action, op, state
        self.points = []            # (offset, outcome, detail)
        self.note = None

    @property
    def name(self):
        return "%s/%s/%s/%s" % (self.victim, self.action, self.op, self.state)

    def count(self, *outcomes):
        return sum(p[1] in outcomes for p in self.points)

    @property
    def red(self):
        return [p for p in self.points if p[1] not in ("ok", "blocked")]


def read_points(explored, report, name):
    for line in report.tests.get(name, {"out": []})["out"]:
        m = re.match(r"point \S+\+0x([0-9a-f]+) (\S+) (.*)$", line)
        if m:
            explored.points.append((int(m.group(1), 16), m.group(2), m.group(3)))
        elif line.startswith(("cannot run:", "no THP", "a helper")):
            explored.note = line


def explore_one(built, explored, args, accel, where, first=0, last=None):
    """Explore one combination, in as many guests as it takes."""
    guest = 0
    while guest < 40:
        guest += 1
        name = "explore/" + explored.name
        command = "/selftests/deferred_split_explore %s %s %s %s 0x%x%s" % (
            explored.action, explored.victim, explored.op, explored.state, first,
            "" if last is None else " 0x%x" % last)
        run_dir = os.path.join(where, "%s-%d" % (explored.name.replace("/", "."), guest))
        boot.boot(built, run_dir, [(name, SECONDS, command)], accel, args.smp, args.mem,
                  det=args.det, limit=SECONDS + 60)
        report = judge.Report(judge.read(run_dir, "results.log"))
        had = len(explored.points)
        read_points(explored, report, name)
        rows, _ = judge.judge_run(run_dir)
        console = judge.segments(judge.read(run_dir, "console.log"))
        splats = judge.first_splats(console.get(name, []))
        test = report.tests.get(name)
        if test is None:
            explored.note = rows[0]["detail"]
            return
        ended = test["end"] is not None and test["how"] == "ended"
        if splats:
            # The point that was the last to begin, if it did not say so itself.
            last_said = explored.points[-1] if len(explored.points) > had else None
            if last_said and last_said[1] not in ("ok", "blocked"):
                explored.points[-1] = (last_said[0], last_said[1], "splat: " + splats[0])
            elif last_said:
                explored.points.append((last_said[0], "SPLAT", splats[0]))
            else:
                explored.points.append((first, "SPLAT", splats[0]))
        elif not ended:
            at = explored.points[-1][0] + 1 if len(explored.points) > had else first
            explored.points.append((at, "HANG", "no progress"))
        if ended and not splats and test["end"].get("exit") != "3":
            return
        if not explored.points:
            return
        first = explored.points[-1][0] + 1
        if last is not None and first > last:
            return


def source_lines(built, victim, offsets):
    """offset -> file:line, by addr2line on the kernel that ran."""
    if not offsets:
        return {}
    symbols = common.run(["nm", built.vmlinux]).stdout
    m = re.search(r"^([0-9a-f]+) [tT] %s$" % re.escape(victim), symbols, re.M)
    if not m:
        return {}
    base = int(m.group(1), 16)
    got = common.run(["addr2line", "-e", built.vmlinux] + ["0x%x" % (base + o) for o in offsets])
    lines = [re.sub(r"^.*?/?((?:mm|include|lib|kernel|arch)/)", r"\1", line.split(" (")[0])
             for line in got.stdout.strip().split("\n")]
    return dict(zip(offsets, lines))


def windows(explored, built):
    """Red points that follow each other with the same outcome: 'these 13 instructions'."""
    lines = source_lines(built, explored.victim, [p[0] for p in explored.red])
    found, previous = [], None
    for index, point in enumerate(explored.points):
        if point[1] in ("ok", "blocked"):
            previous = None
            continue
        if previous is not None and found[-1]["outcome"] == point[1]:
            found[-1]["points"].append(point)
        else:
            found.append({"outcome": point[1], "points": [point]})
        previous = index
    out = []
    for w in found:
        first, last = w["points"][0], w["points"][-1]
        out.append("%s: %d instruction%s, +0x%x %s to +0x%x %s%s" % (
            w["outcome"], len(w["points"]), "" if len(w["points"]) == 1 else "s", first[0],
            lines.get(first[0], "?"), last[0], lines.get(last[0], "?"),
            "; " + first[2] if first[2].startswith("splat") or w["outcome"] in ("SPLAT", "HANG")
            else ""))
    return out


def verdict(explored):
    if explored.red:
        return judge.FAIL
    if explored.note and not explored.points:
        return judge.SKIP if "not in this kernel" in explored.note else judge.ERROR
    if not explored.points:
        return judge.VACUOUS
    return judge.PASS


def show(explored, built):
    width = max(len(e.name) for e in explored)
    for e in explored:
        say("%-8s %-*s  held %3d  ok %3d  blocked %3d  red %3d" % (
            verdict(e), width, e.name, len(e.points), e.count("ok"), e.count("blocked"),
            len(e.red)))
        if e.note:
            say("         %s" % e.note)
        for line in windows(e, built):
            say("         %s" % line)
        if e.red:
            say("         make replay SCHEDULE=%s" % schedule(e, e.red[0][0], built))


def schedule(e, offset, built):
    return "%s+0x%x/%s/%s/%s@%s-%s-%s" % (e.victim, offset, e.action, e.op, e.state,
                                         built.source.version, built.kernel.label,
                                         built.kernel.arch)


def explore(args, chosen, clock=None):
    """Explore the chosen combinations on one kernel; returns (explored, built, directory)."""
    clock = clock or common.Clock()
    boot.check_size(args)
    if args.smp < 2:
        die("SMP=%d" % args.smp, "the explorer needs two vCPUs")
    built = build.Built(common.Kernel(args), clock)
    accel = "tcg" if args.det else boot.accelerator(built)
    where = run.new_run_dir("explore-" + built.kernel.label)
    explored = []
    for n, (victim, action, op, state) in enumerate(chosen):
        e = Explored(victim, action, op, state)
        if sys.stdout.isatty():
            sys.stdout.write("\r\033[K%d of %d: %s" % (n + 1, len(chosen), e.name))
            sys.stdout.flush()
        explore_one(built, e, args, accel, where)
        explored.append(e)
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    clock.lap("exploring %d combinations" % len(chosen))
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "accel": accel, "cpus": args.smp, "explored": [
            {"name": e.name, "verdict": verdict(e), "note": e.note, "points": e.points}
            for e in explored]}, indent=1))
    return explored, built, where


def replay(args, name, times=10):
    """Run one schedule alone, again and again.

    Under TCG in the deterministic mode: then every run is the same to the byte.
    Returns the outcomes, and how many different consoles there were.
    """
    m = re.match(r"(\w[\w.]*)\+0x([0-9a-f]+)/([\w-]+)/([\w-]+)/(\w+)(?:@\S+-(stock|series)-\w+)?$",
                 name)
    if not m:
        die("SCHEDULE=%s" % name, "take one as make explore prints it")
    if m.group(6):
        args.series = {"stock": "0", "series": "1"}[m.group(6)]
    built = build.Built(common.Kernel(args))
    accel = "tcg" if args.det else boot.accelerator(built)
    args.det = accel == "tcg"
    where = run.new_run_dir("replay-" + built.kernel.label)
    offset = int(m.group(2), 16)
    outcomes, consoles = [], set()
    for n in range(times):
        e = Explored(m.group(1), m.group(3), m.group(4), m.group(5))
        explore_one(built, e, args, accel, os.path.join(where, str(n)), offset, offset)
        outcomes.append(e.points[0][1] if e.points else e.note or "not held")
        said = ""
        for dirpath, _, files in sorted(os.walk(os.path.join(where, str(n)))):
            for name in ("console.log", "results.log"):
                if name in files:
                    said += judge.read(dirpath, name)
        consoles.add(said)
        say("replay %d of %d: %s" % (n + 1, times, outcomes[-1]))
    if args.det:
        say("%s" % ("all runs are the same to the byte" if len(consoles) == 1 else
                    "%d different consoles in %d runs" % (len(consoles), times)))
    say("case files: %s" % where)
    return outcomes, len(consoles)


def arguments():
    parser = common.kernel_arguments(__doc__)
    boot.boot_arguments(parser)
    env = os.environ.get
    parser.add_argument("--victim", default=env("VICTIM") or "", help="functions (VICTIM, all)")
    parser.add_argument("--op", default=env("OP") or "", help="operations (OP, all)")
    parser.add_argument("--state", default=env("STATE") or "",
                        help="queued underused partial (STATE, all that fit)")
    parser.add_argument("--replay", default=env("SCHEDULE") or "", metavar="SCHEDULE",
                        help="run one schedule ten times instead (SCHEDULE)")
    parser.add_argument("--quick", action="store_true", help="the subset of make check")
    return parser


def verb():
    args = arguments().parse_args()
    if args.replay:
        outcomes, _ = replay(args, args.replay)
        return 0 if set(outcomes) <= {"ok", "blocked"} else 1
    words = [w.replace(",", " ").split() for w in (args.victim, args.op, args.state)]
    chosen = [(v, VICTIMS[v][0], o, s) for v, o, s in QUICK] if args.quick else plan(*words)
    clock = common.Clock()
    explored, built, where = explore(args, chosen, clock)
    show(explored, built)
    say("%s %s %s, %d vCPUs; case files: %s" % (built.info["source"], built.kernel.label,
                                               built.kernel.arch, args.smp, where))
    say(clock.report())
    bad = [e for e in explored if verdict(e) not in (judge.PASS, judge.SKIP)]
    say("verdict: %s (%d combinations, %d not good)" % (
        judge.PASS if explored and not bad else judge.FAIL, len(explored), len(bad)))
    return 1 if bad or not explored else 0


if __name__ == "__main__":
    common.main(verb)
