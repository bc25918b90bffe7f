"""What the verbs share: the cache, the bases, the kernel that is asked for, errors."""
import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = os.path.join(TOP, "scripts")
DEBUG_DEFAULT = "lockdep,list,vm"
DEFAULT_BASE = "6.12"
KUNIT_BASES = ("6.12", "7.3")     # where kunit/ builds

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
        "patience": 1,                 # times the seconds of scripts/suites
        "console": "ttyS0",
        "pages": ("4k",),              # sizes of a base page, the default first
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
        "patience": 3,                 # each kprobe stops the machine there
        "console": "ttyAMA0",
        "pages": ("4k", "64k"),
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

    def __init__(self, what, mend=None):
        super().__init__(what + (" - " + mend if mend else ""))
        self.what, self.mend = what, mend


def die(what, mend=None):
    raise Fail(what, mend)


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


def number(name, text, least):
    """A whole number that the user gives in a variable."""
    try:
        value = int(text, 0)
    except ValueError:
        value = None
    if value is None or not least <= value < 2**63:
        die("%s=%s" % (name, text), "give a whole number from %d on" % least)
    return value


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


def sources():
    """The lines of scripts/sources: (for what, package, suite, version, sha256)."""
    with open(os.path.join(TOP, "scripts", "sources")) as f:
        lines = [line.split("#")[0].split() for line in f]
    return [tuple(words[:5]) for words in lines if words]


def bases():
    """The bases of the project: name -> (package, suite, version, sha256)."""
    return {words[0]: words[1:] for words in sources() if "/" not in words[0]}


def programs(name):
    """The packages of a program, 'herd7/amd64': [(package, suite, version, sha256)]."""
    return [words[1:] for words in sources() if words[0] == name]


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


def mutant_id(patch):
    """The id of a mutant by the name of its file: B22 of B22-requeue-what-is-queued.patch."""
    name = os.path.basename(patch)
    return re.match(r"\w+", name[:-6] if name.endswith(".patch") else name).group(0)


def patches_below(kind, base):
    """The patches in patches/KIND/BASE: id -> patch."""
    where = os.path.join(TOP, "patches", kind, base)
    files = sorted(os.listdir(where)) if os.path.isdir(where) else []
    return {mutant_id(f): os.path.join(where, f) for f in files if f.endswith(".patch")}


def mutants(base):
    """The mutants of a base: id -> patch."""
    return patches_below("mutants", base)


def variants(base):
    """The designs to measure against the series of a base: id -> patch."""
    return patches_below("variants", base)


class Kernel:
    """Which kernel is asked for: base, arch, series, mutant, debug options, source.

    A mutant is an id, or the path of a patch; all is the kernel with all of them,
    all:ID that kernel with one of them chosen when it boots. bench is the kernel to
    measure: with counters and clocks in it, and all variants instead of the mutants.
    """

    def __init__(self, args):
        known = bases()
        if args.base not in known:
            die("unknown base '%s'" % args.base, "BASE is one of: %s" % " ".join(sorted(known)))
        if args.arch not in ARCHES:
            die("unknown arch '%s'" % args.arch, "ARCH is one of: %s" % " ".join(sorted(ARCHES)))
        self.base = args.base
        self.arch = args.arch
        sizes = ARCHES[self.arch]["pages"]
        self.pages = getattr(args, "pages", None) or sizes[0]
        if self.pages not in sizes:
            die("PAGES=%s with ARCH=%s" % (self.pages, self.arch), "use PAGES=%s%s" % (
                " or ".join(sizes), "".join(", or ARCH=" + other for other in sorted(ARCHES)
                                            if self.pages in ARCHES[other]["pages"])))
        self.package, self.suite, self.version, self.sha256 = known[args.base]
        self.linux = args.linux
        self.mutant = args.mutant or None
        self.kunit_filter = getattr(args, "kunit_filter", None) or ""
        if re.search(r"\s", self.kunit_filter):
            die("KUNIT_FILTER='%s'" % self.kunit_filter, "it is one SUITE.CASE, of globs")

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

        self.bench = self.mutant == "bench"
        self.combined = self.bench or \
            (self.mutant is not None and self.mutant.split(":")[0] == "all")
        self.chosen = self.mutant[4:] or None if self.combined and not self.bench else None
        self.mutant_patch = self.find_mutant() if self.mutant else None

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
               ([os.path.join(config, "%s.config" % self.machine)]
                if self.machine != self.arch else []) + \
               ([os.path.join(config, "kunit.config")] if self.has_kunit else []) + \
               [self.debug_fragment(name) for name in self.debug]

    @property
    def machine(self):
        """How results call the architecture: with its base pages, if they are not the usual."""
        return self.arch + ("" if self.pages == ARCHES[self.arch]["pages"][0]
                            else "-" + self.pages)

    @property
    def has_kunit(self):
        """Does the KUnit suite, which uses the kernel's internals, build on this base?"""
        return self.base in KUNIT_BASES and not self.bench

    @property
    def profiled(self):
        """With gcov: the files whose lines are counted, those of mm/ that the series changes."""
        if "gcov" not in self.debug:
            return []
        names = set()
        for patch in series_patches(self.base):
            names |= set(re.findall(r"^\+\+\+ b/(mm/[\w-]+\.c)$",
                                    file_bytes(patch).decode(errors="replace"), re.M))
        return sorted(names)

    @property
    def patches(self):
        found = series_patches(self.base)[:self.nr_patches]
        if self.mutant and not self.combined:
            found.append(self.mutant_patch)
        if self.bench:
            found += patches_below("bench", self.base).values()
        return found

    def find_mutant(self):
        """The patch of the mutant that is asked for; None if it is none of them."""
        if not self.combined and (os.sep in self.mutant or self.mutant.endswith(".patch")):
            if not os.path.isfile(self.mutant) or \
                    not re.match(r"\w", os.path.basename(self.mutant)):
                die("there is no patch %s" % self.mutant)
            return os.path.abspath(self.mutant)
        known = variants(self.base) if self.bench else mutants(self.base)
        name = self.chosen if self.combined else self.mutant
        if name and name not in known:
            die("no mutant '%s' for base %s" % (name, self.base),
                "MUTANT is one of: %s, or a patch" % " ".join(known))
        if self.combined and not known:
            die("there are no %s for base %s" % ("variants" if self.bench else "mutants",
                                                 self.base))
        return known[name] if name else None

    @property
    def mutant_patches(self):
        """Those that go into the kernel with all of them."""
        if not self.combined:
            return []
        return list((variants if self.bench else mutants)(self.base).values())

    @property
    def boot_words(self):
        """What goes on its command line."""
        words = {"splitq.mutant": self.chosen, "kunit.filter_glob": self.kunit_filter}
        return " ".join("%s=%s" % word for word in words.items() if word[1])

    @property
    def label(self):
        """How results call it: stock, series, first-2, mutant-B22, mutants, mutants-B22."""
        return self.build_label + ("-" + self.chosen if self.chosen else "")

    @property
    def build_label(self):
        """The same for what is built: one kernel for all mutants."""
        if self.combined:
            return "bench" if self.bench else "mutants"
        if self.mutant:
            return "mutant-" + mutant_id(self.mutant_patch)
        if not self.nr_patches:
            return "stock"
        if self.nr_patches == len(series_patches(self.base)):
            return "series"
        return "first-%d" % self.nr_patches


class KernelParser(argparse.ArgumentParser):
    """Chooses the base of a user's tree, if it is not given."""

    def parse_args(self, *args, **kwargs):
        found = super().parse_args(*args, **kwargs)
        if not found.base and found.linux:
            import prepare
            found.base = prepare.choose_base(found)
        found.base = found.base or DEFAULT_BASE
        return found


def kernel_arguments(description, epilog=None):
    """An argument parser with the options that choose a kernel."""
    env = os.environ.get
    parser = KernelParser(description=description, epilog=epilog)
    parser.add_argument("--base", default=env("BASE"), help="kernel base: %s (BASE, %s; with "
                        "LINUX the one whose series applies)" % (" ".join(sorted(bases())),
                                                                 DEFAULT_BASE))
    default = host_arch() if host_arch() in ARCHES else "x86_64"
    parser.add_argument("--arch", default=env("ARCH") or default,
                        help="guest architecture: %s (ARCH, %s)" % (" ".join(sorted(ARCHES)),
                                                                    default))
    parser.add_argument("--pages", default=env("PAGES"),
                        help="size of a base page: 4k, or with arm64 64k (PAGES, 4k)")
    parser.add_argument("--series", default=env("SERIES") or "1",
                        help="1: with the series, 0: stock, first-N: its first N patches (SERIES)")
    parser.add_argument("--mutant", default=env("MUTANT"),
                        help="a bug on top of the series: an id of patches/mutants, a patch, all, "
                        "or all:ID (MUTANT)")
    parser.add_argument("--debug", default=env("DEBUG") if env("DEBUG") is not None
                        else DEBUG_DEFAULT,
                        help="list of lockdep list vm kasan kcsan preempt_none hmm gcov (DEBUG, %s)"
                        % DEBUG_DEFAULT)
    parser.add_argument("--linux", default=env("LINUX") or None,
                        help="a kernel tree to use instead of Debian's; never modified (LINUX)")
    parser.add_argument("--kunit-filter", default=env("KUNIT_FILTER"), metavar="SUITE.CASE",
                        help="of the KUnit suite only these cases; globs (KUNIT_FILTER)")
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
    for name in ("ARCH", "PAGES", "BASE", "SERIES", "DEBUG", "LINUX", "MUTANT", "MAKEFLAGS", "MFLAGS",
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
