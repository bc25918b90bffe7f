#!/usr/bin/env python3
"""Run the kernel's own mm selftests, and say which of the known bugs they see.

Those that come near the deferred split queue, of the same source as the kernel and
with the arguments that its run_vmtests.sh gives them, built static for the guest, as
they are (--of: of another base's source). Each has a time limit, each runs in a guest that is well, and what the
console says is judged as in every run. After each, selftests/deferred_split_after.c
looks at what it left behind: counters, and the module's audit. So a bug can be seen
by the test itself, by the kernel, or by what the kit adds.

Which bug it was is told by the words of the complaint; MUTANT=all:ID is a kernel
with that one alone. Exit status 0 if every test could be judged.
"""
import copy
import json
import os
import re
import shutil
import sys
import types

import boot
import build
import common
import fetch
import judge
import run
from common import die, say

RECIPE = 1          # part of the key: change it when they are built differently
SECONDS = 600       # for each
LOOK_SECONDS = 40   # to stop it, and to look what it has left
PROGRAMS = ("split_huge_page_test", "transhuge-stress", "khugepaged", "folio_split_race_test")
# The bugs that are live on the stock kernel of each base, and how each would show.
LOST = r"LEAK: nr_anon_partially_mapped|AUDIT: .*\bmarked\b"
LIVE = {
    "6.12": {"B46": LOST,
             "B48": r"\blist_(?:add|del) (?:corruption|double add)|AUDIT: .*\b(?:prev|next|count)\b",
             "B28": r"WARNING: .*(?:deferred_split_folio|migrate_folio)",
             "B29": r"FORGOTTEN: ",
             "B39": LOST},
    "7.3": {"B46": LOST,
            "B48": r"\blist_(?:add|del) (?:corruption|double add)|AUDIT: .*\b(?:prev|next|count)\b"},
}


def mm_dir(source):
    return os.path.join(source.path, "tools/testing/selftests/mm")


def commands(source, words=""):
    """How the source's run_vmtests.sh calls them: [(name, program, arguments)].

    Without what needs a file system of its own, which is in a variable there.
    """
    with open(os.path.join(mm_dir(source), "run_vmtests.sh")) as f:
        lines = re.findall(r"^\s*CATEGORY=\S+ run_test \./(\S+)(.*)$", f.read(), re.M)
    found = []
    for program, rest in lines:
        if program not in PROGRAMS or re.search(r"\ball:file\b", rest):
            continue
        args = [w for w in rest.split() if "$" not in w]
        found.append(("mm/" + "_".join([program] + [re.sub(r"\W", "", a) for a in args]),
                      program, args))
    if not found:
        die("%s/run_vmtests.sh calls none of: %s" % (mm_dir(source), " ".join(PROGRAMS)))
    wanted = (words or "").replace(",", " ").split()
    for word in wanted:
        if not any(word in name for name, _, _ in found):
            die("no mm selftest is called '%s'" % word,
                "TESTS is a list of: %s" % " ".join(name for name, _, _ in found))
    return [c for c in found if not wanted or any(w in c[0] for w in wanted)]


def compile_command(kernel, source, program, out):
    """As mm/Makefile does, but static; khugepaged.c of 6.12 forgets to include kselftest.h."""
    where, tests = mm_dir(source), os.path.dirname(mm_dir(source))
    shared = [f for f in ("vm_util.c", "thp_settings.c", "hugepage_settings.c")
              if os.path.exists(os.path.join(where, f))]
    return [common.cross(kernel.arch) + "gcc", "-static", "-O2", "-Wall", "-U_FORTIFY_SOURCE",
            "-D_GNU_SOURCE=", "-I" + source.path, "-I" + tests,
            "-isystem", os.path.join(source.path, "tools/include/uapi"),
            "-include", os.path.join(tests, "kselftest.h"), "-o", out,
            os.path.join(where, program + ".c")] + [os.path.join(where, f) for f in shared] + \
        ["-lrt", "-lpthread", "-lm"]


def build_mmtests(kernel, source):
    """The programs, and the one that looks after them; returns the directory."""
    after = os.path.join(build.build_selftests(kernel, source), "deferred_split_after")
    key = common.digest(RECIPE, source.ident, kernel.arch, build.compiler(kernel),
                        common.file_bytes(after), common.file_bytes(os.path.abspath(__file__)))[:16]
    final = os.path.join(common.cache_dir("selftests"), "mm-" + key)
    if not os.path.isdir(final):
        tmp = final + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        try:
            shutil.copy2(after, tmp)
            for program in sorted({c[1] for c in commands(source)}):
                command = compile_command(kernel, source, program, os.path.join(tmp, program))
                got = common.run(command)
                if got.returncode:
                    die("%s.c of %s does not build: %s" % (program, source.description, next(
                        (line for line in got.stdout.split("\n") if "error" in line), "see gcc")),
                        " ".join(command))
            os.rename(tmp, final)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return final


def own_result(row):
    """What the test itself said, without what was looked at after it: in words."""
    report = judge.Report(judge.read(row["run"], "results.log"))
    lines = report.tests.get(row["test"], {"out": []})["out"]
    end = next((n for n, line in enumerate(lines) if line.startswith("# after: ")), None)
    if end is None:
        return "did not end"
    counts, complaint, planned = judge.read_ktap(lines[:end])
    text = lines[end].split(": ", 1)[1].split(" secs=")[0]
    if counts["not ok"]:
        return "%s, %s" % (complaint, text)
    if text != "exit=0":
        words = re.findall(r"[^.\[\]]*(?:[Ff]ail|FAIL|[Cc]annot|corrupted)[^.\[\]]*",
                           "\n".join(lines[:end]))
        why = words[-1].strip() if words else complaint
        return text + (", " + why if why else "")
    total = sum(counts.values())
    if planned is not None and total < planned:
        return "%d of %d planned" % (total, planned)
    return "passes" + (" (%d of %d skipped)" % (counts["skip"], total) if counts["skip"] else "")


def left_behind(row):
    """What was found after it, or on the console meanwhile: in words."""
    if row["verdict"] == judge.ERROR:
        return row["detail"]
    found = re.search(r"(?:LEAK|AUDIT): .*|splat: .*", said(row))
    return found.group(0) if found else "nothing"


def said(row):
    """All that it, its guest, and what was looked at said."""
    report = judge.Report(judge.read(row["run"], "results.log"))
    return "\n".join([row.get("detail") or ""] +
                     report.tests.get(row["test"], {"out": []})["out"] +
                     judge.segments(judge.read(row["run"], "console.log")).get(row["test"], []))


def bugs_seen(row):
    """Which of the live bugs a red row's words fit; None if it could not be judged."""
    if row["verdict"] == judge.ERROR:
        return None
    if row["verdict"] != judge.FAIL:
        return []
    text = said(row)
    return [bug for bug, words in LIVE.get(row["base"], {}).items() if re.search(words, text)]


def run_mmtests(built, args, accel, where, show=True, plant=None, source=None):
    """Run them on a built kernel, in guests below a directory; returns judged rows.

    args: smp, mem, det and tests, as of run.run_arguments(). source: whose tests, if
    not those of the kernel's own. A row has "own", what the test itself said, and
    "bugs", those that its complaints look like.
    """
    mm, source = copy.copy(built), source or built.source
    mm.selftests = build_mmtests(built.kernel, source)
    tests = []
    for name, program, words in commands(source, args.tests):
        line = ["/selftests/deferred_split_after", "-t", str(SECONDS)]
        line += ["-p", plant] if plant else []
        tests.append((name, SECONDS + LOOK_SECONDS, " ".join(line + ["/selftests/" + program] +
                                                             words)))
    rows = run.run_tests(mm, tests, args, accel, where, show=show)
    for row in rows:
        row["own"] = own_result(row)
        row["bugs"] = bugs_seen(row)
        row["observed"] = row["own"]
    return rows


def on_kernel(kernel, args, clock=None, show=True, plant=None, source=None):
    """The same on a common.Kernel: returns (rows, directory)."""
    boot.check_size(args)
    built = build.Built(kernel, clock)
    accel = "tcg" if args.det else boot.accelerator(built)
    where = run.new_run_dir("mmtests-" + kernel.label)
    rows = run_mmtests(built, args, accel, where, show, plant, source)
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "rows": rows}, indent=1))
    return rows, where


def markdown(rows):
    """The table: a line per test, a column per bug that is live on that stock kernel."""
    bugs = list(LIVE.get(rows[0].get("base"), {}))
    lines = ["| %s %s, %s | %s | it says itself | left behind | time |" % (
        rows[0].get("base"), rows[0].get("kernel"), rows[0].get("accel"), " | ".join(bugs)),
        "|---|%s--:|" % ("---|" * (len(bugs) + 2))]
    for row in rows:
        cells = ["?" if row["bugs"] is None else "seen" if bug in row["bugs"] else "-"
                 for bug in bugs]
        cells += [row["own"].replace("|", "/")[:120], left_behind(row).replace("|", "/")[:120]]
        lines.append("| %s | %s | %.0f s |" % (row["test"], " | ".join(cells), row["seconds"]))
    return "\n".join(lines)


def arguments():
    parser = run.run_arguments(__doc__)
    parser.add_argument("--of", metavar="BASE", help="the tests of another base's source")
    parser.add_argument("--plant", choices=("leak", "count", "marked"),
                        help="plant a fault after each test: it must be found")
    return parser


def verb():
    args = arguments().parse_args()
    clock = common.Clock()
    kernel = common.Kernel(args)
    source = None
    if args.of:
        source = fetch.fetch(common.Kernel(types.SimpleNamespace(**dict(
            vars(args), base=args.of, series="0", mutant=None, linux=None))))
    rows, where = on_kernel(kernel, args, clock, plant=args.plant, source=source)
    clock.lap("guests (%s)" % kernel.label)
    say(judge.table(rows, sys.stdout.isatty()))
    say(markdown(rows))
    say("case file: %s" % where)
    say(clock.report())
    live = LIVE.get(kernel.base, {})
    found = sorted({bug for row in rows for bug in row["bugs"] or ()})
    say("seen: %d of %d bugs%s; %s" % (len(found), len(live), " (%s)" % " ".join(found)
                                       if found else "", judge.summary(rows)))
    return 1 if any(row["verdict"] == judge.ERROR for row in rows) else 0


if __name__ == "__main__":
    common.main(verb)
