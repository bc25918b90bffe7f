#!/usr/bin/env python3
"""Build the kernel with options that the queue's code is written around.

For each scripts/config/without-*.config the whole kernel, linked, without that
option; and mm/ with everything else on (allmodconfig). A compiler's or linker's
warning is a failure, as is an option that is on after all. Whatever stock warns of
in the same configuration is shown, but is not the series' fault.
"""
import contextlib
import glob
import os
import re
import time

import build
import common
import configure
import fetch
import prepare
from common import SCRIPTS, die, say

ALL = "allmodconfig"
ALWAYS_ON = {"arm64": ("smp",)}     # what an architecture cannot be without


def names(arch=None):
    """The configurations; of those, what an architecture can be."""
    found = [os.path.basename(f)[len("without-"):-len(".config")] for f in
            sorted(glob.glob(os.path.join(SCRIPTS, "config", "without-*.config")))] + [ALL]
    return [name for name in found if name not in ALWAYS_ON.get(arch, ())]


class Variation(common.Kernel):
    """A kernel in one of the configurations."""

    def __init__(self, args, name):
        super().__init__(args)
        self.name = name

    @property
    def fragments(self):
        """Only what says which option is off, besides the arch's: the rest follows."""
        if self.name == ALL:
            return []
        return super().fragments + [os.path.join(SCRIPTS, "config",
                                                 "without-%s.config" % self.name)]

    @property
    def has_kunit(self):
        # A suite that cannot be built without the option is a matter of its Kconfig.
        return False


def merge(kernel, tree, obj, command):
    """The configuration; dies if the option that is to be off is on."""
    os.makedirs(obj, exist_ok=True)
    config = os.path.join(obj, ".config")
    if kernel.name == ALL:
        steps = [command + [ALL]]
    else:
        steps = [command + ["tinyconfig"],
                 ["scripts/kconfig/merge_config.sh", "-m", "-O", obj, config] + kernel.fragments,
                 command + ["olddefconfig"]]
    for step in steps:
        got = common.run(step, cwd=tree, env=common.clean_env())
        if got.returncode:
            die("configuring failed: %s" % got.stdout.strip().split("\n")[-1])
    if kernel.name != ALL:
        configure.verify(config, kernel.fragments[-1:])


def warnings_of(kernel, source, targets=None):
    """Builds; what the compiler and the linker warned of, without line numbers."""
    with build.slot_locked(kernel, source):
        tree = prepare.prepare(kernel, source, build.config_key(kernel))
        obj = os.path.join(tree, "obj")
        command, _ = build.make_command(kernel, tree, obj)
        merge(kernel, tree, obj, command[:5])
        log = os.path.join(os.path.dirname(tree), "build.log")
        # What is built already would not be warned of again.
        for patch in common.series_patches(kernel.base):
            for name in prepare.touched_files(patch):
                for suffix in (".o", ".ko"):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(obj, name[:-2] + suffix))
        targets = targets or (["mm/"] if kernel.name == ALL else ["vmlinux"])
        build.make(kernel, tree, obj, targets, log, "%s %s" % (kernel.label, kernel.name),
                   300 if kernel.name == ALL else build.OBJECTS_GUESS)
        with open(log, errors="replace") as f:
            found = {re.sub(r":\d+(:\d+)?:", ":", line.strip()) for line in f
                     if re.search(r"\bwarning:", line, re.I)}
    return found


def one(args, name, targets=None):
    """One configuration: complaints about the series."""
    args.debug = ""
    kernel = Variation(args, name)
    source = fetch.fetch(kernel)
    found = warnings_of(kernel, source, targets)
    if not found:
        return []
    args.series, series = "0", args.series
    try:
        stock = warnings_of(Variation(args, name), source, targets)
    finally:
        args.series = series
    for line in sorted(found & stock):
        say("       stock, too: " + line)
    return sorted(found - stock)


def verb():
    parser = common.kernel_arguments(__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME",
                        default=(os.environ.get("CONFIGS") or "").replace(",", " ").split(),
                        help="which: %s (CONFIGS)" % " ".join(names()))
    args = parser.parse_args()
    for name in args.only:
        if name not in names(args.arch):
            die("no configuration '%s' on %s" % (name, args.arch),
                "CONFIGS is a list of: %s" % " ".join(names(args.arch)))
    bad = 0
    for name in args.only or names(args.arch):
        start = time.monotonic()
        try:
            complaints = one(args, name)
        except common.Fail as e:
            complaints = [str(e)]
        bad += bool(complaints)
        say("%s %-14s %4.0f s" % ("FAIL" if complaints else "PASS", name,
                                  time.monotonic() - start))
        for line in complaints:
            say("       " + line)
    say("verdict: %s" % ("FAIL" if bad else "PASS"))
    return 1 if bad else 0


if __name__ == "__main__":
    common.main(verb)
