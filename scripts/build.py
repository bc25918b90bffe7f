#!/usr/bin/env python3
"""Build the kernel that is asked for, the module and the kselftests.

Everything is kept by a key of its content (source, patches, tests, configuration,
compiler), so what has not changed is not built again. A kernel is made in the one
working tree of its source and configuration; from the second on, make rebuilds
only what the series changes.
"""
import contextlib
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

import common
import configure
import fetch
import prepare
from common import ARCHES, TOP, die, say

RECIPE = 1          # part of every key: change it when this file builds differently
KEEP_KERNELS = 40   # each 120 MB
KEEP_SLOTS = 8      # each 1 GB
OBJECTS_GUESS = 1750    # of a first build, until there is a previous one to count


def compiler(kernel):
    cross = common.cross(kernel.arch)
    common.need_tool(cross + "gcc", ARCHES[kernel.arch]["cross_package"] if cross else "gcc")
    return common.run([cross + "gcc", "--version"]).stdout.split("\n")[0] + \
        common.run([cross + "ld", "--version"]).stdout.split("\n")[0]


def config_key(kernel):
    kunit = ["kunit/Kconfig"] if kernel.has_kunit else []
    return common.digest(RECIPE, kernel.arch, compiler(kernel),
                         *[common.file_bytes(f) for f in kernel.fragments],
                         *[common.file_bytes(os.path.join(TOP, f)) for f in kunit])


def kernel_key(kernel, source):
    tests = [common.file_bytes(os.path.join(TOP, "kunit", f))
             for f in prepare.kunit_inputs(kernel.base)] if kernel.has_kunit else []
    # Only what they change: a header is prose, and there is one kernel for all of them.
    mutants = [common.file_bytes(f).partition(b"\n---\n")[2] for f in kernel.mutant_patches]
    if kernel.combined:
        import combine
        mutants += [common.file_bytes(f) for f in [os.path.join(TOP, "scripts/combine.py")] +
                    (sorted(combine.BENCH_FILES) if kernel.bench else [])]
    return common.digest(source.ident, config_key(kernel), kernel.nr_patches,
                         *[common.file_bytes(f) for f in kernel.patches], *tests, *mutants)[:16]


@contextlib.contextmanager
def slot_locked(kernel, source):
    name = "slot-%s-%s-%s.lock" % (source.ident, kernel.arch, config_key(kernel)[:12])
    with common.lock(os.path.join(common.cache_dir(), name)):
        yield


class Progress:
    """One line that moves on a terminal, one line every 20 s elsewhere."""

    def __init__(self, what, expected):
        self.what, self.expected = what, max(expected, 1)
        self.done = 0
        self.start = time.monotonic()
        self.shown = self.start
        self.tty = sys.stdout.isatty()

    def step(self):
        self.done += 1
        t = time.monotonic()
        if t - self.shown < (0.5 if self.tty else 20):
            return
        self.shown = t
        share = min(self.done / self.expected, 0.99)
        left = (t - self.start) * (1 - share) / share
        text = "%s: %d of about %d steps, %d s left" % (self.what, self.done, self.expected, left)
        if self.tty:
            sys.stdout.write("\r\033[K" + text)
            sys.stdout.flush()
        else:
            say(text)

    def end(self):
        if self.tty:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()


def make_command(kernel, tree, obj):
    """How make is called in a working tree, always the same: the words, the environment."""
    env = common.clean_env()
    cross = common.cross(kernel.arch)
    # Debug information must not depend on where the cache is.
    command = ["make", "-C", tree, "O=" + obj, "ARCH=" + kernel.arch, "CROSS_COMPILE=" + cross,
               "-j%d" % common.jobs(), "KCFLAGS=-fdebug-prefix-map=%s/=" % tree]
    command += ["GCOV_PROFILE_%s.o=y" % os.path.basename(name)[:-2] for name in kernel.profiled]
    if shutil.which("ccache"):
        command += ["CC=ccache %sgcc" % cross, "HOSTCC=ccache gcc"]
        env.update(CCACHE_DIR=common.cache_dir("ccache"), CCACHE_BASEDIR=tree,
                   CCACHE_MAXSIZE="5G")
    return command, env


def make(kernel, tree, obj, targets, log, what, expected):
    """Run make with progress; dies with the first error and where the log is."""
    command, env = make_command(kernel, tree, obj)
    progress = Progress(what, expected)
    errors = []
    with open(log, "w") as f:
        p = subprocess.Popen(command + targets, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, errors="replace", env=env)
        try:
            for line in p.stdout:
                f.write(line)
                if re.match(r"  (CC|AS|LD|AR|HOSTCC|GEN|OBJCOPY) ", line):
                    progress.step()
                if re.search(r"\berror:|\bError \d|undefined reference|No space left", line):
                    errors.append(line.strip())
            p.wait()
        except BaseException:
            p.terminate()
            p.wait()
            raise
    progress.end()
    if p.returncode:
        die("%s failed: %s" % (what, errors[0] if errors else "make exited %d" % p.returncode),
            "the whole log is %s" % log)
    return progress.done


def clone(kernel, tree, obj, to):
    """Keep what an external module needs of a built tree, in the same layout."""
    arch = "arch/" + ARCHES[kernel.arch]["kernel_arch"]
    os.makedirs(os.path.join(to, "tools"))
    os.makedirs(os.path.join(to, "arch"))
    link = ["cp", "-al"]
    for name in ("Makefile", "Kbuild", "Kconfig", "scripts", "include", "mm"):
        subprocess.run(link + [os.path.join(tree, name), to], check=True)
    for name in ("build", "objtool", "scripts", "include", "arch", "lib"):
        subprocess.run(link + [os.path.join(tree, "tools", name), os.path.join(to, "tools")],
                       check=True)
    subprocess.run(link + [os.path.join(tree, arch), os.path.join(to, "arch")], check=True)
    # Objects are copied: the next build in this tree writes over them.
    keep = os.path.join(to, "obj")
    os.makedirs(os.path.join(keep, "tools/objtool"))
    for name in ("Makefile", ".config", "Module.symvers"):
        shutil.copy2(os.path.join(obj, name), keep)
    if os.path.exists(os.path.join(obj, "tools/objtool/objtool")):
        shutil.copy2(os.path.join(obj, "tools/objtool/objtool"),
                     os.path.join(keep, "tools/objtool"))
    subprocess.run(["cp", "-a", os.path.join(obj, "include"), os.path.join(obj, "scripts"), keep],
                   check=True)
    os.makedirs(os.path.join(keep, arch))
    subprocess.run(["cp", "-a", os.path.join(obj, arch, "include"), os.path.join(keep, arch)],
                   check=True)


def prune(kind, keep, min_age=24 * 3600):
    """Remove the least recently used of the cache, but nothing that was used today."""
    root = common.cache_dir(kind)
    paths = sorted((os.path.join(root, d) for d in os.listdir(root)), key=os.path.getmtime)
    for path in paths[:-keep]:
        if time.time() - os.path.getmtime(path) > min_age:
            shutil.rmtree(path, ignore_errors=True)


def build_kernel(kernel, source, clock=None):
    """Returns the directory of the built kernel, and its description."""
    key = kernel_key(kernel, source)
    final = os.path.join(common.cache_dir("kernel"), key)
    info_file = os.path.join(final, "info.json")

    if os.path.exists(info_file):
        os.utime(final)
        with open(info_file) as f:
            return final, json.load(f)
    prune("kernel", KEEP_KERNELS)

    with slot_locked(kernel, source):
        if os.path.exists(info_file):       # another run has built it meanwhile
            with open(info_file) as f:
                return final, json.load(f)
        common.need_space(3, "a kernel build")
        t = time.monotonic()
        ckey = config_key(kernel)
        tree = prepare.prepare(kernel, source, ckey)
        obj = os.path.join(tree, "obj")
        configure.configure(kernel, tree, obj, ckey)
        if clock:
            clock.lap("prepare")

        release = "-splitq-%s%s-%s" % (kernel.build_label, kernel.machine[len(kernel.arch):],
                                       key[:8])
        common.write_atomically(os.path.join(obj, "localversion-splitq"), release + "\n")
        counts = os.path.join(os.path.dirname(tree), "steps.json")
        first = not os.path.exists(os.path.join(obj, "vmlinux"))
        steps = {}
        if os.path.exists(counts):
            with open(counts) as f:
                steps = json.load(f)
        kind = "first" if first else "again"
        log = os.path.join(os.path.dirname(tree), "build.log")
        done = make(kernel, tree, obj, [os.path.basename(ARCHES[kernel.arch]["image"]), "modules"],
                    log, "build %s %s" % (kernel.base, kernel.build_label),
                    steps.get(kind, OBJECTS_GUESS if first else 40))
        steps[kind] = done
        common.write_atomically(counts, json.dumps(steps))

        tmp = final + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        try:
            shutil.copy2(os.path.join(obj, ARCHES[kernel.arch]["image"]),
                         os.path.join(tmp, "image"))
            for name in ("vmlinux", "System.map"):
                shutil.copy2(os.path.join(obj, name), tmp)
            shutil.copy2(os.path.join(obj, ".config"), os.path.join(tmp, "config"))
            shutil.copy2(log, tmp)
            clone(kernel, tree, obj, os.path.join(tmp, "linux"))
            if kernel.profiled:
                os.makedirs(os.path.join(tmp, "gcov"))
            for name in kernel.profiled:
                shutil.copy2(os.path.join(obj, name[:-2] + ".gcno"), os.path.join(tmp, "gcov"))
            with open(os.path.join(obj, "include/config/kernel.release")) as f:
                full_release = f.read().strip()
            info = {"key": key, "base": kernel.base, "arch": kernel.arch,
                    "pages": kernel.pages, "machine": kernel.machine,
                    "label": kernel.build_label, "series": kernel.nr_patches > 0, "source": source.description,
                    "pinned": source.pinned, "release": full_release, "debug": kernel.debug,
                    "compiler": common.run([common.cross(kernel.arch) + "gcc",
                                            "--version"]).stdout.split("\n")[0],
                    "patches": [os.path.basename(p) for p in kernel.patches],
                    "build_seconds": round(time.monotonic() - t, 1)}
            common.write_atomically(os.path.join(tmp, "info.json"), json.dumps(info, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            os.rename(tmp, final)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
        say("build: %s in %.0f s" % (full_release, time.monotonic() - t))
    return final, info


def put_in_place(tmp, final):
    """What was made under another name is there as a whole. Another run may have been quicker."""
    try:
        os.rename(tmp, final)
    except OSError:
        if not os.path.isdir(final):
            raise


def build_module(kernel, kernel_dir):
    """splitq.ko for a built kernel; returns its path."""
    where = os.path.join(TOP, "kmod")
    files = sorted(f for f in os.listdir(where) if f.endswith((".c", ".h")) or f == "Makefile")
    key = common.digest(*[common.file_bytes(os.path.join(where, f)) for f in files])[:16]
    final = os.path.join(kernel_dir, "kmod-" + key)
    if not os.path.isdir(final):
        tmp = final + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        try:
            for f in files:
                shutil.copy(os.path.join(where, f), tmp)
            tree = os.path.join(kernel_dir, "linux")
            make = ["make", "-C", tree, "O=" + os.path.join(tree, "obj"), "ARCH=" + kernel.arch,
                    "CROSS_COMPILE=" + common.cross(kernel.arch)]
            got = common.run(make + ["M=" + tmp, "-j%d" % common.jobs(), "modules"],
                             env=common.clean_env())
            if got.returncode or re.search(r"\bwarning:", got.stdout):
                bad = [line for line in got.stdout.split("\n")
                       if re.search(r"error|warning", line, re.I)]
                die("splitq.ko does not build cleanly: %s" % (bad[0] if bad else "see make"),
                    " ".join(make + ["M=kmod", "modules"]))
            for f in glob.glob(os.path.join(tmp, "*")) + glob.glob(os.path.join(tmp, ".*")):
                if os.path.isfile(f) and not f.endswith("splitq.ko"):
                    os.unlink(f)
            put_in_place(tmp, final)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return os.path.join(final, "splitq.ko")


def build_selftests(kernel, source):
    """The kselftests, static, by their own Makefile; returns the directory."""
    where = os.path.join(TOP, "selftests")
    key = common.digest(RECIPE, source.ident, kernel.arch, compiler(kernel),
                        common.digest_files(where, lambda f: f.startswith((".", "litmus/"))))[:16]
    final = os.path.join(common.cache_dir("selftests"), key)
    if not os.path.isdir(final):
        tmp = final + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        try:
            make = ["make", "-C", where, "LINUX=" + source.path,
                    "CROSS_COMPILE=" + common.cross(kernel.arch)]
            got = common.run(make + ["OUTPUT=" + tmp], env=common.clean_env())
            if got.returncode or re.search(r"\bwarning:", got.stdout):
                bad = [line for line in got.stdout.split("\n")
                       if re.search(r"error|warning", line, re.I)]
                die("the kselftests do not build cleanly: %s" % (bad[0] if bad else "see make"),
                    " ".join(make + ["OUTPUT=/tmp/selftests"]))
            put_in_place(tmp, final)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return final


def build_init(kernel):
    """The guest's init; returns the static binary."""
    source = os.path.join(TOP, "scripts/guest/init.c")
    key = common.digest(common.file_bytes(source), compiler(kernel))[:16]
    final = os.path.join(common.cache_dir("guest"), "init-%s-%s" % (kernel.arch, key))
    if not os.path.exists(final):
        tmp = final + ".%d.tmp" % os.getpid()
        got = common.run([common.cross(kernel.arch) + "gcc", "-Wall", "-Wextra", "-Werror", "-O2",
                          "-static", "-o", tmp, source])
        if got.returncode:
            die("init.c does not build: %s" % got.stdout.strip().split("\n")[0],
                "is libc6-dev installed? run scripts/setup.sh")
        os.rename(tmp, final)
    return final


class Built:
    """A kernel and all that goes into its guest."""

    def __init__(self, kernel, clock=None):
        clock = clock or common.Clock()
        self.kernel = kernel
        self.source = fetch.fetch(kernel)
        clock.lap("fetch")
        self.dir, self.info = build_kernel(kernel, self.source, clock)
        clock.lap("kernel build")
        if kernel.chosen:       # the kernel says so, too: see combine.chooser()
            self.info = dict(self.info, label=kernel.label,
                             release="%s+%s" % (self.info["release"], kernel.chosen))
        self.module = build_module(kernel, self.dir)
        self.selftests = build_selftests(kernel, self.source)
        self.init = build_init(kernel)
        clock.lap("module and tests")

    @property
    def image(self):
        return os.path.join(self.dir, "image")

    @property
    def vmlinux(self):
        return os.path.join(self.dir, "vmlinux")


def verb():
    args = common.kernel_arguments(__doc__).parse_args()
    built = Built(common.Kernel(args))
    print(json.dumps(dict(built.info, dir=built.dir, module=built.module,
                          selftests=built.selftests), indent=1))
    return 0


if __name__ == "__main__":
    common.main(verb)
