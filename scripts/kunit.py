#!/usr/bin/env python3
"""Run the KUnit suite by the kernel's own tools/testing/kunit/kunit.py.

In a tree of its own, with the suite's .kunitconfig and two vCPUs. It is the
command that the README prints for any tree with the series; here the tree is
prepared and kept in the cache.
"""
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

import common
import fetch
import prepare
from common import say


def complaint(text, console=""):
    """kunit.py is content with zero tests of ours, and with skipped ones; we are not."""
    m = re.search(r"Testing complete. Ran (\d+) tests: passed: (\d+)", text)
    if not m or m.group(2) == "0":
        return "no test passed"
    # It does not say why a case was skipped; the guest does.
    vacuous = re.search(r"ok \d+ -? ?(\w+) # SKIP VACUOUS: (.*)", console)
    return "%s was skipped: %s" % vacuous.groups() if vacuous else None


# Newer ones ask for KVM first. A /dev/kvm that opens may hang its guest all the same.
WITHOUT_KVM = """#!/bin/sh
n=$#
while [ "$n" -gt 0 ]; do
	word=$1
	shift
	n=$((n - 1))
	if [ "$word" = -accel ] && [ "${1:-}" != tcg ]; then
		shift
		n=$((n - 1))
	else
		set -- "$@" "$word"
	fi
done
exec '%s' "$@"
"""


@contextlib.contextmanager
def qemu_of_choice(arch):
    """What goes in front of PATH, so that kunit.py takes TCG; with ACCEL=kvm nothing does."""
    name = common.ARCHES[arch]["qemu"]
    real = shutil.which(name)
    if os.environ.get("ACCEL") == "kvm" or not real:
        yield ""
        return
    with tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, name)
        with open(path, "w") as f:
            f.write(WITHOUT_KVM % real)
        os.chmod(path, 0o755)
        yield where + os.pathsep


def kunit(kernel, source, show=True):
    """Returns kunit.py's exit status and its output."""
    key = common.digest("kunit", kernel.machine)
    name = "slot-%s-%s-%s.lock" % (source.ident, kernel.arch, key[:12])
    with common.lock(os.path.join(common.cache_dir(), name)), qemu_of_choice(kernel.arch) as path:
        tree = prepare.prepare(kernel, source, key)
        cross = common.cross(kernel.arch)
        command = [sys.executable, "tools/testing/kunit/kunit.py", "run",
                   "--arch=" + kernel.arch, "--cross_compile=" + cross, "--kunitconfig=mm/tests",
                   "--build_dir=obj", "--jobs=%d" % common.jobs(), "--timeout=600",
                   "--qemu_args=-smp 2"]
        if kernel.pages != "4k":
            command.append("--kconfig_add=CONFIG_ARM64_%s_PAGES=y" % kernel.pages.upper())
        if shutil.which("ccache"):
            command.append("--make_options=CC=ccache %sgcc" % cross)
        say("kunit: in %s: %s" % (tree, " ".join(command[1:])))
        env = common.clean_env()
        env["CCACHE_DIR"] = common.cache_dir("ccache")
        env["PATH"] = path + env.get("PATH", os.defpath)
        p = subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace")
        lines = []
        try:
            for line in p.stdout:
                lines.append(line)
                if show:
                    sys.stdout.write(line)
                    sys.stdout.flush()
            p.wait()
        except BaseException:
            p.terminate()
            p.wait()
            raise
        text = "".join(lines)
        if p.returncode == 0:
            with open(os.path.join(tree, "obj/test.log"), errors="replace") as f:
                why = complaint(text, f.read())
            if why:
                say("kunit: " + why)
                return 1, text
    return p.returncode, text


def verb():
    args = common.kernel_arguments(__doc__).parse_args()
    kernel = common.Kernel(args)
    if not kernel.has_kunit:
        common.die("the KUnit suite is not built on %s" % kernel.base,
                   "use BASE=%s" % common.KUNIT_BASES[0])
    status, _ = kunit(kernel, fetch.fetch(kernel))
    return 1 if status else 0


if __name__ == "__main__":
    common.main(verb)
