"""Write the guest's initramfs: a gzipped cpio archive (newc), made without tools."""
import gzip
import os


class Cpio:
    def __init__(self):
        self.data = bytearray()
        self.inode = 0
        self.dirs = set()

    def entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0)
        self.data += b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.data += b"\0" * (-len(self.data) % 4)
        self.data += data
        self.data += b"\0" * (-len(self.data) % 4)

    def dir(self, name):
        name = name.strip("/")
        if not name or name in self.dirs:
            return
        self.dir(os.path.dirname(name))
        self.dirs.add(name)
        self.entry(name, 0o040755)

    def file(self, name, data, mode=0o755):
        name = name.strip("/")
        self.dir(os.path.dirname(name))
        self.entry(name, 0o100000 | mode, data)

    def device(self, name, major, minor):
        name = name.strip("/")
        self.dir(os.path.dirname(name))
        self.entry(name, 0o020600, rdev=(major, minor))

    def finish(self):
        self.entry("TRAILER!!!", 0)
        return bytes(self.data)


def write(path, init, module, selftests, tests, busybox=None):
    """Write the archive. tests: list of (name, seconds, command)."""
    cpio = Cpio()
    # Until devtmpfs is mounted there is nothing else to print on.
    cpio.device("dev/console", 5, 1)

    def add(name, source):
        with open(source, "rb") as f:
            cpio.file(name, f.read())

    add("init", init)
    if module:
        add("splitq.ko", module)
    if selftests:
        for name in sorted(os.listdir(selftests)):
            source = os.path.join(selftests, name)
            if os.path.isfile(source) and os.access(source, os.X_OK):
                add("selftests/" + name, source)
    if busybox:
        add("bin/busybox", busybox)
        for name in ("sh", "ls", "cat", "echo", "mount", "ps", "dmesg", "grep", "sleep", "kill",
                     "head", "tail", "find", "taskset", "free", "env", "vi", "wc", "mkdir"):
            cpio.file("bin/" + name, b"#!/bin/busybox sh\nexec /bin/busybox %s \"$@\"\n"
                      % name.encode())
    cpio.file("splitq.run", "".join("%s\t%d\t%s\n" % t for t in tests).encode(), 0o644)
    with open(path, "wb") as f:
        # No time stamp: the same content is the same file.
        f.write(gzip.compress(cpio.finish(), 1, mtime=0))
