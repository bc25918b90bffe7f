#!/usr/bin/env python3
"""Which commit brought a race that shows only sometimes?

A step of 'git bisect run': runs a command again and again, until it fails (the
commit is bad) or has not failed so often that it would have, with the confidence
that is asked for, if it had the bug. How often it fails where the bug is must have
been measured: --measure does that.

  race_bisect.py --measure 20 -- COMMAND   how often does COMMAND fail?
  git bisect run race_bisect.py --rate 6/20 -- COMMAND
  make bisect LINUX=TREE GOOD=v6.11 BAD=v6.12 TESTS=unmap RATE=6/20

COMMAND exits 0 if nothing was wrong, 125 if it cannot tell, or anything else if the
race has shown. Without a COMMAND the kit builds the tree LINUX and runs TESTS on it,
SERIES=0: PASS, FAIL, and whatever else cannot tell.

With --first-good, or GOOD newer than BAD, it looks for the commit that mended it.

Exit status of a step: 0 good, 1 bad, 125 cannot tell, more if it is asked for wrongly,
which ends the bisection. Each says why, and how sure it is. The confidence is that of
the whole bisection: each step's is higher.

(Not bisect.py: Python's library has a module of that name.)
"""
import argparse
import math
import os
import shlex
import shutil
import subprocess
import sys
import traceback

import common
import judge
import run
from common import die, say

GOOD, BAD, UNKNOWN = 0, 1, 125
WRONG_USE = 128         # for git: do not go on; anything below would be a verdict
UNKNOWN_TRIES = 3       # in a row, then the commit cannot be judged
RATE_CONFIDENCE = 0.9   # of a rate that comes as so many of so many


def binomial_at_least(k, n, p):
    """The probability of k or more hits in n tries."""
    return sum(math.comb(n, i) * p**i * (1 - p)**(n - i) for i in range(k, n + 1))


def least_rate(k, n, confidence=RATE_CONFIDENCE):
    """The smallest rate that k of n is compatible with (Clopper and Pearson, one side)."""
    low, high = 0.0, k / n
    for _ in range(60):
        middle = (low + high) / 2
        if binomial_at_least(k, n, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def parse_rate(text):
    """'0.3' as it is; '6/20' as the least that this is compatible with."""
    try:
        if "/" in text:
            k, n = (int(word) for word in text.split("/"))
            rate = least_rate(k, n) if 0 < k <= n else 0
        else:
            rate = float(text)
    except ValueError:
        rate = 0
    if not 0 < rate <= 1:
        die("RATE=%s" % text, "how often it fails where the bug is: 0.3, or 6/20 as measured")
    return rate


def parse_confidence(text):
    try:
        confidence = float(text)
    except ValueError:
        confidence = 0
    if not 0.5 <= confidence < 1:
        die("CONFIDENCE=%s" % text, "from 0.5 to less than 1: 0.99")
    return confidence


def runs_needed(rate, confidence):
    """How many runs without a failure make a good commit, with this confidence."""
    if rate >= 1:
        return 1
    # Not one more for the last bit of a float.
    return max(1, math.ceil(math.log(1 - confidence) / math.log(1 - rate) - 1e-9))


def step_confidence(confidence, steps):
    """What each of so many steps needs, if none of them may be wrong."""
    return confidence ** (1 / steps)


def steps_left(tree="."):
    """How many commits will be tested at most, this one included, by git's own count."""
    got = subprocess.run(["git", "-C", tree, "bisect", "visualize", "--oneline"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    left = len(got.stdout.split("\n")) - 1 if got.returncode == 0 else 0
    return max(1, math.ceil(math.log2(left + 1)))


class Tester:
    """Runs the test once: GOOD, BAD or UNKNOWN, and why."""

    def __init__(self, args):
        self.args = args

    def __call__(self):
        return self.command() if self.args.command else self.kit()

    def command(self):
        try:
            status = subprocess.call(self.args.command)
        except OSError as e:
            return UNKNOWN, "could not be run: %s" % e
        if status == UNKNOWN:
            return UNKNOWN, "exit status 125"
        if status < 0 or status in (126, 127):
            return UNKNOWN, "could not be run: status %d" % status
        return (GOOD, "passed") if status == 0 else (BAD, "exit status %d" % status)

    def kit(self):
        args = self.args
        args.linux = args.linux or os.getcwd()
        try:
            rows, where = run.execute(args)
        except common.Fail as e:
            return UNKNOWN, str(e)
        say(judge.table(rows))
        verdict = judge.PASS if judge.good(rows) else judge.overall(rows)
        return {judge.PASS: GOOD, judge.FAIL: BAD}.get(verdict, UNKNOWN), \
            "%s (%s)" % (verdict, where)


def step(test, rate, confidence, show=say):
    """One commit: GOOD, BAD or UNKNOWN."""
    needed, clean, unknown = runs_needed(rate, confidence), 0, 0
    while clean < needed:
        outcome, why = test()
        if outcome == BAD:
            show("bisect: BAD: it failed in run %d: %s" % (clean + 1, why))
            return BAD
        if outcome == UNKNOWN:
            unknown += 1
            if unknown == UNKNOWN_TRIES:
                show("bisect: CANNOT TELL: %s" % why)
                return UNKNOWN
            continue
        clean, unknown = clean + 1, 0
    show("bisect: GOOD with %.4g %% confidence: %d runs and no failure; with the bug each fails "
         "with %.3g %%" % (100 * (1 - (1 - rate)**needed), needed, 100 * rate))
    return GOOD


def measure(test, times, show=say):
    """How often does it fail? Returns (failures, runs)."""
    failures = runs = 0
    for _ in range(times):
        outcome, why = test()
        if outcome == UNKNOWN:
            show("bisect: cannot tell: %s" % why)
            continue
        runs += 1
        failures += outcome == BAD
    if not runs:
        die("not one of %d runs gave a result" % times)
    show("bisect: %d of %d failed: RATE=%d/%d" % (failures, runs, failures, runs))
    if failures:
        rate = least_rate(failures, runs)
        show("bisect: at least %.3g %% with %.0f %% confidence: %d runs for a good commit with "
             "99 %%" % (100 * rate, 100 * RATE_CONFIDENCE, runs_needed(rate, 0.99)))
    return failures, runs


def git(tree, *words, check=True):
    got = subprocess.run(["git", "-C", tree] + list(words), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    if check and got.returncode:
        die("git %s: %s" % (words[0], got.stdout.strip().split("\n")[-1]))
    return got


def whole(args):
    """All of a bisection, in a clone: the tree itself is only read."""
    if not args.linux or not args.good or not args.bad:
        die("which tree, and from where to where?", "give LINUX, GOOD, BAD, TESTS and RATE")
    tree = os.path.abspath(args.linux)
    if git(tree, "rev-parse", "--git-dir", check=False).returncode:
        die("%s is no git repository" % tree, "give LINUX=a clone with both commits")
    # By their names: what a tag means does not come with a shared clone of some trees.
    good, bad = (git(tree, "rev-parse", "--verify", "-q", c + "^{commit}", check=False)
                 .stdout.strip() or die("no commit '%s' in %s" % (c, tree), "fetch it first")
                 for c in (args.good, args.bad))
    first_good = git(tree, "merge-base", "--is-ancestor", bad, good, check=False).returncode == 0
    clone = os.path.join(common.cache_dir(), "bisect.%d" % os.getpid())
    try:
        git(os.path.dirname(clone), "clone", "-q", "--shared", "--no-checkout", tree, clone)
        old, new = (bad, good) if first_good else (good, bad)
        git(clone, "checkout", "-q", "--detach", new)
        terms = ["--term-old", "good", "--term-new", "bad"] if not first_good else \
            ["--term-old", "bug", "--term-new", "mended"]
        say(git(clone, "bisect", "start", *terms, new, old).stdout.strip())
        command = [sys.executable, os.path.abspath(__file__), "--rate", args.rate,
                   "--confidence", repr(step_confidence(args.confidence_value,
                                                        steps_left(clone))), "--steps", "1"]
        if first_good:
            command.append("--first-good")
        if args.command:
            command += ["--"] + args.command
        env = dict(os.environ, LINUX=clone, SERIES="0", MUTANT="")
        say("bisect: %s" % " ".join(shlex.quote(w) for w in command))
        got = subprocess.run(["git", "-C", clone, "bisect", "run"] + command, env=env, cwd=clone,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        say(got.stdout.strip())
        if got.returncode:
            return 1
        say("bisect: with %.4g %% confidence" % (100 * args.confidence_value))
        return 0
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def arguments():
    parser = run.run_arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    env = os.environ.get
    parser.add_argument("--rate", default=env("RATE") or "",
                        help="how often it fails where the bug is: 0.3, or 6/20 (RATE)")
    parser.add_argument("--confidence", default=env("CONFIDENCE") or "0.99",
                        help="of the whole bisection (CONFIDENCE, 0.99)")
    parser.add_argument("--steps", type=int, default=0,
                        help="commits that will be tested (git's own count)")
    parser.add_argument("--first-good", action="store_true",
                        help="look for the commit that mended it: good is 1, bad is 0")
    parser.add_argument("--measure", type=int, metavar="N", help="run it N times and count")
    parser.add_argument("--whole", action="store_true",
                        help="bisect LINUX from GOOD to BAD, in a clone of it")
    parser.add_argument("--good", default=env("GOOD"), help="a good commit (GOOD)")
    parser.add_argument("--bad", default=env("BAD"), help="a bad commit (BAD)")
    parser.add_argument("command", nargs="*", metavar="COMMAND",
                        help="the test; without it, the kit's TESTS on LINUX")
    return parser


def verb():
    # Not the parser's own way: the trees between are such that no series applies to.
    args = argparse.ArgumentParser.parse_args(arguments())
    args.base = args.base or common.DEFAULT_BASE
    test = Tester(args)
    if args.measure is not None:
        if args.measure < 1:
            die("--measure %d" % args.measure, "give how often to run it, 1 at least")
        measure(test, args.measure)
        return 0
    if not args.rate:
        die("without RATE nobody knows when to call a commit good",
            "measure it on a bad one: race_bisect.py --measure 20 -- COMMAND")
    rate = parse_rate(args.rate)
    args.confidence_value = parse_confidence(args.confidence)
    if args.whole:
        return whole(args)
    outcome = step(test, rate, step_confidence(args.confidence_value, args.steps or steps_left()))
    if args.first_good and outcome != UNKNOWN:
        # For git the newer one is the "bad" one, whatever it is called.
        outcome = GOOD if outcome == BAD else BAD
    return outcome


if __name__ == "__main__":
    a_step = not {"--whole", "--measure", "-h", "--help"} & set(sys.argv)
    try:
        common.main(verb)
    except SystemExit as e:
        # Of a step, 2 would be taken for a verdict, and so would the 1 of an exception.
        sys.exit(WRONG_USE if a_step and e.code == 2 else e.code)
    except Exception:
        traceback.print_exc()
        sys.exit(WRONG_USE)
