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
import tempfile
import types

import common
import fetch
from common import TOP, die, say

KUNIT_DIR = "mm/tests"
SELFTEST_DIR = "tools/testing/selftests/mm/deferred_split"
# Where they are to be known as well, the line that something new goes before or
# behind, and what: of mm's own script, and of the list of all kselftests.
WIRING = (
    ("tools/testing/selftests/mm/run_vmtests.sh", "before", b"- mdwe\n",
     b"""- deferred_split
	races of the THP deferred split queue (TARGETS=mm/deferred_split)
- quick
	the same, a minute of them
"""),
    ("tools/testing/selftests/mm/run_vmtests.sh", "before", b'CATEGORY="mdwe" run_test ./mdwe_test\n',
     b"""for test in ./deferred_split/deferred_split_*; do
	[ -x "$test" ] || continue
	case "$test" in
	*_explore | *_torture | *_after | *_bench) continue ;;
	esac
	CATEGORY="deferred_split" run_test "$test"
	if [ "$VM_SELFTEST_ITEMS" != "default" ]; then
		CATEGORY="quick" run_test env SECONDS=0.6 "$test"
	fi
done

"""),
    ("tools/testing/selftests/Makefile", "behind", b"TARGETS += mm\n",
     b"TARGETS += mm/deferred_split\n"),
)
HAS_IT = "the tree already has"


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
        die("%s %s" % (HAS_IT, name), "use SERIES=0 to test it as it is")
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


def kunit_inputs(base):
    """All files of the KUnit suite for a base, by their paths in kunit/."""
    where = os.path.join(TOP, "kunit")
    return [f for part in ("", base) for f in sorted(os.path.join(part, name) for name in
                                                     os.listdir(os.path.join(where, part)))
            if os.path.isfile(os.path.join(where, f)) and
            (f.endswith((".c", ".h")) or os.path.basename(f) in
             (".kunitconfig", "Kconfig", "Makefile", "hooks"))]


def kunit_sources(base):
    """Those of them that are copied into the tree: some are of the base alone."""
    return [f for f in kunit_inputs(base) if f.endswith((".c", ".h", ".kunitconfig"))]


def kunit_hooks(base):
    """The lines of its hooks: (file, function, where, expression, text)."""
    rules = []
    for name in kunit_inputs(base):
        if os.path.basename(name) != "hooks":
            continue
        with open(os.path.join(TOP, "kunit", name)) as f:
            for number, line in enumerate(f, 1):
                if line.strip() and not line.startswith("#"):
                    rule = tuple(line.rstrip("\n").split("\t"))
                    if len(rule) != 5 or rule[2] not in ("before", "after", "instead", "end"):
                        die("kunit/%s:%d: not a hook" % (name, number), "a line is: file, "
                            "function, before or after or instead or end, expression, text")
                    rules.append(rule)
    return rules


# In the kernel with all mutants a function has copies: see combine.copy_of().
COPY = r"(?:__[A-Z]\d\w*)?"


def is_only_body(lines, n):
    """Is a line all of the body of an if or a loop? What goes before it would be that then."""
    above = lines[n - 1].strip() if n else ""
    return bool(re.match(r"(?:\} )?(?:if|else|for|while|do|\w*for_each\w*)\b.*(?<![;{}])$", above))


def put_hook(text, rule):
    """A source file with one hook of the KUnit suite in it; None if it has no place."""
    _, function, where, expression, hook = rule
    inside, places, out = function == "-", 0, []
    lines = text.split("\n")
    for n, line in enumerate(lines):
        # A definition begins in the first column, and so does the brace that ends it.
        if function != "-" and re.match(r"[A-Za-z].*\b(?:%s)%s\(" % (
                function, "" if where == "end" else COPY), line):
            inside = not line.endswith(";")
        m = re.match(r"()}" if where == "end" else r"(\s*)" + expression, line) if inside else None
        if function != "-" and line.startswith("}"):
            inside = False
        add = [m.group(1) + part for part in hook.replace("\\t", "\t").split("\\n")] if m else []
        places += bool(m)
        if add and where == "instead":
            out += add
            continue
        if add and where == "before" and is_only_body(lines, n):
            die("the hook before '%s' would change what the line above it does" % line.strip(),
                "give that one braces, and a second statement")
        # A tree that has the hook already keeps it.
        if add == (lines[max(n - len(add), 0):n] if where == "before"
                   else lines[n + 1:n + 1 + len(add)]):
            add = []
        out += add + [line] if where == "before" else [line] + add
    return "\n".join(out) if places else None


def stage_tests(source, stage, kunit):
    """Copy selftests/, and kunit/ as it is for a base, to where they live in a kernel tree.

    kunit: the base, or None without the KUnit suite. Returns the names.
    """
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
        for name in kunit_sources(kunit):
            put(os.path.join(KUNIT_DIR, os.path.basename(name)),
                common.file_bytes(os.path.join(TOP, "kunit", name)))
        for rule in kunit_hooks(kunit):
            name = rule[0].lstrip("?")
            hooked = put_hook(now(name).decode(), rule)
            if hooked is not None:
                put(name, hooked.encode())
            elif not rule[0].startswith("?"):
                die("kunit/hooks: %s has no place for '%s'" % (name, rule[4]),
                    "give the suite a hook for this kernel")
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
        # No machine runs the litmus tests: scripts/litmus.py judges them.
        if os.path.isfile(path) and not name.startswith("selftests/litmus/"):
            put(os.path.join(SELFTEST_DIR, os.path.relpath(path, os.path.join(TOP, "selftests"))),
                common.file_bytes(path), 0o755 if os.access(path, os.X_OK) else 0o644)
    return names


def wire_tests(source, stage):
    """Put the kselftests into mm's script and into the list of all: the names changed."""
    names = set()
    for name, where, line, text in WIRING:
        path = os.path.join(stage, name)
        pristine = os.path.join(source.path, name)
        if not os.path.exists(path) and not os.path.exists(pristine):
            continue                    # not a whole tree
        data = common.file_bytes(path if os.path.exists(path) else pristine)
        if text in data:
            continue                    # it has the series already
        if data.count(line) != 1:
            die("%s has not one line '%s'" % (name, line.decode().strip()),
                "the kselftests cannot be added there: mend WIRING in prepare.py")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data.replace(line, text + line if where == "before" else line + text))
        shutil.copymode(pristine, path)
        names.add(name)
    return names


def stage_all(kernel, source, stage):
    """Everything that the wanted tree has and the pristine one has not."""
    names = stage_patches(source, kernel.patches, stage)
    if kernel.combined:
        import combine
        names |= combine.Combined(source, stage, kernel.mutant_patches,
                                  kernel.bench).write(source, stage)
    return names | stage_tests(source, stage, kernel.base if kernel.has_kunit else None) | \
        wire_tests(source, stage)


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


def nearest_bases(version):
    """The bases, the one next to this version first."""
    def number(text):
        return [int(n) for n in re.findall(r"\d+", text)[:2]]
    major, minor = number(version)
    return sorted(common.bases(), key=lambda base: abs((major - number(base)[0]) * 100 +
                                                       minor - number(base)[1]))


def choose_base(args):
    """The base whose patches apply to the tree of LINUX=; says which. Or what is in the way."""
    tree, version = fetch.user_tree(args.linux)
    source = fetch.Source(tree, None, tree, True)
    reasons = []
    for base in nearest_bases(version):
        kernel = common.Kernel(types.SimpleNamespace(**dict(vars(args), base=base)))
        with tempfile.TemporaryDirectory() as stage:
            try:
                patches = kernel.patches
                stage_patches(source, patches, stage)
            except common.Fail as e:
                if e.what.startswith(HAS_IT):
                    raise
                reasons.append("%s: %s" % (base, e.what))
                continue
        say("LINUX=%s is Linux %s: %s" % (
            args.linux, version, "the series for %s applies" % base if patches else
            "looked at as %s" % base))
        return base
    die("no series applies to LINUX=%s (Linux %s): %s" % (args.linux, version,
                                                         "; ".join(reasons)),
        "nothing was changed; mend the patch, or use SERIES=0")


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
