#!/usr/bin/env python3
"""Judge the litmus tests in selftests/litmus with herd7 and the kernel's memory model.

The model is tools/memory-model of the base's own source (BASE, LINUX); tests that
are written in the instructions of a machine are judged by herd7's model of that
machine. Each file says in its first comment

  Result: Never|Sometimes|Always [DATARACE]   what herd7 must find
  Result-SC: Never                            and without any reordering
  Fixed-by: TEST ...                          the same race, closed: must be Never

and a line of the code that ends in '// guard N' is one that the result rests on.
A Never is checked once more without each guard (or with what stands behind a colon
there in place of the line), and must then not be Never. The model's own tests are
judged first: they tell whether this herd7 fits this model.

herd7 is the one on PATH, or is installed where the distribution has it, or it is
taken from a newer suite and unpacked into the cache: see scripts/sources.

Exit status: 0 all pass, 1 not, 2 cannot start, 4 skipped.
"""
import argparse
import collections
import concurrent.futures
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import types

import common
import fetch
import judge
import run
from common import TOP, die, say

TESTS = os.path.join(TOP, "selftests", "litmus")
LIMIT = 120         # seconds for one run of herd7; the longest take three
WORDS = ("Never", "Sometimes", "Always")


class Test:
    """A litmus test: what its file says."""

    def __init__(self, path):
        self.path = path
        self.text = common.file_bytes(path).decode(errors="replace")
        first = self.text.split("\n", 1)[0].split()
        self.arch, self.name = (first + ["", ""])[:2]
        self.problem = self._read(os.path.basename(path)[:-len(".litmus")])

    def _read(self, stem):
        """Fill in what the file says; returns what is wrong with it, if something is."""
        comment = re.search(r"\(\*(.*?)\*\)", self.text, re.S)
        tags = re.findall(r"^ \* (Result|Result-SC|Fixed-by): (.*)$",
                          comment.group(1) if comment else "", re.M)
        self.fixed_by = [w for tag, words in tags if tag == "Fixed-by" for w in words.split()]
        results = [words.split() for tag, words in tags if tag == "Result"]
        under_sc = [words.split() for tag, words in tags if tag == "Result-SC"]
        self.result, self.race, self.under_sc = None, False, None
        if self.name != stem:
            return "it calls itself '%s'" % self.name
        if len(results) != 1 or not results[0] or results[0][0] not in WORDS or \
                results[0][1:] not in ([], ["DATARACE"]):
            return "its comment has no 'Result: Never', 'Sometimes' or 'Always'"
        self.result, self.race = results[0][0], results[0][1:] == ["DATARACE"]
        if under_sc:
            if len(under_sc) != 1 or under_sc[0] not in [[w] for w in WORDS] or self.is_c:
                return "its Result-SC is not one of %s, or it is not in machine code" \
                    % " ".join(WORDS)
            self.under_sc = under_sc[0][0]
        if self.guards() and self.result != "Never":
            return "it has a guard, and is %s without its loss" % self.result
        return None

    @property
    def is_c(self):
        return self.arch == "C"

    @property
    def condition(self):
        """What is looked for, the debug aids and comments aside."""
        found = re.search(r"^(?:exists|forall|~exists)\b.*", self.text, re.M | re.S)
        return re.sub(r"\(\*.*?\*\)|\s+", " ", found.group(0), flags=re.S).strip() if found else ""

    def guards(self):
        return sorted(set(re.findall(r"// guard (\d+)\b", self.text)), key=int)

    def without(self, guard):
        """The text with one guard removed, or replaced by what stands behind its colon."""
        return re.sub(r"^.*// guard %s\b(?::[ \t]*(.*))?\n" % guard,
                      lambda m: m.group(1) + "\n" if m.group(1) else "", self.text, flags=re.M)


def read_output(name, text):
    """What herd7 found: (word, positive, negative, data race); dies if it says nothing."""
    found = re.findall(r"^Observation (\S+) (Never|Sometimes|Always) (\d+) (\d+)$", text, re.M)
    if len(found) != 1 or found[0][0] != name:
        said = [line for line in text.split("\n") if line.strip()]
        error = [line for line in said if re.search(r"error|Warning|Fatal", line)]
        die("herd7 came to no result: %s" % (error or said[-1:] or ["no output"])[0])
    _, word, positive, negative = found[0]
    return word, int(positive), int(negative), bool(re.search(r"^Flag data-race$", text, re.M))


def compare(result, race, output):
    """Verdict and detail of one output against what was expected of it."""
    word, positive, negative, raced = output
    if not positive + negative:
        return judge.VACUOUS, "no execution at all: it deadlocks, or contradicts itself"
    if word != result:
        return judge.FAIL, "%s, expected %s" % (word, result)
    if raced != race:
        return judge.FAIL, "a data race" if raced else "no data race, expected one"
    return judge.PASS, ""


class Herd:
    """A herd7 that runs here."""

    def __init__(self, command, note=""):
        self.command, self.note = command, note
        try:
            got = common.run(command + ["-version"], timeout=60)
        except (OSError, subprocess.TimeoutExpired) as e:
            die("herd7 does not run here (%s)" % e)
        if got.returncode or not re.match(r"\d", got.stdout):
            die("herd7 does not run here (%s)" % (got.stdout.strip().split("\n")[-1] or
                                                  "status %d" % got.returncode))
        self.version = got.stdout.split(",")[0].strip()

    def line(self, test, path, sc=False):
        """The command for one file, to be run in the directory of the model."""
        return self.command + (["-conf", "linux-kernel.cfg"] if test.is_c else
                               ["-model", "sc.cat"] if sc else []) + [path]

    def run(self, model, test, path, sc=False):
        """Returns the output, with the command on top."""
        command = self.line(test, path, sc)
        try:
            got = common.run(command, cwd=model, timeout=LIMIT,
                             env=dict(os.environ, LC_ALL="C"))
        except subprocess.TimeoutExpired:
            die("herd7 came to no result in %d s" % LIMIT)
        return "$ %s\n%s" % (" ".join(map(shlex.quote, command)), got.stdout)


def unpacked(pins):
    """The directory with the programs and libraries, which come if they are not in the
    cache, and a note if they are not the pinned ones."""
    def where(packages):
        return os.path.join(common.cache_dir("herd7"), common.digest(*packages)[:16])

    def note(packages):
        other = ["%s %s" % (w[0], w[2]) for w, p in zip(packages, pins) if w != p]
        return "not the pinned herd7: %s" % " ".join(other) if other else ""

    if os.path.isdir(where(pins)):
        return where(pins), ""
    for old in sorted(glob.glob(os.path.join(common.cache_dir("herd7"), "*", "packages"))):
        return os.path.dirname(old), note([tuple(p) for p in json.loads(common.file_bytes(old))])

    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            die("herd7 is not installed, and there is no %s to get it" % tool)
    suite = fetch.Suite(pins[0][1])
    updated = suite.update()
    offered = [suite.versions(package) for package, _, _, _ in pins]
    if not all(offered):
        die("%s has no herdtools7 (%s)" % (suite.name, fetch.errors(updated)))
    wanted = [pin if pin[2:] in versions else pin[:2] + versions[0]
              for pin, versions in zip(pins, offered)]
    if wanted != pins:
        say("litmus: NOTE: %s" % note(wanted))
    common.need_space(0.5, "herd7")
    tmp = where(wanted) + ".%d.tmp" % os.getpid()
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    try:
        for package, _, version, sha256 in wanted:
            deb = suite.download(package, version, sha256, wanted == pins)
            # Of herdtools7 what runs herd7, of the others the libraries.
            names = ["./usr/bin/herd7", "./usr/share/herdtools7/herd"] \
                if package == "herdtools7" else ["./usr/lib"]
            fetch.extract(deb, names, tmp)
            os.unlink(deb)
        common.write_atomically(os.path.join(tmp, "packages"), json.dumps(wanted))
        os.rename(tmp, where(wanted))
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return where(wanted), note(wanted)


def from_newer_suite():
    """herd7 of a newer suite, run by that suite's own loader and libraries."""
    arch = common.ARCHES.get(common.host_arch(), {}).get("debian", common.host_arch())
    pins = common.programs("herd7/" + arch)
    if not pins:
        die("scripts/sources has no herd7 for %s" % arch)
    with common.lock(os.path.join(common.cache_dir(), "fetch.lock")):
        where, note = unpacked(pins)
    loader = glob.glob(os.path.join(where, "usr/lib/*/ld-linux*.so.*"))
    if len(loader) != 1:
        die("no loader in %s" % where, "remove it and try again")
    return Herd([loader[0], "--library-path", os.path.dirname(loader[0]),
                 os.path.join(where, "usr/bin/herd7"),
                 "-set-libdir", os.path.join(where, "usr/share/herdtools7/herd")], note)


def from_distribution():
    """herd7 of the machine's own suites, installed."""
    if shutil.which("herd7"):
        return Herd(["herd7"])
    if not shutil.which("apt-get"):
        die("herd7 is not installed, and there is no apt-get to get it")
    suite = fetch.Suite("-")
    if not suite.versions("libc6"):
        suite.update()              # it has no package lists yet
    if not suite.versions("herdtools7"):
        die("the distribution has no herdtools7")
    say("litmus: installing herdtools7")
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    got = fetch.apt(*become, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y",
                    "--no-install-recommends", "herdtools7")
    if got.returncode or not shutil.which("herd7"):
        die("cannot install herdtools7 (%s)" % fetch.errors(got.stdout))
    return Herd(["herd7"])


def run_all(jobs):
    """Run functions side by side: their results, or what they died of, in order."""
    def guarded(job):
        try:
            return job()
        except common.Fail as e:
            return e
    with concurrent.futures.ThreadPoolExecutor(common.jobs()) as pool:
        return list(pool.map(guarded, jobs))


def control(herd, model):
    """The model's own tests: complaints where herd7 finds something else than they say."""
    tests = [t for t in map(Test, sorted(glob.glob(os.path.join(model, "litmus-tests",
                                                                 "*.litmus"))))
             if t.result]
    if not tests:
        return ["%s has no litmus tests" % model]

    def one(test):
        return compare(test.result, test.race,
                       read_output(test.name, herd.run(model, test, test.path)))[1]
    return ["%s: %s" % (t.name, said) for t, said in
            zip(tests, run_all([lambda t=t: one(t) for t in tests])) if str(said)]


def find_herd(model, ways=(from_distribution, from_newer_suite)):
    """A herd7 that fits the model, and why there is none: (herd, verdict, reason)."""
    reasons, verdict = [], judge.SKIP
    for way in ways:
        try:
            herd = way()
        except common.Fail as e:
            reasons.append(str(e).split(" - ")[0])
            continue
        bad = control(herd, model)
        if not bad:
            return herd, judge.PASS, ""
        reasons.append("herd7 %s does not fit the model: of its own tests %d come out wrong, "
                       "first %s" % (herd.version, len(bad), bad[0]))
        verdict = judge.ERROR
    return None, verdict, "; ".join(reasons)


def judge_test(test, herd, model, keep):
    """Verdict, detail and what was seen, of one test by itself."""
    if test.problem:
        return judge.ERROR, test.problem, ""

    def output(name, path, sc=False):
        text = herd.run(model, test, path, sc)
        common.write_atomically(os.path.join(keep, name + ".out"), text)
        return read_output(test.name, text)

    found = output(test.name, test.path)
    seen = "%s, %d of %d" % (found[0], found[1], found[1] + found[2])
    verdict, detail = compare(test.result, test.race, found)
    if verdict != judge.PASS:
        return verdict, detail, seen
    if test.under_sc:
        word = output(test.name + ".sc", test.path, sc=True)[0]
        if word != test.under_sc:
            return judge.FAIL, "without reordering it is %s, expected %s" \
                % (word, test.under_sc), seen
        seen += "; without reordering " + word
    needed = 0
    for guard in test.guards():
        name = "%s.without-%s" % (test.name, guard)
        path = os.path.join(keep, name + ".litmus")
        common.write_atomically(path, test.without(guard))
        if output(name, path)[0] == "Never":
            return judge.FAIL, "without guard %s it is Never as well: what does that guard?" \
                % guard, seen
        needed += 1
    if needed:
        seen += "; %d of %d guards needed" % (needed, needed)
    return judge.PASS, "", seen


def judge_pairs(tests, rows, everything):
    """What tests say about each other. Changes rows."""
    known = {t.name: t for t in everything}
    by_name = {r["test"]: r for r in rows}
    shown = collections.defaultdict(set)
    for t in everything:
        for name in t.fixed_by:
            shown[name].add(t.condition)
    for test in tests:
        row = by_name["litmus/" + test.name]
        if row["verdict"] != judge.PASS:
            continue
        for name in test.fixed_by:
            other = known.get(name)
            if other is None or other.problem or other.result != "Never":
                row.update(verdict=judge.ERROR, detail="Fixed-by: %s is %s" % (
                    name, "no test" if other is None else other.problem or other.result))
            elif by_name.get("litmus/" + name, row)["verdict"] != judge.PASS:
                row.update(verdict=judge.FAIL, detail="Fixed-by: %s does not pass" % name)
        if test.result != "Never" and not test.fixed_by:
            row.update(verdict=judge.ERROR, detail="it is broken, and has no 'Fixed-by:'")
        if test.result == "Never" and not test.guards() and \
                test.condition not in shown[test.name]:
            # Never is also what a test says that looks for the impossible.
            row.update(verdict=judge.VACUOUS, detail="it has no guard, and no test that it "
                       "is Fixed-by for looks for the same")


def model_of(source):
    model = os.path.join(source.path, "tools/memory-model")
    for name in ("cfg", "bell", "cat", "def"):
        if not os.path.exists(os.path.join(model, "linux-kernel." + name)):
            die("%s has no tools/memory-model/linux-kernel.%s" % (source.path, name),
                "give a whole kernel tree")
    return model


def choose(wanted, where):
    everything = [Test(path) for path in sorted(glob.glob(os.path.join(where, "*.litmus")))]
    words = (wanted or "").replace(",", " ").split()
    for word in words:
        if not any(word in "litmus/" + t.name for t in everything):
            die("no litmus test is called '%s'" % word, "they are in selftests/litmus")
    return everything, [t for t in everything
                        if not words or any(w in "litmus/" + t.name for w in words)]


def execute(args, where=TESTS, ways=(from_distribution, from_newer_suite)):
    """make litmus: returns (rows, run directory)."""
    kernel = common.Kernel(types.SimpleNamespace(
        base=args.base, arch=common.host_arch(), series="0", mutant=None, debug="",
        linux=args.linux))
    everything, tests = choose(args.tests, where)
    source = fetch.fetch(kernel)
    model = model_of(source)
    herd, verdict, reason = find_herd(model, ways)
    keep = run.new_run_dir("litmus-" + kernel.base)
    base = {"base": kernel.base, "source": source.description, "run": keep, "seconds": 0.0,
            "model": "no herd7"}
    if herd is None or not tests:
        rows = [dict(base, test="litmus", verdict=verdict if herd is None else judge.ERROR,
                     detail=reason if herd is None else "zero tests in %s" % where)]
    else:
        def one(test):
            start = time.monotonic()
            try:
                verdict, detail, seen = judge_test(test, herd, model, keep)
            except common.Fail as e:
                verdict, detail, seen = judge.ERROR, str(e), ""
            return dict(base, test="litmus/" + test.name, verdict=verdict, detail=detail,
                        observed=seen, expected=test.result,
                        seconds=time.monotonic() - start, herd7=herd.version,
                        model="LKMM of %s" % source.version if test.is_c else test.arch)
        rows = run_all([lambda t=t: one(t) for t in tests])
        judge_pairs(tests, rows, everything)
    notes = [] if source.pinned else ["not the pinned source: %s" % source.description]
    notes += [herd.note] if herd and herd.note else []
    for row in rows:
        if notes:
            row["detail"] = "%s [%s]" % (row["detail"], "; ".join(notes))
    again = "make litmus BASE=%s" % kernel.base
    if kernel.linux:
        again += " LINUX=" + os.path.abspath(kernel.linux)
    if args.tests:
        again += " TESTS=" + shlex.quote(args.tests)
    for name, text in (("again.sh", "#!/bin/sh\n# Run this case once more, from the top of the "
                        "kit.\n%s\n" % again),
                       ("results.json", json.dumps({"again": again, "model": model,
                                                    "rows": rows}, indent=1)),
                       ("results.tap", judge.ktap(rows)),
                       ("results.txt", judge.table(rows) + "\n")):
        common.write_atomically(os.path.join(keep, name), text)
    return rows, keep


def verb():
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=env("BASE") or "6.12",
                        help="the kernel whose model judges (BASE, 6.12)")
    parser.add_argument("--linux", default=env("LINUX") or None,
                        help="a kernel tree whose model judges instead (LINUX)")
    parser.add_argument("--tests", default=env("TESTS") or "",
                        help="only tests whose name contains one of these words (TESTS)")
    args = parser.parse_args()
    start = time.monotonic()
    rows, keep = execute(args)
    say(judge.table(rows, sys.stdout.isatty()))
    say("case file: %s" % keep)
    say("herd7 %s, %.0f s" % (rows[0].get("herd7", "none"), time.monotonic() - start))
    say(judge.summary(rows))
    if judge.overall(rows) == judge.SKIP and not judge.good(rows):
        return judge.KSFT_SKIP
    return 0 if judge.good(rows) else 1


if __name__ == "__main__":
    common.main(verb)
