#!/usr/bin/env python3
"""The verbs' own tests: what a user can get wrong is planted, on a tree of a few files.

No network, no kernel build, no QEMU: programs of the system are replaced by stubs
on PATH where a failure of theirs is planted.
"""
import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import types
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.dirname(HERE)
sys.path.insert(0, SCRIPTS)
import bisectable  # noqa: E402
import boot  # noqa: E402
import common  # noqa: E402
import configs  # noqa: E402
import configure  # noqa: E402
import fetch  # noqa: E402
import initramfs  # noqa: E402
import judge  # noqa: E402
import kunit  # noqa: E402
import mmtests  # noqa: E402
import prepare  # noqa: E402
import run  # noqa: E402

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\n"
SOURCE = "".join("line %d\n" % i for i in range(1, 61))


def patch_text(name, old, new, context):
    return ("From: A <a@b>\nSubject: %s\n\n---\n--- a/mm/huge_memory.c\n+++ b/mm/huge_memory.c\n"
            "@@ -%d,3 +%d,3 @@\n line %d\n-%s\n+%s\n line %d\n"
            % (name, context, context, context, old, new, context + 2))


class Sandbox(unittest.TestCase):
    """A cache, a pristine tree of a few files, and a directory of stubs, all temporary."""

    def setUp(self):
        # The sources here have no place for those of the suite.
        self.hooks = []
        patcher = unittest.mock.patch.object(prepare, "kunit_hooks", lambda base: self.hooks)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.dir = tempfile.mkdtemp(prefix="splitq-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.saved = dict(os.environ)
        self.addCleanup(self.restore_env)
        os.environ["SPLITQ_CACHE"] = os.path.join(self.dir, "cache")
        self.tree = os.path.join(self.dir, "tree")
        self.make_tree(self.tree)
        self.bin = os.path.join(self.dir, "bin")
        os.mkdir(self.bin)

    def restore_env(self):
        os.environ.clear()
        os.environ.update(self.saved)

    def make_tree(self, where):
        for name, text in (("Makefile", MAKEFILE), ("mm/huge_memory.c", SOURCE),
                           ("mm/Makefile", "obj-y += huge_memory.o\n"),
                           ("mm/Kconfig.debug", "config X\n")):
            path = os.path.join(where, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as f:
                f.write(text)

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def stub(self, name, body):
        path = os.path.join(self.bin, name)
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + body)
        os.chmod(path, 0o755)
        os.environ["PATH"] = self.bin + ":" + self.saved["PATH"]

    ARGS = dict(base="6.12", arch="x86_64", series="0", mutant=None, debug="", linux=None)

    def kernel(self, **kwargs):
        return common.Kernel(types.SimpleNamespace(**dict(self.ARGS, **kwargs)))

    def source(self):
        return fetch.Source(self.tree, "0123456789abcdef", "a tree", True)

    def fails(self, words, function, *args):
        with self.assertRaises(common.Fail) as caught, contextlib.redirect_stdout(io.StringIO()):
            function(*args)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        for word in words:
            self.assertIn(word, text)
        return text


class Arguments(Sandbox):
    def test_bad_values_name_the_mend(self):
        for change, words in (({"base": "5.4"}, ["5.4", "6.12"]),
                              ({"arch": "vax"}, ["vax", "x86_64"]),
                              ({"debug": "list,lokdep"}, ["lokdep", "lockdep"]),
                              ({"series": "2"}, ["SERIES=2", "first-N"]),
                              ({"pages": "64k"}, ["PAGES=64k", "x86_64", "PAGES=4k", "arm64"]),
                              ({"pages": "16k", "arch": "arm64"}, ["PAGES=16k", "4k or 64k"]),
                              ({"series": "0", "mutant": "B22"}, ["SERIES=1"])):
            with self.subTest(change):
                self.fails(words, lambda: self.kernel(**change))

    def test_arch_is_the_hosts_unless_asked(self):
        for machine, env, arch, cross in (("x86_64", "", "x86_64", ""), ("aarch64", "", "arm64", ""),
                                          ("x86_64", "arm64", "arm64", "aarch64-linux-gnu-"),
                                          ("riscv64", "", "x86_64", "x86_64-linux-gnu-")):
            with self.subTest(machine=machine, env=env), \
                    unittest.mock.patch("platform.machine", return_value=machine):
                os.environ["ARCH"] = env
                self.assertEqual(common.kernel_arguments("x").parse_args([]).arch, arch)
                self.assertEqual(common.cross(arch), cross)

    def test_base_pages_make_another_kernel(self):
        usual, large = (self.kernel(arch="arm64", pages=pages) for pages in ("4k", "64k"))
        self.assertEqual((usual.machine, large.machine), ("arm64", "arm64-64k"))
        self.assertEqual(usual.fragments, self.kernel(arch="arm64").fragments)
        self.assertEqual(configure.wanted(usual.fragments)["CONFIG_ARM64_4K_PAGES"][0], "y")
        self.assertIsNone(configure.wanted(large.fragments)["CONFIG_ARM64_4K_PAGES"][0])
        self.assertEqual(configure.wanted(large.fragments)["CONFIG_ARM64_64K_PAGES"][0], "y")

    def test_what_must_be_red_is_known_for_the_usual_pages_only(self):
        import compare
        compare.need_usual_pages(types.SimpleNamespace(
            **dict(self.ARGS, arch="arm64", pages="4k")))
        self.fails(["PAGES=64k", "make run"], compare.need_usual_pages, types.SimpleNamespace(
            **dict(self.ARGS, arch="arm64", pages="64k")))

    def test_base_without_a_series(self):
        with unittest.mock.patch("common.series_patches", return_value=[]):
            for series in ("1", "all", "first-2"):
                self.assertEqual(self.fails([], lambda: self.kernel(base="7.3", series=series)),
                                 "there is no series for 7.3 yet - use SERIES=0")
            self.fails(["no series for 7.3", "without MUTANT"],
                       lambda: self.kernel(base="7.3", mutant="B22"))
            kernel = self.kernel(base="7.3")
            self.assertEqual((kernel.label, kernel.patches, kernel.has_kunit),
                             ("stock", [], True))

    def test_every_base_has_a_series_that_is_all_there(self):
        for base in common.bases():
            patches = common.series_patches(base)
            self.assertTrue(patches, base)
            self.assertEqual(sorted(os.path.basename(p) for p in patches),
                             sorted(f for f in os.listdir(common.patch_dir(base))
                                    if f.endswith(".patch")))

    def test_unknown_mutant(self):
        self.fails(["B99", "B22"], lambda: self.kernel(series="1", mutant="B99").patches)

    def test_what_a_mutant_may_be(self):
        one = self.kernel(series="1", mutant="B22")
        self.assertEqual((one.label, one.combined, one.boot_words), ("mutant-B22", False, ""))
        self.assertIn("B22-", one.patches[-1])
        everything = self.kernel(series="1", mutant="all")
        chosen = self.kernel(series="1", mutant="all:B22")
        self.assertEqual((everything.label, chosen.label), ("mutants", "mutants-B22"))
        self.assertEqual(everything.build_label, chosen.build_label)
        self.assertEqual((everything.boot_words, chosen.boot_words), ("", "splitq.mutant=B22"))
        self.assertEqual(everything.patches, chosen.patches)
        theirs = self.kernel(series="1", mutant=self.write("X1-theirs.patch", "x"))
        self.assertEqual(theirs.label, "mutant-X1")
        self.assertTrue(theirs.patches[-1].endswith("/X1-theirs.patch"))
        self.fails(["B99", "B22"], lambda: self.kernel(series="1", mutant="all:B99"))
        self.fails(["no patch", "/nowhere.patch"],
                   lambda: self.kernel(series="1", mutant="/nowhere.patch"))

    def test_verbs_exit_2_with_one_line(self):
        for verb in ("run.py", "build.py", "prepare.py", "fetch.py", "boot.py", "series.py"):
            got = subprocess.run([os.path.join(SCRIPTS, verb), "--base", "5.4"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertEqual(got.returncode, 2, verb)
            self.assertEqual(got.stdout, "")
            self.assertEqual(len(got.stderr.strip().split("\n")), 1, got.stderr)

    def test_every_verb_has_usage(self):
        for name in sorted(os.listdir(SCRIPTS)):
            path = os.path.join(SCRIPTS, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                got = subprocess.run([path, "-h"], stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True)
                self.assertEqual(got.returncode, 0, name)
                self.assertTrue(got.stdout.strip(), name)

    def test_cache_that_cannot_be_made(self):
        os.environ["SPLITQ_CACHE"] = os.path.join(self.write("file", ""), "x")
        self.fails(["SPLITQ_CACHE"], common.cache_dir)

    def test_too_little_disk(self):
        self.fails(["GiB", "SPLITQ_CACHE"], common.need_space, 10**6, "a kernel")

    def test_missing_tool(self):
        self.fails(["no-such-tool", "setup.sh"], common.need_tool, "no-such-tool", "a-package")

    def test_too_little_memory(self):
        self.fails(["MEM=512"], boot.check_size, types.SimpleNamespace(smp=2, mem=512))


class Cache(Sandbox):
    def test_only_what_is_old_and_too_much_is_removed(self):
        import build
        root = common.cache_dir("kernel")
        for n in range(6):
            path = os.path.join(root, str(n))
            os.mkdir(path)
            age = (6 - n) * 20 * 3600          # 120 h ... 20 h
            os.utime(path, (time.time() - age, time.time() - age))
        build.prune("kernel", 3)
        self.assertEqual(sorted(os.listdir(root)), ["3", "4", "5"])
        build.prune("kernel", 1)
        self.assertEqual(sorted(os.listdir(root)), ["5"])
        os.utime(os.path.join(root, "5"))
        os.mkdir(os.path.join(root, "6"))
        build.prune("kernel", 1)
        self.assertEqual(sorted(os.listdir(root)), ["5", "6"])


class Explore(Sandbox):
    def test_bad_names(self):
        import explore
        self.fails(["no_such", "deferred_split_scan"], explore.plan, ["no_such"], [], [])
        self.fails(["munmap-quarter", "munmap-half"], explore.plan, [], ["munmap-quarter"], [])
        self.fails(["SCHEDULE=x"], explore.replay, types.SimpleNamespace(series="1"), "x")

        self.fails(["STATE 'quoted'"], explore.plan, [], [], ["quoted"])

    def test_the_owner_is_not_asked_to_do_two_things(self):
        import explore
        found = explore.plan([], [], [])
        for c in found:
            self.assertFalse(c.action in explore.OWNERS and c.op in explore.OWNERS)
        self.assertEqual(len(found), len({c.name for c in found}))

    def test_what_does_not_go_together_is_said(self):
        import explore
        words = ["--victim", "__folio_unqueue_deferred_split", "--op", "exit", "--replay", ""]
        with unittest.mock.patch("sys.argv", ["explore.py"] + words), \
                unittest.mock.patch("explore.explore", side_effect=AssertionError):
            self.fails(["do not go together", "leave one"], explore.verb)

    def test_every_operation_is_in_the_plan(self):
        import explore
        self.assertEqual({c.op for c in explore.plan([], [], [])}, set(explore.OPERATIONS))
        # One combination is enough for where the memcg is; and what cannot be is not tried.
        self.assertEqual([(c.victim, c.state) for c in explore.plan([], [], [])
                          if c.op == "pageout-v1"], [("deferred_split_scan", "queued")])
        for victim in ("__folio_unqueue_deferred_split", "__remove_mapping"):
            self.assertNotIn("migrate", {c.op for c in explore.plan([victim], [], [])})
            self.assertIn("migrate", {c.op for c in explore.plan([victim], ["migrate"], [])})
        self.assertNotIn("pageout-v1", {c.op for c in explore.plan([], [], [], "7.3")})

    def test_a_schedules_name_is_read_back(self):
        import explore
        built = types.SimpleNamespace(
            source=types.SimpleNamespace(version="6.12.117"),
            kernel=types.SimpleNamespace(label="stock", machine="x86_64"))
        for c, where in ((explore.Combination("f", "scan", "munmap-half", "partial+64k"), 0x1b),
                         (explore.Combination("f", "scan", "exit", "queued", "g"), (1, 0x2c)),
                         (explore.Combination("f", "scan", "exit", "queued", "g"), (1, 0))):
            name = explore.schedule(c, where, built)
            again, at, m = explore.parse_schedule(name)
            self.assertEqual(again.name, c.name)
            self.assertEqual(at, where if isinstance(where, tuple) else (where,))
            self.assertEqual((m["label"], m["base"], m["arch"], m["pages"]),
                             ("stock", "6.12", "x86_64", None))
        for label in ("series", "mutants", "mutants-B22", "mutant-B22"):
            built.kernel.label = label
            _, _, m = explore.parse_schedule(explore.schedule(c, where, built))
            self.assertEqual((m["label"], m["arch"]), (label, "x86_64"))

    def test_a_victim_that_was_hardly_ever_held_is_vacuous(self):
        import explore
        c = explore.Combination("f", "scan", "migrate", "partial")
        c.executed = list(range(0, 40, 4))
        self.assertEqual((c.verdict, c.missed), (judge.VACUOUS, 10))
        c.points = [(o, "ok", "") for o in c.executed[:4]]
        self.assertEqual((c.verdict, c.missed), (judge.VACUOUS, 6))
        c.between = (0, 12)
        self.assertEqual((c.verdict, c.missed), (judge.PASS, 0))
        c.between = explore.WHOLE
        c.points += [(16, "blocked", "")]
        self.assertEqual((c.verdict, c.missed), (judge.PASS, 5))
        c.points += [(0, "LOST", "victim=0 op=0 " + explore.NOT_HELD)]
        self.assertEqual((c.verdict, c.held), (judge.FAIL, 5))

    def test_red_points_are_grouped_into_windows(self):
        import explore
        c = explore.Combination("f", "scan", "munmap-half", "queued")
        c.points = [(0, "ok", ""), (4, "LOST", "a"), (6, "LOST", "a"), (9, "CORRUPT", "a"),
                    (12, "blocked", ""), (14, "LOST", "a")]
        saved, explore.source_lines = explore.source_lines, lambda built, victim, offsets: {}
        self.addCleanup(setattr, explore, "source_lines", saved)
        found = explore.windows(c, None)
        self.assertEqual([w.split(",")[0] for w in found],
                         ["LOST: 2 instructions", "CORRUPT: 1 instruction", "LOST: 1 instruction"])
        self.assertEqual(c.verdict, judge.FAIL)
        c.points = []
        self.assertEqual(c.verdict, judge.VACUOUS)
        c.note = "cannot run: no such symbol"
        self.assertEqual(c.verdict, judge.SKIP)

    def test_a_breakpoint_that_was_gone_is_no_splat(self):
        oops = ["Oops: int3: 0000 [#1] PREEMPT SMP", "RIP: 0010:f+0x1/0x2",
                "Code: 00 cc 87 %s <85> c9 0f"]
        whole = (["point f+0x4 ok v", "point f+0x8 ok v", "point f+0xc ok v"], 0, [])
        c, sessions = self.explored((self.COVER + ["point f+0x0 ok v"], None,
                                     oops[:2] + [oops[2] % "48"]), whole)
        self.assertEqual([p[:2] for p in c.points], [(o, "ok") for o in (0, 4, 8, 12)])
        # One that is there was put there by nobody.
        c, sessions = self.explored((self.COVER + ["point f+0x0 ok v"], None,
                                     oops[:2] + [oops[2] % "cc"]),
                                    (["point f+0x8 ok v", "point f+0xc ok v"], 0, []))
        self.assertEqual(c.points[1][:2], (4, "SPLAT"))

    class Sessions:
        """Guests that say what a test has them say, one after the other."""

        def __init__(self, *guests):
            self.guests, self.dropped, self.accel = list(guests), 0, "tcg"

        def get(self):
            return self

        def drop(self):
            self.dropped += 1

        def execute(self, name, seconds, command, on_out):
            import guest
            self.command = command
            out, status, console = self.guests.pop(0)
            c = guest.Command(name)
            for line in out:
                on_out(line)
            c.out, c.console = out, console
            if status is None:
                c.lost = "the guest has ended"
            else:
                c.end, c.how = {"exit": str(status)}, "ended"
            return c

    COVER = ["cover f scan instructions=9 unprobed=0 executed=4", "executed 0x0 0x4 0x8 0xc"]

    def explored(self, *guests):
        import explore
        c = explore.Combination("f", "scan", "munmap-half", "queued")
        sessions = self.Sessions(*guests)
        explore.explore_one(sessions, c)
        return c, sessions

    def test_it_goes_on_behind_what_has_ended_a_guest(self):
        c, sessions = self.explored(
            (self.COVER + ["point f+0x0 ok v", "point f+0x4 LOST v"], 3, []),
            (["point f+0x8 ok v", "point f+0xc ok v"], 0, []))
        self.assertEqual([p[:2] for p in c.points],
                         [(0, "ok"), (4, "LOST"), (8, "ok"), (12, "ok")])
        self.assertEqual(sessions.dropped, 1)
        self.assertTrue(sessions.command.endswith(" 5"))

    def test_a_guest_that_died_died_of_the_next_point(self):
        c, sessions = self.explored(
            (self.COVER + ["point f+0x0 ok v"], None, ["kernel BUG at mm/huge_memory.c:1!"]),
            (["point f+0x8 ok v", "point f+0xc ok v"], 0, []))
        self.assertEqual([p[:2] for p in c.points],
                         [(0, "ok"), (4, "SPLAT"), (8, "ok"), (12, "ok")])
        c, sessions = self.explored((self.COVER + ["point f+0x0 ok v"], None, []),
                                    (["point f+0x8 ok v", "point f+0xc ok v"], 0, []))
        self.assertEqual(c.points[1][:2], (4, "HANG"))

    def test_a_splat_is_no_pass(self):
        c, sessions = self.explored(
            (self.COVER + ["point f+0x%x ok v" % o for o in (0, 4, 8, 12)], 0,
             ["BUG: Bad page state"]))
        self.assertEqual(c.points[-1][1], "SPLAT")
        self.assertEqual(sessions.dropped, 1)

    def test_what_is_wrong_is_red_with_nobody_held(self):
        import explore
        c = explore.Combination("f", "scan", "munmap-half", "queued")
        sessions = self.Sessions(
            (self.COVER + ["point f+0x4 AUDIT victim=0 op=0 (the victim was not held)"], 3,
             ["[    1.0] kernel BUG at mm/x.c:1!"]),
            (self.COVER + ["point f+0x8 ok victim=0 op=0"], 0, []))
        explore.explore_one(sessions, c)
        self.assertEqual([p[:2] for p in c.points], [(0, "AUDIT"), (8, "ok")])
        # Behind that one, and not from the beginning.
        self.assertTrue(sessions.command.endswith(" 5"))
        self.assertEqual(c.verdict, "FAIL")

    def test_pairs_go_on_behind_a_red_one(self):
        import explore
        c = explore.Combination("f", "scan", "munmap-half", "queued", "g")
        sessions = self.Sessions(
            (self.COVER + ["covering 4095 f+0x0", "point f+0x0 LOST v"], 3, []),
            (["covering 8191 f+0x4", "pairs f+0x4 2", "try 4096 f+0x4 g+0x8"], None, []),
            (["covering 8191 f+0x4", "pairs f+0x4 2", "try 4097 f+0x4 g+0xc",
              "pair 4097 f+0x4 g+0xc CORRUPT v"], 1, []))
        explore.explore_one(sessions, c, seconds=60)
        self.assertEqual([p[:2] for p in c.points],
                         [((0, None), "LOST"), ((4, 8), "HANG"), ((4, 12), "CORRUPT")])
        self.assertTrue(sessions.command.endswith(" 4097"))
        self.assertEqual(c.tried, 2)
        built = types.SimpleNamespace(
            source=types.SimpleNamespace(version="6.12.117"),
            kernel=types.SimpleNamespace(label="stock", machine="x86_64"))
        self.assertEqual(explore.schedule(c, (4, None), built),
                         "f+0x4/scan/munmap-half/queued@6.12.117-stock-x86_64")

    def test_a_schedules_name_says_what_base_pages(self):
        import explore
        built = types.SimpleNamespace(
            source=types.SimpleNamespace(version="6.12.117"),
            kernel=types.SimpleNamespace(label="mutants-B22", machine="arm64-64k"))
        c = explore.Combination("f", "scan", "munmap-all", "partial")
        _, _, m = explore.parse_schedule(explore.schedule(c, 4, built))
        self.assertEqual((m["label"], m["arch"], m["pages"]), ("mutants-B22", "arm64", "64k"))

    def test_an_operation_without_effect_is_red(self):
        none = "control munmap-half NOEFFECT result=0 ms=1.0"
        end = "window f/munmap-half entered=0 ok=0 blocked=0 red=1 missed=0 both=0"
        c, sessions = self.explored(([none, none, none, end], 1, []))
        self.assertEqual(c.verdict, judge.FAIL)
        c, sessions = self.explored(
            ([none] + self.COVER + ["point f+0x%x ok v" % o for o in (0, 4, 8, 12)] + [end], 0, []))
        self.assertEqual(c.verdict, judge.PASS)


class Spread(Sandbox):
    """The order in which pairs are tried: each pass goes over all of the operation."""

    PROGRAM = """
#include <stdio.h>
#include "deferred_split_util.h"
int main(void)
{
	for (unsigned int nr = 1; nr < 300; nr++)
		for (unsigned int pass = 0; pass < 8; pass++) {
			printf("%u", nr);
			for (unsigned int n = 0; n < nr; n++)
				if (ds_in_pass(n, nr, pass, 8))
					printf(" %u", ds_spread(n, nr));
			printf("\\n");
		}
	return 0;
}
"""

    def test_a_pass_is_spread_over_all(self):
        with tempfile.TemporaryDirectory() as where:
            source, program = os.path.join(where, "a.c"), os.path.join(where, "a")
            with open(source, "w") as f:
                f.write(self.PROGRAM)
            subprocess.run(["gcc", "-Wall", "-Werror", "-I",
                            os.path.join(SCRIPTS, "../selftests"), "-o", program, source],
                           check=True)
            lines = [[int(w) for w in line.split()] for line in
                     subprocess.run([program], stdout=subprocess.PIPE, text=True,
                                    check=True).stdout.split("\n") if line]
        for nr in range(1, 300):
            passes = [line[1:] for line in lines if line[0] == nr]
            self.assertEqual(sorted(sum(passes, [])), list(range(nr)))
            for taken in passes if nr >= 24 else []:
                edges = [-1] + sorted(taken) + [nr]
                gap = max(b - a for a, b in zip(edges, edges[1:]))
                # At most 4.2 times what it could be; by every eighth it was 32 times.
                self.assertLessEqual(gap, 5 * nr / len(taken), (nr, taken))


class Torture(Sandbox):
    def verb(self, **env):
        """torture.py until it needs a kernel: an unknown base ends it before that."""
        got = subprocess.run([os.path.join(SCRIPTS, "torture.py"), "--base", "5.4"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=dict(os.environ, **env))
        self.assertEqual((got.returncode, got.stdout), (2, ""))
        self.assertEqual(len(got.stderr.strip().split("\n")), 1, got.stderr)
        return got.stderr

    def test_bad_values_name_the_variable(self):
        for name, value, least in (("TIME", "abc", "1"), ("TIME", "0", "1"), ("TIME", "1.5", "1"),
                                   ("SEED", "xyz", "0"), ("SEED", "-1", "0"),
                                   ("SEED", str(2**63), "0")):
            with self.subTest(name + "=" + value):
                said = self.verb(**{name: value})
                self.assertIn("%s=%s - give a whole number from %s on" % (name, value, least), said)

    def test_good_values_are_taken(self):
        for env in ({"TIME": "5", "SEED": "0"}, {"TIME": "0x10"}, {"TIME": "", "SEED": ""}):
            with self.subTest(env):
                self.assertIn("unknown base '5.4'", self.verb(**env))

    def test_the_command_to_repeat_it(self):
        import torture
        args = types.SimpleNamespace(seed=7, time=30, series="1", smp=4, mem=1024, tests="",
                                     det=False)
        said = torture.again(self.kernel(series="1", mutant="B22"), args)
        self.assertTrue(said.startswith("make torture SEED=7 TIME=30 BASE=6.12 "), said)
        for word in ("MUTANT=B22", "SMP=4", "SERIES=1"):
            self.assertIn(word, said)


class Fetch(Sandbox):
    """The real flow, with a package of our own and stubs for apt."""

    def setUp(self):
        super().setUp()
        # A package as Debian's is: one compressed tree in /usr/src.
        top = os.path.join(self.dir, "package")
        self.make_tree(os.path.join(self.dir, "linux-source-6.12"))
        os.makedirs(os.path.join(top, "usr/src"))
        os.makedirs(os.path.join(top, "DEBIAN"))
        subprocess.run(["tar", "-cJf", os.path.join(top, "usr/src/linux-source-6.12.tar.xz"), "-C",
                        self.dir, "linux-source-6.12"], check=True)
        with open(os.path.join(top, "DEBIAN/control"), "w") as f:
            f.write("Package: linux-source-6.12\nVersion: 6.12.117-1~t1\nArchitecture: all\n"
                    "Maintainer: a <a@b>\nDescription: x\n")
        self.deb = os.path.join(self.dir, "linux-source-6.12_6.12.117-1~t1_all.deb")
        subprocess.run(["dpkg-deb", "-b", top, self.deb], check=True, stdout=subprocess.DEVNULL)
        import hashlib
        self.sum = hashlib.sha256(common.file_bytes(self.deb)).hexdigest()
        self.pinned = self.kernel()
        self.pinned.version, self.pinned.sha256 = "6.12.117-1~t1", self.sum
        self.real_need = common.need_space
        common.need_space = lambda gib, what: None
        self.addCleanup(setattr, common, "need_space", self.real_need)

    def apt(self, versions, download=True):
        shown = "".join("Version: %s\nSHA256: %s\n\n" % v for v in versions)
        self.write("shown", shown)
        self.stub("apt-cache", "cat %s/shown\n" % self.dir)
        self.stub("apt-get", "case \"$*\" in *download*) %s ;; *) echo 'E: no route'; exit 100 ;; "
                  "esac\n" % ("cp %s ." % self.deb if download else
                              "echo 'E: Failed to fetch'; exit 100"))
        self.stub("sudo", "shift; exec \"$@\"\n")

    def cached(self, where):
        path = os.path.join(os.environ["SPLITQ_CACHE"], where)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def get(self, kernel):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            source = fetch.fetch(kernel)
        return source, out.getvalue()

    def test_pinned_version(self):
        self.apt([("6.12.117-1~t1", self.sum)])
        source, _ = self.get(self.pinned)
        self.assertTrue(source.pinned)
        self.assertEqual(source.version, "6.12.117")
        # and once more without any apt
        self.apt([], download=False)
        again, said = self.get(self.pinned)
        self.assertEqual((again.path, said), (source.path, ""))

    def test_wrong_checksum(self):
        self.apt([("6.12.117-1~t1", self.sum)])
        self.pinned.sha256 = "0" * 64
        self.fails(["wrong checksum", "nothing was kept"], fetch.fetch, self.pinned)
        self.assertEqual((self.cached("dl"), self.cached("src")), ([], []))

    def test_damaged_download_in_the_cache(self):
        self.apt([("6.12.117-1~t1", self.sum)])
        with open(os.path.join(common.cache_dir("dl"), os.path.basename(self.deb)), "w") as f:
            f.write("cut off")
        source, _ = self.get(self.pinned)
        self.assertTrue(os.path.exists(os.path.join(source.path, "mm/huge_memory.c")))

    def test_pinned_version_is_gone(self):
        self.apt([("6.12.117-1~t1", self.sum)])
        self.pinned.version = "6.12.99-1"
        source, said = self.get(self.pinned)
        self.assertFalse(source.pinned)
        self.assertIn("NOTE", said)
        self.assertIn("gone", source.description)

    def test_no_package_lists_and_no_network(self):
        self.apt([])
        self.fails(["no linux-source-6.12", "no route", "network", "LINUX="], fetch.fetch,
                   self.pinned)

    def test_no_network(self):
        self.apt([("6.12.117-1~t1", self.sum)], download=False)
        self.fails(["Failed to fetch", "network"], fetch.fetch, self.pinned)
        self.assertEqual((self.cached("dl"), self.cached("src")), ([], []))

    def test_users_tree_is_only_read(self):
        for with_git in (False, True):
            with self.subTest(git=with_git):
                if with_git:
                    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null")
                    for words in (["init", "-q"], ["add", "-A"],
                                  ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
                        subprocess.run(["git", "-C", self.tree] + words, check=True, env=env)
                    # An object that git does not track must not come along.
                    with open(os.path.join(self.tree, ".gitignore"), "w") as f:
                        f.write("*.o\n")
                    with open(os.path.join(self.tree, "mm/x.o"), "w") as f:
                        f.write("object")
                before = common.digest_files(self.tree)
                kernel = self.kernel(linux=self.tree)
                source, _ = self.get(kernel)
                stage = os.path.join(self.dir, "stage")
                shutil.rmtree(stage, True)
                os.mkdir(stage)
                work = prepare.slot_tree(source, "k" * 12, "x86_64")
                prepare.sync(source, stage, prepare.stage_all(kernel, source, stage), work)
                self.assertEqual(common.digest_files(self.tree), before)
                self.assertTrue(os.path.exists(os.path.join(work, "mm/tests/.kunitconfig")))
                self.assertFalse(os.path.exists(os.path.join(work, "mm/x.o")))

    def test_changed_tree_is_another_source(self):
        kernel = self.kernel(linux=self.tree)
        first, _ = self.get(kernel)
        with open(os.path.join(self.tree, "mm/huge_memory.c"), "a") as f:
            f.write("more\n")
        second, _ = self.get(kernel)
        self.assertNotEqual(first.ident, second.ident)

    def test_suite_that_is_not_configured(self):
        """Everything of it by options of its own, without root, from the same mirror."""
        self.apt([("6.12.117-1~t1", self.sum)])
        self.stub("apt-get", "case \"$*\" in *indextargets*) echo 'http://mirror/debian/ stable' ;; "
                  "*'-o Dir::Etc::SourceList='*download*) cp %s . ;; *) exit 100 ;; esac\n"
                  % self.deb)
        self.stub("sudo", "touch %s/became-root\n" % self.dir)
        self.pinned.suite = "other-backports"
        source, _ = self.get(self.pinned)
        self.assertTrue(source.pinned)
        with open(os.path.join(common.cache_dir("apt", "other-backports"), "sources.list")) as f:
            self.assertRegex(f.read(), r"^deb (\[.*\] )?http://mirror/debian/ other-backports main$")
        self.assertFalse(os.path.exists(os.path.join(self.dir, "became-root")))

    def test_suite_that_cannot_be_had(self):
        self.pinned.suite = "other-backports"
        for said, words in ((("Err:1 x", "E: no Release file"), ("apt's sources",)),
                            (("W: GPG error: NO_PUBKEY 1", "E: x is not signed."),
                             ("debian-archive-keyring",))):
            with self.subTest(said):
                self.apt([])
                self.stub("apt-get", "case \"$*\" in *indextargets*) "
                          "echo 'http://mirror/debian/ stable' ;; *) %s exit 100 ;; esac\n"
                          % "".join("echo '%s';" % line for line in said))
                self.fails(["no linux-source-6.12", said[1], "LINUX=", *words], fetch.fetch,
                           self.pinned)

    def test_mirror_from_both_formats_of_sources(self):
        one_line = "deb [signed-by=/k.gpg] http://a.invalid/debian %s main\n"
        deb822 = "Types: deb deb-src\nURIs: http://a.invalid/debian\nSuites: %s %s-updates\n" \
            "Components: main contrib\nSigned-By: /k.gpg\n"
        release = fetch.release_codename() or "stable"
        security = "deb http://s.invalid/security %s-security main\n" % release
        other = "deb http://b.invalid/else nodistro main\n"
        for name, text, extra in (
                ("a.list", one_line % release, ""),
                ("a.sources", deb822 % (release, release), ""),
                # The one that has the machine's own release, wherever it stands
                ("b.list", security + other + one_line % release, ""),
                ("b.sources", deb822 % (release, release), security + other),
                # or else the first
                ("c.list", "deb cdrom:[x]/ some main\n" + security + one_line % "some", "")):
            with self.subTest(name):
                parts = os.path.join(self.dir, "parts." + name)
                os.mkdir(parts)
                self.write(os.path.join(parts, "extra.list"), extra)
                os.environ["APT_CONFIG"] = self.write(
                    "apt.conf", "Dir::Etc::SourceList \"%s\";\nDir::Etc::SourceParts \"%s\";\n"
                    % (self.write(name, text), parts))
                self.assertEqual(fetch.mirror(), "http://a.invalid/debian/")

    def test_no_mirror(self):
        os.environ["APT_CONFIG"] = self.write(
            "apt.conf", "Dir::Etc::SourceList \"%s\";\nDir::Etc::SourceParts \"/dev/null\";\n"
            % self.write("none.list", "deb cdrom:[x]/ some main\n"))
        self.fails(["no Debian mirror", "LINUX="], fetch.mirror)

    def test_not_a_kernel_tree(self):
        self.fails(["not a kernel tree"], fetch.fetch, self.kernel(linux=self.dir))

    def test_tree_built_in_place(self):
        self.write("tree/.config", "")
        self.fails(["built in place", "mrproper"], fetch.fetch, self.kernel(linux=self.tree))


class Hooks(unittest.TestCase):
    SOURCE = "#include <a.h>\n\nint f(int a);\n\nint f(int a)\n{\n\tg();\n\tif (a) {\n\t\tg();\n" \
             "\t}\n}\n\nvoid h(void)\n{\n\tg();\n}\n"

    def put(self, *rule):
        return prepare.put_hook(self.SOURCE, ("mm/x.c",) + rule)

    def test_before_each_such_line_of_a_function(self):
        self.assertEqual(self.put("f", "before", r"g\(\);", "point();"),
                         self.SOURCE.replace("\tg();\n\tif", "\tpoint();\n\tg();\n\tif")
                         .replace("\t\tg();", "\t\tpoint();\n\t\tg();"))

    def test_anywhere_and_after(self):
        self.assertEqual(self.put("-", "after", "#include <a", "#include <b.h>"),
                         self.SOURCE.replace("<a.h>", "<a.h>\n#include <b.h>"))

    def test_more_than_one_line(self):
        rule = ("h", "before", r"g\(\);", r"if (!a())\n\treturn;")
        once = self.put(*rule)
        self.assertEqual(once, self.SOURCE.replace("void h(void)\n{\n", "void h(void)\n{\n\tif (!a())\n"
                                                   "\t\treturn;\n"))
        self.assertEqual(prepare.put_hook(once, ("mm/x.c",) + rule), once)

    def test_end_of_a_function(self):
        self.assertEqual(self.put("f", "end", "-", "EXPORT(f);"),
                         self.SOURCE.replace("}\n\nvoid", "}\nEXPORT(f);\n\nvoid"))

    def test_no_place(self):
        self.assertIsNone(self.put("h", "before", "x", "y"))
        self.assertIsNone(self.put("i", "end", "-", "y"))

    def test_put_twice_is_there_once(self):
        for rule in (("f", "before", r"g\(\);", "point();"), ("h", "end", "-", "EXPORT(h);"),
                     ("-", "after", "#include <a", "#include <b.h>")):
            once = self.put(*rule)
            self.assertNotEqual(once, self.SOURCE)
            self.assertEqual(prepare.put_hook(once, ("mm/x.c",) + rule), once)

    def test_copies_of_mutants_have_the_points_too(self):
        rule = ("mm/x.c", "f", "before", r"g\(\);", "point();")
        text = "int f__B48b(int a)\n{\n\tg();\n}\n\nint f__ref(int a)\n{\n\tg();\n}\n"
        self.assertEqual(prepare.put_hook(text, rule),
                         text.replace("\tg();\n}\n\nint", "\tpoint();\n\tg();\n}\n\nint"))
        self.assertIsNone(prepare.put_hook(text, ("mm/x.c", "f", "end", "-", "EXPORT(f);")))

    def test_a_point_is_not_the_body_of_a_loop(self):
        rule = ("mm/x.c", "f", "before", r"g\(\);", "point();")
        for above in ("if (a)", "} else", "while (a)", "list_for_each_entry_safe(a, b, c, d)"):
            with self.subTest(above), self.assertRaises(common.Fail) as caught:
                prepare.put_hook("int f(int a)\n{\n\t%s\n\t\tg();\n}\n" % above, rule)
            self.assertIn("g();", str(caught.exception))
        for above in ("if (a) {", "if (a) a = 1;", "x = a", ""):
            self.assertIn("point();", prepare.put_hook("int f(int a)\n{\n\t%s\n\t\tg();\n}\n"
                                                       % above, rule))

    def test_the_hooks_of_the_suite_can_be_read(self):
        for base in common.KUNIT_BASES:
            texts = " ".join(rule[4] for rule in prepare.kunit_hooks(base))
            for point in ("BATCH", "QUEUE", "UNLINK", "UNDERUSED", "TRYLOCK", "FROZEN", "MIGRATE"):
                self.assertIn("deferred_split_point(SPLIT_%s," % point, texts, base)

    def test_a_base_has_its_own_part_of_the_suite(self):
        for base in common.KUNIT_BASES:
            self.assertEqual([f for f in prepare.kunit_sources(base) if os.sep in f],
                             [os.path.join(base, "deferred_split_queue.h")])
            self.assertIn(".kunitconfig", prepare.kunit_sources(base))

    def test_put_instead(self):
        rule = ("-", "instead", "#include <[ac]", "#include <c.h>")
        once = self.put(*rule)
        self.assertEqual(once, self.SOURCE.replace("<a.h>", "<c.h>"))
        self.assertEqual(prepare.put_hook(once, ("mm/x.c",) + rule), once)
        self.assertIsNone(self.put("-", "instead", "nowhere", "x"))

    def test_put_in_one_of_several_functions(self):
        once = self.put("no_such|f", "before", r"g\(\);", "point();")
        self.assertEqual(once, self.put("f", "before", r"g\(\);", "point();"))


class Prepare(Sandbox):
    def setUp(self):
        super().setUp()
        self.one = self.write("0001-one.patch", patch_text("one", "line 11", "LINE 11", 10))
        self.two = self.write("0002-two.patch", patch_text("two", "line 31", "LINE 31", 30))
        self.bad = self.write("0003-bad.patch", patch_text("bad", "line 21", "LINE 21", 20) +
                              "@@ -40,3 +40,3 @@\n line 40\n-line XX\n+LINE 41\n line 42\n")

    def patched(self, patches, has_kunit=True):
        return types.SimpleNamespace(patches=patches, has_kunit=has_kunit, combined=False,
                                     base="6.12")

    def tree_with(self, patches, has_kunit=True):
        stage = os.path.join(self.dir, "stage")
        shutil.rmtree(stage, True)
        os.mkdir(stage)
        work = prepare.slot_tree(self.source(), "k" * 12, "x86_64")
        names = prepare.stage_all(self.patched(patches, has_kunit), self.source(), stage)
        replaced = prepare.sync(self.source(), stage, names, work)
        return work, replaced

    def text(self, tree):
        with open(os.path.join(tree, "mm/huge_memory.c")) as f:
            return f.read()

    def test_series_and_back(self):
        pristine = common.digest_files(self.tree)
        work, _ = self.tree_with([self.one, self.two])
        self.assertIn("LINE 31", self.text(work))
        work, replaced = self.tree_with([self.one])
        self.assertIn("LINE 11", self.text(work))
        self.assertNotIn("LINE 31", self.text(work))
        self.assertEqual(replaced, ["mm/huge_memory.c"])
        work, replaced = self.tree_with([])
        self.assertEqual(self.text(work), SOURCE)
        work, replaced = self.tree_with([])
        self.assertEqual(replaced, [])
        # hard links notwithstanding
        self.assertEqual(common.digest_files(self.tree), pristine)

    def test_failing_patch_names_file_and_hunk_and_changes_nothing(self):
        work, _ = self.tree_with([self.one])
        before = common.digest_files(work)
        self.fails(["0003-bad.patch", "mm/huge_memory.c", "hunk #2", "nothing was changed"],
                   self.tree_with, [self.one, self.bad])
        self.assertEqual(common.digest_files(work), before)

    def test_no_fuzz(self):
        fuzzy = self.write("0004-fuzzy.patch",
                           patch_text("f", "line 11", "LINE 11", 10).replace(" line 12", " line 1x"))
        self.fails(["0004-fuzzy.patch", "hunk #1"], self.tree_with, [fuzzy])

    def test_already_patched_tree(self):
        with open(os.path.join(self.tree, "mm/huge_memory.c"), "w") as f:
            f.write(SOURCE.replace("line 11", "LINE 11").replace("line 31", "LINE 31"))
        self.fails(["already has 0001-one.patch", "SERIES=0"], self.tree_with, [self.one, self.two])

    def test_patch_of_a_file_that_is_not_there(self):
        text = patch_text("x", "a", "b", 1).replace("mm/huge_memory.c", "mm/no_such.c")
        self.fails(["0005-x.patch", "no_such.c"], self.tree_with, [self.write("0005-x.patch", text)])

    def test_tests_are_copied_in(self):
        work, _ = self.tree_with([])
        with open(os.path.join(work, "mm/Makefile")) as f:
            self.assertIn("deferred_split_kunit.o", f.read())
        for name in ("mm/tests/deferred_split_kunit.c",
                     "tools/testing/selftests/mm/deferred_split/Makefile"):
            self.assertTrue(os.path.exists(os.path.join(work, name)), name)

    def test_tests_are_known_to_the_kernels_own_scripts(self):
        script, makefile = (os.path.join(self.tree, "tools/testing/selftests", name)
                            for name in ("mm/run_vmtests.sh", "Makefile"))
        os.makedirs(os.path.dirname(script))
        with open(script, "w") as f:
            f.write("cat <<EOF\n- mdwe\nEOF\nCATEGORY=\"mdwe\" run_test ./mdwe_test\n")
        os.chmod(script, 0o755)
        with open(makefile, "w") as f:
            f.write("TARGETS += mm\nTARGETS += mount\n")
        work, _ = self.tree_with([])
        wired = os.path.join(work, "tools/testing/selftests/mm/run_vmtests.sh")
        text = common.file_bytes(wired).decode()
        self.assertIn('CATEGORY="deferred_split" run_test "$test"', text)
        self.assertLess(text.index("- deferred_split"), text.index("- mdwe"))
        self.assertTrue(os.access(wired, os.X_OK))
        self.assertEqual(0, subprocess.call(["bash", "-n", wired]))
        self.assertEqual(common.file_bytes(os.path.join(work, "tools/testing/selftests/Makefile")),
                         b"TARGETS += mm\nTARGETS += mm/deferred_split\nTARGETS += mount\n")
        # A tree that has it already is left alone, one where it has no place is refused.
        with open(script, "w") as f:
            f.write(text)
        _, replaced = self.tree_with([])
        self.assertEqual(replaced, [])
        with open(script, "w") as f:
            f.write("nothing\n")
        self.fails(["run_vmtests.sh", "- mdwe"], self.tree_with, [])

    def test_hooks_go_on_top_of_the_series(self):
        self.hooks = [("mm/huge_memory.c", "-", "before", "LINE 11", "hook();"),
                      ("?mm/huge_memory.c", "-", "before", "no such line", "hook();")]
        work, _ = self.tree_with([self.one])
        self.assertIn("hook();\nLINE 11", self.text(work))
        self.fails(["kunit/hooks", "mm/huge_memory.c", "hook();"], self.tree_with, [])

    def test_kunit_only_where_it_builds(self):
        self.tree_with([])
        work, _ = self.tree_with([], has_kunit=False)
        self.assertTrue(os.path.exists(os.path.join(
            work, "tools/testing/selftests/mm/deferred_split/Makefile")))
        self.assertFalse(os.path.exists(os.path.join(work, "mm/tests/deferred_split_kunit.c")))
        for name in ("mm/Makefile", "mm/Kconfig.debug"):
            self.assertEqual(common.file_bytes(os.path.join(work, name)),
                             common.file_bytes(os.path.join(self.tree, name)))


class Suites(Sandbox):
    def test_choose(self):
        everything = run.choose("")
        self.assertEqual([t[0] for t in everything], [t[0] for t in run.suites()])
        self.assertEqual({"selftests/zap", "selftests/swapin"},
                         {t[0] for t in run.choose("zap,swapin")})
        for one, three in zip(everything, run.choose("", "arm64")):
            self.assertEqual((one[0], 3 * one[1], one[2]), three)
        self.fails(["nonsense", "TESTS is a list"], run.choose, "nonsense")

    def test_quick_is_a_choice_with_its_own_commands(self):
        quick = {name: command for name, _, command in run.choose("quick")}
        self.assertTrue(quick["selftests/zap"].endswith("/deferred_split_zap -t quick"))
        self.assertTrue(quick["selftests/guard"].endswith("/deferred_split_guard"))
        self.assertNotIn("selftests/charge_move", quick)

    def test_every_kselftest_is_run(self):
        programs = re.search(r"^RACES := (.*?)\nTEST_GEN_PROGS := \$\(RACES\) (.*?)\n# ",
                             common.file_bytes(os.path.join(common.TOP, "selftests/Makefile"))
                             .decode(), re.M | re.S)
        run_ones = {command.split()[0].split("/")[-1] for _, _, command, _ in run.suites()}
        for name in " ".join(programs.groups()).replace("\\", " ").split():
            self.assertIn(name, run_ones)


class ChooseBase(Sandbox):
    """LINUX= without BASE=: the series that applies, or what is in the way of each."""

    def setUp(self):
        super().setUp()
        one = self.write("0001-one.patch", patch_text("one", "line 11", "LINE 11", 10))
        bad = self.write("0001-bad.patch", patch_text("bad", "line XX", "LINE 21", 20))
        self.series = {"6.12": [bad], "7.3": [one]}
        patched = unittest.mock.patch("common.series_patches", lambda base: self.series[base])
        patched.start()
        self.addCleanup(patched.stop)
        for name in ("BASE", "SERIES", "MUTANT", "LINUX"):
            os.environ.pop(name, None)

    def chosen(self, *words):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            args = common.kernel_arguments("x").parse_args(list(words))
        return args.base, said.getvalue()

    def test_the_series_that_applies(self):
        base, said = self.chosen("--linux", self.tree)
        self.assertEqual(base, "7.3")
        self.assertIn("Linux 6.12.117: the series for 7.3 applies", said)

    def test_the_nearer_one_first(self):
        self.series["6.12"] = self.series["7.3"]
        self.assertEqual(self.chosen("--linux", self.tree)[0], "6.12")
        self.assertEqual(prepare.nearest_bases("7.2.13")[0], "7.3")
        self.assertEqual(prepare.nearest_bases("6.18.1")[0], "6.12")

    def test_none_applies_and_why(self):
        self.series["7.3"] = self.series["6.12"]
        self.fails(["no series applies", "Linux 6.12.117", "6.12: 0001-bad.patch", "7.3: 0001-bad",
                    "mm/huge_memory.c, hunk #1"], self.chosen, "--linux", self.tree)

    def test_a_tree_that_has_it(self):
        with open(os.path.join(self.tree, "mm/huge_memory.c"), "w") as f:
            f.write(SOURCE.replace("line 11", "LINE 11"))
        self.fails(["already has 0001-one.patch", "SERIES=0"], self.chosen, "--linux", self.tree)
        base, said = self.chosen("--linux", self.tree, "--series", "0")
        self.assertEqual(base, "6.12")
        self.assertIn("looked at as 6.12", said)

    def test_what_is_asked_for_is_not_chosen(self):
        self.assertEqual(self.chosen("--linux", self.tree, "--base", "7.3"), ("7.3", ""))
        self.assertEqual(self.chosen(), ("6.12", ""))
        self.fails(["not a kernel tree"], self.chosen, "--linux", self.dir)


class Kunit(unittest.TestCase):
    def test_kvm_is_not_asked_for(self):
        import kunit
        words = ["-append", "a b  c", "-accel", "kvm", "-accel", "tcg", "-smp", "2"]
        with tempfile.TemporaryDirectory() as where:
            fake = os.path.join(where, "qemu-system-x86_64")
            with open(fake, "w") as f:
                f.write("#!/bin/sh\nprintf '%s|' \"$@\"\n")
            os.chmod(fake, 0o755)
            for accel, want in (("", "-append|a b  c|-accel|tcg|-smp|2|"),
                                ("kvm", "|".join(words) + "|")):
                path = where + os.pathsep + os.environ["PATH"]
                with unittest.mock.patch.dict(os.environ, PATH=path, ACCEL=accel), \
                        kunit.qemu_of_choice("x86_64") as more:
                    got = common.run([os.path.basename(fake)] + words,
                                     env=dict(os.environ, PATH=more + path))
                self.assertEqual(got.stdout, want)

    def test_zero_tests_are_no_pass(self):
        self.assertIn("no test", kunit.complaint("Testing complete. Ran 9 tests: skipped: 9"))
        self.assertIsNone(kunit.complaint("Testing complete. Ran 9 tests: passed: 9"))

    def test_one_cpu_is_no_pass(self):
        self.assertEqual(kunit.complaint(
            "Testing complete. Ran 9 tests: passed: 8, skipped: 1",
            "    ok 7 a_case # SKIP no CONFIG_SWAP\n    ok 8 b_case # SKIP VACUOUS: one CPU\n"),
            "b_case was skipped: one CPU")


class Configure(Sandbox):
    def test_kunit_fragment_only_where_it_builds(self):
        def names(base):
            return [os.path.basename(f) for f in self.kernel(base=base).fragments]
        with unittest.mock.patch("common.KUNIT_BASES", ("6.12",)):
            self.assertIn("kunit.config", names("6.12"))
            self.assertNotIn("kunit.config", names("7.3"))

    def test_symbol_that_did_not_stick_is_named(self):
        fragment = self.write("f.config", "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n")
        config = self.write(".config", "CONFIG_A=y\n# CONFIG_B is not set\n")
        self.fails(["CONFIG_B", "not set", "did not stick"], configure.verify, config, [fragment])
        config = self.write(".config", "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=m\n")
        self.fails(["CONFIG_C is m"], configure.verify, config, [fragment])
        config = self.write(".config", "CONFIG_A=y\nCONFIG_B=y\n")
        configure.verify(config, [fragment])

    def test_later_fragment_wins(self):
        one = self.write("1.config", "CONFIG_A=y\n")
        two = self.write("2.config", "# CONFIG_A is not set\n")
        configure.verify(self.write(".config", ""), [one, two])

    def test_bad_line_is_named(self):
        fragment = self.write("f.config", "CONFIG_A=y\nCONFIG_B y\n")
        self.fails(["f.config:2"], configure.wanted, [fragment])


class Boot(Sandbox):
    """A QEMU that does not end: a stub that ignores SIGTERM."""

    HANGS = "case \"$1\" in --version) echo stub; exit ;; esac\ntrap '' TERM\necho $$ > %s/pid\nwhile :; do sleep 0.1; done\n"

    def setUp(self):
        super().setUp()
        self.stub("qemu-system-x86_64", self.HANGS % self.dir)
        self.run_dir = os.path.join(self.dir, "run")
        self.built = types.SimpleNamespace(
            kernel=types.SimpleNamespace(arch="x86_64", machine="x86_64", boot_words=""),
            dir=self.dir, module=None,
            selftests=None,
            init=self.write("init", "x"), image=self.write("image", "x"),
            info={"release": "r", "base": "6.12", "label": "l", "series": True, "source": "s",
                  "pinned": True, "debug": []})
        self.write("config", "x")

    def pid(self):
        for _ in range(100):
            try:
                with open(os.path.join(self.dir, "pid")) as f:
                    return int(f.read())
            except (OSError, ValueError):
                time.sleep(0.05)
        self.fail("the stub did not start")

    def gone(self, pid):
        for _ in range(100):
            try:
                with open("/proc/%d/stat" % pid) as f:
                    if f.read().split(")")[1].split()[0] == "Z":
                        return True
            except OSError:
                return True
            time.sleep(0.05)
        return False

    def with_limits(self, **limits):
        for name, value in limits.items():
            self.addCleanup(setattr, boot, name, getattr(boot, name))
            setattr(boot, name, value)

    def test_a_guest_without_a_port_is_booted_again(self):
        said, tries = [], []

        class Process:
            """A QEMU whose guest writes its console, and stays."""
            def wait(self, seconds):
                raise subprocess.TimeoutExpired("qemu", seconds)

        def once(built, run, *rest):
            tries.append(run)
            return "exit" if len(tries) == 2 else boot.watch(Process(), run, 30)

        run = os.path.join(self.dir, "run")
        os.mkdir(run)
        with open(os.path.join(run, "console.log"), "w") as f:
            f.write("Run /init as init process\ninit: no virtio port splitq.results: nothing\n")
        with unittest.mock.patch("boot.boot_once", once), \
                unittest.mock.patch("boot.say", said.append):
            self.assertEqual(boot.boot(None, run, [], "tcg"), "exit")
        self.assertEqual(len(tries), 2)
        self.assertIn("once more", said[0])
        # Who has reported something has a port.
        with open(os.path.join(run, "results.log"), "w") as f:
            f.write("1 hello\n")
        self.assertFalse(boot.has_no_port(run))

    def test_silent_guest_is_ended(self):
        self.with_limits(BOOT_SECONDS=1)
        how = boot.boot(self.built, self.run_dir, [("a", 1, "x")], "tcg")
        self.assertEqual(how, "hung")
        self.assertTrue(self.gone(self.pid()))
        rows, _ = judge.judge_run(self.run_dir)
        self.assertEqual(judge.overall(rows), judge.ERROR)

    def test_who_has_complained_may_be_silent_for_less(self):
        self.with_limits(SPLAT_SECONDS=1, BOOT_SECONDS=2, HANG_SECONDS=3)
        with tempfile.TemporaryDirectory() as where:
            for name, text, limit in (("console.log", "[ 1.0] ok 1 one\n", 2),
                                      ("console.log", "[ 1.0] list_del corruption. prev\n", 1),
                                      ("console.log", "[ 1.0]     not ok 2 two\n", 1),
                                      ("console.log", "is it not ok 2 times\n", 2),
                                      ("results.log", "1 hello release=x\n", 3)):
                with open(os.path.join(where, name), "w") as f:
                    f.write(text)
                self.assertEqual(boot.silence(where), limit)

    def test_kvm_is_for_guests_of_the_hosts_kind(self):
        os.environ["ACCEL"] = "auto"
        with unittest.mock.patch("platform.machine", return_value="aarch64"):
            self.assertEqual(boot.accelerator(self.built), "tcg")
            os.environ["ACCEL"] = "kvm"
            self.fails(["x86_64 on arm64", "tcg"], boot.accelerator, self.built)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "pid")))

    def test_endless_guest_is_ended(self):
        self.stub("qemu-system-x86_64", "echo $$ > %s/pid\nwhile :; do echo x >> %s/console.log; "
                  "sleep 0.1; done\n" % (self.dir, self.run_dir))
        how = boot.boot(self.built, self.run_dir, [("a", 1, "x")], "tcg", limit=2)
        self.assertEqual(how, "late")
        self.assertTrue(self.gone(self.pid()))

    def run_in_child(self, end):
        """boot() in a process of its own, which is then ended in the given way."""
        code = ("import sys, types; sys.path.insert(0, %r); import boot, common\n"
                "b = types.SimpleNamespace(kernel=types.SimpleNamespace(arch='x86_64',"
                " machine='x86_64',"
                " boot_words=''), dir=%r,"
                " module=None, selftests=None, init=%r, image=%r, info=%r)\n"
                "common.main(lambda: boot.boot(b, %r, [('a', 1, 'x')], 'tcg'))\n"
                % (SCRIPTS, self.dir, self.built.init, self.built.image, self.built.info,
                   self.run_dir))
        # Who runs the tests in the background may have it ignored, and so would the child.
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL,
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        pid = self.pid()
        child.send_signal(end)
        child.wait(30)
        return pid

    def test_interrupt_leaves_no_qemu(self):
        self.assertTrue(self.gone(self.run_in_child(signal.SIGINT)))

    def test_kill_leaves_no_qemu(self):
        self.assertTrue(self.gone(self.run_in_child(signal.SIGKILL)))

    def test_case_file_is_complete(self):
        self.stub("qemu-system-x86_64", "exit 0\n")
        boot.boot(self.built, self.run_dir, [("a", 1, "x")], "tcg")
        for name in ("config", "image", "initrd.gz", "qemu.sh", "meta.json"):
            self.assertTrue(os.path.exists(os.path.join(self.run_dir, name)), name)

    def test_kvm_that_hangs_ends_in_tcg_with_one_line(self):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            self.skipTest("no /dev/kvm here")
        self.with_limits(PROBE_SECONDS=1)
        os.environ["ACCEL"] = "auto"
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(boot.accelerator(self.built), "tcg")
        self.assertTrue(self.gone(self.pid()))
        self.assertEqual(out.getvalue().count("\n"), 1)
        self.assertIn("not through in 1 s", out.getvalue())
        # remembered: no second probe
        os.unlink(os.path.join(self.dir, "pid"))
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(boot.accelerator(self.built), "tcg")
        self.assertFalse(os.path.exists(os.path.join(self.dir, "pid")))

    def test_bad_accelerator(self):
        os.environ["ACCEL"] = "hvf"
        self.fails(["ACCEL=hvf", "tcg"], boot.accelerator, self.built)


class MmTests(Sandbox):
    """The kernel's own mm selftests: which are run, and what is made of what they say."""

    SCRIPT = ('CATEGORY="thp" run_test ./khugepaged\n\tCATEGORY="thp" run_test ./khugepaged -s 2\n'
              'CATEGORY="thp" run_test ./khugepaged all:file ${XFS}\n'
              'CATEGORY="thp" run_test ./split_huge_page_test ${XFS}\n'
              'CATEGORY="cow" run_test ./cow\n')

    def source(self, script=SCRIPT):
        path = os.path.join(self.dir, "linux", "tools/testing/selftests/mm")
        os.makedirs(path)
        with open(os.path.join(path, "run_vmtests.sh"), "w") as f:
            f.write(script)
        return types.SimpleNamespace(path=os.path.join(self.dir, "linux"))

    def test_which_are_run_and_how(self):
        source = self.source()
        self.assertEqual(mmtests.commands(source), [
            ("mm/khugepaged", "khugepaged", []), ("mm/khugepaged_s_2", "khugepaged", ["-s", "2"]),
            ("mm/split_huge_page_test", "split_huge_page_test", [])])
        self.assertEqual([c[0] for c in mmtests.commands(source, "split")],
                         ["mm/split_huge_page_test"])
        with self.assertRaises(common.Fail):
            mmtests.commands(source, "nothing")

    def test_none_of_them_is_an_error(self):
        with self.assertRaises(common.Fail):
            mmtests.commands(self.source("CATEGORY=cow run_test ./cow\n"))

    def row(self, out, verdict, console=()):
        lines = ["begin mm/t"] + ["out mm/t " + line for line in out]
        with open(os.path.join(self.dir, "results.log"), "w") as f:
            f.write("".join("%d %s\n" % (n, line) for n, line in enumerate(lines, 1)))
        with open(os.path.join(self.dir, "console.log"), "w") as f:
            f.write("\n".join(["splitq: begin mm/t"] + list(console)) + "\n")
        row = {"run": self.dir, "test": "mm/t", "verdict": verdict, "detail": "", "base": "6.12",
               "kernel": "stock", "accel": "tcg", "seconds": 1.0}
        row.update(own=mmtests.own_result(row), bugs=mmtests.bugs_seen(row))
        return row

    def test_what_it_says_itself(self):
        end = "# after: exit=%d secs=1.00"
        for out, words in (
                (["1..2", "ok 1 a", "ok 2 b", end % 0, "ok 1 nothing is left behind"], "passes"),
                (["1..2", "ok 1 a", end % 0, "ok 1 nothing is left behind"], "1 of 2 planned"),
                (["1..1", "not ok 1 a", end % 1], "not ok: a, exit=1"),
                (["page 3/512...Failed to allocate huge page", end % 1],
                 "exit=1, Failed to allocate huge page"),
                (["x", "# after: signal=11 secs=1.00"], "signal=11"),
                (["1..1", "ok 1 a"], "did not end")):
            self.assertEqual(self.row(out, judge.PASS)["own"], words)

    def test_which_bug_it_was(self):
        after = ["# after: exit=0 secs=1.00"]
        for out, console, verdict, bugs in (
                (after, [], judge.PASS, []),
                (after, [], judge.ERROR, None),
                (after + ["# LEAK: nr_anon_partially_mapped of 2048kB is 1, was 0"], [],
                 judge.FAIL, ["B46", "B39"]),
                (after, ["list_del corruption. prev->next should be ffff"], judge.FAIL, ["B48"]),
                (after, ["WARNING: CPU: 0 PID: 1 at mm/huge_memory.c:1 deferred_split_folio+0x1"],
                 judge.FAIL, ["B28"]),
                (after + ["not ok 1 of its own"], [], judge.FAIL, [])):
            row = self.row(out, verdict, console)
            self.assertEqual(row["bugs"], bugs, out + console)
            self.assertEqual("seen" in mmtests.markdown([row]), bool(bugs))


class Initramfs(Sandbox):
    def test_archive(self):
        import gzip
        path = os.path.join(self.dir, "x.gz")
        os.mkdir(os.path.join(self.dir, "st"))
        program = self.write("st/prog", "#!/bin/true\n")
        os.chmod(program, stat.S_IRWXU)
        self.write("st/data", "not run")
        initramfs.write(path, self.write("i", "init"), self.write("m", "module"),
                        os.path.join(self.dir, "st"), [("a", 5, "b c")])
        data = gzip.decompress(common.file_bytes(path))
        names = []
        at = 0
        while True:
            self.assertEqual(data[at:at + 6], b"070701")
            field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
            name = data[at + 110:at + 110 + field[11] - 1].decode()
            body = at + (110 + field[11] + 3) // 4 * 4
            if name == "TRAILER!!!":
                break
            names.append(name)
            if name == "splitq.run":
                self.assertEqual(data[body:body + field[6]], b"a\t5\tb c\n")
            at = body + (field[6] + 3) // 4 * 4
        self.assertEqual(names, ["dev", "dev/console", "init", "splitq.ko", "selftests",
                                 "selftests/prog", "splitq.run"])


class Bisectable(unittest.TestCase):
    def wrong(self, *signs):
        """What is wrong with a test that has these verdicts, one a prefix."""
        word = {v: k for k, v in bisectable.SIGNS.items()}
        return [text for _, _, text in bisectable.regressions(
            [{"t": word[s]} if s != "-" else {} for s in signs])]

    def test_noise_is_run_alone(self):
        def left(alone, *columns):
            tried = []

            def run_alone(name, n):
                tried.append((name, n))
                return alone, "somewhere"
            columns = [dict(c) for c in columns]
            with unittest.mock.patch("bisectable.say"):
                bad = bisectable.without_noise(columns, ["s"], run_alone)
            return [(name, n) for name, n, _ in bad], tried, columns

        good, red = {"s:a": "PASS", "t:a": "PASS"}, {"s:a": "FAIL", "t:a": "PASS"}
        bad, tried, columns = left("PASS", good, red, red, good)
        self.assertEqual((bad, tried), ([], [("s:a", 1), ("s:a", 2)]))
        self.assertEqual([c["s:a"] for c in columns], ["PASS"] * 4)
        self.assertEqual(left("FAIL", good, red, good)[:2], ([("s:a", 1)], [("s:a", 1)]))
        self.assertEqual(left("ERROR", good, red, good)[0], [("s:a", 1)])
        # A kselftest has a fresh guest after what is red, and the suite is all of its cases.
        self.assertEqual(left("PASS", good, {"s:a": "PASS", "t:a": "FAIL"}, good)[:2],
                         ([("t:a", 1)], []))
        self.assertEqual(left("PASS", {"s:s": "PASS"}, {"s:s": "FAIL"})[1], [])

    def test_mended_by_a_patch(self):
        self.assertEqual(self.wrong("F", "F", "."), [])
        self.assertEqual(self.wrong(".", ".", "."), [])
        self.assertEqual(self.wrong("F", ".", "s"), [])

    def test_broken_by_a_patch(self):
        self.assertIn("passes with 1 patches, FAIL with 2", self.wrong("F", ".", "F", ".")[0])
        self.assertIn("VACUOUS with 1", self.wrong(".", "v", ".")[0])
        self.assertIn("missing with 1", self.wrong(".", "-", ".")[0])

    def test_never_mended(self):
        self.assertIn("FAIL with the whole series", self.wrong("F", "F")[0])
        self.assertIn("missing with the whole series", self.wrong("F", "-")[0])

    def cases(self, verdict, *lines):
        with tempfile.TemporaryDirectory() as where:
            with open(os.path.join(where, "results.log"), "w") as f:
                for n, line in enumerate(["hello release=x", "begin selftests/a"] +
                                         ["out selftests/a " + text for text in lines], 1):
                    f.write("%d %s\n" % (n, line))
            return bisectable.cases({"run": where, "test": "selftests/a", "verdict": verdict})

    def test_cases(self):
        lines = ("ok 1 global.one", "not ok 2 global.two", "ok 3 three # SKIP no swap")
        self.assertEqual(self.cases("FAIL", *lines),
                         {"a:one": "PASS", "a:two": "FAIL", "a:three": "SKIP"})

    def test_a_splat_makes_all_of_it_red(self):
        self.assertEqual(self.cases("FAIL", "ok 1 one"), {"a:one": "FAIL"})
        self.assertEqual(self.cases("ERROR", "ok 1 one"), {"a": "ERROR"})
        self.assertEqual(self.cases("FAIL"), {"a": "FAIL"})


class Checks(unittest.TestCase):
    def test_no_check_begins_when_the_time_is_up(self):
        import check
        checks = check.Checks([], 1)
        with contextlib.redirect_stdout(io.StringIO()):
            checks("in time", lambda: None)
            checks.until = time.monotonic() - 1
            checks("too late", lambda: ["must not run"])
        self.assertEqual((checks.passed, checks.failed, checks.left_out),
                         (["in time"], [], ["too late"]))

    def test_one_that_runs_on_is_stopped(self):
        import check
        checks = check.Checks([], 1)
        checks.stop_at = time.monotonic() + 0.1

        def hangs():
            try:
                common.run(["sleep", "30"])
            except Exception:
                pass
            return ["must not come to this"]

        start = time.monotonic()
        checks("hangs", hangs)
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual((checks.passed, checks.failed, checks.left_out),
                         ([], [], ["hangs (stopped)"]))
        time.sleep(0.2)     # no alarm is left

    def test_without_the_first_nothing_is_checked(self):
        import check
        for only, passed, failed in (([], [], ["it"]), ([], ["it"], []), (["x"], [], [])):
            checks = check.Checks(only, 0)
            checks.passed = list(passed)
            checks.must_have_run("it")
            self.assertEqual(checks.failed, failed)

    def test_enough_is_a_red_that_is_wanted(self):
        import explore
        c = explore.Combination("v", "scan", "munmap-half", "queued")
        c.points = [(1, "ok", ""), (2, "LOST", "")]
        for wanted, enough in ((True, True), ((), False), (("CORRUPT",), False), (("LOST",), True)):
            self.assertEqual(explore.is_enough(c, None, wanted), enough)
        c.points = [(1, "blocked", "")]
        self.assertFalse(explore.is_enough(c, "AUDIT", True))

    def test_what_was_blocked_is_tried_with_patience(self):
        import explore
        import mutants
        for words, outcome, times in ((["LOST"], "blocked", 2), (["LOST"], "LOST", 1),
                                      (["LOST"], "ok", 1), ((), "blocked", 1)):
            c, seen = explore.Combination("v", "scan", "munmap-half", "queued"), []
            for one, _ in mutants.with_patience([(c, words)]):
                seen.append(one.patience)
                one.points = [(1, outcome, "")]
            self.assertEqual(seen, [None, mutants.PATIENCE][:times])
            self.assertIn("-m", explore.explorer_command(one, 0)) if times == 2 else None

    def test_all_come_first_some_day(self):
        import check
        for n in (1, 2, 3, 21, 22, 23, 24):
            self.assertEqual(sorted(check.rotated(list(range(n)), 5)), list(range(n)))
            early = {k for day in range(4) for k in check.rotated(list(range(n)), day)[:n // 3 + 1]}
            self.assertEqual(early, set(range(n)))

    def test_what_passed_says_little(self):
        import check

        def table(complaints):
            common.say("       2 rows")
            common.say("PASS   one\n         detail")
            return complaints

        for complaints, shown in (([], ["       2 rows"]),
                                  (["red"], ["       red", "       2 rows", "PASS   one",
                                             "         detail"])):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                check.Checks([], 0)("a table", lambda: table(complaints))
            self.assertEqual([line for line in out.getvalue().split("\n")[1:] if line], shown)

    def test_what_breaks_fails_alone(self):
        import check
        checks = check.Checks([], 0)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            checks("broken", lambda: {}["nothing"])
            checks("whole", lambda: None)
        self.assertEqual((checks.passed, checks.failed), (["whole"], ["broken"]))
        self.assertIn("KeyError", out.getvalue())


class Runs(Sandbox):
    def test_a_run_that_goes_on_is_not_removed(self):
        import run
        root = common.cache_dir("runs")
        old = time.time() - 2 * run.BUSY
        for n in range(run.KEEP_RUNS + 2):
            where = os.path.join(root, "20200101-%06d-series" % n, "guest-1")
            os.makedirs(where)
            log = os.path.join(where, "results.log")
            with open(log, "w"):
                pass
            for path in (log, where, os.path.dirname(where)):
                os.utime(path, (old, old))
        going_on = os.path.join(root, "20200101-000000-series", "guest-1", "results.log")
        os.utime(going_on)
        run.new_run_dir("series")
        have = os.listdir(root)
        self.assertIn("20200101-000000-series", have)
        self.assertNotIn("20200101-000001-series", have)
        self.assertIn("20200101-000002-series", have)

    def test_without_the_module(self):
        args = argparse.Namespace(base="6.12", arch="x86_64", series="0", mutant=None, debug="",
                                  linux=None, tests="whole", module="0", det=True, smp=2, mem=1024)
        row = {"test": "selftests/whole", "verdict": "PASS", "base": "6.12", "kernel": "stock",
               "series": 0, "arch": "x86_64", "machine": "x86_64", "accel": "tcg", "cpus": 2,
               "release": "x", "source": "y", "run": self.dir, "windows": {}, "counts": {},
               "seconds": 1.0, "detail": "entered 3"}
        for word, module, said in (("0", None, "entered 3 [without splitq.ko]"),
                                   ("1", "x.ko", "entered 3")):
            args.module = word
            built = types.SimpleNamespace(module="x.ko", info={"base": "6.12", "pinned": True})
            with unittest.mock.patch("build.Built", lambda *a: built), \
                    unittest.mock.patch("run.run_tests", lambda *a: [dict(row)]):
                runs = run.Runs(args, common.Clock())
                rows = runs.once(self.dir)
            self.assertEqual((built.module, rows[0]["detail"]), (module, said))
            with open(os.path.join(self.dir, "again.sh")) as f:
                self.assertEqual("MODULE=0" in f.read(), word == "0")
            self.assertEqual("without splitq.ko" in runs.describe(2, 1), word == "0")


class Configs(Sandbox):
    def test_unknown_name(self):
        got = subprocess.run([os.path.join(SCRIPTS, "configs.py"), "nothing"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(got.returncode, 2)
        self.assertIn("CONFIGS is a list of: memcg numa smp swap thp allmodconfig", got.stderr)

    def test_what_an_architecture_cannot_be(self):
        self.assertIn("smp", configs.names("x86_64"))
        self.assertNotIn("smp", configs.names("arm64"))


class Setup(Sandbox):
    def test_missing_package_without_root_or_apt(self):
        # A PATH on which almost nothing is: the script must say what is missing.
        for name in ("sh", "printf", "id", "sed", "uname"):
            found = shutil.which(name)
            if found:
                os.symlink(found, os.path.join(self.bin, name))
        for words, qemus in ((["run", "x86_64"], ["x86"]), (["run", "arm64"], ["arm"]),
                             (["check"], ["arm", "x86"]), (["report"], [])):
            got = subprocess.run([os.path.join(SCRIPTS, "setup.sh")] + words,
                                 env={"PATH": self.bin}, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
            self.assertEqual(got.returncode, 2)
            self.assertEqual(sorted(re.findall(r"qemu-system-(\w+)", got.stderr)), qemus)
            self.assertEqual(len(got.stderr.strip().split("\n")), 1)

    def test_unknown_word(self):
        got = subprocess.run([os.path.join(SCRIPTS, "setup.sh"), "everything"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(got.returncode, 2)
        self.assertIn("everything", got.stderr)


C_FILE = """\
#include <linux/a.h>

struct s {
	int x;
};

/* adds */
static int add(struct s *s, int n)
	__must_hold(lock)
{
	if (n < 0)
		return -1;
	return s->x + n;
}

void walk(struct s *s, void (*visit)(int, int), int v[4])
{
	visit(add(s, 1), 2);
}

#ifdef CONFIG_X
static inline bool is_x(void)
{
	return true;
}
#endif
"""


class Combine(Sandbox):
    """One file for all mutants, and back."""

    def setUp(self):
        super().setUp()
        import combine
        self.combine = combine
        self.series = C_FILE.split("\n")

    def mutated(self, *changes):
        text = C_FILE
        for old, new in changes:
            self.assertEqual(text.count(old), 1)
            text = text.replace(old, new)
        return text.split("\n")

    def generate(self, **after):
        changes = {n: self.combine.changed_bodies(self.series, lines)
                   for n, lines in after.items()}
        return self.combine.generate(self.series, changes)

    def test_functions_and_their_arguments(self):
        found = self.combine.functions(self.series)
        self.assertEqual([(f.name, f.arguments, f.returns, f.inline) for f in found],
                         [("add", ["s", "n"], ["int"], False),
                          ("walk", ["s", "visit", "v"], ["void"], False),
                          ("is_x", [], ["bool"], True)])

    def test_each_is_in_it_and_comes_out_again(self):
        one = self.mutated(("n < 0", "n < 1"), ("return true;", "return false;"))
        two = self.mutated(("s->x + n", "s->x"), ("\tvisit(add(s, 1), 2);\n", ""))
        made = self.generate(B1=one, B2=two)
        text = "\n".join(made)
        self.assertIn("static noinline __noclone int add__B1(struct s *s, int n)", text)
        self.assertIn("static noinline __noclone void walk__B2(", text)
        self.assertIn("static inline bool is_x__B1(void)", text)
        self.assertIn("\tcase SPLITQ_B2:\n\t\twalk__B2(s, visit, v);\n\t\treturn;", text)
        self.assertIn("\t\treturn add__B1(s, n);", text)
        self.assertEqual(self.combine.ungenerate(made), self.series)
        self.assertEqual(self.combine.ungenerate(made, "B1"), one)
        self.assertEqual(self.combine.ungenerate(made, "B2"), two)

    def test_what_was_not_in_the_patch_is_seen(self):
        one = self.mutated(("n < 0", "n < 1"))
        made = self.generate(B1=one)
        self.assertNotEqual(self.combine.ungenerate(
            [line.replace("n < 1", "n < 2") for line in made], "B1"), one)
        at = made.index("\treturn s->x + n;", made.index("static int add(struct s *s, int n)"))
        self.assertNotEqual(self.combine.ungenerate(made[:at] + ["\tn++;"] + made[at:]),
                            self.series)

    def test_more_than_a_body_is_a_kernel_of_its_own(self):
        for old, new in (("int x;", "long x;"), ("struct s *s, int n)", "struct s *s, long n)"),
                         ("#ifdef CONFIG_X", "#ifndef CONFIG_X"),
                         ("/* adds */", "static int y;\n\n/* adds */")):
            with self.subTest(new):
                self.assertIsNone(self.combine.changed_bodies(self.series,
                                                              self.mutated((old, new))))

    def patch(self, name, old, new):
        path = "mm/x.c"
        lines = C_FILE.split("\n")
        at = next(i for i, line in enumerate(lines) if old in line)
        hunk = [" " + line for line in lines[at - 1:at]] + ["-" + lines[at]] + \
            ["+" + lines[at].replace(old, new)] + [" " + line for line in lines[at + 1:at + 2]]
        return self.write(name, "Subject: x\n---\ndiff --git a/%s b/%s\n--- a/%s\n+++ b/%s\n"
                          "@@ -%d,3 +%d,3 @@\n%s\n" % (path, path, path, path, at, at,
                                                       "\n".join(hunk)))

    def test_the_tree(self):
        with open(os.path.join(self.tree, "mm/x.c"), "w") as f:
            f.write(C_FILE)
        stage = os.path.join(self.dir, "stage")
        os.mkdir(stage)
        patches = [self.patch("B1-a.patch", "n < 0", "n < 1"),
                   self.patch("B2-b.patch", "int x;", "long x;"),
                   self.patch("M3-c.patch", "s->x + n", "s->x")]
        got = self.combine.Combined(self.source(), stage, patches)
        self.assertEqual(got.names, ["B1", "M3"])
        self.assertEqual(list(got.alone), ["B2"])
        self.assertEqual(got.functions, {"B1": ["add"], "M3": ["add"]})
        names = got.write(self.source(), stage)
        self.assertEqual(names, {"mm/x.c", "mm/Makefile", self.combine.HEADER,
                                 self.combine.SOURCE})
        with open(os.path.join(stage, self.combine.HEADER)) as f:
            self.assertIn("\tSPLITQ_B1,\n\tSPLITQ_M3,\n", f.read())
        with open(os.path.join(stage, "mm/Makefile")) as f:
            self.assertIn("splitq_mutants.o", f.read())
        with open(os.path.join(self.tree, "mm/Makefile")) as f:
            self.assertNotIn("splitq", f.read())
        got.generated["mm/x.c"].insert(-1, "int y;")
        self.fails(["mm/x.c", "not the series'"], got.verify)

    def test_the_kernel_to_measure(self):
        with open(os.path.join(self.tree, "mm/x.c"), "w") as f:
            f.write(C_FILE)
        stage = os.path.join(self.dir, "stage")
        os.mkdir(stage)
        patch = self.patch("old-a.patch", "n < 0", "n < 1")
        got = self.combine.Combined(self.source(), stage, [patch], bench=True)
        text = "\n".join(got.generated["mm/x.c"])
        # Who runs is counted, also if it is the series.
        self.assertIn("\tcase SPLITQ_old:\n\t\tsplitq_ran(SPLITQ_IN_add, SPLITQ_old);\n"
                      "\t\treturn add__old(s, n);\n"
                      "\tdefault:\n\t\tsplitq_ran(SPLITQ_IN_add, SPLITQ_NONE);\n", text)
        names = got.write(self.source(), stage)
        self.assertIn("mm/splitq_bench.c", names)
        with open(os.path.join(stage, self.combine.SOURCE)) as f:
            self.assertIn("[SPLITQ_old] = \"old\",", f.read())
        with open(os.path.join(stage, "mm/Makefile")) as f:
            self.assertIn("splitq_mutants.o splitq_bench.o", f.read())
        other = os.path.join(self.dir, "other")
        os.mkdir(other)
        alone = self.patch("new-b.patch", "int x;", "long x;")
        self.fails(["new cannot be a variant", "mm/x.c"], lambda: self.combine.Combined(
            self.source(), other, [patch, alone], bench=True))

    def test_one_that_does_not_apply_is_named(self):
        with open(os.path.join(self.tree, "mm/x.c"), "w") as f:
            f.write(C_FILE.replace("n < 0", "n < 7"))
        stage = os.path.join(self.dir, "stage")
        os.mkdir(stage)
        self.fails(["B1-a.patch", "mm/x.c"], lambda: self.combine.Combined(
            self.source(), stage, [self.patch("B1-a.patch", "n < 0", "n < 1")]))


class PutInPlace(Sandbox):
    def test_another_run_may_have_been_quicker(self):
        import build
        tmp, final = (os.path.join(self.dir, name) for name in ("tmp", "final"))
        for where in (tmp, final):
            os.mkdir(where)
        with open(os.path.join(final, "file"), "w"):
            pass
        build.put_in_place(tmp, final)
        self.assertTrue(os.path.exists(os.path.join(final, "file")))
        with self.assertRaises(OSError):
            build.put_in_place(os.path.join(self.dir, "nowhere"), os.path.join(self.dir, "x"))


class Bench(Sandbox):
    """What make bench makes of the driver's output."""

    PLAN = {"time": (("scan", 60, "-r 1 -q 100"),)}

    def setUp(self):
        super().setUp()
        import bench
        self.bench = bench
        self.lines = ["TAP version 13"]
        for variant in bench.variants_of("6.12", "scan"):
            for turn in range(2):
                for case in bench.CASES["scan"]:
                    for kind in ("scan", "locks"):
                        for metric in bench.METRICS[kind]:
                            self.lines.append("# row %s %s %s 100 50 1 %d %s %s" % (
                                kind, variant, case, turn, metric,
                                "200.0000" if variant == "stock" else "10.5000"))

    def complaints(self, lines, clock="time"):
        return self.bench.missing(self.bench.read_rows(lines, clock), "6.12",
                                  {clock: self.PLAN["time"]})

    def test_rows_and_their_histograms(self):
        rows = self.bench.read_rows(
            ["# row hold stock none-split 1000 10 1 0 hold_max_ns 300.0000",
             "# hist 7 1 15 2", "# hist 31 4", "# row hold stock x 1 1 1 2 scans 2.5000"], "time")
        self.assertEqual(rows[0], {
            "bench": "hold", "variant": "stock", "case": "none-split",
            "params": {"queue": 1000, "nr_to_scan": 10, "tasks": 1}, "round": 0, "warmup": True,
            "clock": "time", "metric": "hold_max_ns", "value": 300,
            "hist": [[7, 1], [15, 2], [31, 4]]})
        self.assertEqual((rows[1]["value"], rows[1]["hist"], rows[1]["warmup"]),
                         (2.5, None, False))

    def test_instructions_are_not_called_ns(self):
        rows = self.bench.read_rows(
            ["# row hold stock x 1 1 1 0 hold_max_ns 300.0000", "# hist 8 1",
             "# row scan stock x 1 1 1 0 ns_per_folio 5.0000",
             "# row scan stock x 1 1 1 0 splits 5.0000"], "icount")
        self.assertEqual([(r["metric"], r["value"], r["hist"]) for r in rows],
                         [("hold_max_instructions", 150, [[4, 1]]),
                          ("instructions_per_folio", 2.5, None), ("splits", 5, None)])

    def test_what_is_missing_is_named(self):
        self.assertEqual(self.complaints(self.lines), [])
        self.assertEqual(self.complaints(self.lines, "icount"), [])
        for words in ("locks series", "scan stock all-split 100 50 1 1 splits"):
            with self.subTest(words):
                bad = self.complaints([line for line in self.lines if words not in line])
                self.assertTrue(bad)
                self.assertIn(words.split()[1], bad[0])
        self.assertIn("has no splits",
                      self.complaints([x for x in self.lines if "splits" not in x])[0])
        self.assertTrue(self.complaints([x.replace("ns_per_folio 10.5", "ns_per_folio 0.0")
                                         for x in self.lines]))

    def test_the_table_names_the_machine(self):
        doc = {"meta": {"base": "6.12", "arch": "x86_64", "accel": "tcg", "vcpus": 2},
               "rows": self.bench.read_rows(self.lines, "time")}
        for line in self.bench.table(doc).split("\n"):
            self.assertIn("6.12 x86_64 tcg 2 vCPUs", line)
        self.assertIn("stock/series 19", self.bench.table(doc))
        told = self.bench.targets(doc)
        self.assertRegex(told, r"throughput, all-split, 50 at a time.*: met")
        self.assertRegex(told, r"all-split <= 0.0323 .*10.5: NOT MET")
        self.assertRegex(told, r"worst hold, 10000 .*not measured")

    def test_bad_input(self):
        for words in (dict(series="0"), dict(only="nothing")):
            with self.subTest(words):
                args = types.SimpleNamespace(**dict(vars(self.arguments()), **words))
                self.fails(["SERIES=0" if "series" in words else "nothing is called"],
                           lambda: self.bench.plans_of(args))

    @staticmethod
    def arguments():
        return types.SimpleNamespace(bench="quick", only="", det=False, series="1")


class Guests(unittest.TestCase):
    """As many guests as it takes, and no more."""

    def guests(self, tests, judged):
        """What run_tests() boots, and its rows; judged: for each guest (rows, left)."""
        booted, judged = [], iter(judged)
        kernel = types.SimpleNamespace(has_kunit=True, arch="x86_64")
        built = types.SimpleNamespace(kernel=kernel, info={"label": "series"})
        args = types.SimpleNamespace(smp=2, mem=1024, det=False)

        def boot(built, where, pending, *rest, kunit, **kw):
            booted.append((kunit, [t[0] for t in pending]))

        with unittest.mock.patch("boot.boot", boot), \
                unittest.mock.patch("run.skipped", lambda *a: []), \
                unittest.mock.patch("judge.judge_run", lambda where: next(judged)):
            rows = run.run_tests(built, [(t, 60, t) for t in tests], args, "tcg", "/x", show=False)
        return booted, [(r["test"], r["verdict"]) for r in rows]

    def test_a_suite_that_kills_the_boot_leaves_the_others(self):
        tests = ["kunit/s", "selftests/a", "selftests/b"]
        died = [{"test": "boot", "verdict": "FAIL", "detail": "splat"}], tests
        hung = [{"test": "kunit/s", "verdict": "FAIL", "detail": "HANG"}], tests
        went = [{"test": t, "verdict": "PASS", "detail": ""} for t in tests[1:]], []
        booted, rows = self.guests(tests, [died, went])
        self.assertEqual(booted, [(True, tests), (False, tests[1:])])
        self.assertEqual(rows, [("boot", "FAIL"), ("kunit/s", "ERROR"),
                                ("selftests/a", "PASS"), ("selftests/b", "PASS")])
        _, rows = self.guests(tests, [hung, went])
        self.assertEqual(rows, [("kunit/s", "FAIL"), ("selftests/a", "PASS"),
                                ("selftests/b", "PASS")])

    def test_a_guest_that_does_not_come_up_is_not_tried_again(self):
        died = [{"test": "boot", "verdict": "ERROR", "detail": "x"}]
        for tests in (["selftests/a", "selftests/b"], ["kunit/s"]):
            booted, rows = self.guests(tests, [(died, tests)])
            self.assertEqual(len(booted), 1)
            self.assertEqual(rows[1:], [(t, "ERROR") for t in tests])


    def test_what_qemu_has_ended_is_tried_once_more(self):
        tests = ["selftests/a", "selftests/b"]

        def stale(name):
            return {"test": name, "verdict": "ERROR", "detail": judge.STALE}

        def good(name):
            return {"test": name, "verdict": "PASS", "detail": "x"}
        booted, rows = self.guests(tests, [([stale("selftests/a")], ["selftests/b"]),
                                           ([good(t) for t in tests], [])])
        self.assertEqual([names for _, names in booted], [tests, tests])
        self.assertEqual(rows, [(t, "PASS") for t in tests])
        # The last one, alone in its guest; and not more than once.
        booted, rows = self.guests(tests[:1], [([stale(tests[0])], []) for _ in range(2)])
        self.assertEqual((len(booted), rows), (2, [(tests[0], "ERROR")]))
        # Another error is what it is.
        other = dict(stale(tests[0]), detail="no result")
        booted, rows = self.guests(tests[:1], [([other], [])])
        self.assertEqual((len(booted), rows), (1, [(tests[0], "ERROR")]))

    def test_both_tries_are_told(self):
        row = {"test": "selftests/a", "verdict": "PASS", "detail": "x"}
        run.set_aside([row], {"selftests/a": "guest-2"}, "guest-3")
        self.assertIn("guest-2: " + judge.STALE, row["detail"])


class Scripts(unittest.TestCase):
    def test_a_script_takes_of_another_what_that_has(self):
        """What is renamed in one is not asked for in another, also where no test comes by."""
        taken = 0
        for name in sorted(os.listdir(common.SCRIPTS)):
            if not name.endswith(".py"):
                continue
            tree = ast.parse(common.file_bytes(os.path.join(common.SCRIPTS, name)))
            ours = {a.asname or a.name: importlib.import_module(a.name)
                    for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for a in node.names
                    if os.path.exists(os.path.join(common.SCRIPTS, a.name + ".py"))}
            # Not where something else is called so.
            stored = {n.id for n in ast.walk(tree)
                      if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            stored |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and \
                        node.value.id in ours and node.value.id not in stored:
                    taken += 1
                    with self.subTest(script=name, line=node.lineno):
                        self.assertTrue(hasattr(ours[node.value.id], node.attr),
                                        "%s.%s" % (node.value.id, node.attr))
        self.assertGreater(taken, 500)


class KunitCases(unittest.TestCase):
    def test_a_case_of_one_base_is_not_asked_for_on_another(self):
        import check
        old, new = (set(check.kunit_cases(base)) for base in ("6.12", "7.3"))
        self.assertIn("a_thp_in_place_of_the_huge_zero_folio_is_queued", new - old)
        self.assertIn("a_batch_is_put_back_on_more_than_one_queue", old - new)
        self.assertIn("a_scan_ends_though_everything_comes_back", old & new)


class OldRuns(unittest.TestCase):
    def test_of_each_kind_some_are_kept(self):
        names = ["20261121-%06d-mutants" % n for n in range(12)] + \
            ["20261121-%06d-series" % n for n in range(100, 200)]
        self.assertEqual(run.too_many(names), names[:2] + names[12:-run.KEEP_RUNS])
        self.assertEqual(run.too_many(names[:20]), [])


class Repeat(unittest.TestCase):
    """REPEAT=N: every one of N counts."""

    ARGS = dict(arch="x86_64", base="6.12", pages="4k", linux=None, mutant="", debug="list",
                smp=2, mem=1024, series="1", tests="", det=False)

    @staticmethod
    def row(verdict, test="selftests/a"):
        return {"test": test, "verdict": verdict, "seconds": 1.5, "run": "/x", "detail": ""}

    def repeat(self, module, found, **more):
        """The exit status, or the problems; and what is said. found: of SERIES=1, of SERIES=0."""
        class Runs:
            def __init__(self, args, clock):
                self.series = args.series
                self.kernel = types.SimpleNamespace(label="series")

            def many(self, times, parallel, red_wanted=False):
                return found[self.series]

            def describe(self, times, parallel):
                return "%d runs" % times

        said = []
        with unittest.mock.patch("run.Runs", Runs), \
                unittest.mock.patch("run.say", said.append), \
                unittest.mock.patch("compare.say", said.append):
            got = module.repeat(argparse.Namespace(**self.ARGS), common.Clock(), 2, 1)
        return got, "\n".join(map(str, said))

    def test_one_that_is_not_good_fails(self):
        good, bad = [self.row("PASS")], [self.row("VACUOUS")]
        self.assertEqual(self.repeat(run, {"1": [good, good]})[0], 0)
        got, said = self.repeat(run, {"1": [good, bad]})
        self.assertEqual(got, 1)
        self.assertIn("1 of 2 PASS 1 of 2 VACUOUS", said)

    def test_stock_must_be_red_each_time(self):
        import compare
        good, bad = [self.row("PASS")], [self.row("FAIL")]
        with unittest.mock.patch.dict(compare.RED_ON_STOCK, {"6.12": {"selftests/a": "LOST"}}), \
                unittest.mock.patch("compare.said", lambda row: "LOST"):
            got, said = self.repeat(compare, {"1": [good, good], "0": [bad, bad]})
            self.assertEqual(got, [])
            self.assertIn("red 2 of 2: LOST", said)
            self.assertIn("red 1 of 2", self.repeat(
                compare, {"1": [good, good], "0": [bad, good]})[0][0])
            lost = bad + [self.row("ERROR", "selftests/b")]
            self.assertIn("stock: selftests/b: ERROR", self.repeat(
                compare, {"1": [good, good], "0": [bad, lost]})[0][0])
            self.assertIn("series: selftests/a: FAIL", self.repeat(
                compare, {"1": [good, bad], "0": [bad, bad]})[0][0])


class Mutants(Sandbox):
    HEADER = "Subject: mm/thp: mutant X1: a bug\n\nhistory\n%s---\ndiff\n"

    def setUp(self):
        super().setUp()
        import mutants
        self.mutants = mutants

    def mutant(self, lines, name="X1-a-bug.patch"):
        return self.mutants.Mutant(self.write(name, self.HEADER % lines))

    def row(self, m, **cells):
        row = self.mutants.Row(m)
        row.cells = {{"kunit": "kunit/deferred_split", "whole": "selftests/whole",
                      "explorer": "explorer", "litmus": "litmus"}[k]: c
                     for k, c in cells.items()}
        return row

    def test_headers(self):
        m = self.mutant("Red: selftests/whole SPLIT: mlocked\nRed: selftests/whole MARKED\n"
                        "Explore: f,g/scan/munmap-half/queued LOST|AUDIT\n")
        self.assertEqual((m.name, m.subject), ("X1", "a bug"))
        self.assertEqual(m.red, {"selftests/whole": ["SPLIT: mlocked", "MARKED"]})
        self.assertEqual(m.explore, [(["f,g", "scan", "munmap-half", "queued"],
                                      ["LOST", "AUDIT"])])
        self.assertEqual(m.named, ["selftests/whole", "explorer"])
        self.fails(["X1", "nosuch", "selftests/whole"],
                   lambda: self.mutant("Red: selftests/nosuch X\n"))
        self.fails(["X1", "VICTIM/ACTION/OP/STATE"], lambda: self.mutant("Explore: f/scan LOST\n"))
        self.assertEqual(self.mutant("Litmus: unmap_corrupts+stock\n").litmus,
                         ["unmap_corrupts+stock"])
        for wrong in ("nosuch", "unmap_corrupts+locked"):
            self.fails(["X1", wrong, "unmap_corrupts+stock"],
                       lambda: self.mutant("Litmus: %s\n" % wrong))

    def test_a_litmus_test_catches_nothing(self):
        Cell, m = self.mutants.Cell, self.mutant("")
        red, green = Cell("red", 0.5), Cell("green", 1.0)
        row = self.row(m, litmus=red, whole=green)
        self.assertEqual((row.verdict, row.first), ("SURVIVED", None))
        row = self.row(m, litmus=red, whole=Cell("red", 2.0))
        self.assertEqual((row.verdict, row.first), ("caught", 2.0))
        self.assertIn("0 of them by two", self.mutants.summary([row]))
        # One that is not what it says must be seen.
        self.assertEqual(self.row(m, litmus=Cell("error"), whole=red).verdict, "ERROR")

    def test_what_herd7_says(self):
        bench = types.SimpleNamespace(litmus_rows={
            "litmus/a": {"test": "litmus/a", "verdict": "PASS", "seconds": 0.5, "detail": ""},
            "litmus/b": {"test": "litmus/b", "verdict": "FAIL", "seconds": 0.5, "detail": "Never"}})
        cell = lambda *names: self.mutants.Bench.litmus(bench, names)
        self.assertEqual((cell("a", "a").state, cell("a", "a").seconds), ("red", 1.0))
        self.assertEqual((cell("a", "b").state, cell("a", "b").detail),
                         ("error", "litmus/b: Never"))
        bench.litmus_rows = {"litmus": {"test": "litmus", "verdict": "SKIP", "seconds": 0,
                                        "detail": "no herd7"}}
        self.assertEqual((cell("a").state, cell("a").detail), ("-", "no herd7"))

    def test_as_many_guests_as_memory_allows(self):
        self.assertEqual(self.mutants.fits(1, 1 << 30), 1)
        self.assertEqual(self.mutants.fits(3, 1 << 30), 1)
        self.assertEqual(self.mutants.fits(2, 1), 2)

    def test_every_mutant_names_what_catches_it(self):
        with open(os.path.join(common.TOP, "kunit/deferred_split_kunit.c")) as f:
            cases = set(re.findall(r"KUNIT_CASE\w*\((\w+)", f.read()))
        for base in os.listdir(os.path.join(common.TOP, "patches", "mutants")):
            for name in common.mutants(base):
                with self.subTest(base=base, mutant=name):
                    m = self.mutants.find(base, [name])[0]
                    self.assertTrue(m.named)
                    # A case that has another name now would never be red.
                    for words in m.red.get("kunit/deferred_split", []):
                        if words.startswith("not ok "):
                            for word in re.findall(r"[a-z]+(?:_[a-z0-9]+)+", words):
                                self.assertRegex("\n".join(cases), "(?m)^" + word)

    def test_which_are_meant(self):
        self.assertEqual([m.name for m in self.mutants.choose("6.12", "B22,B29")], ["B22", "B29"])
        self.assertEqual(self.mutants.choose("6.12", ""), [])
        theirs = self.write("Z9-theirs.patch", self.HEADER % "")
        self.assertEqual(self.mutants.choose("6.12", theirs)[0].name, "Z9")
        self.fails(["B99", "B22"], self.mutants.choose, "6.12", "B99")
        self.fails(["M=/nowhere.patch"], self.mutants.choose, "6.12", "/nowhere.patch")

    def test_the_copy_is_the_victim(self):
        symbols = {"f", "g", "g__X1", "i.part.0"}
        self.assertEqual(self.mutants.resolve("i,f", "X1", symbols), "i.part.0")
        self.assertEqual(self.mutants.resolve("g", "X1", symbols), "g__X1")
        self.assertEqual(self.mutants.resolve("g", "X2", symbols), "g")
        self.assertEqual(self.mutants.resolve("h,f", "X1", symbols), "f")
        self.assertEqual(self.mutants.resolve("h", "X1", symbols), "h")

    def test_verdicts(self):
        Cell, m = self.mutants.Cell, self.mutant("Red: selftests/whole X\n")
        red, green = Cell("red", 1.5), Cell("green", 2.0)
        self.assertEqual(self.row(m, whole=red, kunit=green).verdict, "caught")
        self.assertEqual(self.row(m, whole=green, kunit=red).verdict, "MISSED")
        self.assertEqual(self.row(m, whole=Cell("red", 1, "", False)).verdict, "MISSED")
        self.assertEqual(self.row(m, whole=Cell("error")).verdict, "ERROR")
        # Somebody else's names nothing: whatever is red catches it.
        theirs = self.mutant("")
        self.assertEqual(self.row(theirs, whole=red).verdict, "caught")
        self.assertEqual(self.row(theirs, whole=green, kunit=green).verdict, "SURVIVED")
        self.assertEqual(self.row(theirs, whole=Cell("error")).verdict, "ERROR")
        self.assertEqual(self.row(None, whole=green).verdict, "PASS")
        for bad in (red, Cell("error")):
            self.assertEqual(self.row(None, whole=green, kunit=bad).verdict, "FAIL")
        self.assertEqual(self.row(None).verdict, "FAIL")

    def test_the_table(self):
        Cell, m = self.mutants.Cell, self.mutant("Red: selftests/whole X\n")
        rows = [self.row(None, whole=Cell("green", 1), kunit=Cell("green", 1)),
                self.row(m, whole=Cell("red", 1.5), kunit=Cell("green", 2)),
                self.row(self.mutant("", "Z2-other.patch"), whole=Cell("green", 1))]
        text = self.mutants.table(rows).split("\n")
        self.assertEqual(text[0], "| mutant | | deferred_split | whole |")
        self.assertEqual(text[2], "| none | the series |  |  |")
        self.assertEqual(text[3], "| X1 | a bug |  | **1.5** |")
        self.assertEqual(text[4], "| Z2 | a bug (SURVIVED) | - |  |")
        self.assertIn("2 mutants, 1 caught", self.mutants.summary(rows))
        self.assertIn("not caught: Z2", self.mutants.summary(rows))

        path = self.write("README.md", "# Mutants\n\nprose\n")
        bench = types.SimpleNamespace(
            built=types.SimpleNamespace(info={"base": "6.12", "arch": "x86_64",
                                              "source": "6.12.117"}),
            alone={}, accel="tcg", args=types.SimpleNamespace(smp=2))
        self.mutants.write_readme(rows, bench, path)
        self.mutants.write_readme(rows[:2], bench, path)
        with open(path) as f:
            text = f.read()
        self.assertEqual(text.count("## 6.12 x86_64"), 1)
        self.assertTrue(text.startswith("# Mutants\n\nprose\n"))
        self.assertNotIn("Z2", text)

    def test_every_mutant_has_its_day(self):
        import check
        known = common.mutants("6.12")
        self.assertEqual(len(set(check.DOZEN)), 12)
        self.assertLessEqual(set(check.DOZEN), set(known))
        days = -(-(len(known) - 12) // check.ROTATING)
        seen = set()
        for day in range(739000, 739000 + days):
            chosen = check.todays_mutants(day=day)
            self.assertEqual(len(chosen), len(set(chosen)))
            seen |= set(chosen)
        self.assertEqual(seen, set(known))

    def test_a_table_of_several_runs(self):
        runs = []
        for n, (state, extra) in enumerate((("green", {}), ("red", {"selftests/scan": "red"}))):
            runs.append(os.path.join(self.dir, str(n)))
            os.makedirs(runs[-1])
            cells = dict({"kunit/deferred_split": state}, **extra)
            row = {"mutant": "B22", "cells": {d: {
                "state": c, "seconds": 1.0, "detail": "", "matches": True} for d, c in cells.items()}}
            with open(os.path.join(runs[-1], "results.json"), "w") as f:
                json.dump({"kernel": {"base": "6.12", "arch": "x86_64", "source": "x"},
                           "alone": [], "rows": [row]}, f)
        rows, bench = self.mutants.read_runs(runs)
        self.assertEqual([r.mutant and r.mutant.name for r in rows], [None, "B22"])
        self.assertEqual({d: c.state for d, c in rows[1].cells.items()},
                         {"kunit/deferred_split": "red", "selftests/scan": "red"})
        self.assertEqual(bench.accel, "tcg")
        rows, _ = self.mutants.read_runs(runs[::-1])
        self.assertEqual(rows[1].cells["kunit/deferred_split"].state, "green")
        with self.assertRaises(common.Fail):
            self.mutants.read_runs([self.dir])

    def test_cases_that_no_mutant_turned_red(self):
        Cell = self.mutants.Cell
        said = ("[    1.0]     ok 1 a_case\n[    1.1]         ok 1 order 2\n"
                "[    1.2]         not ok 2 order_4\n[    1.3]     %s 2 b_case\n"
                "[    1.4]     ok 3 c_case # SKIP no memcg\n[    1.5]     ok 4 d_case\n"
                "[    1.6] not ok 1 deferred_split\n")
        rows = [self.row(None, kunit=Cell("green", 1)),
                self.row(self.mutant(""), kunit=Cell("red", 1))]
        for row, word in zip(rows, ("ok", "not ok")):
            row.cells["kunit/deferred_split"].cases = self.mutants.kunit_cases(said % word)
        self.assertEqual(self.mutants.broken_cases(rows),
                         {"a_case": [], "b_case": ["X1"], "d_case": []})
        self.assertEqual(self.mutants.broken_cases(rows[1:]), {})

    def test_what_a_mutant_meets(self):
        runs, kunit = self.mutants.runs, "kunit/deferred_split"
        named, theirs = self.mutant("Red: selftests/whole X\n"), self.mutant("")
        seldom = self.mutants.WHERE_NAMED[0]
        for mutant, test, strict, usual, every in (
                (named, "selftests/whole", True, True, True), (named, kunit, False, True, True),
                (named, "selftests/scan", False, False, True), (named, seldom, False, False, False),
                (theirs, "selftests/scan", False, True, True), (None, "selftests/scan", True, True, True)):
            self.assertEqual(runs(test, mutant, True, False, ""), strict, test)
            self.assertEqual(runs(test, mutant, False, False, ""), usual, test)
            self.assertEqual(runs(test, mutant, False, True, ""), every, test)
        self.assertTrue(runs("selftests/scan", named, False, False, "scan"))

    def test_which_detector_repeats(self):
        which, kunit = self.mutants.detector, "kunit/deferred_split"
        both = self.mutant("Red: selftests/whole X\nRed: %s not ok \\d+ a_case\n"
                           "Explore: f/scan/munmap-half/queued LOST\n" % kunit)
        self.assertEqual((which(both, True), which(both, False)), (kunit, "explorer"))
        self.assertEqual(which(self.mutant("Red: selftests/whole X\n"), True), "selftests/whole")
        self.assertEqual(which(self.mutant("Red: %s X\n" % kunit), False), None)
        one = self.mutants.case_filter
        self.assertEqual(one(both, kunit), "deferred_split.a_case*")
        for words in ("X", "not ok \\d+ (a|b)", "not ok \\d+ 32 folios",
                      "not ok \\d+ a\nRed: %s not ok \\d+ b" % kunit):
            self.assertEqual(one(self.mutant("Red: %s %s\n" % (kunit, words)), kunit), "", words)

    def test_the_header_of_each_known_mutant_names_one_that_repeats(self):
        for base in ("6.12", "7.3"):
            for m in self.mutants.find(base):
                self.assertTrue(self.mutants.detector(m, base in common.KUNIT_BASES), m.name)

    def repeat(self, cells, times):
        """What mutants.repeat() says of a mutant that is met so: its bad ones, its lines."""
        m, said, cells = self.mutant("Red: selftests/whole X\n"), [], iter(cells)
        bench = types.SimpleNamespace(
            built=types.SimpleNamespace(kernel=types.SimpleNamespace(has_kunit=True), info={}),
            where=self.dir, accel="tcg", kernel=lambda m: (None, {}))
        args = types.SimpleNamespace(parallel=1, mem=1024, smp=2)
        with unittest.mock.patch.object(self.mutants, "Bench", lambda *a: bench), \
                unittest.mock.patch.object(self.mutants, "meet", lambda *a: next(cells)), \
                unittest.mock.patch.object(self.mutants, "say", said.append):
            return self.mutants.repeat(args, [m], times, common.Clock()), said

    def test_red_each_time_or_not(self):
        Cell = self.mutants.Cell
        red, green, other = Cell("red", 1.5), Cell("green", 2.0), Cell("red", 1.0, "Y", False)
        bad, said = self.repeat([red, Cell("red", 2.5)], 2)
        self.assertEqual(bad, [])
        self.assertIn("2 of 2 by selftests/whole, 1.5 to 2.5 s", said[0])
        bad, said = self.repeat([red, green, red], 3)
        self.assertEqual(bad, ["X1"])
        self.assertIn("2 of 3 by selftests/whole, 1.5 to 1.5 s; not: green", said[0])
        bad, said = self.repeat([other], 1)
        self.assertEqual(bad, ["X1"])
        self.assertIn("0 of 1 by selftests/whole; not: other words Y", said[0])

    def test_only_the_case_runs_that_is_named(self):
        kernel = common.Kernel(argparse.Namespace(base="6.12", arch="x86_64", series="1",
                                                  mutant="all:B22", debug="", linux=None))
        self.assertEqual(kernel.boot_words, "splitq.mutant=B22")
        series = common.Kernel(argparse.Namespace(base="6.12", arch="x86_64", series="1",
                                                  mutant=None, debug="", linux=None))
        self.assertEqual(series.boot_words, "")
        kernel.kunit_filter = "deferred_split.a*"
        self.assertEqual(kernel.boot_words, "splitq.mutant=B22 kunit.filter_glob=deferred_split.a*")
        args = argparse.Namespace(base="6.12", arch="x86_64", series="1", mutant=None, debug="",
                                  linux=None, kunit_filter="deferred_split.a*", tests="kunit",
                                  smp=2, mem=1024, det=False)
        self.assertIn("KUNIT_FILTER='deferred_split.a*'", run.again(common.Kernel(args), args))
        args.kunit_filter = "a b"
        self.fails(["KUNIT_FILTER='a b'", "SUITE.CASE"], common.Kernel, args)

    def test_when_kunit_saw_it(self):
        self.write("console.log", "[    1.000] x\n[    2.500]     # Subtest: deferred_split\n"
                   "[    2.600]     ok 1 a\n[    3.250]     not ok 2 b\n")
        self.assertEqual(self.mutants.kunit_seconds(self.dir, 9), 0.75)
        self.write("console.log", "[    1.000] x\n")
        self.assertEqual(self.mutants.kunit_seconds(self.dir, 9), 9)


if __name__ == "__main__":
    unittest.main()
