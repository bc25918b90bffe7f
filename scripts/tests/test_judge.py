#!/usr/bin/env python3
"""The judge's own tests: every way to be wrong is planted, and must be seen."""
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import judge  # noqa: E402

RELEASE = "6.12.117-splitq-series-01234567"
BOOT = "[    0.000000] Linux version " + RELEASE + "\n[    2.0] Run /init as init process\n"
KTAP = ["TAP version 13", "1..1", "# Starting 1 tests from 1 test cases.",
        "# x.c:1:t:window w entered=3 completed=3 blocked=0", "ok 1 a.t", "# Totals: pass:1 fail:0"]
KUNIT = ["KTAP version 1", "1..1", "    KTAP version 1", "    # Subtest: deferred_split",
         "    1..2", "    ok 1 first", "        KTAP version 1", "        # Subtest: second",
         "        ok 1 1 folios", "        ok 2 30 folios",
         "    # second: pass:2 fail:0 skip:0 total:2", "    ok 2 second",
         "# deferred_split: pass:2 fail:0 skip:0 total:2",
         "# Totals: pass:3 fail:0 skip:0 total:3", "ok 1 deferred_split"]

# One line of every kind of splat, as 6.12 and 7.x print it on x86 and arm64.
SPLATS = {
    "6.12 warning": "WARNING: CPU: 1 PID: 55 at mm/huge_memory.c:3785 deferred_split_folio+0x1/0x2",
    "7.x warning": "WARNING: mm/huge_memory.c:4528 at __folio_unqueue_deferred_split+0x1/0x2, "
                   "CPU#1: a/55",
    "kernel bug": "kernel BUG at include/linux/mm.h:1134!",
    "null pointer": "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "page fault": "BUG: unable to handle page fault for address: dead000000000108",
    "oops": "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "arm64 oops": "Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP",
    "arm64 undefined": "Internal error: Oops - Undefined instruction: 0000000002000000 [#1] "
                       "PREEMPT SMP",
    "arm64 null pointer": "Unable to handle kernel NULL pointer dereference at virtual address "
                          "0000000000000008",
    "arm64 fault": "Unable to handle kernel paging request at virtual address dead000000000108",
    "arm64 fault of user memory": "Unable to handle kernel access to user memory outside uaccess "
                                  "routines at virtual address 0000ffff8000",
    "arm64 no stack": "Insufficient stack space to handle exception!",
    "arm64 serror": "SError Interrupt on CPU1, code 0x00000000be000011 -- SError",
    "arm64 unhandled": "Unhandled 64-bit el1h sync exception on CPU1, ESR 0x0000000096000021 "
                       "-- DABT (current EL)",
    "gp fault": "general protection fault, probably for non-canonical address 0xdead000000000108",
    "panic": "Kernel panic - not syncing: Fatal exception",
    "list del": "list_del corruption. prev->next should be ffff888, but was ffff999. (prev=ffff777)",
    "list add": "list_add corruption. next->prev should be prev (ffff), but was fffe. (next=fffd).",
    "list double add": "list_add double add: new=ffff888, prev=ffff888, next=ffff999.",
    "bad page state": "BUG: Bad page state in process a  pfn:12345",
    "bad page map": "BUG: Bad page map in process a  pte:123 pmd:456",
    "page dump": "page dumped because: on deferred list",
    "hung task": "INFO: task a:55 blocked for more than 120 seconds.",
    "rcu stall": "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "rcu expedited": "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... }",
    "soft lockup": "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:55]",
    "hard lockup": "watchdog: Watchdog detected hard LOCKUP on cpu 1",
    "circular lock": "WARNING: possible circular locking dependency detected",
    "irq lock": "WARNING: inconsistent lock state",
    "suspicious rcu": "WARNING: suspicious RCU usage",
    "sleeping": "BUG: sleeping function called from invalid context at mm/x.c:1",
    "atomic": "BUG: scheduling while atomic: a/55/0x00000002",
    "kasan": "BUG: KASAN: slab-use-after-free in deferred_split_scan+0x1/0x2",
    "kcsan": "BUG: KCSAN: data-race in a / b",
    "ubsan": "UBSAN: array-index-out-of-bounds in mm/x.c:1:2",
    "kmemleak": "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "refcount": "refcount_t: underflow; use-after-free.",
    "x86 trace": "Call Trace:",
    "arm64 trace": "Call trace:",
}
# Whole ones, in the order in which arm64 and x86 print them: what the table must say.
ARM64_REGISTERS = """\
Modules linked in: splitq(O)
CPU: 1 UID: 0 PID: 55 Comm: deferred_split_ Tainted: G           O       6.12.117 #1
Tainted: [O]=OOT_MODULE
Hardware name: linux,dummy-virt (DT)
pstate: 604000c5 (nZCv daIF +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : {pc}
lr : deferred_split_scan+0x20c/0x4a0
sp : ffff8000826f3a10
x29: ffff8000826f3a10 x28: ffff000003a2e000 x27: 0000000000000000
Call trace:
 {pc}
 deferred_split_scan+0x20c/0x4a0
 shrinker_debugfs_scan_write+0x110/0x1c8
Code: f9000402 f9000041 d2802001 f2fbd5a1 ({code})
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Oops: Fatal exception
"""
CONSOLES = {
    "arm64 paging request": ("""\
Unable to handle kernel paging request at virtual address dead000000000108
Mem abort info:
  ESR = 0x0000000096000044
  EC = 0x25: DABT (current EL), IL = 32 bits
  SET = 0, FnV = 0
  EA = 0, S1PTW = 0
  FSC = 0x04: level 0 translation fault
Data abort info:
  ISV = 0, ISS = 0x00000044, ISS2 = 0x00000000
  CM = 0, WnR = 1, TnD = 0, TagAccess = 0
  GCS = 0, Overlay = 0, DirtyBit = 0, Xs = 0
[dead000000000108] address between user and kernel address ranges
Internal error: Oops: 0000000096000044 [#1] PREEMPT SMP
""" + ARM64_REGISTERS.format(pc="deferred_split_scan+0x1f4/0x4a0", code="f9000440"),
                             "Unable to handle kernel paging request at virtual address "
                             "dead000000000108 at deferred_split_scan+0x1f4"),
    "arm64 null pointer": ("""\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008
Mem abort info:
  ESR = 0x0000000096000004
  EC = 0x25: DABT (current EL), IL = 32 bits
  SET = 0, FnV = 0
  EA = 0, S1PTW = 0
  FSC = 0x04: level 0 translation fault
Data abort info:
  ISV = 0, ISS = 0x00000004, ISS2 = 0x00000000
  CM = 0, WnR = 0, TnD = 0, TagAccess = 0
  GCS = 0, Overlay = 0, DirtyBit = 0, Xs = 0
user pgtable: 64k pages, 48-bit VAs, pgdp=0000000043a30000
[0000000000000008] pgd=0000000000000000, p4d=0000000000000000, pud=0000000000000000
Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP
""" + ARM64_REGISTERS.format(pc="folio_split_queue_lock_irqsave+0x30/0x90", code="f9400400"),
                           "at folio_split_queue_lock_irqsave+0x30"),
    "arm64 BUG": ("""\
------------[ cut here ]------------
kernel BUG at mm/huge_memory.c:3456!
Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP
""" + ARM64_REGISTERS.format(pc="__folio_unqueue_deferred_split+0xc8/0x110", code="d4210000"),
                  "kernel BUG at mm/huge_memory.c:3456! at __folio_unqueue_deferred_split+0xc8"),
    "arm64 list corruption": ("""\
list_add double add: new=ffff00000391a090, prev=ffff00000391a090, next=ffff0000038a2048.
------------[ cut here ]------------
kernel BUG at lib/list_debug.c:32!
Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP
""" + ARM64_REGISTERS.format(pc="__list_add_valid_or_report+0xa0/0xb0", code="d4210000"),
                              "list_add double add: new=ffff00000391a090"),
    "arm64 warning": ("""\
------------[ cut here ]------------
WARNING: CPU: 1 PID: 55 at mm/huge_memory.c:3785 deferred_split_folio+0x70/0x1b0
""" + ARM64_REGISTERS.format(pc="deferred_split_folio+0x70/0x1b0", code="d4210000"),
                      "at mm/huge_memory.c:3785 deferred_split_folio+0x70/0x1b0"),
    "x86 paging request": ("""\
BUG: unable to handle page fault for address: dead000000000108
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 1 UID: 0 PID: 55 Comm: deferred_split_ Tainted: G           O       6.12.117 #1
RIP: 0010:deferred_split_scan+0x1a2/0x5b0
Code: 48 8b 50 98 48 8b 48 90 <48> 89 4a 08
Call Trace:
 <TASK>
""", "dead000000000108 at deferred_split_scan+0x1a2"),
}
# What must not be taken for one.
HARMLESS = [
    "Kernel command line: console=ttyS0 panic=-1 oops=panic nokaslr",
    "splitq: loading out-of-tree module taints kernel.",
    "Warning: unable to open an initial console.",
    "rcu: RCU lockdep checking is enabled.",
    "rcu: \tRCU callback double-/use-after-free debug is enabled.",
    "ACPI BIOS Warning (bug): something",
    "# a_scan_ends: EXPECTATION FAILED at mm/tests/deferred_split_kunit.c:300",
    "debug: BUG_ON is a macro",
]


class Case:
    """A guest's run directory, healthy until a test spoils it."""

    def __init__(self, test="selftests/t", out=None, kunit=False):
        self.test = test
        self.meta = {"release": RELEASE, "tests": [test], "base": "6.12", "label": "series",
                     "series": True, "arch": "x86_64", "accel": "tcg", "cpus": 2,
                     "ended": "exit", "qemu_status": 0}
        self.release = RELEASE
        self.out = list(KTAP if out is None else out)
        self.end = "exit=0 secs=1.00 tainted=4096"
        self.console = [BOOT, "[    3.0] splitq: begin %s" % test, "[    4.0] reboot: Power down"]
        self.bye = True
        self.known = None       # of KCSAN's reports: what races.find() has found
        self.edit = None        # changes the lines of results.log

    def judge(self):
        with tempfile.TemporaryDirectory() as run:
            lines = ["hello release=%s machine=x86_64 cpus=2" % self.release,
                     "begin %s" % self.test]
            lines += ["out %s %s" % (self.test, line) for line in self.out]
            if self.end:
                lines.append("end %s %s" % (self.test, self.end))
            if self.bye and self.end:
                lines.append("bye tests=1 tainted=0")
            lines = ["%d %s" % (i, line) for i, line in enumerate(lines, 1)]
            if self.edit:
                lines = self.edit(lines)
            with open(os.path.join(run, "results.log"), "w") as f:
                f.write("".join(line + "\n" for line in lines))
            with open(os.path.join(run, "console.log"), "w") as f:
                f.write("\n".join(self.console) + "\n")
            if self.known:
                with open(os.path.join(run, judge.races.NAME), "w") as f:
                    json.dump(self.known, f)
            if self.meta is not None:
                with open(os.path.join(run, "meta.json"), "w") as f:
                    json.dump(self.meta, f)
            return judge.judge_run(run)



class HungAtBoot(unittest.TestCase):
    SUITE = ["[    2.1]     # Subtest: deferred_split", "[    2.5]         ok 1 order 2",
             "[    2.6]     not ok 1 one", "[    2.7]     # two: EXPECTATION FAILED at a.c:1"]

    def row(self, console):
        case = Case("kunit/deferred_split")
        case.edit = lambda lines: []
        case.meta["ended"] = "late"
        case.console = [BOOT] + console
        return case.judge()[0][0]

    def test_in_the_suite_it_is_red(self):
        row = self.row(self.SUITE)
        self.assertEqual((row["verdict"], row["test"]), ("FAIL", "kunit/deferred_split"))
        self.assertIn("after 'not ok 1 one'", row["detail"])

    def test_a_splat_that_ends_the_guest_is_the_suites(self):
        oops = ["[    3.0] " + SPLATS["list add"]]
        row = self.row(self.SUITE + oops)
        self.assertEqual((row["verdict"], row["test"]), ("FAIL", "kunit/deferred_split"))
        self.assertIn("splat", row["detail"])
        # Not before it, or behind it.
        for console in (oops, self.SUITE + ["[    3.0] not ok 1 deferred_split"] + oops):
            self.assertEqual(self.row(console)["test"], "boot")

    def test_elsewhere_nobody_knows(self):
        for console in ([], self.SUITE[1:], self.SUITE + ["[    3.0] not ok 1 deferred_split"]):
            self.assertEqual(self.row(console)["verdict"], "ERROR")


class JudgeTest(unittest.TestCase):
    def expect(self, case, verdict, words=""):
        rows, _ = case.judge()
        self.assertEqual(judge.overall(rows), verdict, rows)
        self.assertEqual(judge.good(rows), verdict == judge.PASS, rows)
        self.assertIn(words, " ".join(r["detail"] for r in rows))
        return rows

    def test_healthy_kselftest_passes(self):
        rows = self.expect(Case(), judge.PASS)
        self.assertEqual(rows[0]["windows"]["w"]["entered"], 3)

    def test_healthy_kunit_passes(self):
        rows = self.expect(Case("kunit/deferred_split", KUNIT), judge.PASS)
        self.assertEqual(rows[0]["counts"]["ok"], 3)

    def test_every_splat_is_seen(self):
        for name, line in SPLATS.items():
            with self.subTest(name):
                case = Case()
                case.console.insert(2, "[    3.5] " + line)
                self.expect(case, judge.FAIL, "splat")

    def test_a_whole_splat_is_one_and_says_where(self):
        for name, (text, said) in CONSOLES.items():
            with self.subTest(name):
                case = Case()
                case.end = None         # it panics
                case.console[2:] = ["[    3.%06d] %s" % (n, line)
                                    for n, line in enumerate(text.split("\n"))]
                rows = self.expect(case, judge.FAIL, said)
                self.assertTrue(rows[0]["detail"].startswith("splat: "))
                self.assertEqual(len(judge.first_splats(case.console)), 1)
                # The same, not far from the end of a healthy test.
                del case.console[2:]
                self.expect(case, judge.ERROR, "lost")

    def test_a_breakpoint_that_qemu_should_not_have_run(self):
        for accel, byte, verdict in (("tcg", "48", judge.ERROR), ("tcg", "cc", judge.FAIL),
                                     ("kvm", "48", judge.FAIL)):
            with self.subTest(accel=accel, byte=byte):
                case = Case()
                case.meta["accel"] = accel
                case.console[2:2] = ["[    3.5] Oops: int3: 0000 [#1] PREEMPT SMP",
                                     "[    3.5] Code: 00 cc 87 %s <85> c9 0f" % byte]
                self.expect(case, verdict)
        case.console.insert(2, "[    3.4] " + SPLATS["list add"])
        self.expect(case, judge.FAIL, "splat")

    def test_a_race_of_stock_is_set_aside_and_said(self):
        case = Case()
        case.console.insert(2, "[    3.5] BUG: KCSAN: data-race in a / b")
        case.console.insert(3, "[    3.6] BUG: KCSAN: data-race in c / d")
        self.expect(case, judge.FAIL, "data-race in a / b")
        case.known = [["update_hiwater_rss"], None]
        self.expect(case, judge.FAIL, "data-race in c / d")
        del case.console[3]
        self.expect(case, judge.PASS, "1 update_hiwater_rss")

    def test_splat_with_carriage_returns_and_escapes(self):
        case = Case()
        case.console.insert(2, "\x1b[31m[    3.5] list_del corruption. prev->next\x1b[m\r")
        self.expect(case, judge.FAIL, "list_del corruption")

    def test_splat_at_boot_is_seen(self):
        case = Case()
        case.console.insert(1, "[    1.5] " + SPLATS["6.12 warning"])
        self.expect(case, judge.FAIL, "splat")

    def test_splat_at_boot_belongs_to_a_builtin_suite(self):
        case = Case("kunit/deferred_split", KUNIT)
        case.console.insert(1, "[    1.5] " + SPLATS["list add"])
        rows = self.expect(case, judge.FAIL, "splat")
        self.assertEqual([r["test"] for r in rows], ["kunit/deferred_split"])

    def test_harmless_lines_pass(self):
        for line in HARMLESS:
            with self.subTest(line):
                case = Case()
                case.console.insert(2, "[    3.5] " + line)
                self.expect(case, judge.PASS)

    def test_failed_kselftest(self):
        case = Case(out=["1..1", "not ok 1 a.t"])
        case.end = "exit=1 secs=1.00 tainted=0"
        self.expect(case, judge.FAIL, "not ok: a.t")

    def test_what_torture_says_is_the_detail(self):
        for said in ("STALL: task 0 (map) made no step for 20 s", "LEAK: all is unmapped, and x",
                     "CONTENT: page 0x1 is 0x0", "KILLED: task 1", "TAINT: 0x40", "STUCK: 1 THP",
                     "AUDIT: audit: wrong queue memcg=1 nid=- : the count is 1",
                     "FORGOTTEN: move_underused: ", "UNSYNCED: x", "SPIN: 1 ms of CPU"):
            with self.subTest(said):
                line = "# torture: FAILURE seed=1 seconds=4 ops=3 map=1 : " + said
                self.assertEqual(judge.complaints(["TAP version 13", line]), said)

    def test_a_carriage_return_ends_no_line(self):
        case = Case()
        case.out.insert(3, "page 1/512\rpage 2/512\rOK")
        self.expect(case, judge.PASS)

    def test_failure_with_exit_status_0(self):
        self.expect(Case(out=["1..1", "not ok 1 a.t"]), judge.FAIL)

    def test_exit_status_without_a_failed_line(self):
        case = Case()
        case.end = "exit=1 secs=1.00 tainted=0"
        self.expect(case, judge.FAIL, "exit status 1")

    def test_failed_kunit_case(self):
        out = [line.replace("ok 2 30 folios", "not ok 2 30 folios") for line in KUNIT]
        self.expect(Case("kunit/deferred_split", out), judge.FAIL, "30 folios")

    def test_failed_kunit_suite_line_alone(self):
        out = [line.replace("ok 1 deferred_split", "not ok 1 deferred_split") for line in KUNIT]
        self.expect(Case("kunit/deferred_split", out), judge.FAIL)

    def test_kunit_with_one_cpu_is_not_a_pass(self):
        out = [line.replace("ok 2 30 folios", "ok 2 30 folios # SKIP VACUOUS: one CPU")
               for line in KUNIT]
        self.expect(Case("kunit/deferred_split", out), judge.VACUOUS, "one CPU")

    def test_vacuous_is_not_a_pass(self):
        self.expect(Case(out=["1..1", "ok 1 a.t # SKIP VACUOUS: never held"]), judge.VACUOUS)

    def test_window_entered_0_times_is_not_a_pass(self):
        out = [line.replace("entered=3", "entered=0") for line in KTAP]
        self.expect(Case(out=out), judge.VACUOUS, "never entered")

    def test_skip_is_not_a_pass(self):
        self.expect(Case(out=["1..1", "ok 1 a.t # SKIP needs two CPUs"]), judge.SKIP, "two CPUs")

    def test_skip_by_exit_status(self):
        case = Case(out=["needs root"])
        case.end = "exit=4 secs=0.01 tainted=0"
        self.expect(case, judge.SKIP, "root")

    def test_zero_tests(self):
        self.expect(Case(out=["TAP version 13", "1..0"]), judge.ERROR, "zero tests")
        self.expect(Case(out=[]), judge.ERROR, "zero tests")

    def test_zero_tests_asked_for(self):
        case = Case()
        case.meta["tests"] = []
        self.expect(case, judge.ERROR, "zero tests")

    def test_fewer_tests_than_planned(self):
        self.expect(Case(out=["1..2", "ok 1 a.t"]), judge.ERROR, "1 of 2")

    def test_wrong_kernel(self):
        case = Case()
        case.release = "6.12.117-splitq-stock-01234567"
        self.expect(case, judge.ERROR, "wrong kernel")

    def test_silent_guest(self):
        case = Case()
        case.edit = lambda lines: []
        self.expect(case, judge.ERROR, "never heard of")

    def test_guest_that_panics_at_boot(self):
        case = Case()
        case.edit = lambda lines: []
        case.console = [BOOT, "[    1.0] Kernel panic - not syncing: VFS: no root"]
        self.expect(case, judge.FAIL, "panic")

    def test_guest_lost_in_a_test(self):
        case = Case()
        case.end = None
        self.expect(case, judge.ERROR, "lost")

    def test_guest_lost_with_a_splat(self):
        case = Case()
        case.end = None
        case.console.insert(2, "[    3.5] " + SPLATS["kernel bug"])
        self.expect(case, judge.FAIL, "kernel BUG")

    def test_guest_lost_after_the_last_test(self):
        case = Case()
        case.bye = False
        self.expect(case, judge.ERROR, "lost after")

    def test_lost_line(self):
        case = Case()
        case.edit = lambda lines: lines[:3] + lines[4:]
        self.expect(case, judge.ERROR, "not whole")

    def test_garbled_line(self):
        case = Case()
        case.edit = lambda lines: lines[:3] + ["\x00\x00garbage"] + lines[3:]
        self.expect(case, judge.ERROR, "not whole")

    def test_dropped_console_messages(self):
        case = Case()
        case.console.insert(2, "[    3.5] ** 57 printk messages dropped **")
        self.expect(case, judge.ERROR, "lost messages")

    def test_taint_without_a_splat(self):
        case = Case()
        case.end = "exit=0 secs=1.00 tainted=%d" % (1 << 9 | 1 << 12)
        self.expect(case, judge.FAIL, "warned")

    def test_harmless_taint(self):
        case = Case()
        case.end = "exit=0 secs=1.00 tainted=%d" % (1 << 12 | 1 << 13 | 1 << 18)
        self.expect(case, judge.PASS)

    def test_timeout_is_no_progress(self):
        case = Case()
        case.end = "timeout secs=120.00 tainted=0"
        self.expect(case, judge.FAIL, "no progress")
        case.end = "stuck secs=125.00 tainted=0"
        self.expect(case, judge.FAIL, "no progress")

    def test_signal(self):
        case = Case()
        case.end = "signal=11 secs=1.00 tainted=0"
        self.expect(case, judge.FAIL, "signal 11")

    def test_missing_program(self):
        case = Case(out=["cannot run /selftests/x: No such file or directory"])
        case.end = "exit=127 secs=0.00 tainted=0"
        self.expect(case, judge.ERROR, "could not be started")

    def test_no_meta(self):
        case = Case()
        case.meta = None
        self.expect(case, judge.ERROR, "meta.json")

    def test_test_that_never_began_is_pending(self):
        case = Case()
        case.meta["tests"].append("selftests/u")
        rows, pending = case.judge()
        self.assertEqual(pending, ["selftests/u"])

    def test_nothing_is_not_good(self):
        self.assertFalse(judge.good([]))
        self.assertEqual(judge.overall([]), judge.ERROR)

    def test_what_arm64_on_x86_cannot_show_is_said(self):
        for arch, host, said in (("arm64", "x86_64", True), ("arm64", "arm64", False),
                                 ("x86_64", "x86_64", False)):
            case = Case()
            case.meta.update(arch=arch, host=host)
            rows, _ = case.judge()
            for text in (judge.table(rows), judge.ktap(rows)):
                self.assertEqual("no arm64 reordering" in text, said)

    def test_ktap_and_table_show_every_row(self):
        rows, _ = Case().judge()
        rows.append(dict(rows[0], test="selftests/u", verdict=judge.VACUOUS, detail="why"))
        text = judge.ktap(rows)
        self.assertIn("1..2", text)
        self.assertIn("ok 1 selftests/t", text)
        self.assertIn("not ok 2 selftests/u", text)
        self.assertIn("6.12 series x86_64 tcg 2 vCPUs", judge.table(rows))
        self.assertIn("entered 3", judge.table(rows))


if __name__ == "__main__":
    unittest.main()
