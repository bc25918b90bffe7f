#!/usr/bin/env python3
"""The verbs' own tests: what a user can get wrong is planted, on a tree of a few files.

No network, no kernel build, no QEMU: programs of the system are replaced by stubs
on PATH where a failure of theirs is planted.
"""
import contextlib
import io
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
import boot  # noqa: E402
import common  # noqa: E402
import configure  # noqa: E402
import fetch  # noqa: E402
import initramfs  # noqa: E402
import judge  # noqa: E402
import prepare  # noqa: E402

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\n"
SOURCE = "".join("line %d\n" % i for i in range(1, 61))


def patch_text(name, old, new, context):
    return ("From: A <a@b>\nSubject: %s\n\n---\n--- a/mm/huge_memory.c\n+++ b/mm/huge_memory.c\n"
            "@@ -%d,3 +%d,3 @@\n line %d\n-%s\n+%s\n line %d\n"
            % (name, context, context, context, old, new, context + 2))


class Sandbox(unittest.TestCase):
    """A cache, a pristine tree of a few files, and a directory of stubs, all temporary."""

    def setUp(self):
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

    def kernel(self, **kwargs):
        args = dict(base="6.12", arch="x86_64", series="0", mutant=None, debug="", linux=None)
        args.update(kwargs)
        return common.Kernel(types.SimpleNamespace(**args))

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

    def test_base_without_a_series(self):
        for series in ("1", "all", "first-2"):
            self.assertEqual(self.fails([], lambda: self.kernel(base="7.3", series=series)),
                             "there is no series for 7.3 yet - use SERIES=0")
        self.fails(["no series for 7.3", "without MUTANT"],
                   lambda: self.kernel(base="7.3", mutant="B22"))
        kernel = self.kernel(base="7.3")
        self.assertEqual((kernel.label, kernel.patches, kernel.has_kunit), ("stock", [], False))

    def test_unknown_mutant(self):
        self.fails(["B99", "B22"], lambda: self.kernel(series="1", mutant="B99").patches)

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

    def test_every_operation_is_in_the_plan(self):
        import explore
        self.assertEqual({c.op for c in explore.plan([], [], [])}, set(explore.OPERATIONS))

    def test_a_schedules_name_is_read_back(self):
        import explore
        built = types.SimpleNamespace(
            source=types.SimpleNamespace(version="6.12.117"),
            kernel=types.SimpleNamespace(label="stock", arch="x86_64"))
        for c, where in ((explore.Combination("f", "scan", "munmap-half", "partial+64k"), 0x1b),
                         (explore.Combination("f", "scan", "exit", "queued", "g"), (1, 0x2c))):
            name = explore.schedule(c, where, built)
            again, at, m = explore.parse_schedule(name)
            self.assertEqual(again.name, c.name)
            self.assertEqual(at, where if isinstance(where, tuple) else (where,))
            self.assertEqual((m["label"], m["base"], m["arch"]), ("stock", "6.12", "x86_64"))

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
                         [((0, 0), "LOST"), ((4, 8), "HANG"), ((4, 12), "CORRUPT")])
        self.assertTrue(sessions.command.endswith(" 4097"))
        self.assertEqual(c.tried, 2)
        built = types.SimpleNamespace(
            source=types.SimpleNamespace(version="6.12.117"),
            kernel=types.SimpleNamespace(label="stock", arch="x86_64"))
        self.assertEqual(explore.schedule(c, (4, 0), built),
                         "f+0x4/scan/munmap-half/queued@6.12.117-stock-x86_64")

    def test_an_operation_without_effect_is_red(self):
        none = "control munmap-half NOEFFECT result=0 ms=1.0"
        end = "window f/munmap-half entered=0 ok=0 blocked=0 red=1 missed=0 both=0"
        c, sessions = self.explored(([none, none, none, end], 1, []))
        self.assertEqual(c.verdict, judge.FAIL)
        c, sessions = self.explored(
            ([none] + self.COVER + ["point f+0x%x ok v" % o for o in (0, 4, 8, 12)] + [end], 0, []))
        self.assertEqual(c.verdict, judge.PASS)


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


class Prepare(Sandbox):
    def setUp(self):
        super().setUp()
        self.one = self.write("0001-one.patch", patch_text("one", "line 11", "LINE 11", 10))
        self.two = self.write("0002-two.patch", patch_text("two", "line 31", "LINE 31", 30))
        self.bad = self.write("0003-bad.patch", patch_text("bad", "line 21", "LINE 21", 20) +
                              "@@ -40,3 +40,3 @@\n line 40\n-line XX\n+LINE 41\n line 42\n")

    def patched(self, patches, has_kunit=True):
        return types.SimpleNamespace(patches=patches, has_kunit=has_kunit)

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


    def test_kunit_only_where_it_builds(self):
        self.tree_with([])
        work, _ = self.tree_with([], has_kunit=False)
        self.assertTrue(os.path.exists(os.path.join(
            work, "tools/testing/selftests/mm/deferred_split/Makefile")))
        self.assertFalse(os.path.exists(os.path.join(work, "mm/tests/deferred_split_kunit.c")))
        for name in ("mm/Makefile", "mm/Kconfig.debug"):
            self.assertEqual(common.file_bytes(os.path.join(work, name)),
                             common.file_bytes(os.path.join(self.tree, name)))


class Configure(Sandbox):
    def test_kunit_fragment_only_where_it_builds(self):
        def names(base):
            return [os.path.basename(f) for f in self.kernel(base=base).fragments]
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
            kernel=types.SimpleNamespace(arch="x86_64"), dir=self.dir, module=None, selftests=None,
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

    def test_silent_guest_is_ended(self):
        self.with_limits(BOOT_SECONDS=1)
        how = boot.boot(self.built, self.run_dir, [("a", 1, "x")], "tcg")
        self.assertEqual(how, "hung")
        self.assertTrue(self.gone(self.pid()))
        rows, _ = judge.judge_run(self.run_dir)
        self.assertEqual(judge.overall(rows), judge.ERROR)

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
                "b = types.SimpleNamespace(kernel=types.SimpleNamespace(arch='x86_64'), dir=%r,"
                " module=None, selftests=None, init=%r, image=%r, info=%r)\n"
                "common.main(lambda: boot.boot(b, %r, [('a', 1, 'x')], 'tcg'))\n"
                % (SCRIPTS, self.dir, self.built.init, self.built.image, self.built.info,
                   self.run_dir))
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
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


class Setup(Sandbox):
    def test_missing_package_without_root_or_apt(self):
        # A PATH on which almost nothing is: the script must say what is missing.
        for name in ("sh", "printf", "id", "sed", "uname"):
            found = shutil.which(name)
            if found:
                os.symlink(found, os.path.join(self.bin, name))
        for words, qemus in ((["run", "x86_64"], ["x86"]), (["run", "arm64"], ["arm"]),
                             (["check"], ["arm", "x86"])):
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


if __name__ == "__main__":
    unittest.main()
