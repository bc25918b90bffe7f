"""A guest that takes one command after the other, and is put back in a tenth of the time of a boot.

The first one boots until its init asks for commands; what it is then is saved by
QEMU's migration to a file. Every further one starts from that file. Where saving
does not work, each boots.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import time

import boot
import judge

SILENCE_SECONDS = 30    # init says something every 2 s while a test runs
SAVE_SECONDS = 60


class Lost(Exception):
    """The guest is gone, or silent: why."""


class Command:
    """What became of one command: its output, its end, and the console meanwhile."""

    def __init__(self, name):
        self.name, self.out, self.end, self.how, self.lost = name, [], None, None, None
        self.console = []

    @property
    def exit(self):
        """Its exit status; None if it has none."""
        return int(self.end["exit"]) if self.end and "exit" in self.end else None

    @property
    def splats(self):
        return judge.first_splats(self.console)


class Guest:
    """One QEMU: started from a snapshot, or booted."""

    def __init__(self, sessions, number):
        self.sessions = sessions
        self.run = os.path.join(sessions.where, "guest-%d" % number)
        self.seen, self.console_seen, self.partial = 0, 0, b""
        built = sessions.built
        os.makedirs(self.run)
        command = boot.qemu_command(
            built.kernel.arch, sessions.accel, sessions.image, sessions.initrd,
            boot.cmdline(built.kernel.arch, "kunit.enable=0 " + built.kernel.boot_words),
            self.run, sessions.smp, sessions.mem, session=True)
        # The timers of an announcement on a network that is not there.
        command += ["-global", "migration.announce-rounds=0"]
        boot.write_qemu_sh(self.run, command)
        if sessions.snapshot:
            # As if it had booted: the logs go on where the snapshot was taken.
            for name in ("results.log", "console.log"):
                shutil.copy(os.path.join(sessions.where, "snapshot", name), self.run)
            command += ["-incoming", "exec:cat %s" % os.path.join(sessions.where, "snapshot",
                                                                  "state")]
        else:
            command += ["-qmp", "unix:qmp.sock,server=on,wait=off"]
        self.log = open(os.path.join(self.run, "qemu.log"), "w")
        self.process = subprocess.Popen(command, cwd=self.run, stdin=subprocess.PIPE,
                                        stdout=self.log, stderr=self.log,
                                        preexec_fn=boot.die_with_parent, start_new_session=True)
        try:
            self.wait_for("session", boot.BOOT_SECONDS)
        except Lost:
            self.stop()
            raise

    def lines(self):
        """New lines of the results channel: (kind, rest)."""
        path = os.path.join(self.run, "results.log")
        try:
            with open(path, "rb") as f:
                f.seek(self.seen)
                data = f.read()
        except OSError:
            data = b""
        self.seen += len(data)
        *whole, self.partial = (self.partial + data).split(b"\n")
        for line in whole:
            m = re.match(r"\d+ (\w+) ?(.*)$", judge.clean(line.decode(errors="replace")))
            if m:
                yield m.group(1), m.group(2)

    def wait_for(self, wanted, silence, limit=None, on_line=None):
        start = last = time.monotonic()
        while True:
            ended = self.process.poll() is not None
            for kind, rest in self.lines():
                last = time.monotonic()
                if on_line:
                    on_line(kind, rest)
                if kind == wanted:
                    return rest
            t = time.monotonic()
            if ended:
                raise Lost("the guest has ended")
            if t - last > silence:
                raise Lost("no word from the guest for %d s" % silence)
            if limit and t - start > limit:
                raise Lost("not through in %d s" % limit)
            time.sleep(0.01)

    def execute(self, name, seconds, command, on_out=None):
        """Run one command in the guest; what came of it, whatever happened."""
        c = Command(name)

        def on_line(kind, rest):
            if kind == "out":
                c.out.append(rest.partition(" ")[2])
                if on_out:
                    on_out(c.out[-1])

        self.console()
        try:
            self.process.stdin.write(("%s\t%d\t%s\n" % (name, seconds, command)).encode())
            self.process.stdin.flush()
            end = self.wait_for("end", SILENCE_SECONDS, seconds + 30, on_line)
            words = end.split()[1:]
            c.end = dict(w.split("=", 1) for w in words if "=" in w)
            c.how = next((w for w in words if "=" not in w), "ended")
        except (Lost, BrokenPipeError) as e:
            c.lost = str(e)
        c.console = self.console()
        return c

    def console(self):
        """New lines of the console."""
        try:
            with open(os.path.join(self.run, "console.log"), "rb") as f:
                f.seek(self.console_seen)
                data = f.read()
        except OSError:
            return []
        self.console_seen += len(data)
        return judge.clean(data.decode(errors="replace")).split("\n")

    def qmp(self, channel, command, **arguments):
        channel.sendall((json.dumps({"execute": command, "arguments": arguments}) + "\n").encode())
        while True:
            line = self.qmp_in.readline()
            if not line:
                raise Lost("QEMU's monitor is gone")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Lost("%s: %s" % (command, answer["error"].get("desc")))

    def save(self, path):
        """Write the guest's state to a file; the guest is of no use any more."""
        # A path of a socket must be short.
        where = os.open(self.run, os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(SAVE_SECONDS)
                channel.connect("/proc/self/fd/%d/qmp.sock" % where)
                self.qmp_in = channel.makefile("r")
                self.qmp_in.readline()
                self.qmp(channel, "qmp_capabilities")
                # Not stopped before: what starts from the file runs on at once.
                self.qmp(channel, "migrate-set-parameters", **{"max-bandwidth": 1 << 40})
                self.qmp(channel, "migrate", uri="exec:cat > %s" % path)
                end = time.monotonic() + SAVE_SECONDS
                while True:
                    status = self.qmp(channel, "query-migrate").get("status")
                    if status == "completed":
                        return
                    if status in ("failed", "cancelled") or time.monotonic() > end:
                        raise Lost("saving: %s" % status)
                    time.sleep(0.02)
        except OSError as e:
            raise Lost("saving: %s" % e)
        finally:
            os.close(where)

    def stop(self):
        boot.stop(self.process)
        try:
            self.process.stdin.close()
        except OSError:
            pass
        self.log.close()


class Sessions:
    """Guests of one kernel, one at a time."""

    def __init__(self, built, where, accel, smp, mem):
        self.built, self.where, self.accel, self.smp, self.mem = built, where, accel, smp, mem
        self.snapshot, self.guest, self.started, self.why_not = False, None, 0, None
        self.initrd, self.image = boot.fill_run_dir(built, os.path.join(where, "boot"),
                                                    [("session", 10**6, "@session")])

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.drop()
        shutil.rmtree(os.path.join(self.where, "snapshot"), ignore_errors=True)

    def start(self):
        self.started += 1
        return Guest(self, self.started)

    def take_snapshot(self):
        first = self.start()
        state = os.path.join(self.where, "snapshot")
        os.makedirs(state, exist_ok=True)
        try:
            first.save(os.path.join(state, "state"))
            for name in ("results.log", "console.log"):
                shutil.copy(os.path.join(first.run, name), state)
            self.snapshot = True
        except Lost as e:
            self.why_not = str(e)
        finally:
            first.stop()

    def get(self):
        """The guest that runs, or a fresh one."""
        if not self.guest:
            if not self.snapshot and not self.why_not:
                self.take_snapshot()
            self.guest = self.start()
        return self.guest

    def drop(self):
        """After something wrong: the next one is a fresh one. Its directory stays."""
        if self.guest:
            self.guest.stop()
            self.guest = None
