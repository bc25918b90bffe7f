#!/usr/bin/env python3
"""Explore every schedule with one preemption of the queue's functions.

For a victim function and an operation, one CPU is held at each instruction that
the victim executes in turn while the operation runs on another CPU; then both
finish, and the queue, its counters and the console are looked at: see
selftests/deferred_split_explore.c. After something that what follows could suffer
from, the guest is put back and goes on at the next instruction.

With --pairs (PAIRS=1) two preemptions: the victim is held, the operation runs until
one of its own instructions and is held there, the victim finishes, the operation
finishes. Bounded by time (TIME, seconds each); the share that was tried is printed.

A schedule is called FUNCTION+0xOFFSET/ACTION/OPERATION/STATE@KERNEL, one of two
preemptions FUNCTION+0xOFFSET/ACTION/FUNCTION2+0xOFFSET/OPERATION/STATE@KERNEL; make
replay SCHEDULE=... runs it alone, ten times, under TCG in the deterministic mode.
"""
import json
import os
import re
import sys
import time

import boot
import build
import common
import guest
import judge
import run
from common import die, say

ADDED = ("queued", "queued+root", "dropped", "dropped+neighbour")
# function: (the actions that execute it, the states that the folio is in before)
VICTIMS = {
    "deferred_split_scan": (("scan",), (
        "queued", "underused", "partial", "partial+64k", "partial+root", "underused+locked",
        "partial+locked", "partial+pinned", "underused+pinned")),
    # These two only where the compiler has not put them into the above.
    "deferred_split_isolate": (("scan",), ("queued", "partial", "partial+locked",
                                           "partial+pinned")),
    "deferred_split_requeue": (("scan",), ("underused+pinned",)),
    # By the scan, only where it puts something back.
    "folio_split_queue_lock_irqsave": (("scan",), ("underused+pinned",)),
    "split_queue_del": (("scan",), ("queued", "partial")),
    # What is queued at its fault is not added once more: what a scan has dropped is.
    "split_queue_add": (("munmap-half",), ADDED),
    "__split_queue_add": (("munmap-half", "scan"), ("queued", "partial") + ADDED[2:]),
    "deferred_split_folio": (("munmap-half",), ADDED),
    "__folio_unqueue_deferred_split": (("munmap-all", "exit"), ("queued", "partial",
                                                                "partial+64k")),
    "split_huge_page_to_list_to_order": (("scan",), ("underused", "partial", "partial+64k")),
    "migrate_folio_move": (("migrate",), ("queued", "underused")),
    # The compiler may have put it here.
    "migrate_pages_batch": (("migrate",), ("queued", "underused")),
    "remove_migration_ptes": (("migrate",), ("queued", "underused")),
    "__folio_migrate_mapping": (("migrate",), ("queued", "underused")),
    "__remove_mapping": (("pageout",), ("queued",)),
    "mem_cgroup_move_account": (("charge-move",), ("queued", "underused")),
}
# What is called otherwise, or inlined somewhere else, in 7.3.
VICTIMS_7 = {
    "deferred_split_scan": VICTIMS["deferred_split_scan"],
    "deferred_split_isolate": VICTIMS["deferred_split_isolate"],
    # With the series; stock has it on a list of its own, list_lru_isolate_move().
    "list_lru_isolate": (("scan",), ("queued", "partial")),
    "__list_lru_add": (("munmap-half", "scan"), ("queued", "partial") + ADDED[2:]),
    "__list_lru_del": (("munmap-all", "scan"), ("queued", "partial")),
    "deferred_split_folio": VICTIMS["deferred_split_folio"],
    "__folio_unqueue_deferred_split": VICTIMS["__folio_unqueue_deferred_split"],
    "__folio_freeze_and_split_unmapped": (("scan",), ("underused", "partial", "partial+64k")),
    "migrate_pages_batch": (("migrate",), ("queued", "underused")),
    "__folio_migrate_mapping": (("migrate",), ("queued", "underused")),
    "__remove_mapping": (("pageout",), ("queued",)),
}
OWNERS = ("munmap-half", "munmap-all", "dontneed-half", "free-half", "mremap-half", "fork-exit",
          "exit", "write-fault", "mlock-half", "soft-offline")
FOREIGN = ("scan", "migrate", "pageout", "collapse", "split-debugfs", "cgroup-remove",
           "charge-move", "pageout-v1")
V1 = ("charge-move", "pageout-v1")      # of 6.12 only
OPERATIONS = OWNERS + FOREIGN
# With locks, pins and sizes on top, what can meet them; and in long functions.
FEW = ("munmap-half", "munmap-all", "scan", "migrate", "split-debugfs",
       ("charge-move", "underused+pinned"))
LONG = ("split_huge_page_to_list_to_order", "__folio_freeze_and_split_unmapped",
        "migrate_pages_batch")
# What make check has the time for.
QUICK = (("deferred_split_scan", "scan", "munmap-half", "queued"),
         ("deferred_split_scan", "scan", "munmap-all", "partial"))
# Two preemptions: victim, its action, the operation's function, operation, state.
PAIRS = (
    ("deferred_split_scan", "scan", "deferred_split_folio", "munmap-half", "queued"),
    ("deferred_split_scan", "scan", "migrate_folio_move", "migrate", "underused"),
    ("deferred_split_scan", "scan", "__folio_migrate_mapping", "migrate", "underused"),
    ("deferred_split_scan", "scan", "__folio_unqueue_deferred_split", "munmap-all", "partial"),
    ("deferred_split_folio", "munmap-half", "deferred_split_scan", "scan", "queued"),
    ("migrate_folio_move", "migrate", "deferred_split_scan", "scan", "underused"),
    ("folios_put_refs", "munmap-all", "deferred_split_scan", "scan", "queued"),
)
CPUS = 4            # of the guest: two actors, the owner, and who directs them
# In 7.3 migration decides before its freeze whether the destination is to be queued.
PAIRS_7 = PAIRS[:1] + (
    ("deferred_split_scan", "scan", "migrate_pages_batch", "migrate", "underused"),
    # Behind that decision, and before the scan's reference ends the attempt.
    ("deferred_split_scan", "scan", "move_to_new_folio", "migrate", "underused"),
    ("deferred_split_scan", "scan", "__folio_unqueue_deferred_split", "munmap-all", "partial"),
    ("deferred_split_folio", "munmap-half", "deferred_split_scan", "scan", "queued"),
    ("migrate_pages_batch", "migrate", "deferred_split_scan", "scan", "underused"),
)
SECONDS = 900       # of one combination in one guest, at most
PAIR_SECONDS = 60   # of one combination of two preemptions
GUESTS = 200        # of one combination, at most
HARMLESS = ("ok", "blocked")
NOT_HELD = "(the victim was not held)"      # red all the same, but no schedule
WHOLE = (0, 1 << 32)
# lockdep halves the speed, and what it sees it sees without anybody being held, too.
DEBUG = "list,vm"


class Combination:
    """A victim function and its action, an operation, a state; what it came to."""

    def __init__(self, victim, action, op, state, victim2=None):
        self.victim, self.action, self.op, self.state = victim, action, op, state
        self.victim2 = victim2          # the operation's function: two preemptions
        self.points = []                # (offset, or a pair of them; outcome; detail)
        self.executed, self.executed2 = [], []
        self.instructions = 0
        self.tried = self.passed = self.blocked = 0
        self.between = WHOLE            # of the function's offsets, those that are asked for
        self.patience = None            # ms: who is not through by then is blocked
        self.pairs = {}                 # offset -> with how many of the operation's
        self.note = None
        self.seconds = 0.0

    @property
    def name(self):
        middle = "%s/%s" % (self.victim2, self.op) if self.victim2 else self.op
        return "%s/%s/%s/%s" % (self.victim, self.action, middle, self.state)

    @property
    def v1(self):
        return any(o in (self.action, self.op) for o in V1)

    def count(self, *outcomes):
        return sum(p[1] in outcomes for p in self.points)

    @property
    def red(self):
        return [p for p in self.points if p[1] not in HARMLESS]

    @property
    def held(self):
        return self.tried if self.victim2 else \
            sum(not p[2].endswith(NOT_HELD) for p in self.points)

    @property
    def missed(self):
        """Instructions that the victim executes alone, and was never held at."""
        if self.victim2 or self.red:
            return 0
        return sum(self.between[0] <= o <= self.between[1] for o in self.executed) - self.held

    @property
    def total(self):
        """How many pairs there are; those at offsets not come to yet are guessed."""
        if not self.pairs:
            return 0
        offsets = [o for o in self.executed if self.between[0] <= o <= self.between[1]]
        return sum(self.pairs.values()) * max(len(offsets), len(self.pairs)) // len(self.pairs)

    @property
    def verdict(self):
        if self.red:
            return judge.FAIL
        if self.note:
            return judge.SKIP if self.note.startswith("cannot run: ") else judge.ERROR
        # Beside the operation it takes another way: what was asked was hardly tried.
        return judge.PASS if self.held and self.held >= self.missed else judge.VACUOUS


def plan(victims, operations, states, base="6.12"):
    """The combinations to explore."""
    table = VICTIMS if base.startswith("6.") else VICTIMS_7
    for name in victims:
        if name not in table:
            die("unknown VICTIM '%s'" % name, "VICTIM is a list of: %s" % " ".join(table))
    for name in operations:
        if name not in OPERATIONS:
            die("unknown OP '%s'" % name, "OP is a list of: %s" % " ".join(OPERATIONS))
    known = sorted({s for _, all_states in table.values() for s in all_states})
    for name in states:
        if not re.fullmatch(r"(queued|underused|partial|dropped)"
                            r"(\+(root|pinned|locked|neighbour|\d+k))*", name):
            die("unknown STATE '%s'" % name, "STATE is a list of: %s" % " ".join(known))
    found = []
    for victim in victims or table:
        actions, all_states = table[victim]
        for action in actions:
            for state in [s for s in states or all_states]:
                for op in operations or OPERATIONS:
                    # The owner cannot be held and unmap at the same time.
                    if action in OWNERS and op in OWNERS:
                        continue
                    if not operations and ("+" in state or victim in LONG) and op not in FEW \
                       and (op, state) not in FEW:
                        continue
                    # At their stage they have the mmap_lock that the owner wants.
                    if not operations and action in OWNERS and op in ("collapse", "charge-move"):
                        continue
                    # At its stage migration has isolated it: nobody else frees it, or reclaims it.
                    if not operations and op == "migrate" and victim in (
                            "__folio_unqueue_deferred_split", "__remove_mapping"):
                        continue
                    # A scan finds nothing then, or somebody else.
                    if action == "scan" and state.startswith("dropped"):
                        continue
                    # The root memcg cannot be removed, charges move in a hierarchy of their own.
                    if "root" in state and op in ("cgroup-remove",) + V1:
                        continue
                    # The same as pageout, but for where its memcg is.
                    if op == "pageout-v1" and (table is not VICTIMS or not operations and (
                            victim, state) != ("deferred_split_scan", "queued")):
                        continue
                    # Gone since 6.14; and what is mapped by PTEs is not moved.
                    if "charge-move" in (action, op) and \
                       (table is not VICTIMS or state.startswith("partial")):
                        continue
                    if op == "charge-move" and not operations and \
                       (action != "scan" or state not in ("queued", "underused+pinned")):
                        continue
                    if action == "charge-move" and op not in ("scan",) + OWNERS:
                        continue
                    if op == action == "charge-move":
                        continue
                    found.append(Combination(victim, action, op, state))
    # cgroup v1 takes the memory controller for the rest of a guest's life: at the end.
    return sorted(found, key=lambda c: c.v1)


def explorer_command(c, first, at=None, seconds=None, planted=None):
    words = ["/selftests/deferred_split_explore"]
    if c.between != WHOLE:
        words += ["-r", "0x%x-0x%x" % c.between]
    if planted:
        words += ["-p", planted]
    if c.patience:
        words += ["-m", str(c.patience)]
    if c.victim2:
        words += ["-2", c.victim2, "-s", str(int(seconds or PAIR_SECONDS))]
    if at:
        words += ["-a", "0x%x" % at[0]]
        if c.victim2:
            words += ["-b", "0x%x" % at[1]]
    words += [c.action, c.victim, c.op, c.state]
    if first:
        words.append(str(first))
    return " ".join(words)


class Enough(Exception):
    """There is something red, and no more was asked for."""


def is_enough(c, planted, first_red=()):
    """A planted fault is in every point: the first shows it. True: anything red will do,
    a list of words: one of these.
    """
    return any(planted or first_red is True or p[1] in first_red for p in c.red)


class Reader:
    """Takes the explorer's lines, and knows which point the next word is about."""

    def __init__(self, c, first):
        self.c, self.next = c, first
        self.trying = None              # a pair that has begun, with its number
        self.points = 0
        self.covered = []
        self.no_effect = None           # of the operation alone; it may be tried again

    def __call__(self, line):
        c = self.c
        m = re.match(r"point \S+\+0x([0-9a-f]+) (\S+) (.*)$", line)
        if m:
            offset = int(m.group(1), 16)
            self.points += 1
            if c.victim2:       # red with one preemption already: no second offset
                c.points.append(((offset, None), m.group(2), m.group(3)))
                return
            c.points.append((0 if m.group(3).endswith(NOT_HELD) else offset,
                             m.group(2), m.group(3)))
            self.next = offset + 1
            return
        m = re.match(r"covering (\d+) \S+\+0x([0-9a-f]+)$", line)
        if m:
            self.trying = (int(m.group(2), 16), None)
            self.next = int(m.group(1)) + 1
            return
        m = re.match(r"try (\d+) \S+\+0x([0-9a-f]+) \S+\+0x([0-9a-f]+)$", line)
        if m:
            self.trying = (int(m.group(2), 16), int(m.group(3), 16))
            self.next = int(m.group(1)) + 1
            c.tried += 1
            return
        m = re.match(r"pairs \S+\+0x([0-9a-f]+) (\d+)$", line)
        if m:
            c.pairs[int(m.group(1), 16)] = int(m.group(2))
            return
        m = re.match(r"pair \d+ \S+\+0x([0-9a-f]+) \S+\+0x([0-9a-f]+) (\S+) (.*)$", line)
        if m:
            c.points.append(((int(m.group(1), 16), int(m.group(2), 16)), m.group(3), m.group(4)))
            self.points += 1
            return
        m = re.match(r"cover (\S+) \S+ instructions=(\d+) unprobed=\d+ executed=(\d+)$", line)
        if m:
            if m.group(1) == c.victim and not self.covered:
                c.instructions, c.executed = int(m.group(2)), []
                self.covered = c.executed
            else:
                c.executed2 = []
                self.covered = c.executed2
            return
        if line.startswith("executed "):
            self.covered += [int(w, 16) for w in line.split()[1:]]
        m = re.match(r"window \S+ .*\bok=(\d+) blocked=(\d+)", line)
        if m and c.victim2:
            c.passed += int(m.group(1))
            c.blocked += int(m.group(2))
        if line.startswith("cannot run: "):
            c.note = line
        if line.startswith("control ") and " NOEFFECT " in line:
            self.no_effect = line
        if line.startswith("window ") and self.no_effect and not self.covered:
            c.points.append((0, "NOEFFECT", "alone: " + self.no_effect))
        if line.startswith("AUDIT of all memory"):
            c.points.append((0, "AUDIT", line))

    def culprit(self):
        """The point that was under way when there was no word any more."""
        if self.trying:
            return self.trying
        return next((o for o in self.c.executed if o >= self.next), self.next)


def explore_one(sessions, c, at=None, seconds=None, planted=None, first_red=()):
    """Explore one combination, in as many guests as it takes; or to its first red point."""
    first, start = 0, time.monotonic()
    for _ in range(GUESTS):
        left = (seconds or PAIR_SECONDS) - (time.monotonic() - start)
        if c.victim2 and first and left < 1:
            break
        reader = Reader(c, first)

        def on_line(line):
            reader(line)
            # What is wrong with a word of the kernel's gets that below.
            if is_enough(c, None, first_red) and not line.startswith("window "):
                raise Enough

        try:
            got = sessions.get().execute("explore/" + c.name, SECONDS,
                                         explorer_command(c, first, at, left, planted), on_line)
        except Enough:
            sessions.drop()
            break
        if sessions.accel == "tcg" and judge.stale_breakpoint(got.console):
            sessions.drop()
            say("%s: %s; at it again" % (c.name, judge.STALE))
            first = reader.culprit() if not c.victim2 else max(reader.next - 1, 0)
            continue
        splats = got.splats
        if splats:
            # Of the point that spoke last, unless the kernel died before it could.
            if got.end and reader.points and not reader.trying:
                where = c.points[-1][0]
                if c.points[-1][1] in HARMLESS:
                    c.points[-1] = (where, "SPLAT", "splat: " + splats[0])
                else:
                    c.points[-1] = (where, c.points[-1][1], "splat: " + splats[0])
            else:
                c.points.append((reader.culprit(), "SPLAT", "splat: " + splats[0]))
        elif got.lost or got.how != "ended" or any(o.startswith("HANG") for o in got.out):
            c.points.append((reader.culprit(), "HANG", got.lost or "no progress"))
        if not splats and got.exit in (0, 1, 4):
            break
        if got.exit == 2:
            die("the explorer does not understand: %s" % explorer_command(c, first, at),
                "selftests/deferred_split_explore.c and scripts/explore.py disagree")
        sessions.drop()
        if at or is_enough(c, planted, first_red):
            break
        if splats or got.lost or got.how != "ended":
            culprit = c.points[-1][0]
            first = reader.next if reader.trying else max(reader.next, culprit + 1)
        else:
            first = reader.next
        if not c.victim2 and c.executed and first > c.executed[-1]:
            break
    c.seconds = time.monotonic() - start


def source_lines(built, victim, offsets=None):
    """offset -> file:line, by addr2line on the kernel that ran; inlined by whom.

    Of all bytes of the function if no offsets are given.
    """
    tools = common.cross(built.kernel.arch)
    symbols = common.run([tools + "nm", "-S", built.vmlinux]).stdout
    m = re.search(r"^([0-9a-f]+) ([0-9a-f]+) [tT] %s$" % re.escape(victim), symbols, re.M)
    if not m:
        return {}
    base = int(m.group(1), 16)
    if offsets is None:
        offsets = range(int(m.group(2), 16))
    found = {}
    for n in range(0, len(offsets), 256):
        part = offsets[n:n + 256]
        got = common.run([tools + "addr2line", "-a", "-i", "-e", built.vmlinux] +
                         ["0x%x" % (base + o) for o in part])
        chain = None
        for line in got.stdout.split("\n"):
            if re.match(r"0x[0-9a-f]+$", line):
                chain = found.setdefault(int(line, 16) - base, [])
            elif line and chain is not None:
                chain.append(re.sub(r"^.*?/?((?:mm|include|lib|kernel|arch)/)", r"\1",
                                    line.split(" (")[0]))
    return found


def in_function(chain):
    """Where in the function itself; what is inlined there, in brackets."""
    if not chain:
        return "?"
    return chain[-1] + (" (%s)" % chain[0] if len(chain) > 1 and chain[0] != chain[-1] else "")


def windows(c, built):
    """Red points that follow each other with the same outcome: 'these 13 instructions'."""
    if c.victim2:
        return pair_windows(c, built)
    lines = source_lines(built, c.victim, [p[0] for p in c.red])
    found, previous = [], None
    for point in sorted(c.points, key=lambda p: p[0]):
        if point[1] in HARMLESS or point[2].endswith(NOT_HELD):
            previous = None
            continue
        if previous is not None and found[-1][0][1] == point[1]:
            found[-1].append(point)
        else:
            found.append([point])
        previous = point
    out = []
    for w in found:
        first, last = w[0], w[-1]
        out.append("%s: %d instruction%s, +0x%x %s to +0x%x %s%s" % (
            first[1], len(w), "" if len(w) == 1 else "s", first[0],
            in_function(lines.get(first[0])), last[0], in_function(lines.get(last[0])),
            "; " + first[2] if first[2].startswith(("splat", "alone")) or
            first[1] in ("SPLAT", "HANG") else ""))
    return out + ["%s: %s" % p[1:] for p in c.red if p[2].endswith(NOT_HELD)][:1]


def offsets(where, between=","):
    """Of a point, or of a pair; in that, None is nowhere."""
    return "+0x%x" % where if isinstance(where, int) else \
        between.join("-" if o is None else "+0x%x" % o for o in where)


def pair_windows(c, built):
    """Red pairs by outcome and source line of both: 'so many pairs'."""
    one = source_lines(built, c.victim, sorted({p[0][0] for p in c.red if p[0]}))
    two = source_lines(built, c.victim2, sorted({p[0][1] for p in c.red
                                                 if p[0] and p[0][1] is not None}))
    groups = {}
    for where, outcome, detail in c.red:
        key = (outcome, in_function(one.get(where[0])), in_function(two.get(where[1]))) \
            if where else (outcome, "", "")
        groups.setdefault(key, []).append((where, detail))
    return ["%s: %d pair%s, %s and %s, as %s%s" % (
        key[0], len(g), "" if len(g) == 1 else "s", key[1], key[2], offsets(g[0][0], " and "),
        "; " + g[0][1] if g[0][1].startswith("splat") else "")
        if g[0][0] else "%s: %s" % (key[0], g[0][1])
        for key, g in sorted(groups.items(), key=lambda item: -len(item[1]))]


def schedule(c, where, built):
    at = "@%s-%s-%s" % (built.source.version, built.kernel.label, built.kernel.machine)
    if c.victim2 and where[1] is None:
        where = where[0]        # the operation need not be held for it
    elif c.victim2:
        return "%s+0x%x/%s/%s+0x%x/%s/%s%s" % (c.victim, where[0], c.action, c.victim2, where[1],
                                              c.op, c.state, at)
    return "%s+0x%x/%s/%s/%s%s" % (c.victim, where, c.action, c.op, c.state, at)


def show(explored, built):
    width = max(len(c.name) for c in explored)
    absent = sorted({c.victim for c in explored if c.note and "not in this kernel" in c.note})
    for victim in absent:
        count = sum(c.victim == victim for c in explored)
        say("%-8s %s  (%d combination%s): the compiler has inlined it, or there is none" % (
            judge.SKIP, victim, count, "" if count == 1 else "s"))
    for c in explored:
        if c.victim in absent:
            continue
        if c.victim2:
            say("%-8s %-*s  pairs %d, tried %d (%d%%)  ok %d  blocked %d  red %d" % (
                c.verdict, width, c.name, c.total, c.tried, 100 * c.tried // max(c.total, 1),
                c.passed, c.blocked, len(c.red)))
        else:
            say("%-8s %-*s  held %3d  ok %3d  blocked %3d  red %3d%s" % (
                c.verdict, width, c.name, c.held, c.count("ok"), c.count("blocked"),
                len(c.red), "  missed %d" % c.missed if c.missed > 0 else ""))
        if c.note:
            say("         %s" % c.note)
        for line in windows(c, built)[:12]:
            say("         %s" % line)
        placed = [p[0] for p in c.red if p[0]]
        if placed:
            say("         make replay SCHEDULE=%s%s" % (
                schedule(c, placed[0], built),
                "" if built.info["debug"] == DEBUG.split(",")
                else " DEBUG=" + ",".join(built.info["debug"])))


def say_limits(built):
    if judge.limits_of(built.kernel.arch):
        say(judge.limits_of(built.kernel.arch))


COVERAGE = ("function", "instructions", "executed", "tried", "held", "blocked", "red")


def covered(explored):
    """By victim function: how much of it was executed, tried, held; as COVERAGE has it."""
    rows = {}
    for c in explored:
        if c.victim2 or not c.executed:
            continue
        row = rows.setdefault(c.victim, [c.victim, 0, set(), 0, 0, 0, 0])
        row[1] = c.instructions
        row[2] |= set(c.executed)
        for n, more in enumerate((len(c.executed), len(c.points), c.count("blocked"),
                                  len(c.red)), 3):
            row[n] += more
    return [row[:2] + [len(row[2])] + row[3:] for row in rows.values()]


def coverage(explored):
    rows = covered(explored)
    for row in [COVERAGE] * bool(rows) + rows:
        say("%-34s %12s %9s %7s %7s %8s %5s" % tuple(row))


def write_points(explored, built, where):
    """Every point with its source lines, to the case file."""
    with open(os.path.join(where, "points.txt"), "w") as f:
        for c in explored:
            f.write("%s %s\n" % (c.verdict, c.name))
            lines = source_lines(built, c.victim,
                                 [p[0] for p in c.points] if not c.victim2 else [])
            for at, outcome, detail in c.points:
                f.write("  %-10s %-8s %s  %s\n" % (
                    offsets(at), outcome,
                    " < ".join(lines.get(at, [])), detail))
        f.write("".join(line + "\n" for line in [judge.limits_of(built.kernel.arch)] if line))


def save(explored, built, where, args):
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "cpus": args.smp, "limits": judge.limits_of(built.kernel.arch),
         "explored": [
            {"name": c.name, "verdict": c.verdict, "note": c.note, "points": c.points,
             "instructions": c.instructions, "executed": c.executed, "total": c.total,
             "tried": c.tried, "seconds": round(c.seconds, 1)} for c in explored]}, indent=1))


def saved(row):
    """A combination as save() has written it."""
    words = row["name"].split("/")
    c = Combination(*words[:2], *words[-2:], words[2] if len(words) == 5 else None)
    c.points = [(tuple(at) if isinstance(at, list) else at, outcome, detail)
                for at, outcome, detail in row["points"]]
    c.note, c.instructions, c.executed = row["note"], row["instructions"], row["executed"]
    c.tried, c.seconds = row["tried"], row["seconds"]
    return c


def explore(args, chosen, clock=None, seconds=None, planted=None, first_red=()):
    """Explore the chosen combinations on one kernel, or each to its first red point, see
    is_enough(); returns (built, directory).
    """
    clock = clock or common.Clock()
    boot.check_size(args)
    args.smp = max(args.smp, CPUS)
    built = build.Built(common.Kernel(args), clock)
    accel = boot.accelerator(built)
    where = run.new_run_dir("explore-" + built.kernel.label)
    shown = time.monotonic()
    with guest.Sessions(built, where, accel, args.smp, args.mem) as sessions:
        v1 = False
        for n, c in enumerate(chosen):
            if sys.stdout.isatty():
                sys.stdout.write("\r\033[K%d of %d: %s" % (n + 1, len(chosen), c.name))
                sys.stdout.flush()
            elif time.monotonic() - shown > 60:
                shown = time.monotonic()
                say("%d of %d: %s" % (n + 1, len(chosen), c.name))
            if c.v1 and not v1:
                sessions.drop()
            v1 = c.v1
            explore_one(sessions, c, seconds=seconds, planted=planted, first_red=first_red)
        guests, why_not = sessions.started, sessions.why_not
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    clock.lap("exploring %d combinations" % len(chosen))
    held = sum(c.held for c in chosen)
    spent = sum(c.seconds for c in chosen)
    say("explored %d schedules in %.0f s (%.0f a second), %d guests%s, %s" % (
        held, spent, held / max(spent, 0.1), guests,
        "" if not why_not else " (each booted: %s)" % why_not, accel))
    save(chosen, built, where, args)
    write_points(chosen, built, where)
    return built, where


def parse_schedule(name):
    """A schedule's name -> (Combination, its offsets, the match with the kernel)."""
    m = re.match(r"(?P<v>\w[\w.]*)\+0x(?P<o>[0-9a-f]+)/(?P<a>[\w-]+)/"
                 r"(?:(?P<v2>\w[\w.]*)\+0x(?P<o2>[0-9a-f]+)/)?(?P<op>[\w-]+)/(?P<s>[\w+]+)"
                 r"(?:@(?P<base>\d+\.\d+)\.\S+?-"
                 r"(?P<label>stock|series|first-\d+|mutants?(?:-\w+)?)-"
                 r"(?P<arch>[a-z]\w*)(?:-(?P<pages>\d+k))?)?$", name)
    if not m:
        die("SCHEDULE=%s" % name, "take one as make explore prints it")
    c = Combination(m["v"], m["a"], m["op"], m["s"], m["v2"])
    at = (int(m["o"], 16),) + ((int(m["o2"], 16),) if m["v2"] else ())
    return c, at, m


def replay(args, name, times=10):
    """Run one schedule alone, again and again.

    Under TCG in the deterministic mode: then every run is the same to the byte.
    Returns the outcomes, and how many different consoles there were.
    """
    c, at, m = parse_schedule(name)
    if m["label"]:
        args.series = {"stock": "0"}.get(m["label"], "1")
        if m["label"].startswith("first-"):
            args.series = m["label"]
        args.base, args.arch, args.pages = m["base"], m["arch"], m["pages"]
        kind, _, name_of = m["label"].partition("-")
        # mutants-B22 is that of one kernel for all, mutant-B22 a kernel of its own.
        if kind == "mutants":
            args.mutant = "all" + (":" + name_of if name_of else "")
        elif kind == "mutant":
            args.mutant = name_of
    args.smp = max(args.smp, CPUS)
    built = build.Built(common.Kernel(args))
    accel = "tcg" if args.det else boot.accelerator(built)
    args.det = accel == "tcg"
    where = run.new_run_dir("replay-" + built.kernel.label)
    outcomes, consoles = [], set()
    for n in range(times):
        again = Combination(c.victim, c.action, c.op, c.state, c.victim2)
        run_dir = os.path.join(where, str(n))
        boot.boot(built, run_dir, [("explore/" + c.name, SECONDS,
                                    explorer_command(again, 0, at))], accel, args.smp, args.mem,
                  det=args.det, limit=SECONDS + 60)
        outcomes.append(replayed(again, run_dir))
        said = "".join(judge.read(run_dir, name) for name in ("console.log", "results.log"))
        consoles.add(said)
        say("replay %d of %d: %s" % (n + 1, times, outcomes[-1]))
    if args.det:
        say("%s" % ("all runs are the same to the byte" if len(consoles) == 1 else
                    "%d different consoles in %d runs" % (len(consoles), times)))
    say_limits(built)
    common.write_atomically(os.path.join(where, "results.json"), json.dumps(
        {"kernel": built.info, "cpus": args.smp, "schedule": name, "outcomes": outcomes,
         "consoles": len(consoles), "limits": judge.limits_of(built.kernel.arch)}, indent=1))
    say("case files: %s" % where)
    return outcomes, len(consoles)


def replayed(c, run_dir):
    """The outcome of a guest that ran one schedule."""
    name = "explore/" + c.name
    test = judge.Report(judge.read(run_dir, "results.log")).tests.get(name)
    if test is None:
        return "no result: the guest did not come up"
    reader = Reader(c, 0)
    for line in test["out"]:
        reader(line)
    if c.red:
        return c.red[0][1]
    if judge.first_splats(judge.segments(judge.read(run_dir, "console.log")).get(name, [])):
        return "SPLAT"
    if test["end"] is None or test["how"] != "ended":
        return "HANG"
    window = judge.windows(test["out"]).get("%s/%s" % (c.victim, c.op), {})
    if window.get("blocked"):
        return "blocked"
    return "ok" if window.get("ok") else c.note or "not held"


def arguments():
    parser = common.kernel_arguments(__doc__)
    boot.boot_arguments(parser)
    env = os.environ.get
    parser.set_defaults(debug=env("DEBUG") if env("DEBUG") is not None else DEBUG)
    parser.add_argument("--victim", default=env("VICTIM") or "", help="functions (VICTIM, all)")
    parser.add_argument("--op", default=env("OP") or "", help="operations (OP, all)")
    parser.add_argument("--state", default=env("STATE") or "",
                        help="queued underused partial dropped, with +root +pinned +locked "
                        "+neighbour +64k behind (STATE, those that make sense)")
    parser.add_argument("--pairs", action="store_true", default=env("PAIRS") == "1",
                        help="two preemptions (PAIRS=1)")
    parser.add_argument("--time", type=int, default=int(env("TIME") or PAIR_SECONDS),
                        help="with --pairs: seconds for each combination (TIME, %d)"
                        % PAIR_SECONDS)
    parser.add_argument("--range", default=env("RANGE") or "", metavar="0xOFF-0xOFF",
                        help="only instructions of the function between these (RANGE, all)")
    parser.add_argument("--replay", default=env("SCHEDULE") or "", metavar="SCHEDULE",
                        help="run one schedule ten times instead (SCHEDULE)")
    parser.add_argument("--quick", action="store_true", help="the subset of make check")
    return parser


def plan_pairs(victims, operations, states, base="6.12"):
    """Of two preemptions, those that the words do not rule out."""
    table = PAIRS if base.startswith("6.") else PAIRS_7
    found = [Combination(v, a, o, s, v2) for v, a, v2, o, s in table
             if (not victims or v in victims) and (not operations or o in operations)]
    if not found:
        die("no two preemptions of VICTIM='%s' OP='%s'" % (" ".join(victims),
                                                           " ".join(operations)),
            "there are: %s" % ", ".join("VICTIM=%s OP=%s" % (p[0], p[3]) for p in table))
    if states:
        found = [Combination(c.victim, c.action, c.op, s, c.victim2) for c in found for s in states]
    return found


def verb():
    args = arguments().parse_args()
    if args.replay:
        outcomes, _ = replay(args, args.replay)
        return 0 if set(outcomes) <= set(HARMLESS) else 1
    if args.det:
        die("make explore has no deterministic mode", "make replay runs in it")
    words = [w.replace(",", " ").split() for w in (args.victim, args.op, args.state)]
    chosen = [Combination(*q) for q in QUICK] if args.quick else \
        plan_pairs(*words, args.base) if args.pairs else plan(*words, args.base)
    if not chosen:
        die("VICTIM=%s OP=%s STATE=%s: they do not go together" % (
            args.victim, args.op, args.state), "leave one of them out, to see what does")
    if args.range:
        if not re.fullmatch(r"0x[0-9a-f]+-0x[0-9a-f]+", args.range):
            die("RANGE=%s" % args.range, "it is like 0x10-0x8c")
        for c in chosen:
            c.between = tuple(int(w, 16) for w in args.range.split("-"))
    clock = common.Clock()
    built, where = explore(args, chosen, clock, args.time)
    show(chosen, built)
    coverage(chosen)
    say("%s %s %s, %d vCPUs; every point: %s" % (built.info["source"], built.kernel.label,
                                                built.kernel.machine, args.smp,
                                                os.path.join(where, "points.txt")))
    say_limits(built)
    say(clock.report())
    bad = [c for c in chosen if c.verdict not in (judge.PASS, judge.SKIP)]
    good = not bad and any(c.verdict == judge.PASS for c in chosen)
    say("verdict: %s (%d combinations, %d not good)" % (judge.PASS if good else judge.FAIL,
                                                       len(chosen), len(bad)))
    return 0 if good else 1


if __name__ == "__main__":
    common.main(verb)
