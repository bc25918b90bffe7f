#!/usr/bin/env python3
"""Judge what guests left behind. A test has failed until it is proven.

Verdicts:
  PASS     it ran, on the kernel that was asked for, entered its windows, and
           neither it nor the console has anything to complain about
  FAIL     the kernel did something wrong: a failed check, a splat, taint, no progress
  VACUOUS  nothing went wrong, but the window was never entered: not a pass
  SKIP     it could not run here, and says why
  ERROR    the kit failed, or cannot tell: no result, a lost guest or line, the
           wrong kernel, zero tests

Reads run directories that scripts/boot.py filled (meta.json, results.log,
console.log). Writes nothing unless it is told to.
"""
import argparse
import json
import os
import re
import sys

import common
import races

PASS, FAIL, VACUOUS, SKIP, ERROR = "PASS", "FAIL", "VACUOUS", "SKIP", "ERROR"
# The worst one wins.
RANK = [FAIL, ERROR, VACUOUS, SKIP, PASS]

# Taint that says nothing about the kernel's health: out of tree module, unsigned
# module, in-kernel test. Everything else does.
TAINT_HARMLESS = 1 << 12 | 1 << 13 | 1 << 18
TAINT_NAMES = {0: "proprietary module", 1: "forced load", 2: "CPU out of spec",
               3: "forced unload", 4: "machine check", 5: "bad page", 6: "user", 7: "died",
               8: "ACPI table overridden", 9: "warned", 10: "staging", 11: "firmware workaround",
               14: "soft lockup", 15: "live patch", 16: "auxiliary", 17: "randstruct"}

KSFT_SKIP = 4
NOT_RUN = 127

# How kernels from 6.12 to 7.x say on x86 and arm64 that something is wrong.
SPLATS = [re.compile(p) for p in (
    r"\bWARNING: CPU: \d+ PID: \d+ at ",                # 6.12
    r"\bWARNING: \S+:\d+ at \S+",                       # 7.x
    r"\bkernel BUG at ",
    r"\bBUG: ",                                         # null pointers, KASAN, sleeping, bad page
    r"\bOops\b",
    r"\bInternal error: ",                              # arm64
    r"\bUnable to handle kernel ",                      # arm64
    r"\bSError Interrupt on CPU\d",                     # arm64
    r"\bUnhandled \S+ \S+ \S+ exception on CPU\d",      # arm64: 64-bit el1h sync
    r"\bInsufficient stack space to handle exception",  # arm64
    r"\bgeneral protection fault",
    r"\b(?:double fault|stack segment|divide error|invalid opcode|unexpected machine check)\b",
    r"\bKernel panic - not syncing",
    r"\blist_(?:add|del) (?:corruption|double add)",
    r"\bBad page (?:state|map)\b",
    r"\bpage dumped because: ",
    r"\bINFO: task \S+ blocked for more than ",
    r"\brcu: INFO: \S+ (?:self-)?detected (?:expedited )?stall",
    r"\bINFO: rcu_\S+ (?:self-)?detected",
    r"\bwatchdog: (?:BUG|Watchdog) ",
    r"\bWARNING: (?:possible |inconsistent |suspicious |bad unlock|held lock|lock held|Nested lock"
    r"|kernel stack|stack recursion)",
    r"\b(?:possible circular locking dependency|possible recursive locking"
    r"|inconsistent lock state|suspicious RCU usage|possible irq lock inversion)",
    r"\bDEBUG_LOCKS_WARN_ON\b",
    r"\bKASAN: ", r"\bKCSAN: ", r"\bUBSAN: ", r"\bKFENCE: ",
    r"\bkmemleak: \d+ new suspected memory leaks",      # a summary line only
    r"\b(?:refcount_t|ODEBUG): ",
    r"\bunregister_netdevice: waiting",
)]
# Where a splat that does not say so was, on x86 and on arm64.
PLACE = re.compile(r"(?:\bRIP: [0-9a-f]+:|\bpc : )([\w.]+\+0x[0-9a-f]+)/0x")
PLACE_LINES = 25
SPLAT_LINES = 40
# A trace that none of the above announced.
TRACE = re.compile(r"\b(?:Call Trace|Call trace):")
DROPPED = re.compile(r"\*\* \d+ printk messages dropped \*\*")
STAMP = re.compile(r"^\[ *\d+\.\d+\]")


def clean(text):
    """Console text without carriage returns, escapes and other control characters."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", ""))
    return re.sub(r"[^\t\n\x20-\x7e]", "?", text)


def scan_console(lines):
    """The first line of each splat, in order."""
    found, quiet = [], 0
    for n, line in enumerate(lines):
        hit = next((p for p in SPLATS if p.search(line)), None)
        if hit is None and TRACE.search(line) and quiet > SPLAT_LINES:
            hit = TRACE
        # The lines of one splat stand together, with registers between them: count it once.
        if hit:
            if quiet > SPLAT_LINES:
                found.append(STAMP.sub("", line).strip() + place_of(lines, n))
            quiet = 0
        else:
            quiet += 1
    return found


def place_of(lines, n):
    """Where the splat that begins in line n was, if its registers say so and it does not."""
    if re.search(r"\+0x[0-9a-f]+/0x", lines[n]):
        return ""
    at = next(filter(None, (PLACE.search(line) for line in lines[n:n + PLACE_LINES])), None)
    return " at " + at.group(1) if at else ""


def first_splats(lines):
    # Nothing before the first line: it may be a splat's.
    return scan_console([""] * 50 + lines)


STALE = "QEMU ran a breakpoint that was removed already: not the kernel's fault"


def stale_breakpoint(lines):
    """Did TCG execute a kprobe's int3 when the instruction was there again?

    With several vCPUs, QEMU may translate code while another vCPU writes to it, and
    keep that. The kernel does not know the breakpoint any more, and dies of it. The
    bytes in the log, around the one in brackets that comes next, tell.
    """
    for n, line in enumerate(lines):
        if re.search(r"\bOops: int3: ", line):
            for code in lines[n:n + 12]:
                m = re.search(r"\bCode: .*\b([0-9a-f]{2}) <[0-9a-f]{2}>", code)
                if m:
                    return m.group(1) != "cc"
        elif any(p.search(line) for p in SPLATS):
            return False            # something else was first
    return False


def segments(console):
    """Console lines by test: init marks the beginning of each in the log."""
    current, parts = "boot", {"boot": []}
    for line in clean(console).split("\n"):
        m = re.search(r"\bsplitq: begin (\S+)$", line)
        if m:
            current = m.group(1)
            parts.setdefault(current, [])
        parts[current].append(line)
    return parts


class Report:
    """The guest's own words: what came through the results channel."""

    def __init__(self, text):
        self.hello, self.bye, self.gap, self.notes = None, None, None, []
        self.tests = {}
        expected = 1
        for line in text.split("\n"):
            m = re.match(r"(\d+) (\w+) ?(.*)$", line)
            if not m:
                if line:
                    self.gap = self.gap or "a line that is not a report: %.40r" % line
                continue
            number, kind, rest = int(m.group(1)), m.group(2), m.group(3)
            if number != expected and not self.gap:
                self.gap = "line %d came where %d was due" % (number, expected)
            expected = number + 1
            if kind == "hello":
                self.hello = dict(w.split("=", 1) for w in rest.split() if "=" in w)
            elif kind == "bye":
                self.bye = dict(w.split("=", 1) for w in rest.split() if "=" in w)
            elif kind == "note":
                self.notes.append(rest)
            elif kind == "begin":
                self.tests[rest] = {"out": [], "end": None, "how": None}
            elif kind == "out":
                name, _, out = rest.partition(" ")
                if name in self.tests:
                    self.tests[name]["out"].append(clean(out))
            elif kind == "end":
                words = rest.split()
                test = self.tests.get(words[0])
                if test is not None:
                    test["end"] = dict(w.split("=", 1) for w in words[1:] if "=" in w)
                    test["how"] = next((w for w in words[1:] if "=" not in w), "ended")


def read_ktap(lines):
    """Counts of a test's KTAP: (ok, not ok, skip, vacuous), and the first complaint."""
    counts = {"ok": 0, "not ok": 0, "skip": 0, "vacuous": 0}
    names, complaint, planned = [], None, None
    for number, line in enumerate(lines):
        m = re.match(r"\s*(ok|not ok) \d+ ?-? ?(.*)$", line)
        if not m:
            plan = re.match(r"1\.\.(\d+)", line)
            if plan:
                planned = int(plan.group(1))
            continue
        # KUnit closes a suite or a parameterised case with a line of its own; the
        # plan and the indentation tell them apart. Only leaves count.
        if number and re.match(r"\s*# .*: pass:\d+ fail:\d+ skip:\d+ total:\d+", lines[number - 1]):
            if m.group(1) == "not ok" and not counts["not ok"]:
                counts["not ok"] += 1
                names.append(m.group(2).split("#")[0].strip())
            continue
        kind = m.group(1)
        if kind == "ok" and re.search(r"# (?:SKIP|XFAIL)", m.group(2)):
            kind = "vacuous" if "VACUOUS" in m.group(2) else "skip"
            # A skip is harmless beside something vacuous.
            if not complaint or kind == "vacuous" and not counts["vacuous"]:
                complaint = m.group(2).split("#", 1)[1].strip()
        counts[kind] += 1
        if kind == "not ok":
            names.append(m.group(2).split("#")[0].strip())
    if names:
        complaint = "not ok: " + ", ".join(names)
    return counts, complaint, planned


def windows(lines):
    """Counters that tests print: '... window NAME key=N key=N'."""
    found = {}
    for line in lines:
        m = re.search(r"\bwindow (\S+) ((?:\w+=-?\d+ ?)+)", line)
        if m:
            found[m.group(1)] = {k: int(v) for k, v in
                                 (w.split("=") for w in m.group(2).split())}
    return found


def complaints(lines):
    """What a failed kselftest said itself, shortened for the table."""
    for line in lines:
        m = re.search(r"\b(?:LOST|CORRUPT|STUCK|LEAK|STALL|TAINT|KILLED|CONTENT|AUDIT|FORGOTTEN"
                      r"|UNMARKED|MARKED|UNSYNCED|RETURNED|COUNTED|PINNED|SPLAT|SPIN|MAPCOUNT|OOM)"
                      r": .*", line)
        if m:
            point = re.search(r"([\w.]+\+0x[0-9a-f]+): ", line)
            return (point.group(1) + ": " if point else "") + m.group(0)
    for line in lines:
        m = re.match(r"# (\S+\.c:\d+:\w+:.*)", line)
        if m and not re.search(r"\bwindow \S+ \w+=|SEED=", line):
            return m.group(1)
    return None


def taint_names(mask):
    return ", ".join(TAINT_NAMES.get(b, "bit %d" % b) for b in range(32) if mask >> b & 1)


def judge_test(test, splats, dropped, tainted_before, kernel_ok):
    """Verdict and detail of one test that began."""
    lines = test["out"]
    counts, complaint, planned = read_ktap(lines)
    said = complaints(lines)
    if not kernel_ok:
        return ERROR, kernel_ok.why
    if splats:
        return FAIL, ((said + "; ") if said else "") + "splat: " + splats[0]
    if dropped:
        return ERROR, "the console lost messages: " + dropped
    if test["end"] is None:
        return ERROR, "the guest was lost while it ran, without a word on the console"
    if test["how"] in ("timeout", "stuck"):
        return FAIL, "no progress: %s after %s s" % (test["how"], test["end"].get("secs"))
    tainted = int(test["end"].get("tainted", 0)) & ~TAINT_HARMLESS
    if tainted & tainted_before:
        return ERROR, "the kernel was tainted (%s) before it began" % taint_names(tainted)
    if tainted:
        return FAIL, "the kernel is tainted (%s), and no splat was recognised" % taint_names(tainted)
    if "signal" in test["end"]:
        return FAIL, "ended by signal %s" % test["end"]["signal"]
    status = int(test["end"].get("exit", NOT_RUN))
    if status == NOT_RUN:
        return ERROR, "could not be started: %s" % (lines[-1] if lines else "no output")
    if counts["not ok"]:
        return FAIL, said or complaint
    if status not in (0, KSFT_SKIP):
        return FAIL, said or "exit status %d" % status
    if counts["vacuous"]:
        return VACUOUS, complaint
    if not counts["ok"]:
        if counts["skip"] or status == KSFT_SKIP:
            return SKIP, complaint or (lines[-1] if lines else "")
        return ERROR, "zero tests in its output"
    if planned is not None and sum(counts.values()) < planned:
        return ERROR, "%d of %d planned tests reported" % (sum(counts.values()), planned)
    if status == KSFT_SKIP:
        return SKIP, complaint or ""
    for window, numbers in windows(lines).items():
        if numbers.get("entered") == 0:
            return VACUOUS, "window %s was never entered" % window
    return PASS, "%d of %d skipped" % (counts["skip"], sum(counts.values())) \
        if counts["skip"] else ""


class Wrong:
    """A guest whose results do not count, and why. False as a truth value."""

    def __init__(self, why):
        self.why = why

    def __bool__(self):
        return False


def read(run, name):
    try:
        # Only \n ends a line: a test may print \r.
        with open(os.path.join(run, name), encoding="utf-8", errors="replace", newline="\n") as f:
            return f.read()
    except OSError:
        return ""


def hung_in_suite(lines):
    """Where a built-in suite was that began and did not end: behind which case; or None."""
    begun, last = False, "before its first case"
    for line in lines:
        if re.search(r"# Subtest: ", line):
            begun = True
        m = re.match(r"(?:\[ *[\d.]+\] )? {4}((?:not )?ok \d+ \w+)", line)
        if m:
            last = "after '%s'" % m.group(1)
        if re.match(r"(?:\[ *[\d.]+\] )?(?:not )?ok \d+ ", line):
            begun, last = False, "before its first case"
    return last if begun else None


def judge_run(run):
    """Judge one guest. Returns (rows, names of the tests that did not begin)."""
    try:
        meta = json.loads(read(run, "meta.json"))
        asked = meta["tests"]
    except (ValueError, KeyError):
        return [{"test": "guest", "verdict": ERROR, "detail": "no meta.json in %s" % run}], []
    report = Report(read(run, "results.log"))
    parts = segments(races.set_aside(run, read(run, "console.log")))
    console = [line for part in parts.values() for line in part]
    dropped = next((line for line in console if DROPPED.search(line)), None)

    kernel_ok = True
    if report.hello is None:
        kernel_ok = Wrong("init was never heard of (QEMU ended %s, status %s)"
                          % (meta.get("ended"), meta.get("qemu_status")))
    elif report.hello.get("release") != meta.get("release"):
        kernel_ok = Wrong("the wrong kernel was booted: %s instead of %s"
                          % (report.hello.get("release"), meta.get("release")))
    elif report.gap:
        kernel_ok = Wrong("the results are not whole: %s" % report.gap)

    base = {"base": meta.get("base"), "kernel": meta.get("label"), "series": meta.get("series"),
            "arch": meta.get("arch"), "machine": meta.get("machine"), "accel": meta.get("accel"), "cpus": meta.get("cpus"),
            "release": meta.get("release"), "source": meta.get("source"), "run": run,
            "host": meta.get("host")}
    rows, pending = [], []
    boot_splats = first_splats(parts["boot"])
    tainted_before = 0
    for name in asked:
        test = report.tests.get(name)
        if test is None:
            pending.append(name)
            continue
        # A built-in suite has run before init: what the boot said is its doing.
        lines = (parts["boot"] if name.startswith("kunit/") else []) + parts.get(name, [])
        verdict, detail = judge_test(test, first_splats(lines), dropped, tainted_before, kernel_ok)
        if (meta.get("accel") or "").startswith("tcg") and stale_breakpoint(lines):
            verdict, detail = ERROR, STALE
        if verdict == PASS and races.note(lines):
            detail = ", ".join(filter(None, (detail, races.note(lines))))
        if test["end"]:
            tainted_before = int(test["end"].get("tainted", 0)) & ~TAINT_HARMLESS
        row = dict(base, test=name, verdict=verdict, detail=detail,
                   seconds=float((test["end"] or {}).get("secs", 0)),
                   windows=windows(test["out"]), counts=read_ktap(test["out"])[0])
        seed = next((m.group(1) for m in (re.search(r"\bSEED=(\d+)", line)
                                          for line in test["out"]) if m), None)
        if seed:
            row["seed"] = int(seed)
        rows.append(row)

    # Whoever was at work when the kernel was lost; a suite that is built in is at boot.
    hung = hung_in_suite(parts["boot"]) if report.hello is None else None
    suite = next((name for name in asked if name.startswith("kunit/")), None)
    guilty = suite if hung and suite else "boot"
    if boot_splats and not any(name.startswith("kunit/") for name in report.tests):
        rows.insert(0, dict(base, test=guilty, verdict=FAIL, windows={}, seconds=0.0,
                            detail="splat: " + boot_splats[0]))
    if not rows:
        if not asked:
            why = "zero tests were asked for"
        elif kernel_ok:
            why = "no test began (QEMU ended %s)" % meta.get("ended")
        else:
            why = kernel_ok.why
        verdict = FAIL if boot_splats or (hung and suite) else ERROR
        if boot_splats:
            why = "splat: " + boot_splats[0]
        elif verdict == FAIL:
            why = "HANG: no progress at boot, in the KUnit suite %s" % hung
        rows.append(dict(base, test=guilty, verdict=verdict,
                         windows={}, seconds=0.0, detail=why))
    elif kernel_ok and report.bye is None and rows[-1]["verdict"] == PASS:
        rows[-1].update(verdict=ERROR, detail="the guest was lost after it (QEMU ended %s)"
                        % meta.get("ended"))
    return rows, pending


def overall(rows):
    """The worst verdict; ERROR if there is none."""
    present = [r["verdict"] for r in rows]
    return next((v for v in RANK if v in present), ERROR)


def good(rows):
    """Is this a pass? At least one PASS, and nothing but PASS and SKIP."""
    present = {r["verdict"] for r in rows}
    return PASS in present and present <= {PASS, SKIP}


def summary(rows):
    """The last line of a verb: the verdict of all, and how many of which."""
    return "verdict: %s (%s)" % (PASS if good(rows) else overall(rows), " ".join(
        "%d %s" % (sum(r["verdict"] == v for r in rows), v)
        for v in (PASS, FAIL, VACUOUS, SKIP, ERROR) if any(r["verdict"] == v for r in rows)))


def describe(row):
    if "model" in row:              # a litmus test: no guest
        return "%s %s" % (row.get("base"), row["model"])
    return "%s %s %s %s %s vCPUs" % (row.get("base"), row.get("kernel"), row.get("machine") or row.get("arch"),
                                     row.get("accel"), row.get("cpus"))


def numbers(row):
    """How often windows were entered, for the table."""
    out = []
    for counts in row.get("windows", {}).values():
        out.append("entered %d" % counts.get("entered", 0))
        if counts.get("blocked"):
            out.append("blocked %d" % counts["blocked"])
    if not out and row.get("counts", {}).get("ok"):
        c = row["counts"]
        out.append("%d of %d cases" % (c["ok"], sum(c.values())))
    if row.get("observed"):
        out.append(row["observed"])
    if "seed" in row:
        out.append("seed %d" % row["seed"])
    return ", ".join(out)


def limits(rows):
    """What these results cannot show, in words; empty if there is nothing to say."""
    return next(filter(None, (limits_of(r.get("arch"), r.get("host")) for r in rows)), "")


def limits_of(arch, host=None):
    """The same of guests of an architecture, on this host if none is given."""
    if arch == "arm64" and (host or common.host_arch()) == "x86_64":
        return "TCG on x86 shows no arm64 reordering beyond the host's; " \
               "what rests on ordering rests on the litmus tests"
    return ""


def table(rows, colour=False):
    """For people: a line per test in fixed columns, complaints below."""
    colours = {PASS: "32", FAIL: "31", ERROR: "35", VACUOUS: "33", SKIP: "36"}
    width = max([len(r["test"]) for r in rows] + [10])
    lines = []
    for r in rows:
        verdict = "%-8s" % r["verdict"]
        if colour:
            verdict = "\033[%sm%s\033[m" % (colours[r["verdict"]], verdict)
        lines.append("%s %-*s  %-34s %6.1f s  %s" % (verdict, width, r["test"], describe(r),
                                                    r.get("seconds") or 0.0, numbers(r)))
        if r.get("detail"):
            lines.append("         %s" % r["detail"][:300])
    lines.append(limits(rows))
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def ktap(rows):
    out = ["KTAP version 1", "1..%d" % len(rows)]
    for i, r in enumerate(rows, 1):
        text = "%d %s # %s" % (i, r["test"], describe(r))
        if r["verdict"] == SKIP:
            text = "%d %s # SKIP %s" % (i, r["test"], r["detail"])
        elif r["verdict"] != PASS:
            out.append("# %s: %s" % (r["verdict"], r["detail"]))
        out.append(("ok " if r["verdict"] in (PASS, SKIP) else "not ok ") + text)
    if limits(rows):
        out.append("# " + limits(rows))
    return "\n".join(out) + "\n"


def verb():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", help="a guest's run directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ktap", action="store_true", help="print KTAP instead of a table")
    args = parser.parse_args()
    rows = []
    for run in args.run:
        if not os.path.isdir(run):
            common.die("%s is not a directory" % run, "give a run directory of make run")
        found, pending = judge_run(run)
        rows += found + [{"test": name, "verdict": ERROR, "detail": "it never began",
                          "windows": {}} for name in pending]
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.ktap:
        print(ktap(rows), end="")
    else:
        print(table(rows, sys.stdout.isatty()))
    return 0 if good(rows) else 1


if __name__ == "__main__":
    common.main(verb)
