#!/usr/bin/env python3
"""Which lines of the queue's code do the tests run?

Builds the kernel with gcov for the files that the series changes, runs the tests
in guests, takes the counts out of debugfs through the guest's results channel,
and has gcov read them. Reported are the functions that the series changes, and in
mm/huge_memory.c those that work on the queue; every line of theirs that never ran
is named. Exit status 0 only if no test fails and enough of mm/huge_memory.c ran.
"""
import json
import os
import re
import subprocess
import sys

import boot
import build
import common
import judge
import prepare
import run
from common import die, say

MAIN = "mm/huge_memory.c"
LEAST = 95.0
# What a function that works on the queue has in its body.
QUEUE = re.compile(r"\b(_deferred_list|split_queue\w*|ds_queue|deferred_split_lru)\b")


def functions(text):
    """The functions of a C file in the kernel's style: [(name, first line, last line, is __init)]."""
    found, lines, head = [], text.split("\n"), None
    for n, line in enumerate(lines, 1):
        # A definition begins in the first column, and so do the braces of its body.
        m = re.match(r"[A-Za-z_][\w\s*]*?\b(\w+)\(", line)
        if m and not line.rstrip().endswith(";"):
            head = (m.group(1), n, " __init " in line)
        elif head and line == "{":
            begin = head
        elif head and line.startswith("}"):
            found.append((begin[0], begin[1], n, begin[2]))
            head = None
        elif head and re.match(r"\S.*;$|#define|\s+.*\);$", line) and "{" not in lines[head[1] - 1:n]:
            head = None         # a prototype, or an initialiser
    return found


def changed_lines(old, new, not_these):
    """The numbers of the lines of a file that are not in the old one, or stand where some were."""
    got = subprocess.run(["diff", "-U0", old, new], stdout=subprocess.PIPE, text=True)
    if got.returncode > 1:
        die("diff cannot compare %s and %s" % (old, new))
    found, place = set(), 0
    for line in got.stdout.split("\n"):
        m = re.match(r"@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", line)
        if m:
            place = int(m.group(1))
            if m.group(2) == "0":
                found.add(place)
        elif line.startswith("+") and not line.startswith("+++"):
            if line[1:].strip() not in not_these:
                found.add(place)
            place += 1
    return found


def touched(name, source, pristine, not_these):
    """The functions of a file that are reported: [(name, first line, last line)]."""
    changed = changed_lines(pristine, source, not_these)
    text = common.file_bytes(source).decode()
    lines = text.split("\n")
    return [(function, first, last) for function, first, last, init in functions(text)
            if not init and (any(first <= n <= last for n in changed) or
                             name == MAIN and any(QUEUE.search(line)
                                                  for line in lines[first - 1:last]))]


def read_gcov(text):
    """gcov's JSON: {file: {line: how often it ran}}."""
    counts = {}
    for document in text.split("\n"):
        if not document.strip():
            continue
        try:
            files = json.loads(document)["files"]
            for entry in files:
                name = re.sub(r"^(\.\./)+", "", entry["file"])
                of_file = counts.setdefault(name, {})
                # What was inlined in several places has a line for each.
                for line in entry["lines"]:
                    number = line["line_number"]
                    of_file[number] = of_file.get(number, 0) + line["count"]
        except (ValueError, KeyError, TypeError) as e:
            die("gcov's output cannot be read: %s" % e)
    return counts


def add(total, counts):
    """Add the counts of one run to those of the others."""
    for name, lines in counts.items():
        of_file = total.setdefault(name, {})
        for number, count in lines.items():
            of_file[number] = of_file.get(number, 0) + count


def read_channel(text):
    """The files that a guest has sent, from its results.log: {path: bytes}."""
    files, whole = {}, set()
    for m in re.finditer(r"^\d+ gcov (\S+) (\d+) (\w+)$", text, re.M):
        path, offset, data = m.group(1), int(m.group(2)), m.group(3)
        got = files.setdefault(path, bytearray())
        if offset != len(got) or data == "lost":
            die("the counts of %s are not whole: %d bytes, then %s" % (path, len(got),
                                                                       m.group(0)[:60]))
        if data == "end":
            whole.add(path)
        else:
            got += bytes.fromhex(data)
    for path in set(files) - whole:
        die("the counts of %s have no end" % path)
    return files


def run_gcov(gcov, notes, counts, where):
    """What gcov says of one object: its notes, and the counts of a guest."""
    stem = os.path.join(where, os.path.basename(notes)[:-5])
    common.write_atomically(stem + ".gcno", common.file_bytes(notes))
    common.write_atomically(stem + ".gcda", bytes(counts))
    got = subprocess.run([gcov, "--json-format", "--stdout", os.path.basename(stem) + ".gcda"],
                         cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Of counts of another build it would say that nothing ran.
    if got.returncode:
        die("gcov: %s" % (got.stderr.strip() or "exit status %d" % got.returncode))
    return read_gcov(got.stdout)


def of_guest(gcov, notes_dir, where):
    """The counts of one guest; none if it was lost before it could say them."""
    total, out = {}, os.path.join(where, "gcov")
    files = read_channel(judge.clean(judge.read(where, "results.log")))
    os.makedirs(out, exist_ok=True)
    for notes in sorted(f for f in os.listdir(notes_dir) if f.endswith(".gcno")):
        name = "/mm/" + notes[:-5] + ".gcda"
        data = [d for path, d in files.items() if path.endswith(name)]
        if data:
            add(total, run_gcov(gcov, os.path.join(notes_dir, notes), data[0], out))
    return total


def rows_of(name, source, found, counts):
    """For each function: its lines that are code, and those that never ran."""
    text = common.file_bytes(source).decode().split("\n")
    rows = []
    for function, first, last in found:
        code = {n: c for n, c in counts.get(name, {}).items() if first <= n <= last}
        if code:        # else the compiler has no use for it, in this configuration
            rows.append({"file": name, "function": function, "lines": len(code),
                         "not run": [[n, text[n - 1].strip()] for n in sorted(code)
                                     if not code[n]]})
    return rows


def share(rows):
    """Per cent of the lines that ran; None if there are none."""
    lines = sum(r["lines"] for r in rows)
    return 100.0 * (lines - sum(len(r["not run"]) for r in rows)) / lines if lines else None


def table(rows):
    """For people: each function, and the lines of it that never ran."""
    out = []
    for name in sorted({r["file"] for r in rows}, key=lambda f: (f != MAIN, f)):
        of_file = [r for r in rows if r["file"] == name]
        for r in of_file:
            ran = r["lines"] - len(r["not run"])
            out.append("%-24s %-36s %4d of %4d lines %6.1f %%" % (name, r["function"], ran,
                                                                   r["lines"], share([r])))
            out += ["    %d: %s" % (n, text) for n, text in r["not run"]]
        out.append("%-24s %-36s %4d of %4d lines %6.1f %%" % (
            name, "all of these", sum(r["lines"] - len(r["not run"]) for r in of_file),
            sum(r["lines"] for r in of_file), share(of_file)))
    return "\n".join(out)


def judge_rows(rows, least):
    """None if enough of the main file ran, or else why not."""
    percent = share([r for r in rows if r["file"] == MAIN])
    if percent is None:
        return "no function of %s was counted" % MAIN
    if percent < least:
        return "%.1f %% of %s's lines ran, %.1f are wanted" % (percent, MAIN, least)
    return None


def measure(built, where):
    """The rows of all guests of a run directory."""
    kernel, counts = built.kernel, {}
    notes = os.path.join(built.dir, "gcov")
    for guest in sorted(os.listdir(where)):
        if guest.startswith("guest-"):
            found = of_guest(common.cross(kernel.arch) + "gcov", notes, os.path.join(where, guest))
            if not found:
                say("coverage: %s has left no counts" % guest)
            add(counts, found)
    hooks = {rule[4] for rule in prepare.kunit_hooks(kernel.base)} if kernel.has_kunit else set()
    rows = []
    for name in kernel.profiled:
        source = os.path.join(built.dir, "linux", name)
        pristine = os.path.join(built.source.path, name)
        rows += rows_of(name, source, touched(name, source, pristine, hooks), counts)
    return rows


def verb():
    parser = run.run_arguments(__doc__)
    parser.add_argument("--least", type=float, default=LEAST,
                        help="per cent of the lines of %s (%.0f)" % (MAIN, LEAST))
    args = parser.parse_args()
    args.debug = ",".join([args.debug or "", "gcov"]).strip(",")
    clock = common.Clock()
    kernel = common.Kernel(args)
    tests = run.choose(args.tests, args.arch)
    boot.check_size(args)
    built = build.Built(kernel, clock)
    accel = "tcg" if args.det else boot.accelerator(built)
    where = run.new_run_dir("coverage-" + kernel.label)
    tested = run.run_tests(built, tests, args, accel, where)
    clock.lap("guests (%s)" % kernel.label)
    rows = measure(built, where)
    text = table(rows)
    common.write_atomically(os.path.join(where, "coverage.txt"), text + "\n")
    common.write_atomically(os.path.join(where, "coverage.json"), json.dumps(
        {"kernel": built.info, "tests": tested, "rows": rows}, indent=1))
    say(judge.table(tested, sys.stdout.isatty()))
    say(text)
    say("case file: %s" % where)
    say(clock.report())
    bad = judge_rows(rows, args.least)
    if bad:
        say("coverage: " + bad)
    say(judge.summary(tested))
    return 0 if judge.good(tested) and not bad else 1


if __name__ == "__main__":
    common.main(verb)
