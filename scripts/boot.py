#!/usr/bin/env python3
"""Boot a built kernel in QEMU and let the guest's init run tests, or a shell.

The run directory that it fills is a complete case file: kernel configuration,
the exact QEMU command, console, results, and how to run it again.
"""
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

import build
import common
import initramfs
import judge
import races
from common import ARCHES, die, say

PROBE_SECONDS = 20      # a KVM guest that is not through by then hangs
NO_PORT = "init: no virtio port"     # what scripts/guest/init.c says then
PORT_TRIES = 3
BOOT_SECONDS = 120      # silence before init's first word
SPLAT_SECONDS = 20      # the same, when the kernel or the built-in suite has complained: it hangs
HANG_SECONDS = 60       # silence after it: init says something every 2 s
PR_SET_PDEATHSIG = 1
ICOUNT_SHIFT = 1        # under -icount an instruction is 2^this ns of the guest's time


def die_with_parent():
    """In the child, before exec: no QEMU outlives us, whatever ends us."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(process):
    """End a QEMU: ask, then insist."""
    for action, seconds in ((process.terminate, 5), (process.kill, 10)):
        if process.poll() is not None:
            return
        action()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass


def qemu_command(arch, accel, image, initrd, append, run, smp, mem, det=False, gdb=False,
                 shell=False, session=False, nodes=None):
    a = ARCHES[arch]
    common.need_tool(a["qemu"], a["qemu_package"])
    nodes = nodes or (2 if smp % 2 == 0 else 1)
    command = [a["qemu"], "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += a["machine_kvm"] if accel == "kvm" else a["machine"]
    if det:
        command += ["-accel", "tcg,thread=single", "-icount",
                    "shift=%d,sleep=off" % ICOUNT_SHIFT, "-seed", "1",
                    "-rtc", "base=2026-01-01T00:00:00,clock=vm"]
    else:
        command += ["-accel", "kvm" if accel == "kvm" else "tcg,thread=multi"]
    # One socket a node: cores of one socket on two nodes make the kernel warn.
    command += ["-m", str(mem), "-smp", "%d,sockets=%d,maxcpus=%d" % (smp, nodes, smp)]
    for node in range(nodes):
        cpus = [str(c) for c in range(smp) if c * nodes // smp == node]
        command += ["-object", "memory-backend-ram,id=m%d,size=%dM" % (node, mem // nodes),
                    "-numa", "node,nodeid=%d,memdev=m%d,cpus=%s-%s" % (node, node, cpus[0],
                                                                        cpus[-1])]
    command += ["-kernel", image, "-initrd", initrd, "-append", append,
                # ioeventfd would have QEMU's main loop, at the host's pace, do the work.
                "-device", "virtio-serial-pci" + (",ioeventfd=off" if det else ""),
                "-chardev", "file,id=results,append=on,path=%s" % os.path.join(run, "results.log"),
                "-device", "virtserialport,chardev=results,name=splitq.results"]
    if session:
        command += ["-chardev", "stdio,id=commands,signal=off",
                    "-device", "virtserialport,chardev=commands,name=splitq.commands"]
    if shell:
        command += ["-serial", "mon:stdio"]
    else:
        command += ["-monitor", "none", "-serial", "chardev:console", "-chardev",
                    "file,id=console,append=on,path=%s" % os.path.join(run, "console.log")]
    if gdb:
        command += ["-chardev", "socket,path=gdb.sock,server=on,wait=off,id=gdb",
                    "-gdb", "chardev:gdb", "-S"]
    return command


def cmdline(arch, extra=""):
    words = ["console=" + ARCHES[arch]["console"], "panic=-1", "oops=panic", "nokaslr",
             "printk.time=1", "printk.devkmsg=on", "rcupdate.rcu_expedited=1"]
    return " ".join(words + extra.split())


def sizes(run):
    total = 0
    for name in ("console.log", "results.log"):
        try:
            total += os.path.getsize(os.path.join(run, name))
        except OSError:
            pass
    return total


def said_hello(run):
    try:
        with open(os.path.join(run, "results.log"), "rb") as f:
            return b" hello " in f.read(4096)
    except OSError:
        return False


def silence(run):
    """For how long may a guest say nothing?"""
    if said_hello(run):
        return HANG_SECONDS
    text = judge.clean(judge.read(run, "console.log"))
    red = re.search(r"^(\[[^]]*\] )?\s*not ok \d", text, re.M)
    return SPLAT_SECONDS if red or judge.first_splats(text.split("\n")) else BOOT_SECONDS


def has_no_port(run):
    """Did init find no port to report by? ACPI gives up routing interrupts when a guest
    gets hardly any time to boot in; what runs there would be for nothing.
    """
    try:
        if os.path.getsize(os.path.join(run, "results.log")):
            return False
    except OSError:
        pass                    # not even that
    return NO_PORT in judge.read(run, "console.log")


def watch(process, run, limit, on_tick=None):
    """Wait for the guest's end; returns how it ended: exit, hung, late or no port."""
    start = last = time.monotonic()
    seen = 0
    while True:
        try:
            process.wait(0.25)
            return "exit"
        except subprocess.TimeoutExpired:
            pass
        t = time.monotonic()
        if on_tick:
            on_tick(t - start)
        size = sizes(run)
        if size != seen:
            seen, last = size, t
            if has_no_port(run):
                return "no port"
        if t - last > min(SPLAT_SECONDS, HANG_SECONDS, BOOT_SECONDS) and t - last > silence(run):
            return "hung"
        if t - start > limit:
            return "late"


def fill_run_dir(built, run, tests):
    """What QEMU reads, and what a reader of the case wants; returns initrd and image."""
    os.makedirs(run, exist_ok=True)
    initrd = os.path.join(run, "initrd.gz")
    initramfs.write(initrd, built.init, built.module, built.selftests, tests)
    shutil.copy2(os.path.join(built.dir, "config"), run)
    for name in ("results.log", "console.log", "image", races.NAME):
        if os.path.exists(os.path.join(run, name)):
            os.unlink(os.path.join(run, name))
    image = os.path.join(run, "image")
    try:
        os.link(built.image, image)
    except OSError:
        shutil.copy2(built.image, image)
    return initrd, image


def write_qemu_sh(run, command):
    common.write_atomically(os.path.join(run, "qemu.sh"),
                            "#!/bin/sh\n# The guest of this directory, once more.\n" +
                            " ".join(shlex.quote(w) for w in command) + "\n")
    os.chmod(os.path.join(run, "qemu.sh"), 0o755)


def boot(built, run, tests, accel, smp=2, mem=1024, kunit=False, det=False, limit=1800,
         on_tick=None, nodes=None):
    """Boot a guest that runs the tests; returns how it ended and fills the run directory.

    nodes: of memory; without it two, if the number of vCPUs is even.
    """
    for n in range(PORT_TRIES):
        how = boot_once(built, run, tests, accel, smp, mem, kunit, det, limit, on_tick, nodes)
        if how != "no port":
            break
        say("the guest came up without a port to report by: does it get too little of the "
            "machine? %s" % ("once more" if n + 1 < PORT_TRIES else "that was the last try"))
    races.find(built, run)
    return how


def boot_once(built, run, tests, accel, smp, mem, kunit, det, limit, on_tick, nodes):
    """One try of boot()."""
    initrd, image = fill_run_dir(built, run, tests)
    append = cmdline(built.kernel.arch, "kunit.enable=%d %s" % (kunit, built.kernel.boot_words))
    command = qemu_command(built.kernel.arch, accel, image, initrd, append, run, smp, mem, det,
                           nodes=nodes)
    write_qemu_sh(run, command)

    start = time.monotonic()
    with open(os.path.join(run, "qemu.log"), "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   preexec_fn=die_with_parent, start_new_session=True)
        try:
            how = watch(process, run, limit, on_tick)
        finally:
            stop(process)
    meta = {"release": built.info["release"], "base": built.info["base"],
            "label": built.info["label"], "series": built.info["series"],
            "arch": built.kernel.arch, "machine": built.kernel.machine, "host": common.host_arch(), "source": built.info["source"],
            "pinned": built.info["pinned"], "debug": built.info["debug"],
            "accel": accel + (" icount" if det else ""), "cpus": smp, "mem": mem,
            "tests": [t[0] for t in tests], "kunit": kunit, "ended": how,
            "qemu_status": process.returncode, "seconds": round(time.monotonic() - start, 1),
            "append": append}
    common.write_atomically(os.path.join(run, "meta.json"), json.dumps(meta, indent=1))
    return how


def probe_kvm(built):
    """Does a KVM guest really run here? Boot one, under a deadline."""
    run = os.path.join(common.cache_dir("probe"), str(os.getpid()))
    os.makedirs(run, exist_ok=True)
    try:
        initrd = os.path.join(run, "initrd.gz")
        initramfs.write(initrd, built.init, None, None, [])
        command = qemu_command(built.kernel.arch, "kvm", built.image, initrd,
                               cmdline(built.kernel.arch, "kunit.enable=0"), run, 2, 1024)
        log = os.path.join(run, "qemu.log")
        with open(log, "w") as f:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                       preexec_fn=die_with_parent, start_new_session=True)
        try:
            process.wait(PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return "a probe guest was not through in %d s" % PROBE_SECONDS
        finally:
            stop(process)
        try:
            with open(os.path.join(run, "results.log")) as f:
                through = " bye " in f.read()
            with open(log) as f:
                said = f.readline().strip()
        except OSError:
            through, said = False, ""
        return None if through else "a probe guest did not come up (%s)" % (said or "no word why")
    finally:
        shutil.rmtree(run, ignore_errors=True)


def accelerator(built):
    """kvm or tcg: what ACCEL says, else what a probe found; remembered per machine."""
    asked = os.environ.get("ACCEL") or "auto"
    if asked == "kvm" and common.host_arch() != built.kernel.arch:
        die("ACCEL=kvm with ARCH=%s on %s" % (built.kernel.arch, common.host_arch()),
            "KVM runs guests of the host's architecture only: use tcg")
    if asked in ("kvm", "tcg"):
        return asked
    if asked != "auto":
        die("ACCEL=%s" % asked, "use auto, kvm or tcg")
    if common.host_arch() != built.kernel.arch or not os.path.exists("/dev/kvm"):
        return "tcg"
    with open("/proc/cpuinfo") as f:
        model = [line for line in f if line.startswith(("model name", "CPU implementer"))][:1]
    qemu = common.run([ARCHES[built.kernel.arch]["qemu"], "--version"]).stdout
    machine = common.digest(os.uname().nodename, os.uname().release, model, qemu)[:16]
    path = os.path.join(common.cache_dir(), "accel.json")
    known = {}
    if os.path.exists(path):
        try:
            with open(path) as f:
                known = json.load(f)
        except ValueError:
            pass                # probed again
    if machine not in known:
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            why = "no permission"
        else:
            why = probe_kvm(built)
        known[machine] = why or ""
        common.write_atomically(path, json.dumps(known, indent=1))
    if known[machine]:
        say("accel: /dev/kvm is there, but %s: using TCG (ACCEL=kvm insists)" % known[machine])
        return "tcg"
    return "kvm"


def busybox(arch):
    """A static busybox for the interactive guest, from Debian."""
    path = os.path.join(common.cache_dir("guest"), "busybox-" + arch)
    if not os.path.exists(path):
        native = arch == common.host_arch()
        found = native and shutil.which("busybox")
        static = found and "statically linked" in common.run(["file", "-L", found]).stdout \
            if shutil.which("file") else False
        if static:
            return found
        tmp = path + ".%d.tmp" % os.getpid()
        os.makedirs(tmp)
        try:
            apt = ["apt-get", "-q"]
            if not native:
                # Package lists of our own: the system's know its own architecture.
                debian = ARCHES[arch]["debian"]
                os.makedirs(os.path.join(tmp, "lists/partial"))
                for option in ("APT::Architecture=" + debian, "APT::Architectures=" + debian,
                               "Dir::State::Lists=%s/lists" % tmp,
                               "Dir::State::status=/dev/null", "Dir::Cache=%s/cache" % tmp):
                    apt += ["-o", option]
                common.run(apt + ["update"])
            got = common.run(apt + ["download", "busybox-static"], cwd=tmp)
            debs = [f for f in os.listdir(tmp) if f.endswith(".deb")]
            if not debs:
                die("cannot download busybox-static (%s)" % got.stdout.strip().split("\n")[-1],
                    "check the network, or install busybox-static")
            subprocess.run(["dpkg-deb", "-x", debs[0], tmp], cwd=tmp, check=True)
            for name in ("bin/busybox", "usr/bin/busybox"):
                if os.path.exists(os.path.join(tmp, name)):
                    os.rename(os.path.join(tmp, name), path)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return path


def shell(built, accel, smp, mem, det, gdb):
    """An interactive guest; with gdb it waits for a debugger before the first instruction."""
    run = os.path.join(common.cache_dir("runs"), time.strftime("shell-%Y%m%d-%H%M%S"))
    os.makedirs(run)
    initrd = os.path.join(run, "initrd.gz")
    initramfs.write(initrd, built.init, built.module, built.selftests,
                    [("shell", 10**6, "@shell")], busybox(built.kernel.arch))
    command = qemu_command(built.kernel.arch, accel, built.image, initrd,
                           cmdline(built.kernel.arch, "kunit.enable=0 " + built.kernel.boot_words),
                           run, smp, mem, det, gdb,
                           shell=True)
    if gdb:
        script = os.path.join(run, "gdbinit")
        # Debug information says ../mm/x.c. mm/ is kept with the kernel, patched; the
        # first rule that fits is taken.
        common.write_atomically(script, "file %s\nset substitute-path ../mm %s\n"
                                "set substitute-path .. %s\ntarget remote %s\n"
                                % (built.vmlinux, os.path.join(built.dir, "linux/mm"),
                                   built.source.path, os.path.join(run, "gdb.sock")))
        say("shell: the guest waits for a debugger; in another terminal:\n"
            "  %s -x %s -ex 'hbreak deferred_split_scan' -ex continue"
            % ("gdb-multiarch" if common.cross(built.kernel.arch) else "gdb", script))
    say("shell: %s under %s; leave with 'exit', or Ctrl-A X" % (built.info["release"], accel))
    process = subprocess.Popen(command, cwd=run, preexec_fn=die_with_parent)
    try:
        return process.wait()
    finally:
        stop(process)


def boot_arguments(parser):
    env = os.environ.get
    parser.add_argument("--smp", type=int, default=int(env("SMP") or 2), help="vCPUs (SMP, 2)")
    parser.add_argument("--mem", type=int, default=int(env("MEM") or 1024),
                        help="guest memory in MiB, 1024 at least (MEM, 1024)")
    parser.add_argument("--det", action="store_true", default=env("DET") == "1",
                        help="deterministic: TCG with -icount, fixed clock and seed (DET=1)")


def check_size(args):
    if args.smp < 1 or args.mem < 1024:
        die("SMP=%d MEM=%d" % (args.smp, args.mem),
            "at least 1 vCPU and 1024 MiB: below 512 MiB a node the kernel turns THPs off")


def verb():
    parser = common.kernel_arguments(__doc__)
    boot_arguments(parser)
    parser.add_argument("--gdb", action="store_true", default=os.environ.get("GDB") == "1",
                        help="wait for a debugger (GDB=1)")
    args = parser.parse_args()
    check_size(args)
    built = build.Built(common.Kernel(args))
    accel = "tcg" if args.det else accelerator(built)
    return shell(built, accel, args.smp, args.mem, args.det, args.gdb)


if __name__ == "__main__":
    common.main(verb)
