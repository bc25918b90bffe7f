#!/usr/bin/env python3
"""Torture the deferred split queue: many tasks, random operations, random holds.

Runs selftests/deferred_split_torture.c in a guest for TIME seconds, with points
in the queue's code at which a CPU is held now and then (kmod/splitq_jitter.c). A
SEED chooses operations and points; the timing is the machine's. Stops at the
first thing that is wrong, and shows it. Exit status 0 only for a PASS.
"""
import json
import os
import re
import secrets
import sys

import boot
import build
import common
import judge
import races
import run
from common import die, say

NAME = "torture"
# What starting, the last checkpoint and the last counters may take beyond TIME.
BEYOND = 150
WORKERS = 4
PLANTS = ("stall", "taint", "killed", "content", "audit", "stuck", "leak")
SPLAT_LINES = 60


TRIES = 3


def again(kernel, args):
    """The command that repeats it, as far as timing lets it be repeated."""
    return re.sub(r"^make run", "make torture SEED=%d TIME=%d" % (args.seed, args.time),
                  run.again(kernel, args))


class Progress:
    """What the guest says, as it says it: a hang is seen at once."""

    def __init__(self, where):
        self.path, self.offset = os.path.join(where, "results.log"), 0

    def __call__(self, seconds):
        try:
            with open(self.path, "rb") as f:
                f.seek(self.offset)
                text = f.read()
        except OSError:
            return
        # Only whole lines: the rest comes later.
        text = text[:text.rfind(b"\n") + 1]
        self.offset += len(text)
        for line in re.findall(r"^\d+ out %s (.*)$" % NAME, text.decode(errors="replace"), re.M):
            say(judge.clean(line))


def show_splat(where):
    """The console around the first splat, with source lines if they are to be had."""
    for name in ("console.decoded", "console.log"):
        lines = judge.clean(races.set_aside(where, judge.read(where, name))).split("\n")
        first = next((i for i, line in enumerate(lines)
                      if any(p.search(line) for p in judge.SPLATS)), None)
        if first is not None:
            say("\n".join(lines[max(0, first - 3):first + SPLAT_LINES]))
            return


def torture(args, clock=None, show=True):
    """One run, or another if QEMU spoils it; returns (rows, directory)."""
    for _ in range(TRIES):
        rows, where = torture_once(args, clock, show)
        if all(r["detail"] != judge.STALE for r in rows):
            break
        say("%s; once more" % judge.STALE)
    return rows, where


def torture_once(args, clock, show):
    """One run; returns (rows, directory). show: print what the guest says."""
    clock = clock or common.Clock()
    kernel = common.Kernel(args)
    boot.check_size(args)
    say("SEED=%d TIME=%d" % (args.seed, args.time))
    built = build.Built(kernel, clock)
    accel = "tcg" if args.det else boot.accelerator(built)
    where = run.new_run_dir("torture-" + kernel.label)
    common.write_atomically(os.path.join(where, "again.sh"),
                            "#!/bin/sh\n# Run this case once more, from the top of the kit.\n" +
                            again(kernel, args) + "\n")
    guest = os.path.join(where, "guest-1")
    limit = args.time + BEYOND
    progress = Progress(guest) if show else lambda seconds: None
    command = "/selftests/deferred_split_torture %d %d" % (args.time, args.seed)
    if args.plant:
        command += " %d %s" % (WORKERS, args.plant)
    boot.boot(built, guest, [(NAME, limit, command)], accel, args.smp, args.mem,
              det=args.det, limit=limit + 60, on_tick=progress)
    progress(0)
    clock.lap("guest (%s)" % kernel.label)
    rows, pending = judge.judge_run(guest)
    rows += [dict(rows[0], test=name, verdict=judge.ERROR, detail="the guest did not come up")
             for name in pending if rows[0]["test"] != NAME]
    if any("splat: " in (r.get("detail") or "") for r in rows):
        run.decode(built, guest)
        show_splat(guest)
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "again": again(kernel, args), "limits": judge.limits(rows),
         "rows": rows}, indent=1))
    return rows, where


def arguments():
    parser = common.kernel_arguments(__doc__)
    boot.boot_arguments(parser)
    env = os.environ.get
    # More tasks that really run at the same time than make run needs.
    parser.set_defaults(smp=int(env("SMP") or 4), tests="")
    parser.add_argument("--time", default=env("TIME") or "60",
                        help="seconds of torture (TIME, 60)")
    parser.add_argument("--seed", default=env("SEED") or str(secrets.randbelow(2**31)),
                        help="what operations and points are drawn from (SEED, random)")
    parser.add_argument("--plant", choices=PLANTS, help="plant a fault that must be found")
    return parser


def verb():
    args = arguments().parse_args()
    args.time = common.number("TIME", args.time, 1)
    args.seed = common.number("SEED", args.seed, 0)
    clock = common.Clock()
    rows, where = torture(args, clock)
    say(judge.table(rows, sys.stdout.isatty()))
    say("case file: %s" % where)
    good = judge.good(rows)
    if not good:
        say("once more: %s" % again(common.Kernel(args), args))
    say(clock.report())
    say("verdict: %s" % (judge.PASS if good else judge.overall(rows)))
    return 0 if good else 1


if __name__ == "__main__":
    common.main(verb)
