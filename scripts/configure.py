#!/usr/bin/env python3
"""Configure a prepared tree, and verify that every wanted symbol is set.

tinyconfig, plus Kconfig.fragment, plus the arch's, the KUnit suite's (where it
builds) and the chosen debug fragments of scripts/config/, merged by the kernel's
own scripts/kconfig/merge_config.sh. A later fragment wins over an earlier one. A
line that is not in the resulting .config is an error that names the symbol.
"""
import os
import re

import common
from common import die


def wanted(fragments):
    """Symbol -> (value or None for 'not set', the fragment that says so)."""
    want = {}
    for fragment in fragments:
        with open(fragment) as f:
            for number, line in enumerate(f, 1):
                line = line.strip()
                m = re.match(r"(CONFIG_\w+)=(.*)$", line)
                off = re.match(r"# (CONFIG_\w+) is not set$", line)
                if m:
                    want[m.group(1)] = (None if m.group(2) == "n" else m.group(2), fragment)
                elif off:
                    want[off.group(1)] = (None, fragment)
                elif line and not line.startswith("#"):
                    die("%s:%d: not a configuration line: %s"
                        % (os.path.relpath(fragment, common.TOP), number, line))
    return want


def verify(config, fragments):
    """Die unless every line of the fragments is in the configuration."""
    have = {}
    with open(config) as f:
        for line in f:
            m = re.match(r"(CONFIG_\w+)=(.*)$", line)
            if m:
                have[m.group(1)] = m.group(2)
    bad = []
    for symbol, (value, fragment) in sorted(wanted(fragments).items()):
        if have.get(symbol) != value:
            bad.append("%s is %s, %s wants %s" % (symbol, have.get(symbol, "not set"),
                                                  os.path.relpath(fragment, common.TOP),
                                                  value or "not set"))
    if bad:
        die("%d symbols did not stick: %s" % (len(bad), "; ".join(bad)),
            "a dependency is missing in the fragments, or two of them exclude each other")


def configure(kernel, tree, obj, key):
    """Configure tree/obj, unless it is configured with the same key already."""
    stamp = os.path.join(obj, ".splitq-configured")
    config = os.path.join(obj, ".config")
    if os.path.exists(stamp) and os.path.exists(config) and \
       common.file_bytes(stamp).decode() == key:
        return
    os.makedirs(obj, exist_ok=True)
    make = ["make", "-C", tree, "O=" + obj, "ARCH=" + kernel.arch,
            "CROSS_COMPILE=" + common.cross(kernel.arch)]
    merge = ["scripts/kconfig/merge_config.sh", "-m", "-O", obj, config] + kernel.fragments
    for command in (make + ["tinyconfig"], merge, make + ["olddefconfig"]):
        got = common.run(command, cwd=tree, env=common.clean_env())
        if got.returncode:
            die("configuring failed: %s: %s" % (" ".join(command[:4]),
                                                got.stdout.strip().split("\n")[-1]),
                "look at the fragments in scripts/config")
    verify(config, kernel.fragments)
    common.write_atomically(stamp, key)


def verb():
    args = common.kernel_arguments(__doc__).parse_args()
    import build
    import fetch
    import prepare
    kernel = common.Kernel(args)
    source = fetch.fetch(kernel)
    with build.slot_locked(kernel, source):
        tree = prepare.prepare(kernel, source, build.config_key(kernel))
        obj = os.path.join(tree, "obj")
        configure(kernel, tree, obj, build.config_key(kernel))
    print(os.path.join(obj, ".config"))
    return 0


if __name__ == "__main__":
    common.main(verb)
