#!/usr/bin/env python3
"""Write the complete series, tests included, as git format-patch --cover-letter does.

The patches of patches/<base>/ are applied with git am to the files they touch,
then the KUnit suite, where it builds, and the kselftests are added as patches of
their own. The cover letter is patches/<base>/0000-cover-letter.txt; git adds what
it always adds. In a kernel tree: git am --empty=drop DIR/*.patch (the cover letter
is what is empty). Nobody signs a patch off for somebody else: who sends it adds
that with git am -s.
"""
import os
import re
import shutil
import subprocess

import common
import fetch
import prepare
from common import die, say

KUNIT_MESSAGE = """mm/thp: add KUnit tests of the deferred split queue

The rules of the queue as unit tests: a folio is on its queue if and only
if its _deferred_list is not empty, the count is the number of folios on
it, and what the shrinker has in its hands comes back, is split, or is
seen freed.

The suite drives the queue through the shrinker's own callbacks, real
mappings and real migration. Where two CPUs must meet in the bad order one
of them is held at a deferred_split_point(), which is a static stub, and
nothing at all in a kernel without the suite. What the suite needs as a
module is exported to KUnit tests only.

With one CPU those cases are skipped, so do give it two:

  tools/testing/kunit/kunit.py run --arch=x86_64 --kunitconfig=mm/tests \\
	--qemu_args="-smp 2"
"""

SELFTEST_MESSAGE = """selftests/mm: add tests of the THP deferred split queue

Most files are a race of two operations on one THP: partial unmaps, frees,
migration, reclaim, collapse, fork, mlock, another shrinker, against the
shrinker; deferred_split_race runs them, and looks at the folio, the
counters, the memory's content and the kernel's log after each round. None
passes unless the two were at work at the same time. With a module that can
hold a CPU they are more exact; it is not needed. deferred_split_wait,
_zap and _swapin are about what meets a split: faults on migration entries,
zaps, and swap-in of shared pages. deferred_split_pressure does it all by
reclaim alone. Knobs are put back by a guard also when a test crashes.

deferred_split_conserve runs partial unmaps, frees, forks and migrations
against the shrinker, and checks that counters balance afterwards and that
everything queued can still be split.

deferred_split_unmap holds the shrinker at each of its instructions in
turn, and unmaps half of the THP that it has in its hands on another CPU.
It needs a module that can hold a CPU, and skips without it.
deferred_split_charge_move does the same while a task moves to another
cgroup v1 memcg with its charges. deferred_split_device has a THP begin
its life on the device of lib/test_hmm.c. deferred_split_audit, _pause and _jitter
test that module. deferred_split_whole migrates and mlocks what must not be
split for it.

deferred_split_torture has many tasks do random things to many THPs for as
long as it is told to, and looks at queues, counters and memory meanwhile.
deferred_split_bench measures, on a kernel that is made for that, and skips elsewhere.
"""


def git(tree, *words, **kwargs):
    env = dict(os.environ, GIT_CONFIG_NOSYSTEM="1", LC_ALL="C")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        env.pop(name, None)
    return subprocess.run(["git", "-C", tree] + list(words), env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **kwargs)


def must(tree, *words):
    got = git(tree, *words)
    if got.returncode:
        die("git %s failed: %s" % (words[0], got.stdout.strip().split("\n")[0]))
    return got.stdout


def base_files(source, names, tree):
    """A repository of those files as they are in the base, tagged so."""
    must(tree, "init", "-q")
    # Whoever runs this is the author of the two test patches.
    if git(tree, "config", "user.email").returncode:
        must(tree, "config", "user.email", "splitq@localhost")
        must(tree, "config", "user.name", "splitq")
    for name in names:
        pristine = os.path.join(source.path, name)
        if os.path.exists(pristine):
            os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
            shutil.copy(pristine, os.path.join(tree, name))
    must(tree, "add", "-A", "-f")
    must(tree, "commit", "-q", "-m", source.description)
    must(tree, "tag", "base")


def describe(tree, base):
    """Gives git our cover letter; returns what is said to format-patch."""
    path = os.path.join(common.patch_dir(base), "0000-cover-letter.txt")
    text = common.file_bytes(path).decode()
    m = re.match(r"Subject: \[(PATCH[^\]]*)\] (.*)\n\n", text)
    if not m:
        die("%s does not begin with 'Subject: [PATCH ...] ...'" % path)
    branch = must(tree, "symbolic-ref", "--short", "HEAD").strip()
    must(tree, "config", "branch.%s.description" % branch,
         m.group(2) + "\n\n" + text[m.end():])
    return ["--cover-letter", "--cover-from-description=subject", "--subject-prefix=" + m.group(1)]


def write_series(kernel, source, out):
    """Apply everything in a scratch repository and export it; returns the file names."""
    # Applied once without git first: that names patch, file and hunk.
    prepare.check_applies(kernel, source)
    tree = os.path.join(common.cache_dir(), "series.%d" % os.getpid())
    stage = tree + ".stage"
    for path in (tree, stage):
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
    try:
        names = prepare.stage_all(kernel, source, stage)
        base_files(source, names, tree)
        must(tree, "am", "-q", *kernel.patches)

        def add(message, prefix_ok):
            for name in sorted(names):
                if not prefix_ok(name) or not os.path.exists(os.path.join(stage, name)):
                    continue
                os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
                shutil.copy(os.path.join(stage, name), os.path.join(tree, name))
            must(tree, "add", "-A", "-f")
            must(tree, "commit", "-q", "-m", message)

        selftest = "tools/testing/selftests/"
        if kernel.has_kunit:
            add(KUNIT_MESSAGE, lambda n: not n.startswith(selftest))
        add(SELFTEST_MESSAGE, lambda n: n.startswith(selftest))

        tmp = out + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        must(tree, "format-patch", "-q", "--no-signature", "--zero-commit",
             *describe(tree, kernel.base), "-o", tmp, "base..HEAD")
        shutil.rmtree(out, ignore_errors=True)
        os.rename(tmp, out)
        return sorted(os.listdir(out))
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(stage, ignore_errors=True)


def verb():
    parser = common.kernel_arguments(__doc__)
    parser.add_argument("--out", default=os.environ.get("OUT"),
                        help="the directory to write (OUT, series-BASE)")
    args = parser.parse_args()
    kernel = common.Kernel(args)
    out = os.path.abspath(args.out or "series-" + kernel.base)
    if os.path.exists(out) and any(not f.endswith((".patch", ".txt")) for f in os.listdir(out)):
        die("%s holds something else" % out, "give another OUT=")
    for name in write_series(kernel, fetch.fetch(kernel), out):
        say(os.path.join(os.path.relpath(out), name))
    return 0


if __name__ == "__main__":
    common.main(verb)
