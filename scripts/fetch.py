#!/usr/bin/env python3
"""Bring a base's pristine kernel source into the cache and print where it is.

Debian's linux-source package comes through the machine's own apt configuration,
is checked against the version and SHA256 in scripts/sources, and is unpacked
once. From a suite that the machine has not configured it comes from the same
mirror, with package lists of our own in the cache: apt's are left as they are, and
the suite's signature is checked by the machine's keys. With LINUX= any tree is
copied instead; the tree itself is only read.
"""
import json
import os
import re
import shutil
import subprocess

import common
from common import die, say


class Source:
    """A pristine tree: where, what it is called, and whether it is the pinned one."""

    def __init__(self, path, ident, description, pinned):
        self.path, self.ident, self.description, self.pinned = path, ident, description, pinned


def tree_version(path):
    try:
        with open(os.path.join(path, "Makefile")) as f:
            text = f.read(4096)
        parts = [re.search(r"^%s *=[ \t]*(.*)$" % key, text, re.M).group(1).strip()
                 for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")]
    except (OSError, AttributeError):
        return None
    return "%s.%s.%s%s" % tuple(parts)


KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def apt(*words, **kwargs):
    return common.run(list(words), env=dict(os.environ, LC_ALL="C"), **kwargs)


def errors(output):
    """What apt complains about: an error, or else a warning, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    found = [line for kind in ("E:", "Err:", "W:") for line in lines if line.startswith(kind)]
    return (found or lines[-1:] or ["no word why"])[0]


def release_codename():
    try:
        with open("/etc/os-release") as f:
            m = re.search(r"^VERSION_CODENAME=\"?(\w+)", f.read(), re.M)
        return m and m.group(1)
    except OSError:
        return None


def mirror():
    """The machine's Debian mirror, from apt's configured sources in whichever format."""
    # As configured: release information is there only after an update.
    out = apt("apt-get", "indextargets", "--no-release-info", "--format",
              "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Component: main").stdout
    found = [line.split() for line in out.splitlines()]
    found = [(words[1], words[0]) for words in found if len(words) == 2 and
             re.match(r"[a-z+]+:/", words[0]) and not words[0].startswith("cdrom:") and
             "security" not in words[1]]
    if not found:
        die("apt has no Debian mirror configured", "add one to apt's sources, or use "
            "LINUX=/path/to/a/tree")
    return dict(reversed(found)).get(release_codename(), found[0][1])


class Suite:
    """Where apt takes packages from: its own configuration, or one more suite of its mirror."""

    def __init__(self, name):
        self.name = name
        self.options = []
        if name == "-":
            return
        root = common.cache_dir("apt", name)
        for part in ("lists/partial", "cache/archives/partial"):
            common.cache_dir("apt", name, part)
        keys = "[signed-by=%s] " % KEYRING if os.path.exists(KEYRING) else ""
        common.write_atomically(os.path.join(root, "sources.list"),
                                "deb %s%s %s main\n" % (keys, mirror(), name))
        for option in ("Dir::Etc::SourceList=%s/sources.list" % root,
                       "Dir::Etc::SourceParts=/dev/null", "Dir::State::Lists=%s/lists" % root,
                       "Dir::Cache=%s/cache" % root, "Acquire::Languages=none"):
            self.options += ["-o", option]

    def versions(self, package):
        """The versions that apt offers, newest first, with their SHA256."""
        out = apt("apt-cache", *self.options, "show", package).stdout
        found, version = [], None
        for line in out.splitlines():
            if line.startswith("Version: "):
                version = line.split()[1]
            elif line.startswith("SHA256: ") and version:
                found.append((version, line.split()[1]))
                version = None
        return found

    def update(self):
        become = [] if os.geteuid() == 0 or self.options else ["sudo", "-n"]
        return apt(*become, "apt-get", "-q", *self.options, "update").stdout

    def download(self, package, version, sha256, want_pinned):
        """Download one version of the package; returns the file."""
        where = common.cache_dir("dl")
        tmp = os.path.join(where, "tmp.%d" % os.getpid())
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        try:
            say("fetch: downloading %s %s" % (package, version))
            got = apt("apt-get", "-q", *self.options, "download", "%s=%s" % (package, version),
                      cwd=tmp)
            debs = [f for f in os.listdir(tmp) if f.endswith(".deb")]
            if got.returncode or len(debs) != 1:
                die("cannot download %s %s (%s)" % (package, version, errors(got.stdout)),
                    "check the network, or use LINUX=/path/to/a/tree")
            path = os.path.join(tmp, debs[0])
            check_sum(path, sha256, package, version, want_pinned)
            final = os.path.join(where, debs[0])
            os.rename(path, final)
            return final
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


def check_sum(path, sha256, package, version, pinned):
    import hashlib
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    if h.hexdigest() != sha256:
        die("wrong checksum of %s %s: %s..., expected %s..." % (package, version,
            h.hexdigest()[:16], sha256[:16]),
            "nothing was kept; try again, and if it stays check scripts/sources" if pinned
            else "nothing was kept; try again")


def extract(deb, names, to):
    """Unpack these of a package's files and directories, without installing anything."""
    outer = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    inner = subprocess.run(["tar", "-xf", "-", "-C", to] + names, stdin=outer.stdout)
    outer.stdout.close()
    if outer.wait() or inner.returncode:
        die("cannot unpack %s" % deb, "remove it and try again")


def unpack(deb, package, path):
    common.need_space(8, "unpacking and building a kernel")
    tmp = path + ".%d.tmp" % os.getpid()
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    say("fetch: unpacking %s" % os.path.basename(deb))
    try:
        extract(deb, ["./usr/src/%s.tar.xz" % package], tmp)
        tar = os.path.join(tmp, "usr/src", package + ".tar.xz")
        if subprocess.run(["tar", "-xf", tar, "-C", tmp]).returncode:
            die("cannot unpack %s" % tar, "is the disk full?")
        os.unlink(tar)
        os.rename(os.path.join(tmp, package), path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def from_debian(kernel):
    package, version, sha256 = kernel.package, kernel.version, kernel.sha256
    where = common.cache_dir("src")
    pinned = True

    path = os.path.join(where, "%s_%s" % (package, version))
    if not os.path.isdir(path):
        common.need_tool("apt-get", "apt (or use LINUX=/path/to/a/tree)")
        deb = [os.path.join(common.cache_dir("dl"), f) for f in os.listdir(common.cache_dir("dl"))
               if f.startswith("%s_%s" % (package, version)) and f.endswith(".deb")]
        if deb:
            try:
                check_sum(deb[0], sha256, package, version, True)
            except common.Fail:
                os.unlink(deb[0])
                deb = []
        if not deb:
            suite = Suite(kernel.suite)
            # Package lists of our own are as old as the last download.
            offered = [] if suite.options else suite.versions(package)
            if version not in [v for v, _ in offered]:
                updated = suite.update()
                offered = suite.versions(package)
                if not offered:
                    mend = "check the network and apt's sources"
                    if "NO_PUBKEY" in updated:
                        mend = "install the newest debian-archive-keyring"
                    die("apt knows no %s (%s)" % (package, errors(updated)),
                        mend + ", or use LINUX=/path/to/a/tree")
            if version not in [v for v, _ in offered]:
                pinned = False
                version, sha256 = offered[0]
                say("fetch: NOTE: the pinned %s %s is gone from the archive; using %s"
                    % (package, kernel.version, version))
                path = os.path.join(where, "%s_%s" % (package, version))
            deb = None if os.path.isdir(path) else \
                [suite.download(package, version, sha256, pinned)]
        if deb:
            unpack(deb[0], package, path)

    description = "%s %s" % (package, version)
    if not pinned:
        description += " (the pinned %s is gone)" % kernel.version
    return Source(path, common.digest(package, version, sha256)[:16], description, pinned)


def user_tree(linux):
    """A user's tree: its path and version."""
    tree = os.path.abspath(linux)
    version = tree_version(tree)
    if not version or not os.path.exists(os.path.join(tree, "mm/huge_memory.c")):
        die("LINUX=%s is not a kernel tree" % linux, "give the top of a kernel source tree")
    return tree, version


def from_tree(kernel):
    """Copy a user's tree. Only what belongs to it: not its objects, not its .git."""
    tree, version = user_tree(kernel.linux)
    common.need_space(8, "copying and building a kernel")

    listing = None
    if os.path.exists(os.path.join(tree, ".git")):
        got = subprocess.run(["git", "-C", tree, "ls-files", "-z", "-c", "-o",
                              "--exclude-standard"], stdout=subprocess.PIPE)
        if got.returncode == 0:
            listing = sorted(set(got.stdout.decode(errors="surrogateescape").split("\0")) - {""})
    if listing is None:
        if os.path.exists(os.path.join(tree, ".config")) or \
           os.path.isdir(os.path.join(tree, "include/config")):
            die("LINUX=%s was built in place, and is not a git tree: its objects would be copied"
                % kernel.linux, "use a clean tree (make mrproper), or one that is under git")
        listing = sorted(os.path.relpath(os.path.join(d, f), tree)
                         for d, _, files in os.walk(tree) for f in files)

    say("fetch: reading %s (%d files)" % (tree, len(listing)))
    import hashlib
    h = hashlib.sha256()
    present = []
    for rel in listing:
        path = os.path.join(tree, rel)
        if os.path.islink(path):
            data = os.readlink(path).encode()
        elif os.path.isfile(path):
            data = common.file_bytes(path)
        else:
            continue            # deleted in the working tree, or a submodule
        present.append(rel)
        h.update(("%s %d %d:" % (rel, os.access(path, os.X_OK), len(data))).encode(
            errors="surrogateescape"))
        h.update(data)
    ident = h.hexdigest()[:16]

    path = os.path.join(common.cache_dir("src"), "tree_%s_%s" % (version, ident))
    if not os.path.isdir(path):
        tmp = path + ".%d.tmp" % os.getpid()
        shutil.rmtree(tmp, ignore_errors=True)
        try:
            for rel in present:
                to = os.path.join(tmp, rel)
                os.makedirs(os.path.dirname(to), exist_ok=True)
                shutil.copy2(os.path.join(tree, rel), to, follow_symlinks=False)
            os.rename(tmp, path)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return Source(path, ident, "%s (Linux %s)" % (tree, version), True)


def fetch(kernel):
    """The pristine source for a kernel; brings it first if it is not in the cache."""
    with common.lock(os.path.join(common.cache_dir(), "fetch.lock")):
        source = from_tree(kernel) if kernel.linux else from_debian(kernel)
    version = tree_version(source.path)
    if not version:
        die("%s has no kernel in it" % source.path, "remove it and try again")
    if not version.startswith(kernel.base + "."):
        if kernel.nr_patches or kernel.mutant:
            say("fetch: NOTE: the tree is Linux %s, the series is for %s" % (version, kernel.base))
    source.version = version
    return source


def verb():
    args = common.kernel_arguments(__doc__).parse_args()
    source = fetch(common.Kernel(args))
    print(json.dumps({"path": source.path, "source": source.description, "version": source.version,
                      "pinned": source.pinned}, indent=1))


if __name__ == "__main__":
    common.main(verb)
