#!/usr/bin/env python3
"""Make a kernel tree ready to build: the series applied, the tests copied in.

Each source and configuration has one working tree in the cache. It starts as
hard links to the pristine source; only files that differ from what is wanted are
replaced, so that make rebuilds no more than it must when the series changes.
Patches are applied without fuzz, to a copy of the files they touch: when one
does not apply, nothing has changed.
"""
import json
import os
import re
import shutil
import subprocess

import common
import fetch
from common import TOP, die, say

KUNIT_DIR = "mm/tests"
SELFTEST_DIR = "tools/testing/selftests/mm/deferred_split"


def git_env():
    """git apply as a patch program: no repository, nobody's configuration."""
    return dict(os.environ, GIT_DIR="/nonexistent", GIT_CONFIG_GLOBAL="/dev/null",
                GIT_CONFIG_NOSYSTEM="1", LC_ALL="C")


def touched_files(patch):
    """The files that a patch changes, adds or removes."""
    names = set()
    with open(patch, errors="replace") as f:
        for line in f:
            m = re.match(r"(?:---|\+\+\+) [ab]/(\S+)", line)
            if m:
                names.add(m.group(1))
    return names


def hunk_number(patch, path, start):
    """Which hunk of a file in a patch starts at this line of the old file?"""
    current, number = None, 0
    with open(patch, errors="replace") as f:
        for line in f:
            m = re.match(r"--- a/(\S+)", line)
            if m:
                current, number = m.group(1), 0
            m = re.match(r"@@ -(\d+)", line)
            if m and current == path:
                number += 1
                if int(m.group(1)) == start:
                    return number
    return 0


def apply_patch(patch, stage, check_reverse=None):
    """Apply one patch to the staged files; dies with patch, file and hunk."""
    got = subprocess.run(["git", "apply", "-p1", "--whitespace=nowarn", patch], cwd=stage,
                         env=git_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if got.returncode == 0:
        return
    name = os.path.basename(patch)
    if check_reverse and check_reverse():
        die("the tree already has %s" % name, "use SERIES=0 to test it as it is")
    m = re.search(r"patch failed: (\S+?):(\d+)", got.stdout)
    if m:
        where = "%s, hunk #%d (line %s)" % (m.group(1), hunk_number(patch, m.group(1),
                                                                   int(m.group(2))), m.group(2))
    else:
        where = got.stdout.strip().split("\n")[0]
    die("%s does not apply: %s" % (name, where),
        "nothing was changed; use the base's own version, or SERIES=0")


def already_applied(source, patches):
    """Does the pristine tree contain the first patch already? (Its reverse applies.)"""
    got = subprocess.run(["git", "apply", "-p1", "-R", "--check", patches[0]], cwd=source.path,
                         env=git_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return got.returncode == 0


def stage_patches(source, patches, stage):
    """Put the files that the patches touch into stage, patched. Returns their names."""
    names = set()
    for patch in patches:
        names |= touched_files(patch)
    for name in names:
        pristine = os.path.join(source.path, name)
        if os.path.exists(pristine):
            os.makedirs(os.path.dirname(os.path.join(stage, name)), exist_ok=True)
            shutil.copy(pristine, os.path.join(stage, name))
    for patch in patches:
        apply_patch(patch, stage, lambda: already_applied(source, patches))
    return names


def kunit_sources():
    where = os.path.join(TOP, "kunit")
    return sorted(f for f in os.listdir(where) if f.endswith((".c", ".h")) or f == ".kunitconfig")


def stage_tests(source, stage, kunit):
    """Copy selftests/, and if wanted kunit/, to where they live in a kernel tree: the names."""
    names = set()

    def put(name, data, mode=0o644):
        path = os.path.join(stage, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)
        os.chmod(path, mode)
        names.add(name)

    def now(name):
        staged = os.path.join(stage, name)
        return common.file_bytes(staged if os.path.exists(staged)
                                 else os.path.join(source.path, name))

    if kunit:
        for name in kunit_sources():
            put(os.path.join(KUNIT_DIR, name), common.file_bytes(os.path.join(TOP, "kunit", name)))
        put("mm/Makefile", now("mm/Makefile") +
            common.file_bytes(os.path.join(TOP, "kunit/Makefile")))
        put("mm/Kconfig.debug", now("mm/Kconfig.debug") + b"\n" +
            common.file_bytes(os.path.join(TOP, "kunit/Kconfig")))

    listed = subprocess.run(["git", "-C", TOP, "ls-files", "-c", "-o", "--exclude-standard",
                             "selftests"], stdout=subprocess.PIPE, text=True)
    files = listed.stdout.split() if listed.returncode == 0 else \
        [os.path.join("selftests", f) for f in os.listdir(os.path.join(TOP, "selftests"))]
    for name in files:
        path = os.path.join(TOP, name)
        if os.path.isfile(path):
            put(os.path.join(SELFTEST_DIR, os.path.relpath(path, os.path.join(TOP, "selftests"))),
                common.file_bytes(path), 0o755 if os.access(path, os.X_OK) else 0o644)
    return names


def stage_all(kernel, source, stage):
    """Everything that the wanted tree has and the pristine one has not."""
    names = stage_patches(source, kernel.patches, stage)
    return names | stage_tests(source, stage, kernel.has_kunit)


def same(a, b):
    try:
        return common.file_bytes(a) == common.file_bytes(b)
    except OSError:
        return False


def sync(source, stage, names, tree):
    """Make the working tree equal to pristine plus stage. Returns the files replaced."""
    record = os.path.join(tree, ".splitq-changed")
    before = set()
    if os.path.exists(record):
        with open(record) as f:
            before = set(json.load(f))
    # Written first: whatever is interrupted, the next sync looks at all of them.
    common.write_atomically(record, json.dumps(sorted(before | names)))

    replaced = []
    for name in sorted(before | names):
        staged, pristine, to = (os.path.join(d, name) for d in (stage, source.path, tree))
        want = staged if os.path.exists(staged) else pristine if os.path.exists(pristine) else None
        if want is None:
            if os.path.exists(to):
                os.unlink(to)
                replaced.append(name)
            continue
        if same(want, to):
            continue
        os.makedirs(os.path.dirname(to), exist_ok=True)
        tmp = to + ".splitq-new"
        shutil.copyfile(want, tmp)      # a new inode, and a new date for make
        shutil.copymode(want, tmp)
        os.rename(tmp, to)
        replaced.append(name)
    common.write_atomically(record, json.dumps(sorted(names)))
    return replaced


def slot_tree(source, config_key, arch):
    """The working tree of this source and configuration; made if it is not there."""
    slot = common.cache_dir("slot", "%s-%s-%s" % (source.ident, arch, config_key[:12]))
    tree = os.path.join(slot, "linux")
    if not os.path.isdir(tree):
        import build
        build.prune("slot", build.KEEP_SLOTS)
        common.need_space(4, "a working tree with objects")
        tmp = tree + ".tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        subprocess.run(["cp", "-al", source.path, tmp], check=True)
        os.rename(tmp, tree)
    os.utime(slot)
    return tree


def prepare(kernel, source, config_key):
    """Bring the working tree into the wanted state; the caller holds the slot's lock."""
    tree = slot_tree(source, config_key, kernel.arch)
    stage = os.path.join(os.path.dirname(tree), "stage")
    shutil.rmtree(stage, ignore_errors=True)
    os.makedirs(stage)
    try:
        names = stage_all(kernel, source, stage)
        sync(source, stage, names, tree)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return tree


def check_applies(kernel, source):
    """Apply the patches to a scratch copy of the files they touch, and nothing else."""
    stage = os.path.join(common.cache_dir(), "stage.%d" % os.getpid())
    os.makedirs(stage)
    try:
        stage_all(kernel, source, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def verb():
    parser = common.kernel_arguments(__doc__)
    parser.add_argument("--check", action="store_true", help="only see whether the patches apply")
    args = parser.parse_args()
    kernel = common.Kernel(args)
    source = fetch.fetch(kernel)
    if args.check:
        check_applies(kernel, source)
        say("prepare: %d patches apply to %s" % (len(kernel.patches), source.description))
        return 0
    import build
    with build.slot_locked(kernel, source):
        print(prepare(kernel, source, build.config_key(kernel)))
    return 0


if __name__ == "__main__":
    common.main(verb)
