#!/usr/bin/env python3
"""The project's own tests: what make check and CI run.

Everything that the kit claims is asserted here, and each guard is shown to trip:
the judge's and the verbs' planted faults; the style of scripts, patches and C;
every patch of the series builds on its own; stock is red for the bugs that the
series fixes, the series is green; known bugs put back on top of it turn the
suite red; the KUnit suite passes under the kernel's own kunit.py.

Prints one line a check and, last, 'N passed, N failed' alone on a line.
"""
import argparse
import contextlib
import datetime
import glob
import io
import json
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types

import build
import common
import compare
import configs
import fetch
import judge
import kunit
import litmus
import run
import series
from common import SCRIPTS, TOP, say

# What checkpatch cannot know: the sender signs off; commits of a tree that is not
# here; and in user space there is no kstrtoul() and no __printf().
PATCH_IGNORE = "MISSING_SIGN_OFF,UNKNOWN_COMMIT_ID"
KERNEL_C_IGNORE = "FILE_PATH_CHANGES,AVOID_EXTERNS"
USER_C_IGNORE = KERNEL_C_IGNORE + ",SSCANF_TO_KSTRTO,SPLIT_STRING,SPACING," \
    "PREFER_DEFINED_ATTRIBUTE_MACRO,STATIC_CONST_CHAR_ARRAY,PREFER_KERNEL_TYPES"


class TimeUp(BaseException):
    """The check that runs is stopped: nothing that handles errors may take it for one."""


class Checks:
    """Runs them. When the time, in minutes, is up, none begins any more; the one that
    runs has a quarter of that time to end.
    """

    def __init__(self, only, minutes):
        self.only = only
        now = time.monotonic()
        self.until = now + minutes * 60 if minutes else None
        self.stop_at = now + minutes * 75 if minutes else None
        self.passed, self.failed, self.left_out = [], [], []

    def limited(self, function):
        """Call a function; TimeUp when it is not through in time."""
        def stop(_signal, _frame):
            raise TimeUp()
        if not self.stop_at:
            return function()
        before = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(self.stop_at - time.monotonic(), 0.001))
            return function()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def must_have_run(self, name):
        """Without it nothing was checked, whatever else passed; unless others were asked for."""
        if not self.only and name not in self.passed + self.failed:
            self.failed.append(name)

    def __call__(self, name, function):
        """Run one check; it fails by returning complaints, or by raising."""
        if self.only and not any(word in name for word in self.only):
            return
        start = time.monotonic()
        if self.until and start > self.until:
            self.left_out.append(name)
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(sys.stdout if sys.stdout.isatty() else said):
                complaints = self.limited(function) or []
        except common.Fail as e:
            complaints = [str(e)]
        except TimeUp:
            self.left_out.append(name + " (stopped)")
            return
        except Exception:
            complaints = traceback.format_exc().strip().split("\n")
        seconds = time.monotonic() - start
        (self.failed if complaints else self.passed).append(name)
        say("%s %s  %.0f s" % ("not ok" if complaints else "ok    ", name, seconds))
        for line in complaints:
            say("       " + line)
        # In a log what passed is a line, and what it says of itself in as many columns.
        for line in said.getvalue().split("\n"):
            if complaints or re.match(r" {7}\S|NOTE:", line):
                say(line)


def arguments(**changes):
    """The arguments of a run with the defaults, whatever the environment says."""
    values = dict(base="6.12", arch="x86_64", pages=None, series="1", mutant=None,
                  debug=common.DEBUG_DEFAULT, linux=None, tests="", smp=2, mem=1024, det=False)
    values.update(changes)
    return types.SimpleNamespace(**values)


def unit_tests(name):
    got = common.run([sys.executable, os.path.join(SCRIPTS, "tests", name)], timeout=300)
    ran = re.search(r"^Ran (\d+) tests", got.stdout, re.M)
    if got.returncode == 0 and ran and int(ran.group(1)):
        return []
    return got.stdout.strip().split("\n")[-15:]


def shell_scripts():
    got = common.run(["shellcheck"] + glob.glob(os.path.join(SCRIPTS, "*.sh")) +
                     [os.path.join(TOP, ".ci", "run")])
    return got.stdout.strip().split("\n") if got.returncode else []


def python_scripts():
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in glob.glob(os.path.join(SCRIPTS, "*.py")) + \
                glob.glob(os.path.join(SCRIPTS, "tests", "*.py")):
            try:
                py_compile.compile(path, cfile=os.path.join(scratch, "c"), doraise=True)
            except py_compile.PyCompileError as e:
                bad.append(str(e).strip().split("\n")[-1])
    return bad


def help_names_everything():
    """Every verb and variable of the Makefile is in make help."""
    shown = common.run([os.path.join(SCRIPTS, "help.sh")]).stdout
    with open(os.path.join(TOP, "Makefile")) as f:
        text = f.read()
    verbs = re.findall(r"^([a-z]+):", text, re.M)
    variables = " ".join(re.findall(r"^export (.*)$", text, re.M)).split()
    programs = set(re.findall(r"@(scripts/\S+)", text))
    return ["make help does not know %s" % w for w in verbs + variables
            if w != "help" and not re.search(r"^  %s +\S" % re.escape(w), shown, re.M)] + \
        ["%s cannot be executed" % p for p in sorted(programs)
         if not os.access(os.path.join(TOP, p), os.X_OK)]


def checkpatch(source, ignore, words):
    got = common.run(["perl", os.path.join(source.path, "scripts/checkpatch.pl"), "--strict",
                      "--no-tree", "--root=" + source.path, "--quiet", "--terse", "--show-types",
                      "--ignore", ignore] + words)
    return [line for line in got.stdout.strip().split("\n") if line] if got.returncode else []


def style_of_patches(source, kernel):
    bad = []
    for patch in kernel.patches:
        bad += checkpatch(source, PATCH_IGNORE, [patch])
        text = common.file_bytes(patch).decode()
        if "\nSigned-off-by:" in text:
            bad.append("%s is signed off: only the sender does that" % os.path.basename(patch))
    return bad


def style_of_c(source):
    def files(*patterns):
        return sorted(f for p in patterns for f in glob.glob(os.path.join(TOP, p)))
    return checkpatch(source, KERNEL_C_IGNORE, ["-f"] + files(
        "kmod/*.[ch]", "kunit/*.[ch]", "kunit/*/*.[ch]", "patches/bench/*.[ch]")) + \
        checkpatch(source, USER_C_IGNORE, ["-f"] + files("selftests/*.[ch]", "scripts/guest/*.c"))


def git_am(source, kernel):
    """The complete series, as it is written out, makes of the base what make run builds."""
    wanted = ["selftests/mm/deferred_split/deferred_split_unmap.c"] + \
        (["mm/tests/deferred_split_kunit.c"] if kernel.has_kunit else [])
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        out, tree, stage = (os.path.join(scratch, name) for name in ("out", "tree", "stage"))
        names = series.write_series(kernel, source, out)
        patches = [os.path.join(out, n) for n in names]
        text = "".join(common.file_bytes(p).decode() for p in patches)
        os.mkdir(tree)
        os.mkdir(stage)
        files = build.prepare.stage_all(kernel, source, stage)
        series.base_files(source, files, tree)
        series.must(tree, "am", "-q", "--empty=drop", *patches)
        tracked = series.must(tree, "ls-files").split()
        if sorted(tracked) != sorted(n for n in files if os.path.exists(os.path.join(stage, n))):
            bad.append("git am makes other files than the kit: %s" % " ".join(
                set(tracked) ^ set(files)))
        bad += ["%s: not what the kit builds, to the byte" % n for n in tracked
                if not os.path.exists(os.path.join(stage, n)) or
                common.file_bytes(os.path.join(tree, n)) !=
                common.file_bytes(os.path.join(stage, n))]
    # And the cover letter.
    if len(names) != len(kernel.patches) + len(wanted) + 1:
        bad.append("expected %d patches: %s" % (len(kernel.patches) + len(wanted),
                                                " ".join(names)))
    bad += ["%s is in none of the patches" % path for path in wanted if path not in text]
    return bad


def objects(kernel, source, *words):
    """What make says of the files that the series touches, in a kernel of one's own."""
    names = {n[:-2] + ".o" for p in common.series_patches(kernel.base)
             for n in build.prepare.touched_files(p) if n.endswith(".c")}
    with build.slot_locked(kernel, source):
        ckey = build.config_key(kernel)
        tree = build.prepare.prepare(kernel, source, ckey)
        obj = os.path.join(tree, "obj")
        build.configure.configure(kernel, tree, obj, ckey)
        command, env = build.make_command(kernel, tree, obj)
        got = common.run(command + list(words) + sorted(names), env=env)
    if got.returncode:
        common.die("%s does not build: %s" % (kernel.label, next(
            (line for line in got.stdout.split("\n") if "error" in line), "see make build")))
    return got.stdout


def patches_build(source, base):
    """The files that the series touches build after each patch; make bisectable does more."""
    total = len(common.series_patches(base))
    return ["first-%d: %s" % (n, line) for n in range(1, total + 1)
            for line in objects(common.Kernel(arguments(base=base, series="first-%d" % n)),
                                source).split("\n") if re.search(r"\bwarning:", line)]


def odd_configurations(base):
    """mm/ builds without an option that the queue's code is written around: today's."""
    names = [name for name in configs.names() if name != configs.ALL]
    name = names[datetime.date.today().toordinal() % len(names)]
    say("       without %s" % name)
    return ["without %s: %s" % (name, line)
            for line in configs.one(arguments(base=base), name, ["mm/"])]


def sparse(source, base):
    """No sparse warning in a patched file that the stock file has not."""
    def warnings(kernel):
        # Debian 12's sparse does not know the operator that 7.3 uses.
        text = objects(kernel, source, "C=2", "CF=-D__typeof_unqual__=__typeof__")
        if "  CHECK " not in text:
            common.die("sparse did not run: %s" % text.strip().split("\n")[-1])
        # without the line numbers, which move
        return {re.sub(r":\d+:\d+:", ":", line) for line in text.split("\n")
                if re.search(r"(warning|error):", line)}
    new = warnings(common.Kernel(arguments(base=base))) - \
        warnings(common.Kernel(arguments(base=base, series="0")))
    return sorted(new)


def debug_options_stick(source):
    """Each debug option that is not a default configures, with every symbol set."""
    for arch in sorted(common.ARCHES):
        for name in ("kasan", "kcsan", "preempt_none"):
            debug = {"kasan": "kasan,list,vm", "kcsan": "kcsan,list,vm"}.get(
                name, common.DEBUG_DEFAULT + "," + name)
            kernel = common.Kernel(arguments(arch=arch, debug=debug))
            with build.slot_locked(kernel, source):
                ckey = build.config_key(kernel)
                tree = build.prepare.prepare(kernel, source, ckey)
                build.configure.configure(kernel, tree, os.path.join(tree, "obj"), ckey)


def litmus_arguments(base):
    return types.SimpleNamespace(base=base, linux=None, tests="")


def litmus_tests(base):
    """Each comes out as it says, by the memory model of the base's source."""
    rows, where = litmus.execute(litmus_arguments(base))
    say("       %d of %d pass, herd7 %s" % (sum(r["verdict"] == judge.PASS for r in rows),
                                          len(rows), rows[0].get("herd7", "none")))
    return ["%s: %s %s (%s)" % (r["test"], r["verdict"], r["detail"], where) for r in rows
            if r["verdict"] != judge.PASS]


def litmus_can_fail(source):
    """Wrong expectations, guards that guard nothing, and a wrong model are seen."""
    bad = []

    def planted(scratch, name, text):
        with open(os.path.join(scratch, name + ".litmus"), "w") as f:
            f.write(text)

    def must(scratch, verdict, words):
        rows, where = litmus.execute(litmus_arguments("6.12"), scratch)
        bad.extend("%s: %s %s, must be %s (%s)" % (r["test"], r["verdict"], r["detail"], words, where)
                   for r in rows if r["verdict"] != verdict or not re.search(words, r["detail"]))
        return len(rows)

    with tempfile.TemporaryDirectory() as scratch:
        must(scratch, judge.ERROR, "zero tests")
        # Each expectation is wrong now; guards would be out of place in some.
        tests = litmus.choose("", litmus.TESTS)[0]
        for test in tests:
            other = "Sometimes" if test.result == "Never" else "Never"
            planted(scratch, test.name, re.sub(
                "// guard.*", "", test.text.replace("Result: " + test.result, "Result: " + other, 1)))
        if must(scratch, judge.FAIL, "(Never|Sometimes), expected") != len(tests) or not tests:
            bad.append("not each test was judged with a wrong expectation")

    test = litmus.Test(os.path.join(litmus.TESTS, "unmap_is_lost+mbs.litmus"))
    idle = "int r1;\n\tint r2;\n"
    for text, verdict, words in (
            (test.text.replace(idle, idle.replace("\n", "\t// guard 3: int r1;\n", 1)),
             judge.FAIL, "without guard 3 it is Never"),
            (test.text.replace("// guard", "//"), judge.VACUOUS, "no guard"),
            (test.without("1").replace("// guard", "//"), judge.FAIL, "Sometimes, expected Never"),
            (test.text.replace("smp_mb()", "smp_nothing()"), judge.ERROR, "no result")):
        with tempfile.TemporaryDirectory() as scratch:
            planted(scratch, test.name, text)
            must(scratch, verdict, words)

    # A model whose barriers do nothing: its own tests say so.
    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(scratch, "memory-model")
        shutil.copytree(os.path.join(source.path, "tools/memory-model"), model)
        with open(os.path.join(model, "linux-kernel.def"), "r+") as f:
            text = re.sub(r"(?m)^smp_mb\(\).*", "smp_mb() { __fence{barrier}; }", f.read())
            f.seek(0)
            f.truncate()
            f.write(text)
        herd, verdict, reason = litmus.find_herd(model)
        if herd or verdict != judge.ERROR or "does not fit" not in reason:
            bad.append("a wrong model is not seen: %s %s" % (verdict, reason))
    return bad


def litmus_tests_missing(text):
    """The litmus tests that a text names and that are not there."""
    names = {test.name for test in litmus.choose("", litmus.TESTS)[0]}
    windows = "|".join(sorted({re.escape(name.split("+")[0]) for name in names}))
    return sorted(set(re.findall(r"\b(?:%s)\+[\w.-]*\w" % windows, text)) - names)


def litmus_names():
    """What the patches name in selftests/litmus is there."""
    bad = ["%s: there is no litmus test %s" % (os.path.relpath(path, TOP), name)
           for path in glob.glob(os.path.join(TOP, "patches", "**", "*"), recursive=True)
           if os.path.isfile(path)
           for name in litmus_tests_missing(common.file_bytes(path).decode())]
    if litmus_tests_missing("unmap_is_lost+locked, unmap_is_lost+nowhere.") != \
            ["unmap_is_lost+nowhere"]:
        bad.append("a name that is wrong is not seen")
    return bad


# On arm64, where all of it takes an hour: what does not hold somebody at each instruction.
ARM64_TESTS = "kunit conserve unmap_does_not_corrupt audit pause whole scan wait swapin"


def stock_against_series(arch, base, tests=""):
    rows_stock, rows_series, problems = compare.compare(
        arguments(arch=arch, base=base, tests=tests), common.Clock())
    return problems


# What the explorer must find by itself on stock 6.12: bug, where, what it says.
STOCK_FINDS = (
    ("B46", ("deferred_split_scan", "scan", "munmap-half", "queued"), "LOST", ""),
    ("B48", ("deferred_split_scan", "scan", "munmap-half", "queued"), "CORRUPT", ""),
    ("B39", ("__folio_migrate_mapping", "migrate", "scan", "queued"), "DROPPED", ""),
    ("B29", ("migrate_folio_move", "migrate", "scan", "underused"), "FORGOTTEN", ""),
    ("B28", ("migrate_folio_move", "migrate", "munmap-half", "queued"), "SPLAT",
     "partially_mapped"),
    ("B52", ("migrate_folio_move", "migrate", "munmap-half", "queued"), "UNMARKED", ""),
)
def explorer_finds_on(arch):
    """B46 and B48, in another architecture's instructions; nothing with the series.

    On the kernels that the tests ran on: with lockdep, so that no others are built.
    """
    import explore
    _, what, _, _ = STOCK_FINDS[0]
    bad = []
    for label in ("0", "1"):
        c = explore.Combination(*what)
        built, _ = explore.explore(arguments(arch=arch, series=label), [c])
        explore.show([c], built)
        missing = {w for _, where, w, _ in STOCK_FINDS if where == what} - {p[1] for p in c.red}
        if label == "0" and missing:
            bad.append("stock: %s is not found in %s" % (" ".join(sorted(missing)), c.name))
        if label == "1" and c.verdict != judge.PASS:
            bad.append("series: %s is %s" % (c.name, c.verdict))
    return bad


# Oracles that no kernel at hand turns red: a fault is planted for each.
PLANTED = dict.fromkeys(("AUDIT", "STUCK", "LEAK", "CONTENT", "HANG"),
                        ("deferred_split_folio", "munmap-half", "scan", "queued"))
PLANTED["NOEFFECT"] = ("deferred_split_scan", "scan", "munmap-half", "queued")


def torture_finds_what_is_planted():
    """Each kind of fault that torture looks for, put there, turns it red for that."""
    import torture
    bad = []
    for plant in torture.PLANTS:
        (row, *_), where = torture.torture(arguments(smp=4, time=8, seed=5, plant=plant),
                                          show=False)
        say("       %s: %s" % (plant, row["detail"]))
        # Taint the judge sees by itself, and says so first.
        wanted = "tainted (user)" if plant == "taint" else plant.upper() + ": "
        if row["verdict"] != judge.FAIL or wanted not in row["detail"]:
            bad.append("%s: %s %s (%s)" % (plant, row["verdict"], row["detail"], where))
    return bad


def torture_of_the_series(seconds=60):
    import torture
    rows, where = torture.torture(arguments(smp=4, time=seconds, plant=None,
                                            seed=int.from_bytes(os.urandom(4), "big")),
                                  show=False)
    say(judge.table(rows))
    return [] if judge.good(rows) else ["not green: %s" % where]


def explorer_arguments(**changes):
    import explore
    return arguments(debug=explore.DEBUG, **changes)


def explorer_finds():
    """The bugs of stock are found, each at its place, and none of them with the series.

    A schedule of each is replayed: red every time, the same to the byte.
    """
    import explore
    chosen = {}
    for _, what, _, _ in STOCK_FINDS:
        chosen.setdefault(what, explore.Combination(*what))
    stock, built = list(chosen.values()), None
    built, _ = explore.explore(explorer_arguments(series="0"), stock)
    explore.show(stock, built)
    bad, schedules = [], []
    for bug, what, word, detail in STOCK_FINDS:
        hits = [p for p in chosen[what].points if p[0] and p[1] == word and detail in p[2]]
        if hits:
            schedules.append((word, explore.schedule(chosen[what], hits[0][0], built)))
        else:
            bad.append("stock: %s is not found: no %s in %s" % (bug, word, chosen[what].name))
    series = [explore.Combination(*what) for what in chosen]
    # With the series the compiler may put the one into the other.
    series += [explore.Combination("migrate_pages_batch", *what[1:]) for what in chosen
               if what[0] == "migrate_folio_move"]
    series += [explore.Combination(*q) for q in explore.QUICK[1:]]
    built, _ = explore.explore(explorer_arguments(), series)
    explore.show(series, built)
    bad += ["series: %s is %s" % (c.name, c.verdict) for c in series
            if c.verdict != judge.PASS and
            not (c.verdict == judge.SKIP and c.victim == "migrate_folio_move")]
    for word, name in schedules[:2]:
        say("       " + name)
        outcomes, consoles = explore.replay(explorer_arguments(), name, 3)
        if set(outcomes) != {word}:
            bad.append("%s: %s" % (name, " ".join(outcomes)))
        if consoles != 1:
            bad.append("%s: %d different consoles" % (name, consoles))
    return bad


def explorer_can_fail():
    """Each of its oracles trips on a fault that is planted."""
    import explore
    bad = []
    for word, what in PLANTED.items():
        c = explore.Combination(*what)
        explore.explore(explorer_arguments(), [c], planted=word)
        if word not in [p[1] for p in c.points]:
            bad.append("%s planted, found: %s" % (word, sorted({p[1] for p in c.points})
                                                  or c.note or "nothing"))
    return bad


def calls(built, caller, callee):
    """From which to which offset of a function it comes to a call of another, by line."""
    import explore
    lines = explore.source_lines(built, caller)
    found = {}
    for offset, chain in lines.items():
        name, _, number = (chain or ["?"])[-1].partition(":")
        try:
            with open(os.path.join(built.source.path, name), errors="replace") as f:
                # The KUnit suite's hooks have moved lines by a few.
                at = int(number.split()[0])
                text = " ".join(f.read().split("\n")[max(at - 4, 0):at])
        except (OSError, ValueError, IndexError):
            continue
        if callee + "(" in text:
            found.setdefault(at, []).append(offset)
    hits = found[min(found)] if found else []
    return (min(hits), max(hits)) if hits else None


def freed_folios_are_written_to():
    """B51 takes two preemptions: stock writes to a freed page, the series does not."""
    import explore
    v, a, v2, o, s = next(p for p in explore.PAIRS if p[0] == "folios_put_refs")
    bad = []
    for label, seconds in (("0", 300), ("1", 30)):
        args = explorer_arguments(series=label)
        c = explore.Combination(v, a, o, s, v2)
        c.between = calls(build.Built(common.Kernel(args)), v, "folio_unqueue_deferred_split")
        if not c.between:
            return ["%s does not call folio_unqueue_deferred_split()" % v]
        built, _ = explore.explore(args, [c], seconds=seconds, first_red=("WRITTEN",))
        explore.show([c], built)
        found = {p[1] for p in c.red}
        if label == "0" and "WRITTEN" not in found:
            bad.append("stock: nobody writes to a folio that was freed: %s" % (found or c.note))
        if label == "1" and c.verdict != judge.PASS:
            bad.append("series: %s is %s" % (c.name, c.verdict))
    return bad


def migration_looks_too_early():
    """B49 in 7.3: a scan puts the source back after migration has looked, and before its freeze.

    What is queued while migration is held there, and on no queue afterwards, migration has
    forgotten. Stock's scan forgets some by itself, B54: they are not queued by then.
    """
    import explore
    v, a, v2, o, s = next(p for p in explore.PAIRS_7 if p[2] == "move_to_new_folio")
    bad = []
    for label, seconds in (("0", 60), ("1", 30)):
        c = explore.Combination(v, a, o, s, v2)
        built, _ = explore.explore(arguments(base="7.3", series=label), [c], seconds=seconds)
        explore.show([c], built)
        found = [p for p in c.red if p[1] == "FORGOTTEN" and "queued when" in p[2]]
        if label == "0" and not found:
            bad.append("stock: migration forgets nothing: %s" % (c.note or c.verdict))
        if label == "1" and c.verdict != judge.PASS:
            bad.append("series: %s is %s" % (c.name, c.verdict))
        if found:
            say("       " + explore.schedule(c, found[0][0], built))
    return bad


def two_preemptions_work():
    """Pairs are held both; stock is red, and nothing with the series."""
    import explore
    v, a, v2, o, s = explore.PAIRS[0]
    stock = explore.Combination(v, a, o, s, v2)
    wanted = ("LOST", "CORRUPT")
    built, _ = explore.explore(explorer_arguments(series="0"), [stock], seconds=240,
                               first_red=wanted)
    explore.show([stock], built)
    if not explore.is_enough(stock, None, wanted):
        return ["stock: neither LOST nor CORRUPT is found"]
    chosen = [explore.Combination(v, a, o, s, v2) for v, a, v2, o, s in explore.PAIRS[:1]]
    built, _ = explore.explore(explorer_arguments(), chosen, seconds=15)
    explore.show(chosen, built)
    return ["series: %s is %s" % (c.name, c.verdict) for c in chosen if c.verdict != judge.PASS] + \
        ["%s: nothing was tried" % c.name for c in chosen if not c.tried]


def mmtests_look():
    """What one of the kernel's own tests leaves behind is found: here it is planted."""
    import mmtests
    bad = []
    for plant, words in (("leak", "LEAK: "), ("marked", "AUDIT: ")):
        rows, where = mmtests.on_kernel(common.Kernel(arguments(series="0")),
                                        arguments(tests="transhuge"), plant=plant)
        bad += ["%s planted: %s is %s %s (%s)" % (plant, r["test"], r["verdict"], r["detail"],
                                                  where)
                for r in rows if r["verdict"] != judge.FAIL or words not in r["detail"]]
    return bad


# Always: a mutant of each kind that is quick. With them some that change with the date.
DOZEN = ("B21", "B22", "B24", "B29", "B39", "B41", "B46", "B48", "B52", "B53", "B54", "M06")
ROTATING = 4


def todays_mutants(base="6.12", day=None):
    """The dozen, and the next few of the others."""
    others = [name for name in sorted(common.mutants(base)) if name not in DOZEN]
    start = (day or datetime.date.today().toordinal()) * ROTATING
    return list(DOZEN) + [others[(start + n) % len(others)] for n in range(ROTATING)]


def style_of_mutants(source):
    """As the series; but history is prose, and speaks of commits that are not here."""
    patches = [p for base in sorted(common.bases()) for p in common.mutants(base).values()]
    # One after the other it takes minutes.
    return [line for line in checkpatch(source, PATCH_IGNORE +
                                        ",COMMIT_LOG_LONG_LINE,GIT_COMMIT_ID", patches)
            if " 0 errors, 0 warnings, 0 checks" not in line]


def style_of_variants(source, base):
    """Of the designs to measure against, and of what measures; see style_of_mutants()."""
    found = list(common.variants(base).values()) + \
        list(common.patches_below("bench", base).values())
    return [line for patch in found for line in checkpatch(
        source, PATCH_IGNORE + ",COMMIT_LOG_LONG_LINE,GIT_COMMIT_ID", [patch])]


def bench_is_complete():
    """A quick one measures everything; what it measures is not judged."""
    import bench
    args = bench_arguments()
    doc, rows, where = bench.bench(args)
    say("       %d rows" % len(doc["rows"]))
    with open(os.path.join(where, "bench.json")) as f:
        written = json.load(f)
    return ["%s: %s %s (%s)" % (r["test"], r["verdict"], r["detail"], where) for r in rows
            if r["verdict"] != judge.PASS] + \
        (["bench.json is not what was measured (%s)" % where] if written != doc else [])


def bench_sees_who_runs():
    """Variants that are not switched: that must be noticed."""
    import bench
    bad = []
    for only in ("scan", "ttu_sync"):       # after one that fails a guest runs no other
        _, rows, where = bench.bench(bench_arguments(plant=True, only=only))
        found = [r for r in rows if r["test"] == "bench/" + only]
        bad += ["%s: %s %s, must be FAIL (%s)" % (r["test"], r["verdict"], r["detail"], where)
                for r in found if r["verdict"] != judge.FAIL or "'s turn" not in r["detail"]]
        bad += [] if found else ["%s was not judged (%s)" % (only, where)]
    return bad


def bench_arguments(**changes):
    return arguments(**dict(dict(debug="", bench="quick", only="", plant=False, mem=0),
                            **changes))


def mutants_combine(base, source):
    """They apply, and the kernel for all of them is them: it dies if not."""
    import combine
    got = combine.combine(common.Kernel(arguments(base=base, mutant="all")), source)
    say("       %d in one kernel, %d on their own" % (len(got.names), len(got.alone)))
    return [] if got.names else ["there are none"]


def none_of_the_mutants():
    """With no mutant chosen, the kernel for all of them is the series."""
    rows, where = run.execute(arguments(mutant="all"))
    return ["%s: %s %s (%s)" % (r["test"], r["verdict"], r["detail"], where) for r in rows
            if r["verdict"] != compare.must_be("6.12", r["test"])]


def mutants_are_caught():
    """Each by everything that its header names."""
    import mutants
    names = todays_mutants()
    say("       " + " ".join(names))
    rows, bench = mutants.matrix(arguments(), mutants.find("6.12", names), named=True)
    return ["%s: %s (%s)" % (r.mutant.name if r.mutant else "none", r.verdict, bench.where)
            for r in rows if not r.good]


# Somebody else's: one that is wrong, one that is not.
THEIRS = (("X1-somebody-forgets.patch", "caught", "			if (!folio_trylock(folio)) {\n",
           "				__set_bit(i, &contended);\n", ""),
          ("X2-somebody-does-nothing.patch", "SURVIVED", "		unsigned long contended = 0;\n",
           "		unsigned int i;\n", "		unsigned int i = 0;\n"))


def somebody_elses_mutants(source):
    """A patch that is dropped in is built and judged; one that does no harm survives."""
    import mutants
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        series = os.path.join(scratch, "a")
        build.prepare.stage_patches(source, common.Kernel(arguments()).patches, series)
        path = "mm/huge_memory.c"
        text = common.file_bytes(os.path.join(series, path)).decode()
        for name, verdict, before, old, new in THEIRS:
            theirs = os.path.join(scratch, "b", path)
            os.makedirs(os.path.dirname(theirs), exist_ok=True)
            common.write_atomically(theirs, text.replace(before + old, before + new, 1))
            diff = common.run(["diff", "-u", "a/" + path, "b/" + path], cwd=scratch).stdout
            patch = os.path.join(scratch, name)
            common.write_atomically(patch, "Subject: a mutant\n---\n" + diff)
            rows, bench = mutants.matrix(arguments(tests="kunit"), mutants.choose("6.12", patch))
            if [r.verdict for r in rows] != [judge.PASS, verdict]:
                bad.append("%s: %s, must be %s (%s)" % (name, rows[-1].verdict, verdict,
                                                        bench.where))
    return bad


def mutants_are_listed():
    """Each is in a table of its base in patches/mutants/README.md, with a result."""
    import mutants
    text = common.file_bytes(mutants.README).decode()
    bad = []
    for base in sorted(common.bases()):
        tables = "".join(re.findall(r"<!-- make mutants: %s \w+ -->.*?<!-- end of" % re.escape(base),
                                    text, re.S))
        bad += ["%s %s is not in %s: make mutants BASE=%s" % (base, name, mutants.README, base)
                for name in common.mutants(base) if "\n| %s |" % name not in tables]
    return bad


def kunit_cases(base, least=60):
    """The names of the KUnit suite's cases on a base; dies if there are too few, or one twice."""
    text = common.file_bytes(os.path.join(TOP, "kunit/deferred_split_kunit.c")).decode()
    defined = {b: set(re.findall(r"^#define (\w+)", common.file_bytes(os.path.join(
        TOP, "kunit", b, "deferred_split_queue.h")).decode(), re.M)) for b in common.bases()}
    of_a_base = set().union(*defined.values())
    names, built = [], []
    for line in text.split("\n"):
        m = re.match(r"#if(n?)def (\w+)", line)
        if m:
            # What is neither base's is of the configuration, and on.
            built.append((m.group(2) in defined[base]) != bool(m.group(1))
                         or m.group(2) not in of_a_base)
        elif line.startswith("#else"):
            built[-1] = not built[-1]
        elif line.startswith("#endif"):
            built.pop()
        m = re.search(r"\bKUNIT_CASE(?:_PARAM)?\((\w+)", line)
        if m and all(built):
            names.append(m.group(1))
    twice = {n for n in names if names.count(n) > 1}
    if len(names) < least or twice:
        common.die("the KUnit suite has %d cases, %d are wanted; twice: %s"
                   % (len(names), least, " ".join(sorted(twice)) or "none"))
    return names


# Red on stock: the unmap does not wait for the lock, B49.
KUNIT_RED = ("a_thp_unmapped_when_a_scan_lets_go_of_it_is_not_lost",
             "migration_sees_that_a_scan_has_put_the_source_back")
# kunit.py's guest has one node. And CONFIG_MEMORY_FAILURE on x86 wants X86_MCE, but one
# .kunitconfig serves all architectures; the guest of make run has it.
NOT_BY_KUNIT_PY = ("a_memcg_has_a_queue_on_each_node",
                   "a_memcg_that_goes_offline_gives_up_the_queue_of_another_node",
                   "a_folio_with_a_poisoned_page_is_not_underused")


def kernels_own_kunit(source, base):
    """kunit.py passes on the series, with every case, and fails on stock: it can."""
    status, text = kunit.kunit(common.Kernel(arguments(base=base)), source, show=False)
    summary = re.findall(r"Testing complete\..*", text)
    say("       " + (summary[-1] if summary else "no summary"))
    bad = [] if status == 0 else [line for line in text.split("\n") if line][-15:]
    bad += ["kunit.py did not run %s" % name for name in kunit_cases(base)
            if not re.search(r"\[%s\] %s\b" % ("SKIPPED" if name in NOT_BY_KUNIT_PY
                                               else "PASSED", name), text)]
    status, text = kunit.kunit(common.Kernel(arguments(base=base, series="0")), source, show=False)
    red = KUNIT_RED[:1] if base == "6.12" else KUNIT_RED
    if status == 0 or any("[FAILED] %s" % name not in text for name in red):
        bad.append("kunit.py does not fail on stock")
    return bad


def kunit_with_one_cpu():
    """The suite's interleavings take two CPUs; with one it is no pass."""
    rows, where = run.execute(arguments(smp=1, tests="kunit/"))
    say(judge.table(rows))
    return [] if judge.overall(rows) == judge.VACUOUS else ["not VACUOUS: %s" % where]


def nothing_left_behind():
    """No QEMU of ours is running any more."""
    bad = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = common.file_bytes("/proc/%s/cmdline" % pid).decode(errors="replace")
        except OSError:
            continue
        if "qemu-system" in line and common.cache_dir() in line:
            bad.append("QEMU %s is still there" % pid)
    return bad


def warm_run_is_quick(limit=300):
    """With nothing changed, make run ends within its time."""
    start = time.monotonic()
    env = dict(os.environ)
    for name in ("BASE", "ARCH", "SERIES", "MUTANT", "DEBUG", "LINUX", "TESTS", "DET"):
        env.pop(name, None)
    got = subprocess.run(["make", "-C", TOP, "run"], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, env=env)
    seconds = time.monotonic() - start
    say("       " + "\n       ".join(got.stdout.strip().split("\n")[-2:]))
    bad = [] if got.returncode == 0 else ["make run exits %d" % got.returncode]
    # A figure, not a limit: the machines are noisy.
    if seconds > limit:
        say("       NOTE: %.0f s, meant to be %d s or less" % (seconds, limit))
    return bad


def rotated(things, day=None):
    """The same, beginning a third further each day."""
    day = datetime.date.today().toordinal() if day is None else day
    start = day * max(len(things) // 3, 1) % max(len(things), 1)
    return things[start:] + things[:start]


# Without this one nothing is checked.
FIRST = "6.12 x86_64: stock is red, the series is green"


def verb():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="only checks whose name contains one of these words")
    parser.add_argument("--minutes", type=int, default=os.environ.get("CHECK_MINUTES") or 0,
                        help="begin no other check after that, and stop the one that runs after a "
                        "quarter more (CHECK_MINUTES, 0: no limit)")
    args = parser.parse_args()
    check = Checks(args.only, args.minutes)

    check("tests of the judge", lambda: unit_tests("test_judge.py"))
    check("tests of what is set aside of KCSAN", lambda: unit_tests("test_races.py"))
    check("tests of the verbs", lambda: unit_tests("test_kit.py"))
    check("tests of the litmus judge", lambda: unit_tests("test_litmus.py"))
    check("tests of the bisection", lambda: unit_tests("test_bisect.py"))
    check("tests of the coverage", lambda: unit_tests("test_coverage.py"))
    check("tests of the report", lambda: unit_tests("test_report.py"))
    check("shellcheck", shell_scripts)
    check("python compiles", python_scripts)
    check("make help names everything", help_names_everything)

    sources = {}
    for base in sorted(common.bases()):
        kernel = common.Kernel(arguments(base=base))
        sources[base] = fetch.fetch(kernel)
        if not sources[base].pinned:
            say("NOTE: %s" % sources[base].description)
        check("%s: checkpatch of the series" % base,
              lambda: style_of_patches(sources[base], kernel))
        check("%s: the series applies with git am" % base, lambda: git_am(sources[base], kernel))
    source = sources[common.DEFAULT_BASE]
    check("checkpatch of the kit's C", lambda: style_of_c(source))
    check("litmus tests that the patches name", litmus_names)
    check("mutants: checkpatch", lambda: style_of_mutants(source))
    check("mutants: all are in the table", mutants_are_listed)
    for base in sorted(b for b in sources if common.mutants(b)):
        check("mutants: one kernel for all of %s is made of them" % base,
              lambda: mutants_combine(base, sources[base]))
    for base in sorted(common.bases()):
        check("%s: checkpatch of the variants" % base,
              lambda: style_of_variants(sources[base], base))
    check("debug options stick", lambda: debug_options_stick(source))

    # What matters most comes first: there may be a limit.
    check(FIRST, lambda: stock_against_series("x86_64", "6.12"))
    check("the explorer finds what it must, and replays it", explorer_finds)
    check("kunit.py passes on the series and fails on stock",
          lambda: kernels_own_kunit(source, "6.12"))
    check("mutants: with none of them it is green", none_of_the_mutants)
    check("mutants: those of today are caught", mutants_are_caught)
    rest = []

    def later(name, function):
        rest.append((name, function))

    later("litmus tests, the model of 6.12", lambda: litmus_tests("6.12"))
    later("6.12: each patch builds", lambda: patches_build(source, "6.12"))
    later("6.12: sparse", lambda: sparse(source, "6.12"))
    later("7.3 x86_64: stock is red, the series is green",
          lambda: stock_against_series("x86_64", "7.3"))
    later("7.3: kunit.py passes on the series and fails on stock",
          lambda: kernels_own_kunit(sources["7.3"], "7.3"))
    later("7.3: two preemptions: migration looks too early", migration_looks_too_early)
    later("6.12 arm64: stock is red, the series is green",
          lambda: stock_against_series("arm64", "6.12", ARM64_TESTS))
    later("6.12 arm64: the explorer finds what it must", lambda: explorer_finds_on("arm64"))
    later("the explorer's oracles can fail", explorer_can_fail)
    later("two preemptions", two_preemptions_work)
    later("two preemptions: a freed folio", freed_folios_are_written_to)
    later("torture finds what is planted", torture_finds_what_is_planted)
    later("torture of the series", torture_of_the_series)
    later("mmtests: what is left behind is found", mmtests_look)
    later("the KUnit suite with one CPU is no pass", kunit_with_one_cpu)
    later("mutants: somebody else's is judged", lambda: somebody_elses_mutants(source))
    later("the litmus tests can fail", lambda: litmus_can_fail(source))
    later("litmus tests, the model of 7.3", lambda: litmus_tests("7.3"))
    later("7.3: each patch builds", lambda: patches_build(sources["7.3"], "7.3"))
    later("7.3: sparse", lambda: sparse(sources["7.3"], "7.3"))
    for base in sorted(sources):
        later("%s: an odd configuration builds" % base, lambda base=base: odd_configurations(base))
    later("bench: all is measured", bench_is_complete)
    later("bench: a variant that does not run is noticed", bench_sees_who_runs)
    # What there is no time for today comes first on another day.
    for name, function in rotated(rest):
        check(name, function)
    check("make run once more", warm_run_is_quick)
    check("no QEMU is left behind", nothing_left_behind)

    if check.left_out:
        say("not run, no time left: %s" % ", ".join(check.left_out))
    check.must_have_run(FIRST)
    if check.failed:
        say("failed: %s" % ", ".join(check.failed))
    say("%d passed, %d failed" % (len(check.passed), len(check.failed)))
    return 1 if check.failed or not check.passed else 0


if __name__ == "__main__":
    common.main(verb)
