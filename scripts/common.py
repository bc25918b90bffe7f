"""What the verbs share: the cache, the bases, the kernel that is asked for, errors."""
import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = os.path.join(TOP, "scripts")
DEBUG_DEFAULT = "lockdep,list,vm"
KUNIT_BASES = ("6.12",)     # where kunit/ builds

# One place for what differs between architectures.
ARCHES = {
    "x86_64": {
        "kernel_arch": "x86",          # $(SRCARCH), and ARCH= for make
        "image": "arch/x86/boot/bzImage",
        "cross": "x86_64-linux-gnu-",  # compiler prefix on another host
        "cross_package": "gcc-x86-64-linux-gnu",
        "debian": "amd64",
        "qemu": "qemu-system-x86_64",
        "qemu_package": "qemu-system-x86",
        "machine": ["-machine", "pc", "-cpu", "max,-erms,-fsrm"],
        # Some nested hosts refuse to set the MSR that arch-capabilities stands for.
        "machine_kvm": ["-machine", "pc", "-cpu", "host,arch-capabilities=off"],
        "console": "ttyS0",
    },
    "arm64": {
        "kernel_arch": "arm64",
        "image": "arch/arm64/boot/Image",
        "cross": "aarch64-linux-gnu-",
        "cross_package": "gcc-aarch64-linux-gnu",
        "debian": "arm64",
        "qemu": "qemu-system-aarch64",
        "qemu_package": "qemu-system-arm",
        "machine": ["-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"],
        "machine_kvm": ["-machine", "virt,gic-version=host", "-cpu", "host"],
        "console": "ttyAMA0",
    },
}


def host_arch():
    """The host's architecture, as ARCHES calls it."""
    machine = platform.machine()
    return "arm64" if machine == "aarch64" else machine


def cross(arch):
    """The prefix of the compiler for an architecture: empty for the host's own."""
    return "" if arch == host_arch() else ARCHES[arch]["cross"]


class Fail(Exception):
    """A user's problem: one line that says what is wrong, and the mend."""


def die(what, mend=None):
    raise Fail(what + (" - " + mend if mend else ""))


def main(function):
    """Run a verb: problems of the user's end in one line on stderr."""
    try:
        sys.exit(function())
    except Fail as e:
        print("%s: %s" % (os.path.basename(sys.argv[0]), e), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("%s: interrupted" % os.path.basename(sys.argv[0]), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


def say(text):
    print(text, flush=True)


def cache_dir(*parts):
    root = os.environ.get("SPLITQ_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "splitq")
    path = os.path.join(os.path.abspath(root), *parts)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as e:
        die("cannot make the cache %s (%s)" % (path, e.strerror),
            "set SPLITQ_CACHE to a directory that you can write")
    return path


def need_space(gib, what):
    where = cache_dir()
    free = shutil.disk_usage(where).free / 2**30
    if free < gib:
        die("%s needs %.1f GiB in %s, %.1f are free" % (what, gib, where, free),
            "free some, or set SPLITQ_CACHE to another disk")


def need_tool(name, package):
    if not shutil.which(name):
        die("%s is missing" % name, "run scripts/setup.sh, or install %s" % package)


@contextlib.contextmanager
def lock(path):
    """Hold a lock file; two runs that share a cache wait for each other."""
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that uses %s" % path)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def digest(*parts):
    h = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        h.update(b"%d:" % len(data))
        h.update(data)
    return h.hexdigest()


def file_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def digest_files(root, skip=lambda path: False):
    """A digest of all files below root: names, run bits, contents."""
    h = hashlib.sha256()
    for dirpath, dirs, files in os.walk(root):
        dirs.sort()
        for name in sorted(files):
            path = os.path.join(dirpath, name)
            rel = os.path.relpath(path, root)
            if skip(rel):
                continue
            if os.path.islink(path):
                data = os.readlink(path).encode()
            else:
                data = file_bytes(path)
            h.update(("%s %d %d:" % (rel, os.access(path, os.X_OK), len(data))).encode())
            h.update(data)
    return h.hexdigest()


def write_atomically(path, data):
    tmp = "%s.%d.tmp" % (path, os.getpid())
    with open(tmp, "wb" if isinstance(data, bytes) else "w") as f:
        f.write(data)
    os.rename(tmp, path)


def bases():
    """The bases of the project: name -> (package, suite, version, sha256)."""
    found = {}
    with open(os.path.join(TOP, "scripts", "sources")) as f:
        for line in f:
            words = line.split("#")[0].split()
            if words:
                found[words[0]] = tuple(words[1:5])
    return found


def patch_dir(base):
    return os.path.join(TOP, "patches", base)


def series_patches(base):
    """The patches of a base's series, in order; none if there is no series for it yet."""
    try:
        with open(os.path.join(patch_dir(base), "series")) as f:
            names = [line.split("#")[0].strip() for line in f]
    except FileNotFoundError:
        return []
    return [os.path.join(patch_dir(base), name) for name in names if name]


class Kernel:
    """Which kernel is asked for: base, arch, series, mutant, debug options, source."""

    def __init__(self, args):
        known = bases()
        if args.base not in known:
            die("unknown base '%s'" % args.base, "BASE is one of: %s" % " ".join(sorted(known)))
        if args.arch not in ARCHES:
            die("unknown arch '%s'" % args.arch, "ARCH is one of: %s" % " ".join(sorted(ARCHES)))
        self.base = args.base
        self.arch = args.arch
        self.package, self.suite, self.version, self.sha256 = known[args.base]
        self.linux = args.linux
        self.mutant = args.mutant or None

        total = len(series_patches(self.base))
        if not total and (self.mutant or args.series not in ("0", "stock")):
            die("there is no series for %s yet" % self.base,
                "use SERIES=0" + (" without MUTANT" if self.mutant else ""))
        if args.series in ("1", "all"):
            self.nr_patches = total
        elif args.series in ("0", "stock"):
            self.nr_patches = 0
        elif args.series.startswith("first-") and args.series[6:].isdigit():
            self.nr_patches = min(int(args.series[6:]), total)
        else:
            die("SERIES=%s" % args.series, "use 1 (the series), 0 (stock) or first-N (N patches)")
        if self.mutant and self.nr_patches != total:
            die("MUTANT=%s with SERIES=%s" % (self.mutant, args.series),
                "mutants go on top of the whole series: SERIES=1")

        self.debug = []
        for name in (args.debug or "").replace(",", " ").split():
            if not os.path.exists(self.debug_fragment(name)):
                have = [f[6:-7] for f in sorted(os.listdir(os.path.join(TOP, "scripts/config")))
                        if f.startswith("debug-")]
                die("unknown DEBUG option '%s'" % name, "DEBUG is a list of: %s" % " ".join(have))
            if name not in self.debug:
                self.debug.append(name)

    @staticmethod
    def debug_fragment(name):
        return os.path.join(TOP, "scripts", "config", "debug-%s.config" % os.path.basename(name))

    @property
    def fragments(self):
        config = os.path.join(TOP, "scripts", "config")
        return [os.path.join(TOP, "Kconfig.fragment"),
                os.path.join(config, "%s.config" % self.arch)] + \
               ([os.path.join(config, "kunit.config")] if self.has_kunit else []) + \
               [self.debug_fragment(name) for name in self.debug]

    @property
    def has_kunit(self):
        """Does the KUnit suite, which uses the kernel's internals, build on this base?"""
        return self.base in KUNIT_BASES

    @property
    def patches(self):
        found = series_patches(self.base)[:self.nr_patches]
        if self.mutant:
            where = os.path.join(TOP, "patches", "mutants", self.base)
            files = [f for f in sorted(os.listdir(where)) if f.endswith(".patch")] \
                if os.path.isdir(where) else []
            hits = [f for f in files if f.split("-")[0] == self.mutant]
            if len(hits) != 1:
                die("no mutant '%s' for base %s" % (self.mutant, self.base),
                    "MUTANT is one of: %s" % " ".join(f.split("-")[0] for f in files))
            found.append(os.path.join(where, hits[0]))
        return found

    @property
    def label(self):
        """How results call it: stock, series, first-2, mutant-B22."""
        if self.mutant:
            return "mutant-" + self.mutant
        if not self.nr_patches:
            return "stock"
        if self.nr_patches == len(series_patches(self.base)):
            return "series"
        return "first-%d" % self.nr_patches


def kernel_arguments(description, epilog=None):
    """An argument parser with the options that choose a kernel."""
    env = os.environ.get
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("--base", default=env("BASE") or "6.12", help="kernel base (BASE, 6.12)")
    default = host_arch() if host_arch() in ARCHES else "x86_64"
    parser.add_argument("--arch", default=env("ARCH") or default,
                        help="guest architecture: %s (ARCH, %s)" % (" ".join(sorted(ARCHES)),
                                                                    default))
    parser.add_argument("--series", default=env("SERIES") or "1",
                        help="1: with the series, 0: stock, first-N: its first N patches (SERIES)")
    parser.add_argument("--mutant", default=env("MUTANT"),
                        help="a known bug from patches/mutants on top of the series (MUTANT)")
    parser.add_argument("--debug", default=env("DEBUG") if env("DEBUG") is not None
                        else DEBUG_DEFAULT,
                        help="list of lockdep list vm kasan kcsan preempt_none (DEBUG, %s)"
                        % DEBUG_DEFAULT)
    parser.add_argument("--linux", default=env("LINUX") or None,
                        help="a kernel tree to use instead of Debian's; never modified (LINUX)")
    return parser


def jobs():
    return int(os.environ.get("JOBS") or len(os.sched_getaffinity(0)))


def run(command, **kwargs):
    """subprocess.run() with text output captured."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", **kwargs)


def clean_env():
    """The environment for kernel makes: ours has ARCH, DEBUG and the like in other meanings."""
    env = dict(os.environ, LC_ALL="C", KBUILD_BUILD_USER="splitq", KBUILD_BUILD_HOST="splitq",
               KBUILD_BUILD_TIMESTAMP="2026-01-01")
    for name in ("ARCH", "BASE", "SERIES", "DEBUG", "LINUX", "MUTANT", "MAKEFLAGS", "MFLAGS",
                 "MAKELEVEL", "MAKEOVERRIDES", "O", "KBUILD_OUTPUT", "CROSS_COMPILE", "DET",
                 "GDB", "JOBS"):
        env.pop(name, None)
    return env


class Clock:
    """Where the time went."""

    def __init__(self):
        self.start = self.last = time.monotonic()
        self.laps = []

    def lap(self, name):
        t = time.monotonic()
        self.laps.append((name, t - self.last))
        self.last = t

    def report(self):
        total = time.monotonic() - self.start
        return "time: " + ", ".join("%s %.0f s" % lap for lap in self.laps) + \
               ", total %.0f s" % total
