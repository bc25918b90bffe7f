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
import glob
import os
import py_compile
import re
import subprocess
import sys
import tempfile
import time
import types

import build
import common
import compare
import fetch
import judge
import kunit
import run
import series
from common import SCRIPTS, TOP, say

# What checkpatch cannot know: the sender signs off; commits of a tree that is not
# here; and in user space there is no kstrtoul() and no __printf().
PATCH_IGNORE = "MISSING_SIGN_OFF,UNKNOWN_COMMIT_ID"
KERNEL_C_IGNORE = "FILE_PATH_CHANGES,AVOID_EXTERNS"
USER_C_IGNORE = KERNEL_C_IGNORE + ",SSCANF_TO_KSTRTO,SPLIT_STRING,SPACING," \
    "PREFER_DEFINED_ATTRIBUTE_MACRO,STATIC_CONST_CHAR_ARRAY,PREFER_KERNEL_TYPES"


class Checks:
    def __init__(self, only):
        self.only = only
        self.passed, self.failed = [], []

    def __call__(self, name, function):
        """Run one check; it fails by returning complaints, or by raising."""
        if self.only and not any(word in name for word in self.only):
            return
        start = time.monotonic()
        try:
            complaints = function() or []
        except common.Fail as e:
            complaints = [str(e)]
        seconds = time.monotonic() - start
        (self.failed if complaints else self.passed).append(name)
        say("%s %s  %.0f s" % ("not ok" if complaints else "ok    ", name, seconds))
        for line in complaints:
            say("       " + line)


def arguments(**changes):
    """The arguments of a run with the defaults, whatever the environment says."""
    values = dict(base="6.12", arch="x86_64", series="1", mutant=None,
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
    return ["make help does not know %s" % w for w in verbs + variables
            if w != "help" and not re.search(r"^  %s +\S" % re.escape(w), shown, re.M)]


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
    return checkpatch(source, KERNEL_C_IGNORE, ["-f"] + files("kmod/*.[ch]", "kunit/*.c")) + \
        checkpatch(source, USER_C_IGNORE, ["-f"] + files("selftests/*.[ch]", "scripts/guest/*.c"))


def git_am(source, kernel):
    """The complete series applies with git am, and holds the tests."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "out")
        names = series.write_series(kernel, source, out)
        text = "".join(common.file_bytes(os.path.join(out, n)).decode() for n in names)
    bad = []
    if len([n for n in names if n.endswith(".patch")]) != len(kernel.patches) + 2:
        bad.append("expected %d patches: %s" % (len(kernel.patches) + 2, " ".join(names)))
    for path in ("mm/tests/deferred_split_kunit.c",
                 "selftests/mm/deferred_split/deferred_split_unmap.c"):
        if path not in text:
            bad.append("%s is in none of the patches" % path)
    return bad


def patches_build(source):
    """Each patch builds after the ones before it."""
    kernel = common.Kernel(arguments())
    for n in range(1, len(kernel.patches)):
        build.build_kernel(common.Kernel(arguments(series="first-%d" % n)), source)
    build.build_kernel(kernel, source)


def sparse(source):
    """No sparse warning in a patched file that the stock file has not."""
    def warnings(kernel):
        names = sorted(n for p in common.Kernel(arguments()).patches
                       for n in build.prepare.touched_files(p) if n.endswith(".c"))
        with build.slot_locked(kernel, source):
            ckey = build.config_key(kernel)
            tree = build.prepare.prepare(kernel, source, ckey)
            obj = os.path.join(tree, "obj")
            build.configure.configure(kernel, tree, obj, ckey)
            command, env = build.make_command(kernel, tree, obj)
            got = common.run(command + ["C=2"] + sorted({n[:-2] + ".o" for n in names}), env=env)
        if got.returncode or "  CHECK " not in got.stdout:
            common.die("sparse did not run: %s" % got.stdout.strip().split("\n")[-1])
        # without the line numbers, which move
        return {re.sub(r":\d+:\d+:", ":", line) for line in got.stdout.split("\n")
                if re.search(r"(warning|error):", line)}
    new = warnings(common.Kernel(arguments())) - warnings(common.Kernel(arguments(series="0")))
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


def stock_against_series(arch):
    rows_stock, rows_series, problems = compare.compare(arguments(arch=arch), common.Clock())
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
        hits = [p for p in chosen[what].points if p[1] == word and detail in p[2]]
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


def two_preemptions_work():
    """Pairs are held both; stock is red, and nothing with the series."""
    import explore
    v, a, v2, o, s = explore.PAIRS[0]
    stock = explore.Combination(v, a, o, s, v2)
    built, _ = explore.explore(explorer_arguments(series="0"), [stock], seconds=30)
    explore.show([stock], built)
    missing = {"LOST", "CORRUPT"} - {p[1] for p in stock.red}
    if missing == {"LOST", "CORRUPT"}:
        return ["stock: neither LOST nor CORRUPT is found"]
    chosen = [explore.Combination(v, a, o, s, v2) for v, a, v2, o, s in explore.PAIRS[:1]]
    built, _ = explore.explore(explorer_arguments(), chosen, seconds=15)
    explore.show(chosen, built)
    return ["series: %s is %s" % (c.name, c.verdict) for c in chosen if c.verdict != judge.PASS] + \
        ["%s: nothing was tried" % c.name for c in chosen if not c.tried]


def mutant_expectations(patch):
    """The 'Red: TEST WORDS' lines of a mutant's header."""
    text = common.file_bytes(patch).decode().split("\n---\n")[0]
    return dict(re.findall(r"^Red: (\S+) (.+)$", text, re.M))


def mutant_is_caught(name):
    args = arguments(mutant=name)
    expected = mutant_expectations(common.Kernel(args).patches[-1])
    if not expected:
        return ["its header has no 'Red:' line"]
    args.tests = " ".join(expected)
    rows, where = run.execute(args)
    say(judge.table(rows))
    return ["%s: %s (%s)" % (test, why, where)
            for test, why in compare.check_red(rows, expected)]


def kernels_own_kunit(source):
    """kunit.py passes on the series, and fails on stock: it can."""
    status, text = kunit.kunit(common.Kernel(arguments()), source, show=False)
    summary = re.findall(r"Testing complete\..*", text)
    say("       " + (summary[-1] if summary else "no summary"))
    bad = [] if status == 0 else [line for line in text.split("\n") if line][-15:]
    status, text = kunit.kunit(common.Kernel(arguments(series="0")), source, show=False)
    if status == 0 or "[FAILED] a_held_folio_is_not_queued_nor_counted" not in text:
        bad.append("kunit.py does not fail on stock")
    return bad


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


def warm_run_is_quick(limit=60):
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


def verb():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="only checks whose name contains one of these words")
    args = parser.parse_args()
    check = Checks(args.only)

    check("tests of the judge", lambda: unit_tests("test_judge.py"))
    check("tests of the verbs", lambda: unit_tests("test_kit.py"))
    check("shellcheck", shell_scripts)
    check("python compiles", python_scripts)
    check("make help names everything", help_names_everything)

    kernel = common.Kernel(arguments())
    source = fetch.fetch(kernel)
    if not source.pinned:
        say("NOTE: %s" % source.description)
    check("checkpatch of the series", lambda: style_of_patches(source, kernel))
    check("checkpatch of the kit's C", lambda: style_of_c(source))
    check("the series applies with git am", lambda: git_am(source, kernel))
    check("debug options stick", lambda: debug_options_stick(source))
    check("each patch builds", lambda: patches_build(source))
    check("sparse", lambda: sparse(source))
    for arch in sorted(common.ARCHES, reverse=True):
        check("%s: stock is red, the series is green" % arch, lambda: stock_against_series(arch))
    check("the explorer finds what it must, and replays it", explorer_finds)
    check("the explorer's oracles can fail", explorer_can_fail)
    check("two preemptions", two_preemptions_work)
    check("torture finds what is planted", torture_finds_what_is_planted)
    check("torture of the series", torture_of_the_series)
    for name in sorted(os.listdir(os.path.join(TOP, "patches/mutants/6.12"))):
        check("mutant %s is caught" % name.split("-")[0],
              lambda: mutant_is_caught(name.split("-")[0]))
    check("kunit.py passes on the series and fails on stock", lambda: kernels_own_kunit(source))
    check("make run once more", warm_run_is_quick)
    check("no QEMU is left behind", nothing_left_behind)

    if check.failed:
        say("failed: %s" % ", ".join(check.failed))
    say("%d passed, %d failed" % (len(check.passed), len(check.failed)))
    return 1 if check.failed or not check.passed else 0


if __name__ == "__main__":
    common.main(verb)
