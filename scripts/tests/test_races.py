#!/usr/bin/env python3
"""Which of KCSAN's reports are set aside, and which must stay red."""
import json
import os
import subprocess
import sys
import tempfile
import types
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import races  # noqa: E402

SOURCE = """
struct mm { unsigned long hiwater_rss, rss; } mm;
static inline __attribute__((always_inline)) void update_hiwater_rss(unsigned long rss)
{
	if (mm.hiwater_rss < rss)
		mm.hiwater_rss = rss;
}
__attribute__((noinline)) void try_to_migrate_one(unsigned long rss)
{
	mm.rss++;
	update_hiwater_rss(rss);
	__asm__ volatile("nop");
}
int main(int argc, char **argv)
{
	try_to_migrate_one(argc);
	return 0;
}
"""
PAIR = """==================================================================
BUG: KCSAN: data-race in %s / %s

read-write to 0xffff888004d4e1b8 of 8 bytes by task 301 on cpu 1:
 %s
 rmap_walk_anon+0x1c4/0x3a0

write (marked, reordered) to 0xffff888004d4e1b8 of 8 bytes by interrupt on cpu 0:
 %s
 handle_mm_fault+0x33/0x90

value changed: 0x00000000000003e8 -> 0x00000000000001f4

Reported by Kernel Concurrency Sanitizer on:
CPU: 0 UID: 0 PID: 300 Comm: a Not tainted 6.12.117 #1
=================================================================="""
ALONE = """==================================================================
BUG: KCSAN: data-race in %s

race at unknown origin, with read to 0xffff888004d4e1b8 of 8 bytes by task 301 on cpu 1:
 %s
 rmap_walk_anon+0x1c4/0x3a0

value changed: 0x0000000000000001 -> 0x0000000000000003
=================================================================="""
# Function, offset of a frame -> what is there. A frame of its own is not inlined.
THERE = {("try_to_migrate_one", 0x50): ["update_hiwater_rss", "try_to_migrate_one"],
         ("try_to_migrate_one", 0x60): ["arch_tlbbatch_should_defer", "should_defer_flush",
                                        "try_to_migrate_one"],
         ("try_to_migrate_one", 0x70): ["folio_flags", "try_to_migrate_one"],
         ("update_hiwater_rss", 0x10): ["update_hiwater_rss"]}
HIWATER, DEFER, OTHER, ITSELF = ("%s+0x%x/0x90" % f for f in THERE)
FAKE = types.SimpleNamespace(functions=lambda frame: THERE.get(frame, []))


def pair(first, second):
    return PAIR % (first.split("+")[0], second.split("+")[0], first, second)


def alone(frame):
    return ALONE % (frame.split("+")[0], frame)


def stamped(text):
    return "".join("[   12.%06d] %s\r\n" % (n, line) for n, line in enumerate(text.split("\n")))


class RacesTest(unittest.TestCase):
    def what(self, text):
        return [races.what_is(r, FAKE) for r in races.reports(stamped(text))]

    def test_both_accesses_are_known(self):
        self.assertEqual(self.what(pair(HIWATER, ITSELF)), [["update_hiwater_rss"] * 2])

    def test_of_unknown_origin(self):
        self.assertEqual(self.what(alone(DEFER)), [["arch_tlbbatch_should_defer"]])

    def test_one_access_that_is_not_known_is_enough(self):
        self.assertEqual(self.what(pair(HIWATER, OTHER)), [None])
        self.assertEqual(self.what(pair(OTHER, HIWATER)), [None])

    def test_the_function_alone_does_not_make_it_known(self):
        self.assertEqual(self.what(alone(OTHER)), [None])

    def test_what_cannot_be_looked_up_is_not_known(self):
        self.assertEqual(self.what(alone("splitq_hold+0x50/0x90 [splitq]")), [None])
        self.assertEqual(self.what(alone("nobody+0x50/0x90")), [None])

    def test_a_report_that_is_cut_off_is_not_known(self):
        text = pair(HIWATER, HIWATER)
        for end in ("\nwrite (marked", "\n handle_mm", "\nread-write"):
            cut = text[:text.index(end)]
            # Both frames are there: the rest does not matter.
            self.assertEqual(self.what(cut)[0] is None, end != "\n handle_mm")
            self.assertEqual(self.what(cut + "\n" + alone(DEFER))[1],
                             ["arch_tlbbatch_should_defer"])
        # Behind the head of an access, before its frame.
        self.assertEqual(self.what(text[:text.rindex("\n try_to_migrate_one")]), [None])

    def test_a_race_in_a_pair_that_has_one_access_is_not_known(self):
        text = alone(HIWATER).replace("one\n\nrace", "one / vms_clear_ptes\n\nrace")
        self.assertIn(" / ", text)
        self.assertEqual(self.what(text), [None])

    def test_each_is_judged_for_itself(self):
        text = "\n".join((alone(DEFER), alone(OTHER), "something else", alone(DEFER)))
        known = self.what(text)
        self.assertEqual([k is None for k in known], [False, True, False])
        with tempfile.TemporaryDirectory() as where:
            self.assertEqual(races.set_aside(where, text), text)
            with open(os.path.join(where, races.NAME), "w") as f:
                json.dump(known, f)
            rest = races.set_aside(where, text)
        self.assertEqual(rest.count("BUG: KCSAN: "), 1)
        self.assertLess(rest.index("known (arch"), rest.index("BUG: KCSAN"))
        self.assertEqual(races.note(rest.split("\n")),
                         "set aside, of stock's own lines: 2 arch_tlbbatch_should_defer")
        self.assertEqual(races.note(text.split("\n")), "")

    def test_what_is_inlined_is_read_from_debug_information(self):
        with tempfile.TemporaryDirectory() as where:
            source, program = os.path.join(where, "a.c"), os.path.join(where, "a")
            with open(source, "w") as f:
                f.write(SOURCE)
            subprocess.run(["gcc", "-g", "-O2", "-o", program, source], check=True)
            symbols = races.Symbols(program)
            found = [symbols.functions(("try_to_migrate_one", n)) for n in range(1, 40)]
            self.assertIn(["update_hiwater_rss", "try_to_migrate_one"], found)
            self.assertIn(["try_to_migrate_one"], found)
            self.assertEqual(symbols.functions(("nobody", 1)), [])
            self.assertEqual(symbols.functions(None), [])
            # Two functions of one name: it cannot be told which.
            symbols.at["try_to_migrate_one"].add(1)
            self.assertEqual(symbols.functions(("try_to_migrate_one", 1)), [])


if __name__ == "__main__":
    unittest.main()
