#!/usr/bin/env python3
"""One kernel for all mutants of a base: which of them are in it, and that it is them.

Each mutant is a patch on top of the series. Here each is applied to the series on
its own; of every function that it changes, the changed one goes in front of the
function, as FUNCTION__ID, and the function begins with a switch that calls it when
that mutant was chosen at boot, by splitq.mutant=ID. Nothing chosen is the series.
A mutant that changes something else than bodies of functions (in kernel style,
'{' and '}' in the first column) is not in that kernel: it is built on its own.

The kernel to measure (MUTANT=bench) is made in the same way of the series and the
patches in patches/bench, with the variants in patches/variants: there what runs is
chosen at run time, and every function counts whose copy ran.

What was made is taken apart again: the copies of one mutant put where the functions
are must give that patch's tree to the byte, and none of them the series'.
"""
import os
import re
import shutil
import tempfile

import common
from common import die, say

HEADER = "include/linux/splitq_mutants.h"
SOURCE = "mm/splitq_mutants.c"
INCLUDE = "#include <linux/splitq_mutants.h>"
# What measures, and where it goes.
BENCH_FILES = {os.path.join(common.TOP, "patches/bench/splitq_bench.c"): "mm/splitq_bench.c",
               os.path.join(common.TOP, "patches/bench/splitq_bench.h"):
               "include/linux/splitq_bench.h"}
BEGIN, END = "/* splitq: %s */", "/* splitq: end of %s */"
SWITCH, SWITCH_END = "\t/* splitq: mutants */", "\t/* splitq: end of mutants */"


class Function:
    """A function of a C file: lines[start:open] declare it, lines[open:end] are its body."""

    def __init__(self, lines, start, begin, end):
        self.start, self.open, self.end = start, begin, end
        self.declaration = lines[start:begin]
        self.body = lines[begin:end]
        text = "\n".join(self.declaration)
        m = next((m for m in re.finditer(r"(\w+)\s*\(", text)
                  if m.group(1) != "__attribute__"), None)
        self.name = m.group(1) if m else None
        if not m:
            return
        self.returns = [w for w in re.sub(r"\*", " * ", text[:m.start()]).split()
                        if not re.fullmatch(r"static|inline|noinline|__\w+", w)]
        self.inline = bool(re.search(r"\b(inline|__always_inline)\b", text[:m.start()]))
        self.arguments = argument_names(text[m.end():])


def argument_names(text):
    """Names of the parameters; text begins behind the opening parenthesis."""
    depth, part, parts = 1, "", []
    for c in text:
        depth += {"(": 1, ")": -1}.get(c, 0)
        if not depth or (c == "," and depth == 1):
            parts.append(part)
            part = ""
            if not depth:
                break
            continue
        part += c
    names = []
    for part in parts:
        m = re.search(r"\(\s*\*\s*(\w+)\s*\)", part) or \
            re.search(r"(\w+)\s*(?:\[[^]]*\]\s*)*$", part.strip())
        if m and part.strip() != "void":
            names.append(m.group(1))
    return names


def functions(lines):
    """The functions of a C file in kernel style."""
    found, i = [], 0
    while i < len(lines):
        if lines[i] != "{":
            i += 1
            continue
        end = next((j for j in range(i, len(lines)) if lines[j] == "}"), None)
        if end is None:
            break
        start = i
        while start and lines[start - 1].strip() and \
                not re.search(r"^#|^\}|\*/$|;$", lines[start - 1]):
            start -= 1
        f = Function(lines, start, i, end + 1)
        if f.name:
            found.append(f)
        i = end + 1
    return found


def skeleton(lines, found):
    """What is left of a file without the bodies of its functions."""
    left, at = [], 0
    for f in found:
        left += lines[at:f.open]
        at = f.end
    return left + lines[at:]


def changed_bodies(before, after):
    """Number of the function -> its new body; None if something else differs."""
    old, new = functions(before), functions(after)
    if skeleton(before, old) != skeleton(after, new):
        return None
    return {n: g.body for n, (f, g) in enumerate(zip(old, new)) if f.body != g.body}


def copy_of(f, name, body):
    """The changed function under a name of its own, as a symbol that can be found."""
    text = re.sub(r"\b%s\b" % re.escape(f.name), "%s__%s" % (f.name, name),
                  "\n".join(f.declaration), count=1)
    text = re.sub(r"\bstatic\s+", "", text, count=1)
    text = "static " + ("" if f.inline else "noinline __noclone ") + text
    return [BEGIN % name] + text.split("\n") + body + [END % name, ""]


def dispatch(f, names, count=False):
    """The beginning of the function: whose copy is asked for? count: and say who ran."""
    lines = [SWITCH, "\tswitch (READ_ONCE(splitq_mutant)) {"]
    for name in names + ["NONE"] * count:
        call = "%s__%s(%s);" % (f.name, name, ", ".join(f.arguments))
        lines.append("\tcase SPLITQ_%s:" % name if name != "NONE" else "\tdefault:")
        if count:
            lines.append("\t\tsplitq_ran(SPLITQ_IN_%s, SPLITQ_%s);" % (f.name, name))
        if name == "NONE":
            lines.append("\t\tbreak;")
            continue
        lines += ["\t\t%s" % call, "\t\treturn;"] if f.returns == ["void"] \
            else ["\t\treturn %s" % call]
    return lines + ["\t}", SWITCH_END]


def generate(lines, changes, count=False):
    """The file with all mutants in it. changes: name -> (number of function -> body)."""
    out, at = [], 0
    for n, f in enumerate(functions(lines)):
        names = [name for name in sorted(changes) if n in changes[name]]
        if not names:
            continue
        out += lines[at:f.start]
        for name in names:
            out += copy_of(f, name, changes[name][n])
        out += f.declaration + f.body[:1] + dispatch(f, names, count) + f.body[1:]
        at = f.end
    out += lines[at:]
    first = next((n for n, line in enumerate(out) if line.startswith("#include")), 0)
    return out[:first] + [INCLUDE] + out[first:]


def ungenerate(lines, name=None):
    """A generated file with the copies of one mutant in place, or of none: lines."""
    out, body, i = [], None, 0
    while i < len(lines):
        m = re.fullmatch(r"/\* splitq: (\w+) \*/", lines[i])
        if m:
            end = lines.index(END % m.group(1), i)
            if m.group(1) == name:
                block = functions(lines[i + 1:end])
                if len(block) != 1 or not block[0].name.endswith("__" + name):
                    die("the copy in line %d is not one function of %s" % (i + 1, name))
                body = block[0].body
            i = end + 2         # the empty line behind it, too
        elif lines[i] == INCLUDE:
            i += 1
        elif lines[i] == SWITCH:
            i = lines.index(SWITCH_END, i) + 1
            if body is not None:        # up to its end: the copy's body instead
                out += body[1:]
                i = lines.index("}", i) + 1
                body = None
        else:
            out.append(lines[i])
            i += 1
    return out


def text_lines(path):
    return common.file_bytes(path).decode(errors="surrogateescape").split("\n")


def write_lines(path, lines):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)         # it may be a link
    with open(path, "wb") as f:
        f.write("\n".join(lines).encode(errors="surrogateescape"))


def header(names):
    return ["/* SPDX-License-Identifier: GPL-2.0 */",
            "/* Which mutant is run: splitq.mutant=ID. Made by scripts/combine.py. */",
            "#ifndef _LINUX_SPLITQ_MUTANTS_H", "#define _LINUX_SPLITQ_MUTANTS_H", "",
            "enum {", "\tSPLITQ_NONE,"] + ["\tSPLITQ_%s," % name for name in names] + \
        ["};", "", "extern int splitq_mutant;", "", "#endif", ""]


def chooser(names):
    """The file that chooses. The release says what was chosen, so that results do."""
    return ["// SPDX-License-Identifier: GPL-2.0",
            "/* Which mutant is run: splitq.mutant=ID. Made by scripts/combine.py. */",
            "#include <linux/cache.h>", "#include <linux/export.h>", "#include <linux/init.h>",
            "#include <linux/kernel.h>", INCLUDE, "#include <linux/string.h>",
            "#include <linux/utsname.h>", "",
            "int splitq_mutant __ro_after_init;", "EXPORT_SYMBOL_GPL(splitq_mutant);", "",
            "static const char * const names[] __initconst = {"] + \
        ["\t[SPLITQ_%s] = \"%s\"," % (name, name) for name in names] + \
        ["};", "", "static int __init splitq_choose(char *name)", "{",
         "\tint i;", "",
         "\tfor (i = 1; i < ARRAY_SIZE(names); i++) {",
         "\t\tif (strcmp(names[i], name))",
         "\t\t\tcontinue;",
         "\t\tsplitq_mutant = i;",
         "\t\tstrlcat(init_utsname()->release, \"+\", sizeof(init_utsname()->release));",
         "\t\tstrlcat(init_utsname()->release, name, sizeof(init_utsname()->release));",
         "\t\treturn 0;",
         "\t}",
         "\tpanic(\"splitq: no mutant '%s' in this kernel\", name);",
         "}", "early_param(\"splitq.mutant\", splitq_choose);", ""]


def bench_header(names, functions_changed):
    """For the kernel to measure: what runs is chosen at run time, and counted."""
    return ["/* SPDX-License-Identifier: GPL-2.0 */",
            "/* Which variant is run: see mm/splitq_bench.c. Made by scripts/combine.py. */",
            "#ifndef _LINUX_SPLITQ_MUTANTS_H", "#define _LINUX_SPLITQ_MUTANTS_H", "",
            "#include <linux/percpu.h>", "",
            "enum {", "\tSPLITQ_NONE,"] + ["\tSPLITQ_%s," % name for name in names] + \
        ["\tSPLITQ_VARIANTS", "};", "", "enum {"] + \
        ["\tSPLITQ_IN_%s," % f for f in functions_changed] + \
        ["\tSPLITQ_FUNCTIONS", "};", "",
         "extern int splitq_mutant;",
         "extern const char * const splitq_variants[SPLITQ_VARIANTS];",
         "extern const char * const splitq_functions[SPLITQ_FUNCTIONS];",
         "DECLARE_PER_CPU(unsigned long [SPLITQ_FUNCTIONS][SPLITQ_VARIANTS], splitq_runs);", "",
         "static inline void splitq_ran(int function, int variant)", "{",
         "\tthis_cpu_inc(splitq_runs[function][variant]);", "}", "", "#endif", ""]


def bench_chooser(names, functions_changed):
    """The tables that go with bench_header()."""
    return ["// SPDX-License-Identifier: GPL-2.0",
            "/* Which variant is run: see mm/splitq_bench.c. Made by scripts/combine.py. */",
            "#include <linux/cache.h>", INCLUDE, "",
            "int splitq_mutant __read_mostly;", "",
            "const char * const splitq_variants[SPLITQ_VARIANTS] = {",
            "\t[SPLITQ_NONE] = \"series\","] + \
        ["\t[SPLITQ_%s] = \"%s\"," % (name, name) for name in names] + \
        ["};", "", "const char * const splitq_functions[SPLITQ_FUNCTIONS] = {"] + \
        ["\t[SPLITQ_IN_%s] = \"%s\"," % (f, f) for f in functions_changed] + \
        ["};", "",
         "DEFINE_PER_CPU(unsigned long [SPLITQ_FUNCTIONS][SPLITQ_VARIANTS], splitq_runs);", ""]


class Combined:
    """The series' files with all mutants in them, made in a directory of staged files.

    bench: variants instead, for the kernel to measure; in that all of them must be.
    """

    def __init__(self, source, stage, patches, bench=False):
        import prepare
        self.bench = bench
        self.files = {}         # path -> the series' lines
        self.patched = {}       # name -> {path: lines}
        self.changes = {}       # path -> {name: {function: body}}
        self.functions = {}     # name -> the functions that it changes
        self.alone = {}         # name -> why it is built on its own
        for patch in patches:
            name = common.mutant_id(patch)
            with tempfile.TemporaryDirectory(dir=os.path.dirname(stage)) as scratch:
                for path in prepare.touched_files(patch):
                    self.files.setdefault(path, self.series_file(source, stage, path))
                    if self.files[path] is not None:
                        write_lines(os.path.join(scratch, path), self.files[path])
                prepare.apply_patch(patch, scratch)
                self.add(name, scratch, prepare.touched_files(patch))
        self.generated = {path: generate(self.files[path], changes, bench)
                          for path, changes in self.changes.items()}
        self.verify()
        if bench and self.alone:
            die("%s cannot be a variant: %s" % next(iter(self.alone.items())),
                "a variant changes bodies of functions")

    @staticmethod
    def series_file(source, stage, path):
        for root in (stage, source.path):
            if os.path.exists(os.path.join(root, path)):
                return text_lines(os.path.join(root, path))
        return None

    def add(self, name, scratch, paths):
        found, after = {}, {}
        for path in paths:
            full = os.path.join(scratch, path)
            if self.files[path] is None or not os.path.exists(full):
                self.alone[name] = "it adds or removes %s" % path
                return
            after[path] = text_lines(full)
            found[path] = changed_bodies(self.files[path], after[path])
            if found[path] is None:
                self.alone[name] = "it changes more of %s than bodies of functions" % path
                return
        self.patched[name] = after
        self.functions[name] = []
        for path, bodies in found.items():
            self.changes.setdefault(path, {})[name] = bodies
            there = functions(self.files[path])
            self.functions[name] += [there[n].name for n in bodies]

    def verify(self):
        """Taken apart, the generated files are each patch's, and the series'."""
        for path, lines in self.generated.items():
            if ungenerate(lines) != self.files[path]:
                die("%s: without its mutants it is not the series'" % path)
            for name, after in self.patched.items():
                if ungenerate(lines, name) != after.get(path, self.files[path]):
                    die("%s: with %s it is not what the patch makes of it" % (path, name))

    @property
    def names(self):
        return sorted(self.patched)

    def write(self, source, stage):
        """Put the generated files into the stage; returns their names."""
        for path, lines in self.generated.items():
            write_lines(os.path.join(stage, path), lines)
        changed = sorted({f for found in self.functions.values() for f in found})
        write_lines(os.path.join(stage, HEADER), bench_header(self.names, changed)
                    if self.bench else header(self.names))
        write_lines(os.path.join(stage, SOURCE), bench_chooser(self.names, changed)
                    if self.bench else chooser(self.names))
        makefile = self.series_file(source, stage, "mm/Makefile")
        objects = ["splitq_mutants.o"] + ["splitq_bench.o"] * self.bench
        write_lines(os.path.join(stage, "mm/Makefile"), makefile +
                    ["obj-y += " + " ".join(objects), ""])
        if self.bench:
            for path, to in BENCH_FILES.items():
                write_lines(os.path.join(stage, to), text_lines(path))
        return set(self.generated) | {HEADER, SOURCE, "mm/Makefile"} | \
            (set(BENCH_FILES.values()) if self.bench else set())


def combine(kernel, source):
    """The Combined of a base, made from scratch and thrown away."""
    import prepare
    stage = tempfile.mkdtemp(dir=common.cache_dir(), prefix="combine.")
    try:
        prepare.stage_patches(source, kernel.patches, os.path.join(stage, "tree"))
        return Combined(source, os.path.join(stage, "tree"), kernel.mutant_patches,
                        kernel.bench)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def verb():
    import fetch
    args = common.kernel_arguments(__doc__).parse_args()
    args.mutant = "bench" if args.mutant == "bench" else "all"
    kernel = common.Kernel(args)
    got = combine(kernel, fetch.fetch(kernel))
    for name in got.names:
        say("%-5s %s" % (name, " ".join(got.functions[name])))
    for name, why in sorted(got.alone.items()):
        say("%-5s a kernel of its own: %s" % (name, why))
    say("%d %s in one kernel, %d on their own; taken apart it is the patches, to the byte"
        % (len(got.names), "variants" if kernel.bench else "mutants", len(got.alone)))
    return 0


if __name__ == "__main__":
    common.main(verb)
