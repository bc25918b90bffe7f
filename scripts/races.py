#!/usr/bin/env python3
"""Which of KCSAN's reports are of data races that stock has, and that are not the queue's?

KCSAN names the function that a racing access was compiled into. That is too much to
set a report aside for: try_to_migrate_one() is long. So the first frame of each
access is looked up in the kernel's debug information, and a report is set aside only
if in each of them a function of KNOWN is what was inlined there, or is the frame
itself. Everything else stays red: also what cannot be looked up, and what is cut off.

  races.py RUN VMLINUX      of a guest's directory: each report, and what it is
"""
import argparse
import collections
import json
import os
import re

import common
from common import die, say

NAME = "known-races.json"
# Read and written without a lock in the source of both bases; the series touches none of
# them. 7.3 marks the first with data_race().
KNOWN = {
    "update_hiwater_rss": "the high-water mark of a process' memory: a statistic",
    "arch_tlbbatch_should_defer": "mm_cpumask() while others switch to that mm",
    "arch_tlbbatch_add_pending": "mm_cpumask() while others switch to that mm",
}
STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *\w+\])? ?")
HEADER = re.compile(r"\bBUG: KCSAN: ")
SET_ASIDE = re.compile(r"\bKCSAN, known \((.*?)\): ")
END = re.compile(r"^=+$")
ACCESS = re.compile(r"(?:^|, with )(?:read|write|read-write|assert [\w ]+)(?: \([^)]*\))? "
                    r"to 0x[0-9a-f]+ of \d+ bytes by (?:task|interrupt)\b.*:$")
FRAME = re.compile(r"^ ([\w.]+)\+0x([0-9a-f]+)/0x[0-9a-f]+$")


def reports(text):
    """KCSAN's reports in a console: (its title, the first frame of each access or None)."""
    found, current = [], None
    wanted = False
    for line in text.replace("\r", "").split("\n"):
        line = STAMP.sub("", line)
        if HEADER.search(line):
            current = (line[HEADER.search(line).end():], [])
            found.append(current)
            wanted = False
        elif current is None:
            continue
        elif END.match(line):
            current = None
        elif ACCESS.search(line):
            current[1].append(None)
            wanted = True
        elif wanted:
            m = FRAME.match(line)
            current[1][-1] = (m.group(1), int(m.group(2), 16)) if m else None
            wanted = False
    return found


class Symbols:
    """What is inlined at a function's offset, by a kernel's debug information."""

    def __init__(self, vmlinux, tools=""):
        self.vmlinux, self.tools = vmlinux, tools
        self.at = collections.defaultdict(set)
        for line in common.run([tools + "nm", vmlinux]).stdout.split("\n"):
            words = line.split()
            if len(words) == 3 and words[1] in "tT":
                self.at[words[2]].add(int(words[0], 16))

    def functions(self, frame):
        """The functions that are at a frame, the innermost first; none if it cannot be told."""
        if frame is None or len(self.at[frame[0]]) != 1:
            return []
        # A frame is where the call returns to.
        address = next(iter(self.at[frame[0]])) + frame[1] - 1
        got = common.run([self.tools + "addr2line", "-f", "-i", "-e", self.vmlinux,
                          "%x" % address]).stdout.split("\n")
        return [re.sub(r"\.(?:isra|part|constprop|cold)\b.*", "", name)
                for name in got[::2] if name]


def what_is(report, symbols):
    """The names of KNOWN that a report is of, one for each access; or None."""
    # Two accesses, or one and a value that changed.
    if not 1 <= len(report[1]) <= 2 or (" / " in report[0]) != (len(report[1]) == 2):
        return None
    names = [next((f for f in symbols.functions(frame) if f in KNOWN), None)
             for frame in report[1]]
    return None if None in names else names


def find(built, where):
    """Writes which of the reports in a guest's console are to be set aside."""
    try:
        with open(os.path.join(where, "console.log"), encoding="utf-8", errors="replace",
                  newline="\n") as f:
            text = f.read()
    except OSError:
        return
    found = reports(text)
    if not found:
        return
    symbols = Symbols(built.vmlinux, common.cross(built.kernel.arch))
    known = [what_is(report, symbols) for report in found]
    common.write_atomically(os.path.join(where, NAME), json.dumps(known, indent=1))


def set_aside(where, text):
    """A console in which what find() has found to be known does not look like a report."""
    try:
        with open(os.path.join(where, NAME)) as f:
            known = json.load(f)
    except (OSError, ValueError):
        return text
    lines, number = text.split("\n"), 0
    for n, line in enumerate(lines):
        if HEADER.search(line):
            names = known[number] if number < len(known) else None
            number += 1
            if names:
                lines[n] = HEADER.sub("KCSAN, known (%s): " % ", ".join(names), line)
    return "\n".join(lines)


def note(lines):
    """What was set aside in these lines of a console, in a few words; or nothing."""
    counts = collections.Counter(m.group(1) for m in map(SET_ASIDE.search, lines) if m)
    return counts and "set aside, of stock's own lines: %s" % ", ".join(
        "%d %s" % (counts[names], names) for names in sorted(counts)) or ""


def verb():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a guest's directory")
    parser.add_argument("vmlinux", metavar="VMLINUX", help="the kernel that ran in it")
    args = parser.parse_args()
    path = os.path.join(args.run, "console.log")
    for name in (path, args.vmlinux):
        if not os.path.isfile(name):
            die("there is no %s" % name, "RUN has a console.log, VMLINUX is not stripped")
    with open(path, encoding="utf-8", errors="replace", newline="\n") as f:
        found = reports(f.read())
    symbols = Symbols(args.vmlinux)
    for report in found:
        names = what_is(report, symbols)
        say("%-8s %s" % ("known" if names else "NEW", report[0]))
        for frame in report[1]:
            say("         %s" % (" < ".join(symbols.functions(frame)) or frame))
    say("%d reports, %d of them known" % (len(found),
                                          sum(bool(what_is(r, symbols)) for r in found)))
    return 0


if __name__ == "__main__":
    common.main(verb)
