#!/usr/bin/env python3
"""Own tests of scripts/coverage.py: planted counts, and the compiler's and gcov's own."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import common  # noqa: E402
import coverage  # noqa: E402

OLD = """#include <a.h>

static int queue_it(struct folio *folio,
		    int n);
DEFINE_X(x);

static int __init boot(void)
{
	return ds_queue(1);
}

int helper(int a)
{
	return a + 1;
}

static int queue_it(struct folio *folio,
		    int n)
{
	if (list_empty(&folio->_deferred_list))
		return n;
	return helper(n);
}

void other(void)
{
	helper(2);
}
"""
# other() has lost a line, helper() has a new one, and a hook that does not count.
NEW = OLD.replace("\thelper(2);\n", "").replace("\treturn a + 1;", "\ta++;\n\treturn a;") \
    .replace("void other", "EXPORT(other);\n\nvoid other")
PROGRAM = """static int helper(int x)
{
	if (x > 3)
		return x * 7;
	return x ^ 5;
}

int never(int a)
{
	return helper(a) + 2;
}

int main(int argc, char **argv)
{
	return helper(argc) == 99;
}
"""


def said(counts, name="../mm/huge_memory.c"):
    """What gcov would say of one file: line -> count."""
    return json.dumps({"files": [{"file": name, "functions": [], "lines": [
        {"line_number": n, "count": c} for n, c in counts]}]})


class Coverage(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="splitq-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.old, self.new = self.write("old.c", OLD), self.write("new.c", NEW)

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def fails(self, words, function, *args):
        with self.assertRaises(common.Fail) as caught:
            function(*args)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def rows(self, counts, name=coverage.MAIN):
        found = coverage.touched(name, self.new, self.old, {"EXPORT(other);"})
        return coverage.rows_of(name, self.new, found, coverage.read_gcov(counts))

    def test_functions(self):
        self.assertEqual(coverage.functions(OLD),
                         [("boot", 7, 10, True), ("helper", 12, 15, False),
                          ("queue_it", 17, 23, False), ("other", 25, 28, False)])

    def test_what_is_touched(self):
        names = [f[0] for f in coverage.touched(coverage.MAIN, self.new, self.old, ())]
        self.assertEqual(names, ["helper", "queue_it", "other"])
        # Elsewhere only what the series changes; and nothing if that is nothing.
        names = [f[0] for f in coverage.touched("mm/x.c", self.new, self.old, ())]
        self.assertEqual(names, ["helper", "other"])
        self.assertEqual(coverage.touched("mm/x.c", self.old, self.old, ()), [])

    def test_hooks_of_the_suite_do_not_touch(self):
        hooked = self.write("hooked.c", OLD.replace("\thelper(2);", "\tpoint(X);\n\thelper(2);"))
        self.assertEqual(coverage.touched("mm/x.c", hooked, self.old, {"point(X);"}), [])
        self.assertEqual(len(coverage.touched("mm/x.c", hooked, self.old, ())), 1)

    def test_a_line_that_never_ran_is_named(self):
        rows = self.rows(said([(14, 3), (15, 3), (21, 1), (22, 1), (23, 0)]))
        self.assertEqual([(r["function"], r["lines"], r["not run"]) for r in rows],
                         [("helper", 2, []),
                          ("queue_it", 3, [[23, "return helper(n);"]])])
        self.assertEqual(coverage.share(rows), 80.0)
        text = coverage.table(rows)
        self.assertIn("    23: return helper(n);", text)
        self.assertRegex(text, r"all of these +4 of +5 lines +80.0 %")
        self.assertIn("80.0 %", coverage.judge_rows(rows, 95.0))
        self.assertIsNone(coverage.judge_rows(rows, 80.0))

    def test_nothing_counted_is_not_enough(self):
        self.assertIn("no function", coverage.judge_rows(self.rows(said([])), 0.0))
        self.assertIn("no function", coverage.judge_rows(self.rows(said([(14, 1)], "mm/b.c"),
                                                                   "mm/b.c"), 0.0))

    def test_guests_and_inlined_lines_add_up(self):
        total = coverage.read_gcov(said([(1, 0), (1, 2), (2, 0)]) + "\n" + said([(2, 0)]))
        self.assertEqual(total, {"mm/huge_memory.c": {1: 2, 2: 0}})
        coverage.add(total, coverage.read_gcov(said([(2, 5)])))
        coverage.add(total, {"mm/x.c": {7: 1}})
        self.assertEqual(total, {"mm/huge_memory.c": {1: 2, 2: 5}, "mm/x.c": {7: 1}})

    def test_what_gcov_does_not_say(self):
        for text in ("nonsense", "[]", '{"a": 1}', '{"files": [{"file": "x"}]}'):
            self.fails(["gcov's output cannot be read"], coverage.read_gcov, text)

    def test_channel(self):
        whole = "1 hello\n2 gcov /o/mm/a.gcda 0 0102\n3 gcov /o/mm/a.gcda 2 ff\n" \
                "4 gcov /o/mm/a.gcda 3 end\n5 bye\n"
        self.assertEqual(coverage.read_channel(whole), {"/o/mm/a.gcda": b"\1\2\xff"})
        self.assertEqual(coverage.read_channel("1 hello\n2 out t gcov x 0 end\n"), {})

    def test_channel_that_is_not_whole(self):
        for text in ("1 gcov a 0 0102\n2 gcov a 3 ff\n3 gcov a 4 end\n",   # a line is lost
                     "1 gcov a 0 0102\n2 gcov a 2 lost\n",              # cannot be read
                     "1 gcov a 0 0102\n"):                              # the guest is lost
            self.fails(["the counts of a"], coverage.read_channel, text)

    def built(self, name, text=PROGRAM):
        """A program with counts: the directory with mm/a.gcno, and that program run."""
        where = os.path.join(self.dir, name)
        os.makedirs(os.path.join(where, "mm"))
        with open(os.path.join(where, "mm/a.c"), "w") as f:
            f.write(text)
        for command in (["gcc", "-O2", "--coverage", "-c", "mm/a.c", "-o", "mm/a.o"],
                        ["gcc", "--coverage", "mm/a.o", "-o", "a"], ["./a"]):
            subprocess.run(command, cwd=where, check=True)
        return os.path.join(where, "mm")

    @unittest.skipUnless(shutil.which("gcov") and shutil.which("gcc"), "no gcc, or no gcov")
    def test_with_the_compilers_own_counts(self):
        where = self.built("one")
        guest = os.path.join(self.dir, "guest-1")
        os.mkdir(guest)
        data = common.file_bytes(os.path.join(where, "a.gcda"))
        self.write("guest-1/results.log", "1 gcov /x/obj/mm/a.gcda 0 %s\n2 gcov /x/obj/mm/a.gcda "
                   "%d end\n" % (data.hex(), len(data)))
        counts = coverage.of_guest("gcov", where, guest)["mm/a.c"]
        self.assertGreater(counts[3], 0)        # inlined in main()
        self.assertEqual(counts[4], 0)          # not with one argument
        self.assertEqual(counts[10], 0)         # never()
        # Of a guest that was lost there is nothing.
        self.write("guest-1/results.log", "1 hello\n")
        self.assertEqual(coverage.of_guest("gcov", where, guest), {})
        # gcov has a word for counts of another build, and exit status 0.
        other = self.built("two", PROGRAM.replace("return x ^ 5;", "return x ? x + 5 : 2;"))
        self.fails(["gcov: "], coverage.run_gcov, "gcov", os.path.join(other, "a.gcno"), data,
                   self.dir)


if __name__ == "__main__":
    unittest.main(verbosity=0)
