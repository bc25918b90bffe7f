#!/usr/bin/env python3
"""Own tests of scripts/litmus.py: every way to be wrong is planted, and must be seen.

No network and no herd7: a stub says what the planted herd7 says.
"""
import contextlib
import io
import os
import shutil
import sys
import tempfile
import types
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import common  # noqa: E402
import fetch  # noqa: E402
import judge  # noqa: E402
import litmus  # noqa: E402

TEST = """C %s

(*
 * Result: %s
%s *)

{}

P0(int *x)
{
	spin_lock(l);		// guard 1
	WRITE_ONCE(*x, 1);
	r0 = xchg(x, 1);	// guard 2: r0 = xchg_relaxed(x, 1);
	spin_unlock(l);		// guard 1
}

exists (x=0) (* LOST *)
"""
# What the stub says, by a word in the file: sometimes if it has lost a guard.
HERD = """#!/bin/sh
case "$1" in
-version) echo "7.58, Rev: exported"; exit 0 ;;
esac
for path; do :; done
name=$(sed -n '1s/.* //p' "$path")
said=$(sed -n 's/^ \\* Says: //p' "$path")
case "$path:$*" in
*.without-*) said=$(sed -n 's/^ \\* Without: //p' "$path") ;;
*"-model sc.cat"*) said=$(sed -n 's/^ \\* Under-sc: //p' "$path") ;;
esac
case "$said" in
error) echo 'Warning: File "x": unexpected y (User error)'; exit 0 ;;
silent) exit 0 ;;
"Never race") echo "Flag data-race"; echo "Observation $name Never 0 3" ;;
"Sometimes race") echo "Flag data-race"; echo "Observation $name Sometimes 1 3" ;;
Sometimes) echo "Observation $name Sometimes 1 3" ;;
deadlock) echo "Observation $name Never 0 0" ;;
other) echo "Observation somebody_else Never 0 3" ;;
*) echo "Observation $name ${said:-Never} 0 3" ;;
esac
"""


class Scratch(unittest.TestCase):
    """A directory, with a cache in it, for each test."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="splitq-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)
        patch = unittest.mock.patch.dict(os.environ, SPLITQ_CACHE=os.path.join(self.dir, "cache"))
        patch.start()
        self.addCleanup(patch.stop)


class LitmusTest(Scratch):
    def setUp(self):
        super().setUp()
        self.tests = os.path.join(self.dir, "tests")
        self.tree = os.path.join(self.dir, "tree")
        model = os.path.join(self.tree, "tools/memory-model")
        os.makedirs(os.path.join(model, "litmus-tests"))
        os.mkdir(self.tests)
        for name in ("cfg", "bell", "cat", "def"):
            self.write(os.path.join(model, "linux-kernel." + name), "")
        self.model_test("Never")
        self.herd7 = os.path.join(self.dir, "herd7")
        self.write(self.herd7, HERD)
        os.chmod(self.herd7, 0o755)
        source = fetch.Source(self.tree, "0123456789abcdef", "a tree", True)
        source.version = "6.12.117"
        patch = unittest.mock.patch("fetch.fetch", return_value=source)
        patch.start()
        self.addCleanup(patch.stop)

    def write(self, path, text):
        with open(path, "w") as f:
            f.write(text)

    def model_test(self, says):
        self.write(os.path.join(self.tree, "tools/memory-model/litmus-tests/own.litmus"),
                   TEST % ("own", "Never", " * Says: %s\n" % says))

    def put(self, name, result="Never", says=None, without="Sometimes", more="", old="", new=""):
        text = TEST % (name, result, " * Says: %s\n * Without: %s\n%s"
                       % (says or result, without, more))
        if result.split()[0] != "Never":
            text = text.replace("// guard", "//")
        self.write(os.path.join(self.tests, name + ".litmus"), text.replace(old, new) if old else text)

    def judge(self, words="", **kwargs):
        args = types.SimpleNamespace(base="6.12", linux=None, tests=words)
        ways = kwargs.get("ways", (lambda: litmus.Herd([self.herd7]),))
        with contextlib.redirect_stdout(io.StringIO()):
            self.rows, self.run = litmus.execute(args, self.tests, ways)
        return {r["test"]: r for r in self.rows}

    def verdict(self, expected, words, name="litmus/a", **kwargs):
        row = self.judge(**kwargs)[name]
        self.assertEqual(row["verdict"], expected, row)
        for word in words if isinstance(words, (list, tuple)) else [words]:
            self.assertIn(word, row["detail"] + " " + row.get("observed", ""))

    def test_a_never_passes(self):
        self.put("a")
        self.verdict(judge.PASS, ["Never, 0 of 3", "2 of 2 guards needed"])
        self.assertTrue(judge.good(self.rows))
        for name in ("a.out", "a.without-1.litmus", "a.without-2.out", "again.sh",
                     "results.json", "results.tap", "results.txt"):
            self.assertTrue(os.path.exists(os.path.join(self.run, name)), name)

    def test_a_pair_passes(self):
        self.put("a", "Sometimes", more=" * Fixed-by: b\n")
        self.put("b", old="// guard", new="//")
        rows = self.judge()
        self.assertEqual([r["verdict"] for r in rows.values()], [judge.PASS] * 2, rows)

    def test_wrong_expectation(self):
        self.put("a", "Never", says="Sometimes")
        self.verdict(judge.FAIL, "Sometimes, expected Never")
        self.put("a", "Sometimes", says="Never", more=" * Fixed-by: a\n")
        self.verdict(judge.FAIL, "Never, expected Sometimes")

    def test_data_race(self):
        self.put("a", "Never", says="Never race")
        self.verdict(judge.FAIL, "a data race")
        self.put("a", "Never DATARACE", says="Never")
        self.verdict(judge.FAIL, "no data race")
        self.put("a", "Never DATARACE", says="Never race")
        self.verdict(judge.PASS, "")

    def test_a_guard_that_is_not_needed(self):
        self.put("a", without="Never")
        self.verdict(judge.FAIL, "without guard 1 it is Never as well")

    def test_what_a_guard_is_replaced_by(self):
        self.put("a")
        test = litmus.Test(os.path.join(self.tests, "a.litmus"))
        self.assertEqual(test.guards(), ["1", "2"])
        self.assertNotIn("spin_", test.without("1"))
        self.assertIn("xchg(", test.without("1"))
        self.assertIn("\nr0 = xchg_relaxed(x, 1);\n", test.without("2"))
        self.assertNotIn("xchg(x", test.without("2"))
        self.assertEqual(test.text.count("\n"), test.without("2").count("\n"))

    def test_never_without_a_way_to_be_otherwise(self):
        self.put("a", old="// guard", new="//")
        self.verdict(judge.VACUOUS, "no guard")
        # A pair that looks for something else does not count.
        self.put("b", "Sometimes", more=" * Fixed-by: a\n", old="x=0", new="x=2")
        self.verdict(judge.VACUOUS, "no guard")

    def test_no_execution(self):
        self.put("a", says="deadlock")
        self.verdict(judge.VACUOUS, "no execution")

    def test_no_result(self):
        for says, words in (("error", "unexpected y"), ("silent", "no result"),
                            ("other", "no result")):
            with self.subTest(says):
                self.put("a", says=says)
                self.verdict(judge.ERROR, words)

    def test_two_results(self):
        with self.assertRaises(common.Fail):
            litmus.read_output("a", "Observation a Never 0 3\n" * 2)

    def test_bad_files(self):
        for old, new, words in ((" * Result: Never", "", "no 'Result:"),
                                ("Result: Never", "Result: Nevermore", "no 'Result:"),
                                ("Result: Never", "Result: Never RACE", "no 'Result:"),
                                ("C a", "C other", "calls itself 'other'"),
                                ("Result: Never", "Result: Sometimes", "it has a guard")):
            with self.subTest(new):
                self.put("a", old=old, new=new)
                self.verdict(judge.ERROR, words, name="litmus/other" if "other" in new
                             else "litmus/a")

    def test_pairs_that_are_none(self):
        self.put("a", "Sometimes")
        self.verdict(judge.ERROR, "no 'Fixed-by:'")
        self.put("a", "Sometimes", more=" * Fixed-by: nowhere\n")
        self.verdict(judge.ERROR, "nowhere is no test")
        self.put("a", "Sometimes", more=" * Fixed-by: b\n")
        self.put("b", "Sometimes", more=" * Fixed-by: b\n")
        self.verdict(judge.ERROR, "b is Sometimes")
        self.put("b", says="Sometimes")
        self.verdict(judge.FAIL, "b does not pass")

    def test_without_reordering(self):
        text = TEST.replace("C %s", "AArch64 %s").replace("// guard", "//")
        for under, verdict in (("Never", judge.PASS), ("Sometimes", judge.FAIL)):
            self.write(os.path.join(self.tests, "a.litmus"), text % (
                "a", "Sometimes", " * Says: Sometimes\n * Under-sc: %s\n * Result-SC: Never\n"
                " * Fixed-by: b\n" % under))
            self.put("b")
            self.verdict(verdict, "without reordering")
        self.put("a", "Never", more=" * Result-SC: Never\n")
        self.verdict(judge.ERROR, "machine code")

    def test_zero_tests(self):
        self.verdict(judge.ERROR, "zero tests", name="litmus")
        self.assertFalse(judge.good(self.rows))
        self.put("a")
        with self.assertRaises(common.Fail):
            self.judge("b_is_not_there")

    def test_chosen_tests(self):
        self.put("a")
        self.put("ab")
        self.assertEqual(list(self.judge("ab")), ["litmus/ab"])

    def test_no_herd7_is_skipped_with_a_reason(self):
        self.put("a")

        def no_way(why):
            def way():
                common.die(why, "do this")
            return way
        self.verdict(judge.SKIP, ["the distribution has none", "no network"], name="litmus",
                     ways=(no_way("the distribution has none"), no_way("no network")))
        self.assertFalse(judge.good(self.rows))
        self.assertIn("# SKIP ", judge.ktap(self.rows))

    def test_herd7_that_does_not_fit_the_model(self):
        self.put("a")
        self.model_test("Sometimes")
        self.verdict(judge.ERROR, ["7.58", "own: Sometimes, expected Never"], name="litmus")
        self.model_test("error")
        self.verdict(judge.ERROR, "does not fit", name="litmus")
        os.unlink(os.path.join(self.tree, "tools/memory-model/litmus-tests/own.litmus"))
        self.verdict(judge.ERROR, "no litmus tests", name="litmus")

    def test_the_second_herd7_when_the_first_does_not_fit(self):
        self.put("a")
        bad = os.path.join(self.dir, "old-herd7")
        self.write(bad, HERD.replace("7.58", "7.40").replace(":-Never}", ":-Sometimes}")
                   .replace("s/^ \\* Says: //p", "/nothing/p"))
        os.chmod(bad, 0o755)
        row = self.judge(ways=(lambda: litmus.Herd([bad]),
                               lambda: litmus.Herd([self.herd7])))["litmus/a"]
        self.assertEqual((row["verdict"], row["herd7"]), (judge.PASS, "7.58"))

    def test_herd7_that_does_not_start(self):
        self.write(self.herd7, "#!/bin/sh\necho 'version GLIBC_2.99 not found'; exit 1\n")
        with self.assertRaises(common.Fail) as caught:
            litmus.Herd([self.herd7])
        self.assertIn("GLIBC_2.99", str(caught.exception))

    def system(self, apt_cache, apt_get):
        """A PATH with nothing but a few tools and these two."""
        bin_dir = os.path.join(self.dir, "bin")
        os.makedirs(bin_dir, exist_ok=True)
        for name in ("sh", "env", "cp", "sed"):
            os.symlink(shutil.which(name), os.path.join(bin_dir, name))
        for name, body in (("apt-cache", apt_cache), ("apt-get", apt_get)):
            path = os.path.join(bin_dir, name)
            self.write(path, "#!/bin/sh\n" + body)
            os.chmod(path, 0o755)
        return unittest.mock.patch.dict(os.environ, PATH=bin_dir)

    def test_the_distribution_has_it(self):
        self.put("a")
        with self.system("printf 'Version: 1-1\\nSHA256: aa\\n'\n",
                         "case \"$*\" in *install*herdtools7*) cp %s %s/bin/herd7 ;; esac\n"
                         % (self.herd7, self.dir)), \
                unittest.mock.patch("os.geteuid", return_value=0):
            self.verdict(judge.PASS, "", ways=(litmus.from_distribution,))
            # It is there now, and not installed again.
            os.unlink(os.path.join(self.dir, "bin/apt-get"))
            self.verdict(judge.PASS, "", ways=(litmus.from_distribution,))

    def test_the_distribution_has_none(self):
        self.put("a")
        shown = "case \"$*\" in *libc6*) printf 'Version: 1-1\\nSHA256: aa\\n' ;; esac\n"
        with self.system(shown, "echo 'E: no route'; exit 100\n"):
            self.verdict(judge.SKIP, "the distribution has no herdtools7", name="litmus",
                         ways=(litmus.from_distribution,))

    def test_no_memory_model(self):
        os.unlink(os.path.join(self.tree, "tools/memory-model/linux-kernel.cat"))
        self.put("a")
        with self.assertRaises(common.Fail):
            self.judge()


class NewerSuite(Scratch):
    """The packages of another suite: what is taken, and what is said about it."""

    def setUp(self):
        super().setUp()
        self.pins = [("herdtools7", "newer", "1-1", "a" * 64), ("libc6", "newer", "2-1", "b" * 64)]
        self.offered = {"herdtools7": [("1-1", "a" * 64)], "libc6": [("2-1", "b" * 64)]}
        self.asked = []
        test = self

        class Suite:
            def __init__(self, name):
                self.name, self.options = name, ["-o", "x"]

            def update(self):
                return "E: no route"

            def versions(self, package):
                return test.offered.get(package, [])

            def download(self, package, version, sha256, want_pinned):
                test.asked.append((package, version, sha256, want_pinned))
                top = os.path.join(test.dir, package)
                for name in ("usr/bin/herd7", "usr/share/herdtools7/herd/x.cat",
                             "usr/share/doc/x", "usr/lib/t/lib.so"):
                    os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
                    open(os.path.join(top, name), "w").close()
                os.makedirs(os.path.join(top, "DEBIAN"), exist_ok=True)
                with open(os.path.join(top, "DEBIAN/control"), "w") as f:
                    f.write("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: a <a@b>\n"
                            "Description: x\n" % (package, version))
                deb = os.path.join(test.dir, package + ".deb")
                common.run(["dpkg-deb", "-b", top, deb])
                return deb
        patch = unittest.mock.patch("fetch.Suite", Suite)
        patch.start()
        self.addCleanup(patch.stop)

    def get(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            where, note = litmus.unpacked(self.pins)
        return where, note, out.getvalue()

    def test_pinned(self):
        where, note, said = self.get()
        self.assertEqual((note, said), ("", ""))
        self.assertEqual(self.asked, [("herdtools7", "1-1", "a" * 64, True),
                                      ("libc6", "2-1", "b" * 64, True)])
        for name, there in (("usr/bin/herd7", True), ("usr/lib/t/lib.so", True),
                            ("usr/share/herdtools7/herd/x.cat", True), ("usr/share/doc", False)):
            self.assertEqual(os.path.exists(os.path.join(where, name)), there, name)
        self.offered = {}
        self.assertEqual(self.get(), (where, "", ""))       # once more, without a network

    def test_pinned_version_is_gone(self):
        self.offered["libc6"] = [("2-2", "c" * 64)]
        where, note, said = self.get()
        self.assertEqual(note, "not the pinned herd7: libc6 2-2")
        self.assertIn("NOTE", said)
        self.assertEqual(self.asked[1], ("libc6", "2-2", "c" * 64, False))
        self.offered = {}
        self.assertEqual(self.get(), (where, note, ""))     # once more, without a network

    def test_nothing_to_be_had(self):
        self.offered = {}
        with self.assertRaises(common.Fail) as caught:
            self.get()
        self.assertIn("newer has no herdtools7 (E: no route)", str(caught.exception))
        self.assertEqual(os.listdir(common.cache_dir("herd7")), [])

    def test_pins_are_no_bases(self):
        self.assertEqual(sorted(common.bases()), ["6.12", "7.3"])
        for arch in common.ARCHES.values():
            pins = common.programs("herd7/" + arch["debian"])
            self.assertEqual([p[0] for p in pins], ["herdtools7", "libc6", "libgmp10"])
            self.assertEqual({len(p[3]) for p in pins}, {64})


if __name__ == "__main__":
    unittest.main()
