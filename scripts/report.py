#!/usr/bin/env python3
"""Write what was measured and proved, for people: one HTML file, and the same as text.

Takes the newest bench.json of make bench in the cache, for each base and architecture
(or that of one run, RUN), the matrix of make mutants in patches/mutants/README.md, and
what make explore left in the cache. The figures are in the file; it needs nothing from
elsewhere. What there is not, the report names as missing. OUT is the file, or a directory
for report.html; report.txt goes beside it.
"""
import argparse
import collections
import glob
import html
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import time

import common
import explore
import queueing
import stats
from common import TOP, die, say

# Variant: in words, its point and dash type; the colours are in STYLE, in this order.
VARIANTS = {
    "stock": ("stock", 5, 2),
    "locked": ("locked: list_del_init() under the lock", 9, 4),
    "batch": ("batch: folio_batch as in 6.19", 13, 5),
    "series": ("series", 7, 1),
    "nosync": ("nosync: series without TTU_SYNC", 11, 3),
}
BENCHES = ("scan", "hold", "latency", "locks", "workload", "ttu_sync")
CLOCKS = ("time", "icount")
QUANTILES = (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999))
CASES = ("all-split", "none-split", "half-split", "contended", "quiet", "while-scanning",
         "while-paced", "allocator", "memcg-pressure", "fork-exit", "half-mapped", "zap")
FAR_OFF = 0.25      # the model's error, from which on it says so
FLAT = 1.5          # times, from a full batch on: what is called flat
BATCH = 31          # folios in a folio_batch
PARTS = 16          # of each power of two: the buckets of make bench
SHORTER = 20        # times, than stock: the longest hold
CPUS = (4, 16, 64, 256)
RATIOS = "Medians of the ratios within the rounds, with their 95 % intervals where there are rounds " \
    "enough. Below the line is less than stock. "
STEP = {"time": "time", "icount": "instructions"}

Key = collections.namedtuple("Key", "bench metric clock case params")


class Series:
    """One thing that was measured, with one variant: its rounds, and those of the warm-up."""

    def __init__(self):
        self.values, self.warm, self.histograms = {}, {}, {}

    def __bool__(self):
        return bool(self.values or self.histograms)

    @property
    def in_order(self):
        return [self.values[r] for r in sorted(self.values)]

    @property
    def histogram(self):
        return stats.merged(self.histograms.values())


def is_number(value, least=0):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and \
        math.isfinite(value) and value >= least


class Bench:
    """A bench.json: what is in it, and what is wrong with it."""

    def __init__(self, path):
        self.path = path
        try:
            with open(path) as f:
                self.raw = json.load(f)
        except (OSError, ValueError) as e:
            die("%s cannot be read (%s)" % (path, e), "run make bench again")
        self.meta = self.raw.get("meta") if isinstance(self.raw, dict) else None
        rows = self.raw.get("rows") if isinstance(self.raw, dict) else None
        missing = [n for n in ("base", "arch", "accel", "vcpus", "kernel", "date")
                   if not isinstance(self.meta, dict) or n not in self.meta]
        if missing or not isinstance(rows, list):
            die("%s is no result of make bench: it has no %s" % (
                path, "list of rows" if not missing else "meta " + ", ".join(missing)),
                "run make bench again")
        self.series = collections.defaultdict(lambda: collections.defaultdict(Series))
        self.wrong = collections.Counter()
        for row in rows:
            problem = self.take(row)
            if problem:
                self.wrong[problem] += 1
        if not rows:
            self.wrong["there is no row at all"] += 1

    def take(self, row):
        """Add a row; returns what is wrong with it, if something is."""
        try:
            bench, variant, clock = row["bench"], row["variant"], row["clock"]
            metric, number, value = row["metric"], row["round"], row["value"]
            params, buckets = row.get("params") or {}, row.get("hist")
            where = "%s %s" % (bench, metric)
            if not isinstance(metric, str):
                raise TypeError(metric)
            if variant not in VARIANTS:
                return "unknown variant '%s' (%s), left out" % (variant, bench)
            if bench not in BENCHES or clock not in CLOCKS:
                return "unknown bench or clock '%s', '%s', left out" % (bench, clock)
            histogram = stats.Histogram([tuple(b) for b in buckets], PARTS) \
                if buckets is not None else None
            key = Key(bench, metric, clock, row.get("case") or "",
                      tuple(sorted((k, v) for k, v in params.items() if v is not None)))
            # bool() of both: a row has a number, or samples, or nothing to say.
            if value is not None and not is_number(value):
                return "%s is %r, left out" % (where, value)
            series = self.series[key][variant]
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            return "a row that is none (%s: %s), left out" % (type(e).__name__, e)
        if value is None and (histogram is None or not histogram.total):
            return "%s of %s: zero samples" % (where, variant)
        values = series.warm if row.get("warmup") else series.values
        if number in values:
            return "%s of %s twice in one round, the second left out" % (where, variant)
        if value is not None:
            values[number] = value
        if histogram is not None and histogram.total and not row.get("warmup"):
            series.histograms[number] = histogram
        return None

    @property
    def name(self):
        return "%s %s" % (self.meta["base"], self.meta["arch"])

    @property
    def anchor(self):
        return re.sub(r"\W+", "-", self.name)

    def on(self, clock):
        """On what a figure was measured: for each line of a table."""
        kernel = re.match(r"[\d.]*", self.kernel).group(0) or self.meta["base"]
        return "%s %s %s %s vCPUs %s" % (kernel, self.meta["arch"], self.accel,
                                         self.meta["vcpus"], STEP[clock])

    @property
    def kernel(self):
        kernel = self.meta["kernel"]
        if isinstance(kernel, dict):
            kernel = kernel.get("release") or kernel.get("source") or kernel
        return str(kernel)

    @property
    def accel(self):
        return str(self.meta["accel"]).split()[0]

    def said(self, clock):
        """The same in words."""
        text = "Kernel %s, %s, %s vCPUs%s, %s. " % (
            self.kernel, self.accel.upper(), self.meta["vcpus"],
            ", quick" if self.meta.get("quick") else "", self.meta["date"])
        if clock == "icount":
            return text + "Clock: executed instructions (-icount), which is not time: the same " \
                "on every machine, and blind to what a lock or a cache costs."
        if self.accel == "tcg":
            return text + "Clock: wall time under TCG, which translates each instruction: not " \
                "the time of hardware, and comparable only within this report."
        return text + "Clock: wall time."

    def keys(self, bench, metric=None, **params):
        found = [k for k in self.series if k.bench == bench and metric in (None, k.metric) and
                 all(dict(k.params).get(n) == v for n, v in params.items()) and
                 any(self.series[k].values())]
        return sorted(found, key=lambda k: (CLOCKS.index(k.clock), position(CASES, k.case), k.case,
                                            k.metric, [(n, str(type(v)), v) for n, v in k.params]))

    def variants(self, keys):
        have = {v for k in keys for v, s in self.series[k].items() if s}
        return [v for v in VARIANTS if v in have]

    def interval(self, key, variant):
        series = self.series[key].get(variant)
        if not series or not series.values:
            return None
        return (stats.counted_interval if key.clock == "icount" else stats.median_interval)(
            series.in_order)

    def compare(self, key, variant, baseline="stock", other=None):
        """Paired by rounds; other: of another key, the same variant or not."""
        a, b = self.series[key].get(variant), self.series[other or key].get(baseline)
        if not a or not b:
            return None
        return stats.paired(a.values, b.values, counted=key.clock == "icount")


def position(known, name):
    return known.index(name) if name in known else len(known)


# What numbers look like.

def significant(value, digits=3):
    if value == 0:
        return "0"
    if math.isinf(value):
        return "∞"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return "{:,.{}f}".format(rounded, max(0, places))


def unit(metric):
    """time, instructions, seconds or number."""
    words = metric.split("_")
    return "time" if "ns" in words else "instructions" if "instructions" in words else \
        "seconds" if metric == "seconds" else "number"


def show(value, kind):
    if value is None:
        return "-"
    if kind == "seconds":
        return significant(value) + " s"
    if kind == "time":
        for size, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
            if value >= size:
                return "%s %s" % (significant(value / size), name)
        return significant(value) + " ns"
    if value == int(value) and value < 1e6:
        return "{:,}".format(int(value))
    return significant(value, 4 if kind == "instructions" else 3)


def show_interval(got, kind):
    if got is None:
        return "-"
    if got.low == got.high == got.middle:
        return "%s (exact)" % show(got.middle, kind) if kind == "instructions" else \
            "%s (each time)" % show(got.middle, kind)
    if got.low is None:
        return "%s [%s to %s in %d]" % (show(got.middle, kind), show(got.least, kind),
                                        show(got.most, kind), got.n)
    return "%s (%s to %s)" % (show(got.middle, kind), show(got.low, kind), show(got.high, kind))


def show_comparison(got):
    if got is None or got.ratio is None:
        return "-"
    if got.low is None:
        return "%s (%s)" % (significant(got.ratio), got.word)
    if got.low == got.high == got.ratio:
        return "1, the same" if got.ratio == 1 else \
            "%s (exact) %s" % (significant(got.ratio, 4), got.word)
    return "%s (%s to %s) %s" % (significant(got.ratio), significant(got.low),
                                 significant(got.high), got.word)


def show_quantile(got, kind):
    if got is None or got.value is None:
        return "no samples"
    if got.needed:
        return "at least %d samples" % got.needed
    return show(got.value, kind)


def params_text(params, leave=()):
    return ", ".join("%s %s" % (n, "{:,}".format(v) if isinstance(v, int) else v)
                     for n, v in params if n not in leave)


def key_text(key, leave=("tasks",)):
    return ", ".join(w for w in (key.case, params_text(key.params, leave)) if w) or "all"


def same_in_all(keys):
    """The parameters that are the same in all of them; nobody needs those in each line."""
    return [(n, v) for n, v in keys[0].params if all((n, v) in k.params for k in keys)] \
        if len(keys) > 1 else []


# The document: blocks that know how they look in both.

class Document:
    def __init__(self, title):
        self.title, self.blocks, self.sections = title, [], []
        self.missing = []

    def head(self, level, text, anchor=None):
        anchor = anchor or re.sub(r"\W+", "-", text.lower()).strip("-")
        while anchor in [s[2] for s in self.sections]:
            anchor += "-"
        self.sections.append((level, text, anchor))
        self.blocks.append(("head", (level, text, anchor)))

    def text(self, text):
        self.blocks.append(("text", text))

    def points(self, items):
        self.blocks.append(("points", list(items)))

    def lack(self, text):
        """Something that should be here is not."""
        self.missing.append(text)
        self.blocks.append(("lack", text))

    def table(self, caption, columns, rows, folded=False):
        """Columns that begin with > are numbers."""
        self.blocks.append(("table", (caption, columns, [[str(c) for c in row] for row in rows],
                                      folded)))

    def figure(self, title, svg, caption):
        self.blocks.append(("figure", (title, svg, caption)))

    def as_html(self):
        out = []
        for kind, what in self.blocks:
            out.append(getattr(self, "html_" + kind)(what))
        links = "".join("<a class=l%d href='#%s'>%s</a>" % (level, anchor, html.escape(text))
                        for level, text, anchor in self.sections if level < 4)
        return PAGE % {"title": html.escape(self.title), "style": STYLE, "links": links,
                       "body": "\n".join(out)}

    @staticmethod
    def html_head(what):
        level, text, anchor = what
        return "<h%d id='%s'>%s</h%d>" % (level, anchor, html.escape(text), level)

    @staticmethod
    def html_text(text):
        return "<p>%s</p>" % html.escape(text)

    @staticmethod
    def html_points(items):
        return "<ul>%s</ul>" % "".join("<li>%s</li>" % html.escape(i) for i in items)

    @staticmethod
    def html_lack(text):
        return "<p class=lack><b>Missing:</b> %s</p>" % html.escape(text)

    @staticmethod
    def html_table(what):
        caption, columns, rows, folded = what
        right = [c.startswith(">") for c in columns]

        def cell(tag, text, n):
            classes = ["n"] if right[n] else []
            classes += [VERDICT_CLASS[text]] if text in VERDICT_CLASS else []
            classes += ["on"] if columns[n].endswith(ON) else []
            return "<%s%s>%s</%s>" % (tag, " class='%s'" % " ".join(classes) if classes else "",
                                      html.escape(text), tag)
        lines = ["<div class=t><table>", "<thead><tr>%s</tr></thead><tbody>" % "".join(
            cell("th", c.lstrip(">"), n) for n, c in enumerate(columns))]
        lines += ["<tr>%s</tr>" % "".join(cell("td", c, n) for n, c in enumerate(row))
                  for row in rows]
        lines.append("</tbody></table></div>")
        said = html.escape(caption)
        if folded:
            return "<details><summary>%s</summary>%s</details>" % (said, "".join(lines))
        return "<p class=c>%s</p>%s" % (said, "\n".join(lines))

    @staticmethod
    def html_figure(what):
        title, svg, caption = what
        return "<figure><h4>%s</h4>%s<figcaption>%s</figcaption></figure>" % (
            html.escape(title), svg, html.escape(caption))

    def as_text(self):
        out = [self.title, "=" * len(self.title), ""]
        for kind, what in self.blocks:
            if kind == "head":
                level, text, _ = what
                out += ["", text, {2: "=", 3: "-"}.get(level, ".") * len(text), ""]
            elif kind == "text":
                out += textwrap.wrap(what, 100) + [""]
            elif kind == "lack":
                out += textwrap.wrap("MISSING: " + what, 100) + [""]
            elif kind == "points":
                for item in what:
                    out += textwrap.wrap(item, 98, initial_indent="- ", subsequent_indent="  ")
                out.append("")
            elif kind == "figure":
                out += textwrap.wrap("Figure (in the HTML file): %s. %s" % (what[0], what[2]),
                                     100) + [""]
            else:
                out += self.text_table(*what)
        return "\n".join(line.rstrip() for line in out) + "\n"

    @staticmethod
    def text_table(caption, columns, rows, _folded):
        right = [c.startswith(">") for c in columns]
        lines = [[c.lstrip(">") for c in columns]] + rows
        widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
        out = textwrap.wrap(caption, 100)
        for line in lines:
            out.append("  " + "  ".join(c.rjust(w) if r else c.ljust(w)
                                        for c, w, r in zip(line, widths, right)))
        return out + [""]


ON = "measured on"
MET, NOT_MET, OPEN, UNMEASURED = "met", "NOT MET", "not decided", "not measured"
VERDICT_CLASS = {MET: "good", NOT_MET: "bad", OPEN: "open", UNMEASURED: "open",
                 "PASS": "good", "FAIL": "bad", stats.STEADY: "good", stats.DRIFTS: "bad"}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%(title)s</title>
<style>%(style)s</style>
</head>
<body>
<nav>%(links)s</nav>
<main>
<h1>%(title)s</h1>
%(body)s
</main>
</body>
</html>
"""

STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--dim:#5a6470;--line:#d5dae0;--soft:#f4f6f8;--good:#11683a;
--bad:#b3261e;--open:#8a5a00;--v1:#b34700;--v2:#a6478c;--v3:#0b63b0;--v4:#087f5b;--v5:#5f5f5f;
--limit:#b3261e}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e7eb;--dim:#9aa5b1;--line:#39414a;
--soft:#1d2228;--good:#5fd19a;--bad:#ff8a80;--open:#f0b95a;--v1:#ff9d5c;--v2:#e6a3d3;--v3:#74b9ff;
--v4:#4fd6a6;--v5:#b9b9b9;--limit:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;display:flex;
justify-content:center}
main{max-width:1240px;min-width:0;flex:1;padding:1rem 1.5rem 4rem}
nav{width:15rem;flex:none;padding:1.5rem 0 1rem 1.5rem;position:sticky;top:0;align-self:flex-start;
max-height:100vh;overflow:auto;font-size:.85rem;line-height:1.35}
nav a{display:block;color:var(--dim);text-decoration:none;padding:.15rem 0}
nav a.l2{color:var(--fg);font-weight:600;margin-top:.6rem}
nav a.l3{padding-left:.8rem}
nav a:hover{text-decoration:underline}
h1{font-size:1.7rem;line-height:1.2}
h2{font-size:1.4rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:2px solid var(--line)}
h3{font-size:1.12rem;margin:2rem 0 .4rem}
h4{font-size:.98rem;margin:0 0 .3rem}
p,ul{max-width:48rem;margin:.5rem 0}
.c{margin-top:1.2rem;font-size:.9rem;color:var(--dim);max-width:none}
.lack{border-left:4px solid var(--open);background:var(--soft);padding:.5rem .8rem}
.t{overflow-x:auto;margin:.3rem 0 1rem}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
white-space:nowrap}
th{font-weight:600;background:var(--soft);vertical-align:bottom}
th.n,td.n{text-align:right}
td.on{color:var(--dim);font-size:.75rem}
td:first-child{white-space:normal;min-width:12rem}
td.good{color:var(--good);font-weight:600}td.bad{color:var(--bad);font-weight:700}
td.open{color:var(--open);font-weight:600}
figure{margin:1.2rem 0;padding:.8rem 1rem;border:1px solid var(--line);border-radius:6px;
max-width:56rem}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.85rem;color:var(--dim);margin-top:.4rem}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--dim);font-size:.9rem}
@media(max-width:900px){body{display:block}nav{position:static;width:auto;max-height:none;
padding:1rem 1.5rem;columns:2}main{padding:0 1rem 3rem}}
@media print{nav{display:none}details{display:block}}
"""


# Figures, by gnuplot.

class Plot:
    """One figure: what gnuplot is told, and its data."""

    count = 0

    def __init__(self, x, y, logx=True, logy=True, height=400):
        self.commands = [
            "set term svg size 800,%d dynamic font 'sans-serif,14'" % height,
            "set encoding utf8", "set key at graph 0.5,1.02 center bottom horizontal maxrows 1 Left "
            "reverse samplen 4 width 1", "set tmargin 2.5",
            "set xlabel %s" % quoted(x), "set ylabel %s" % quoted(y),
            "set grid lc rgb '#010009' lw 0.6 dt 1", "set border lw 0.8", "set tics nomirror",
            "set bars 0.7"]
        self.log = {"x": logx, "y": logy}
        for axis in "xy":
            if self.log[axis]:
                self.commands.append("set logscale %s" % axis)
        self.parts, self.data = [], []

    def axis(self, axis, kind):
        if kind == "time":
            self.commands.append("set format %s '%%.0s %%cs'" % axis)
        elif kind == "plain":
            self.commands.append("set format %s '%%g'" % axis)
        else:
            self.commands.append("set format %s '%%.0s%%c'" % axis)

    def add(self, rows, using, with_what, title=None):
        if rows:
            self.data.append("$d%d << EOD\n%s\nEOD" % (len(self.data), "\n".join(
                " ".join("%.9g" % v if isinstance(v, (int, float)) else quoted(v) for v in row)
                for row in rows)))
            self.parts.append("$d%d using %s with %s %s" % (
                len(self.data) - 1, using, with_what,
                "title %s" % quoted(title) if title else "notitle"))

    def add_variant(self, variant, rows, with_what="yerrorlines", using="1:2:3:4", title=None):
        self.add(rows, using, "%s %s" % (with_what, look(variant)),
                 variant if title is None else title)

    def limit(self, value, text):
        """A line at what is wanted."""
        self.parts.append("%.9g with lines lc rgb '#010008' lw 1.5 dt 3 title %s"
                          % (value, quoted(text)))

    def svg(self):
        script = "\n".join(self.commands + self.data + ["plot " + ", \\\n".join(self.parts), ""])
        try:
            got = subprocess.run(["gnuplot", "-"], input=script, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, timeout=60)
        except FileNotFoundError:
            die("gnuplot is missing", "run scripts/setup.sh report, or install gnuplot-nox")
        if got.returncode or "<svg" not in got.stdout:
            die("gnuplot does not draw: %s" % (got.stderr.strip().split("\n") or ["?"])[-1])
        Plot.count += 1
        return inline(got.stdout, "f%d" % Plot.count)


def quoted(text):
    """For gnuplot: in single quotes, nothing is special but those; _ and ^ are in labels."""
    return "'%s'" % str(text).replace("'", "''").replace("_", "\\_").replace("^", "\\^")


def look(variant):
    _, point, dash = VARIANTS[variant]
    return "lc rgb '#0100%02x' pt %d dt %d lw %s ps 0.8" % (
        list(VARIANTS).index(variant) + 1, point, dash, 2.4 if variant == "series" else 1.6)


def inline(svg, name):
    """As part of a page: ids of its own, and the colours of the page."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<title>Gnuplot</title>\s*<desc>.*?</desc>", "", svg, flags=re.S)
    svg = re.sub(r"\bid=(['\"])([^'\"]+)", r"id=\1%s-\2" % name, svg)
    svg = re.sub(r"href='#", "href='#%s-" % name, svg)
    svg = re.sub(r"url\(#", "url(#%s-" % name, svg)
    colours = {9: "--line", 8: "--limit"}
    colours.update({n + 1: "--v%d" % (n + 1) for n in range(len(VARIANTS))})
    svg = re.sub(r"rgb\(\s*1,\s*0,\s*(\d+)\)",
                 lambda m: "var(%s)" % colours.get(int(m.group(1)), "--fg"), svg)
    # An attribute would do, but a style is what every browser takes a variable in.
    svg = re.sub(r"\b(stroke|fill|color)\s*=\s*(['\"])(var\(--\w+\))\2", r'style="\1:\3"', svg)
    svg = re.sub(r"(['\"])black\1", r"\1currentColor\1", svg)
    svg = re.sub(r'color="(white|gr[ae]y)" ', "", svg)
    # What is erased behind a point.
    svg = svg.replace("color='white'", 'style="color:var(--bg)"')
    svg = re.sub(r">\s*([\d.]+) us<", r">\1 µs<", svg)
    return re.sub(r"\n\s*", "\n", svg).replace("<svg ", "<svg role='img' ", 1)


# What is in the report of one bench.json. A section says what it lacks.

def name_of(metric, clock):
    """A metric as it is called under a clock: make bench counts instructions instead of ns."""
    return re.sub(r"(^|_)ns(_|$)", r"\1instructions\2", metric) if clock == "icount" else metric


def compared(doc, b, caption, keys, baseline="stock", folded=False):
    """A table, a line for each variant: median, ratio, rounds, warm-up, drift."""
    if not keys:
        return
    metrics = {k.metric for k in keys}
    same = same_in_all(keys)
    leave = [n for n, _ in same]
    rows = []
    for key in keys:
        kind = unit(key.metric)
        for variant in b.variants([key]):
            series, got = b.series[key][variant], b.interval(key, variant)
            if got is None:
                continue
            drift = stats.drift(series.in_order)
            warm = stats.median(list(series.warm.values())) if series.warm else None
            rows.append([key_text(key, leave)] + [key.metric] * (len(metrics) > 1) +
                        [variant, show_interval(got, kind), "" if variant == baseline else
                         show_comparison(b.compare(key, variant, baseline)), got.n,
                         show(warm, kind), drift.word if drift.word == stats.FEW else
                         "%s, p %.2f" % (drift.word, drift.p), b.on(key.clock)])
    said = [caption] + ["%s." % m.replace("_", " ") for m in metrics if len(metrics) == 1] + \
        ["%s." % params_text(same).capitalize() for _ in same[:1]]
    doc.table(" ".join(said), ["case"] + ["metric"] * (len(metrics) > 1) +
              ["variant", ">median (95 % interval)", "times " + baseline, ">rounds", ">warm-up",
               "halves", ON], rows, folded)


def by_case(doc, b, keys, title, ylabel, caption, logy=False, limits=(), baseline=None):
    """A figure with the cases side by side; with a baseline the ratios to it."""
    if not keys:
        return
    kind = unit(keys[0].metric) if not baseline else "number"
    variants = [v for v in b.variants(keys) if v != baseline]
    # A ratio of a quarter is as far from 1 as one of four.
    ratios = [got[0] for key in keys for v in variants if baseline
              for got in [b.compare(key, v, baseline)] if got and got[0] is not None]
    wide = bool(ratios) and 0 < 4 * min(ratios) < max(ratios) < math.inf
    logy = logy or wide
    plot = Plot("", ylabel, logx=False, logy=logy)
    if wide:
        plot.commands.append("set logscale y 2")
    plot.axis("y", kind if kind == "time" else "plain" if baseline or limits else kind)
    rows = {v: [] for v in variants}
    for n, key in enumerate(keys):
        for place, variant in enumerate(variants):
            got = b.compare(key, variant, baseline) if baseline else b.interval(key, variant)
            if got is None or got[0] is None or math.isinf(got[0]) or (logy and got[0] <= 0):
                continue
            low, high = (got[0] if v is None or math.isinf(v) else v for v in got[1:3])
            size = 1e-9 if kind == "time" else 1
            rows[variant].append([n + (place - (len(variants) - 1) / 2) * 0.16, got[0] * size,
                                  low * size, high * size])
    plot.commands += ["set xrange [-0.5:%g]" % (len(keys) - 0.5), "set bmargin 3"]
    if not logy:
        plot.commands.append("set yrange [0:*]")
    same = [n for n, _ in same_in_all(keys)] + ["queue", "tasks"]
    plot.commands.append("set xtics (%s) scale 0" % ", ".join(
        '"%s" %d' % ("\\n".join([key.case.replace("_", " ")] + [
            w for w in params_text(key.params, same).replace(
                "nr_to_scan", "scan").split(", ") if w]), n)
        for n, key in enumerate(keys)))
    for variant in variants:
        plot.add_variant(variant, rows[variant], "yerrorbars")
    for value, text in limits:
        plot.limit(value, text)
    if any(rows.values()):
        doc.figure(title, plot.svg(), caption)


def scan_section(doc, b):
    doc.head(3, "Scan: cost per folio", "scan-" + b.anchor)
    found = False
    for clock in CLOCKS:
        keys = [k for k in b.keys("scan", name_of("ns_per_folio", clock)) if k.clock == clock]
        if not keys:
            continue
        found = True
        what = "Time" if clock == "time" else "Instructions"
        by_case(doc, b, keys, "%s per scanned folio, times that of stock" % what, "times stock",
                RATIOS + b.said(clock), limits=((1, "stock"),), baseline="stock")
        compared(doc, b, "Cost per scanned folio.", keys)
    if not found:
        doc.lack("no cost per folio in %s: run make bench" % b.path)
    keys = [k for k in b.keys("scan", "ns_per_folio") if k.clock == "time"]
    if keys:
        rounds_figure(doc, b, keys[0])


def rounds_figure(doc, b, key):
    plot = Plot("round", "time per folio", logx=False, logy=False, height=320)
    plot.axis("y", "time")
    last = max(r for s in b.series[key].values() for r in list(s.values) + [0])
    plot.commands += ["set yrange [0:*]", "set xtics 1", "set xrange [-0.5:%g]" % (last + 0.5)]
    for variant in b.variants([key]):
        series = b.series[key][variant]
        points = sorted(list(series.warm.items()) + list(series.values.items()))
        plot.add_variant(variant, [(r, v * 1e-9) for r, v in points], "linespoints", "1:2")
    doc.figure("Round by round: %s" % key_text(key), plot.svg(),
               "Round 0 is the warm-up and in no median. " + b.said(key.clock))


def hold_keys(b, clock):
    return [k for k in b.keys("hold", name_of("hold_max_ns", clock)) if k.clock == clock]


def param(key, name):
    return dict(key.params).get(name)


def along(keys, name, **fixed):
    """Those that differ in one parameter only, by that."""
    return sorted((k for k in keys if all(param(k, n) == v for n, v in fixed.items()) and
                   is_number(param(k, name))), key=lambda k: param(k, name))


def longest_line(keys, name, other):
    """Along one parameter, at the largest value of the other that has most of it."""
    lines = [along(keys, name, **{other: v})
             for v in sorted({param(k, other) for k in keys if is_number(param(k, other))})]
    return max(lines, key=lambda line: (len(line), param(line[0], other))) if lines else []


def line_figure(doc, b, keys, name, xlabel, title, caption):
    kind = unit(keys[0].metric)
    size = 1e-9 if kind == "time" else 1
    plot = Plot(xlabel, "longest hold" + ("" if kind == "time" else ", instructions"))
    plot.axis("x", "number")
    plot.axis("y", kind)
    plot.commands.append("set xrange [%g:%g]" % (param(keys[0], name) / 1.4,
                                                 param(keys[-1], name) * 1.4))
    variants = b.variants(keys)
    for place, variant in enumerate(variants):
        rows = []
        # A little apart: equal ones would hide each other.
        aside = 1.06 ** (place - (len(variants) - 1) / 2)
        for key in keys:
            got = b.interval(key, variant)
            if got and got.middle > 0:
                low, high = (got.least, got.most) if got.low is None else (got.low, got.high)
                rows.append([param(key, name) * aside, got.middle * size, max(low, 0.1) * size,
                             high * size])
        plot.add_variant(variant, rows)
    doc.figure(title, plot.svg(), caption)


def hold_section(doc, b):
    doc.head(3, "Hold: how long interrupts are off", "hold-" + b.anchor)
    if not any(hold_keys(b, clock) for clock in CLOCKS):
        doc.lack("no hold times in %s: run make bench" % b.path)
        return
    for clock in CLOCKS:
        keys = hold_keys(b, clock)
        for name, other, xlabel in (("nr_to_scan", "queue", "folios asked for (nr_to_scan)"),
                                    ("queue", "nr_to_scan", "folios queued")):
            line = longest_line(keys, name, other)
            if len(line) < 2:
                if keys:
                    doc.lack("%s: no two values of %s" % (STEP[clock], name))
                continue
            line_figure(doc, b, line, name, xlabel, "Longest hold of the queue's lock, by %s (%s)"
                        % ("nr_to_scan" if name == "nr_to_scan" else "queue length", STEP[clock]),
                        "With %s %s. Medians over the rounds of each round's longest hold, with "
                        "their 95 %% intervals, or all that was seen where there are too few "
                        "rounds. Interrupts are off for the hold, and for the wait before it. %s"
                        % (other.replace("queue", "queue length"),
                           "{:,}".format(param(line[0], other)), b.said(clock)))
    rows = []
    for clock in CLOCKS:
        keys = hold_keys(b, clock)
        ends = longest_line(keys, "nr_to_scan", "queue")[-1:]
        ends += [k for k in along(keys, "queue", nr_to_scan=128) or
                 along(keys, "queue", nr_to_scan=100)][-1:]
        for key in ends:
            kind = unit(key.metric)
            for variant in b.variants([key]):
                h = b.series[key][variant].histogram
                rows.append([key_text(key), variant, h.total] +
                            [show_quantile(h.quantile(q), kind) for _, q in QUANTILES] +
                            [show(h.largest(), kind), b.on(clock)])
    if rows:
        doc.table("How holds are distributed, all rounds together.",
                  ["case", "variant", ">holds"] + [">" + n for n, _ in QUANTILES] +
                  [">longest", ON], rows)
    for clock in CLOCKS:
        compared(doc, b, "All of the longest holds.", hold_keys(b, clock), folded=True)


def locks_section(doc, b):
    doc.head(3, "Lock acquisitions per scanned folio", "locks-" + b.anchor)
    keys = [k for k in b.keys("locks", "acquisitions_per_folio") if k.clock == "time"] or \
        b.keys("locks", "acquisitions_per_folio")
    if not keys:
        doc.lack("no counts of the lock in %s: run make bench" % b.path)
        return
    by_case(doc, b, keys, "Lock acquisitions per scanned folio", "per folio",
            "Of the queue's lock by the scan; splitting a folio takes it once more, in each of the "
            "variants. " + b.said(keys[0].clock), logy=True,
            limits=((1 / BATCH, "1/%d" % BATCH), (2 / BATCH, "2/%d" % BATCH)))
    compared(doc, b, "Counted, not timed.", keys)
    compared(doc, b, "The rest.", [k for k in b.keys("locks") if k not in keys], folded=True)


def above_rows(histogram, size):
    """What a logarithmic plot can show: until nothing is above."""
    rows, last = [], None
    for edge, share in histogram.above():
        if edge > 0:
            rows.append([edge * size, share if share > 0 else 0.5 / histogram.total])
    # No more points than one can see.
    kept = []
    for row in rows:
        if last is None or row[1] < last * 0.985 or row is rows[-1]:
            kept.append(row)
            last = row[1]
    return kept


def latency_section(doc, b):
    doc.head(3, "Latency of unmap and free while it is scanned", "latency-" + b.anchor)
    doc.text("while-scanning: the scanner scans as fast as it can; the less a folio costs it, the "
             "more it scans, and the more of its time it has the lock. while-paced: it scans as "
             "many folios a second in every variant, 50,000.")
    keys = [k for k in b.keys("latency") if k.metric in ("unmap_ns", "free_ns") and
            any(s.histograms for s in b.series[k].values())]
    if not keys:
        doc.lack("no latencies in %s: run make bench" % b.path)
        return
    scanned = [k for k in keys if k.case != "quiet"]
    most = max((param(k, "nr_to_scan") or 0 for k in scanned), default=0)
    tasks = sorted({param(k, "tasks") or 1 for k in scanned})
    for metric, what in (("unmap_ns", "partial unmap"), ("free_ns", "free")):
        for nr in sorted({param(k, "nr_to_scan") or 0 for k in scanned}, reverse=True):
            for n in sorted({tasks[0], tasks[-1]} if nr == most and metric == "unmap_ns"
                            else {tasks[0]}):
                for key in scanned:
                    if key.metric == metric and param(key, "nr_to_scan") == nr and \
                            param(key, "tasks") == n:
                        latency_figure(doc, b, key, what, n, nr)
    for metric, what, folded in (("unmap_ns", "partial unmap", False), ("free_ns", "free", True)):
        rows = []
        for key in keys:
            if key.metric == metric:
                rows += latency_rows(b, key)
        if rows:
            doc.table("Latency of a %s, all rounds together. A quantile that needs more samples "
                      "than there are says how many; the ratio is that of the highest quantile "
                      "that there are samples for, its interval the wider of two (all samples "
                      "taken as independent; rounds drawn again)." % what,
                      ["case", "variant", ">samples"] + [">" + n for n, _ in QUANTILES] +
                      [">longest", "of stock", ON], rows, folded)
    rest = [k for k in b.keys("latency") if k not in keys]
    compared(doc, b, "What was done meanwhile.", rest, folded=True)


def latency_rows(b, key):
    rows = []
    stock = b.series[key].get("stock")
    for variant in b.variants([key]):
        series = b.series[key][variant]
        h, against = series.histogram, ""
        if variant != "stock" and stock and stock.histograms and series.histograms:
            enough = [(n, q) for n, q in QUANTILES if not h.quantile(q).needed and
                      not stock.histogram.quantile(q).needed]
            if enough:
                name, q = enough[-1]
                against = "%s %s" % (name, show_comparison(
                    stats.paired_quantiles(series.histograms, stock.histograms, q)))
        rows.append([key_text(key, ("queue",)), variant, "{:,}".format(h.total)] +
                    [show_quantile(h.quantile(q), "time") for _, q in QUANTILES] +
                    [show(h.largest(), "time"), against, b.on(key.clock)])
    return rows


def latency_figure(doc, b, key, what, tasks, nr):
    plot = Plot("latency", "share that takes longer")
    plot.axis("x", "time")
    plot.commands += ["set format y '10^{%T}'", "set yrange [*:1.1]"]
    for variant in b.variants([key]):
        h = b.series[key][variant].histogram
        if h.total:
            plot.add(above_rows(h, 1e-9), "1:2", "linespoints %s pi %d" % (
                look(variant), -7 - list(VARIANTS).index(variant)), variant)
    if plot.parts:
        doc.figure("Latency of a %s, %d task%s, while %s" % (
            what, tasks, "" if tasks == 1 else "s",
            "nothing scans" if not nr else "a scan takes up to {:,}{}".format(
                nr, ", at one pace for all" if key.case == "while-paced" else "")), plot.svg(),
            "%s queued. The share of all samples of all rounds that took longer than that; where a "
            "line ends, there was nothing longer. %s" % (
                "{:,}".format(param(key, "queue") or 0), b.said(key.clock)))


def workload_section(doc, b):
    doc.head(3, "Workloads", "workloads-" + b.anchor)
    keys = [k for k in b.keys("workload", "seconds") if k.clock == "time"]
    if not keys:
        doc.lack("no workloads in %s: run make bench" % b.path)
        return
    by_case(doc, b, keys, "Time of a workload, times that of stock", "times stock",
            RATIOS + b.said("time"),
            limits=((1, "stock"),), baseline="stock")
    others = [k for k in b.keys("workload") if k.metric in ("splits", "refaults", "swapins",
                                                            "seconds")]
    compared(doc, b, "Time, and what was split and came back.", others)
    compared(doc, b, "The rest of what was counted.",
             [k for k in b.keys("workload") if k not in others], folded=True)


def sync_section(doc, b):
    doc.head(3, "TTU_SYNC", "ttu-sync-" + b.anchor)
    keys = b.keys("ttu_sync")
    if not keys:
        doc.lack("nothing about TTU_SYNC in %s: run make bench" % b.path)
        return
    doc.text("The series with TTU_SYNC in unmap_folio(), as it is, and without (nosync). Without "
             "it a split can take a THP that is being zapped for unmapped while it is not: what "
             "is faster for that is no choice, but it is what TTU_SYNC costs.")
    by_case(doc, b, [k for k in keys if k.metric == "ns_per_folio"],
            "Time to split a folio, with and without TTU_SYNC", "time per folio",
            "THPs of which half is mapped by PTEs, so that the walk meets what is not. "
            + b.said("time"))
    compared(doc, b, "With TTU_SYNC (series), and without (nosync).", keys, "nosync")


# The model.

class Measured:
    """What the model takes from a bench.json for one variant and one nr_to_scan."""

    def __init__(self, b, variant, nr):
        self.b, self.variant, self.nr = b, variant, nr
        self.cpus = max(1, int(b.meta["vcpus"]) - 1)    # the scanner has one of its own
        single = [k for k in hold_keys(b, "time") if param(k, "nr_to_scan") == 1]
        quiet = self.key("quiet", "unmaps_per_second", 1, 0)
        if not single or not quiet or not self.has(single[0]) or not self.has(quiet):
            raise LookupError("no hold of a single folio, or no unmaps without a scan")
        self.quiet_unmap = self.key("quiet", "unmap_ns", 1, 0)
        self.hold = queueing.holds_of(b.series[single[0]][variant].histogram)
        # Two at a time, that is the lock for the unmap and for the free.
        cycle = 1e9 / self.median(quiet) / 2
        self.think = max(0.0, cycle - queueing.mean(self.hold))
        self.tasks = sorted({param(k, "tasks") for k in b.keys("latency", "hold_max_ns")
                             if param(k, "nr_to_scan") == nr and self.has(k)})
        if not self.tasks:
            raise LookupError("no holds while unmaps were measured")

    def has(self, key):
        series = self.b.series[key].get(self.variant)
        return bool(series and (series.histograms or series.values))

    def key(self, case, metric, tasks, nr):
        return next((k for k in self.b.keys("latency", metric, tasks=tasks, nr_to_scan=nr)
                     if k.case == case and k.clock == "time"), None)

    def median(self, key):
        return stats.median(self.b.series[key][self.variant].in_order)

    def scanner(self, tasks):
        """The scanner as it was while so many unmapped: holds, and time between them."""
        holds = self.b.series[self.key("while-scanning", "hold_max_ns", tasks, self.nr)][
            self.variant].histogram
        rate = self.b.series[self.key("while-scanning", "unmaps_per_second", tasks, self.nr)][
            self.variant]
        unmaps = self.b.series[self.key("while-scanning", "unmap_ns", tasks, self.nr)][
            self.variant]
        spent = sum(unmaps.histograms[r].total / rate.values[r] for r in unmaps.histograms
                    if rate.values.get(r)) * 1e9
        if not spent or not holds.total:
            raise LookupError("no holds, or no unmaps, with %d tasks" % tasks)
        return queueing.Class(1, max(0.0, spent / holds.total - holds.mean()),
                              queueing.holds_of(holds))

    def unmappers(self, tasks, share=1.0):
        """So many; of their time a share is spent unmapping."""
        each = self.think + queueing.mean(self.hold)
        return queueing.Class(tasks, self.think + each * (1 / share - 1), self.hold)

    def check(self, tasks):
        """Predicted and measured: unmaps a second, and the mean time of one."""
        got = queueing.play([self.unmappers(min(tasks, self.cpus)), self.scanner(tasks)])
        rate = got.throughput[0] / 2 * 1e9
        real = self.median(self.key("while-scanning", "unmaps_per_second", tasks, self.nr))
        unmap = real_unmap = None
        quiet = self.quiet_unmap and self.b.series[self.quiet_unmap].get(self.variant)
        if tasks <= self.cpus and quiet and quiet.histograms:
            unmap = quiet.histogram.mean() + queueing.mean(got.waits[0])
            real_unmap = self.b.series[self.key("while-scanning", "unmap_ns", tasks, self.nr)][
                self.variant].histogram.mean()
        return rate, real, unmap, real_unmap


def error_text(predicted, real):
    return "%+.0f %%" % (100 * (predicted / real - 1)) if predicted and real else "-"


def model_section(doc, b):
    doc.head(3, "On paper: 16, 64 and 256 CPUs", "model-" + b.anchor)
    measured, why = {}, []
    scanned = [k for k in b.keys("latency", "hold_max_ns") if param(k, "nr_to_scan")]
    for nr in sorted({param(k, "nr_to_scan") for k in scanned}):
        for variant in b.variants(scanned):
            try:
                m = Measured(b, variant, nr)
                m.scanner(m.tasks[0])
                measured[nr, variant] = m
            except (LookupError, ZeroDivisionError, KeyError, TypeError) as e:
                why.append("%s, nr_to_scan %s: %s" % (variant, nr, e))
    if not measured:
        doc.lack("the model has nothing to begin with (%s): run make bench" % (
            why[0] if why else "no holds and rates under a scan"))
        return
    for text in why:
        doc.lack("the model of " + text)
    doc.text("A closed queue: one scanner and N-1 CPUs that unmap, each thinks for a while and then "
             "needs the lock. The holds of the scanner and the time between them are those of the "
             "latency runs; an unmap holds the lock as long as a scan of one folio does, the "
             "shortest hold that was measured, and once more when the rest is freed; the time "
             "between comes from the unmaps a second of one task while nothing scans. Nothing is "
             "fitted to what is predicted. It is played event by event: scripts/queueing.py says "
             "why.")
    doc.text("Assumed:")
    doc.points(queueing.ASSUMPTIONS)
    doc.text("Where it breaks:")
    doc.points(queueing.LIMITS)
    rows, errors = [], []
    for (nr, variant), m in measured.items():
        for tasks in m.tasks:
            try:
                rate, real, unmap, real_unmap = m.check(tasks)
            except (LookupError, ZeroDivisionError, KeyError, TypeError) as e:
                rows.append([variant, nr, tasks] + ["-"] * 5 + ["- (%s)" % e, b.on("time")])
                continue
            errors.append(abs(rate / real - 1) if real else math.inf)
            rows.append([variant, "{:,}".format(nr), tasks, significant(real), significant(rate),
                         error_text(rate, real), show(real_unmap, "time"), show(unmap, "time"),
                         error_text(unmap, real_unmap), b.on("time")])
    if errors:
        doc.text("Against what was measured: the unmaps a second are off by %.0f %% in the median, "
                 "%.0f %% at worst, of %d points. %s" % (
                     100 * stats.median(errors), 100 * max(errors), len(errors),
                     "With %s vCPUs the tasks that unmap share %s: this checks what a scanner does "
                     "to them, and little of what they do to each other." % (
                         b.meta["vcpus"], "one" if int(b.meta["vcpus"]) < 3 else
                         "%d" % (int(b.meta["vcpus"]) - 1))))
        if stats.median(errors) > FAR_OFF:
            doc.text("So far off, the lock is not what decided these points: what two tasks cost each "
                     "other beside it (a host with other work, TCG's own locks, caches) is not in "
                     "the model. What is predicted below compares holds, and says nothing about "
                     "what a machine would show.")
    doc.table("The model against the measured points. Mean times only for tasks that have a CPU "
              "each.", ["variant", ">nr_to_scan", ">tasks", ">unmaps/s", ">predicted", ">error",
                        ">mean unmap", ">predicted", ">error", ON], rows)
    scale(doc, b, measured)


LOADS = ((1.0, "all CPUs do nothing but unmap"), (0.01, "each CPU unmaps 1 % of its time"))


def scale(doc, b, measured):
    rows, lines = [], collections.defaultdict(dict)
    for (nr, variant), m in measured.items():
        scan = m.scanner(m.tasks[0])
        for share, load in LOADS:
            for cpus in CPUS:
                classes = [m.unmappers(cpus - 1, share), scan]
                got = queueing.play(classes)
                wait = queueing.mean(got.waits[0])
                lines[nr, share].setdefault(variant, []).append([cpus, wait * 1e-9])
                if cpus > 4:
                    high = queueing.quantile(got.waits[0], 0.9999)
                    rows.append([
                        "{:,}".format(nr), load, cpus, variant,
                        "%.0f %%" % (100 * sum(got.used)), "%.0f %%" % (100 * got.used[1]),
                        show(wait, "time"), show(high, "time") if high is not None else
                        "too few", show(queueing.worst_wait(classes)[0], "time"),
                        "%.0f" % max(2, queueing.saturation(classes[0].think,
                                                            queueing.mean(m.hold))), b.on("time")])
    for (nr, share), by_variant in lines.items():
        if nr != max(n for n, _ in lines):
            continue
        plot = Plot("CPUs", "mean wait for the lock")
        plot.axis("x", "plain")
        plot.axis("y", "time")
        plot.commands += ["set xtics (%s)" % ", ".join(str(c) for c in CPUS),
                          "set xrange [3:340]"]
        for variant in VARIANTS:
            if variant in by_variant:
                plot.add_variant(variant, [[c, max(w, 1e-10)] for c, w in by_variant[variant]],
                                 "linespoints", "1:2")
        doc.figure("Predicted: mean wait of an unmap, %s" % dict(LOADS)[share], plot.svg(),
                   "One scanner that takes up to {:,} at a time. A model of what was measured, "
                   "not a measurement. ".format(nr) + b.said("time"))
    doc.table("Predicted. In use: how much of the time somebody has the lock, and the scanner. "
              "Never longer: with a fair lock, once for each other CPU, its longest hold. "
              "Saturates: from so many CPUs on unmaps alone keep it held.",
              [">nr_to_scan", "load", ">CPUs", "variant", ">in use", ">by scanner", ">mean wait",
               ">p99.99 wait", ">never longer", ">saturates", "from " + ON], rows)


# What it comes to.

def judged(low, high, met, failed):
    if low is None or high is None:
        return OPEN
    return MET if met(low, high) else NOT_MET if failed(low, high) else OPEN


def inverse(got):
    """The ratio the other way round."""
    if got is None or got.ratio is None:
        return None
    swap = {stats.LESS: stats.MORE, stats.MORE: stats.LESS}
    low, high = (None if v is None else stats.ratio(1.0, v) for v in (got.high, got.low))
    return stats.Comparison(stats.ratio(1.0, got.ratio), low, high, got.n,
                            swap.get(got.word, got.word))


def targets(b):
    """What the series is meant to reach, and whether it does: rows of a table."""
    rows = []

    def row(what, got, met, failed, clock):
        if got is None or got.ratio is None:
            rows.append([what, "-", UNMEASURED, b.on(clock)])
        else:
            rows.append([what, show_comparison(got), judged(got.low, got.high, met, failed),
                         b.on(clock)])

    for clock in CLOCKS:
        keys = hold_keys(b, clock)
        line = longest_line([k for k in keys if param(k, "nr_to_scan") == 10000], "queue",
                            "nr_to_scan")
        if line or clock == "time":
            row("longest hold, 10,000 at a time: stock over series at least %d" % SHORTER,
                inverse(b.compare(line[-1], "series")) if line else None,
                lambda low, high: low >= SHORTER, lambda low, high: high < SHORTER, clock)
        for name, other in (("nr_to_scan", "queue"), ("queue", "nr_to_scan")):
            line = [k for k in longest_line(keys, name, other) if param(k, name) > BATCH]
            if len(line) < 2 and clock == "icount":
                continue
            row("longest hold of the series, %s from %s to %s: at most %s times longer" % (
                name, *("{:,}".format(param(k, name)) for k in (line[0], line[-1])), FLAT)
                if len(line) > 1 else "longest hold of the series, flat in %s" % name,
                b.compare(line[-1], "series", "series", line[0]) if len(line) > 1 else None,
                lambda low, high: high <= FLAT, lambda low, high: low > FLAT, clock)
    no_worse = (lambda low, high: low <= 1, lambda low, high: low > 1)
    keys = [k for k in b.keys("latency", "unmap_ns") if k.case != "quiet"]
    for key in keys:
        a, s = b.series[key].get("series"), b.series[key].get("stock")
        row("p99.99 of an unmap, %s: no worse than stock" % key_text(key, ("queue",)),
            stats.paired_quantiles(a.histograms, s.histograms, 0.9999)
            if a and s and a.histograms and s.histograms else None, *no_worse, key.clock)
    if not keys:
        row("p99.99 of an unmap while it is scanned: no worse than stock", None, *no_worse, "time")
    keys = b.keys("scan", "ns_per_folio") + b.keys("scan", name_of("ns_per_folio", "icount"))
    for key in keys:
        row("%s per folio, %s: no more than stock" % (
            "time" if key.clock == "time" else "instructions", key_text(key)),
            b.compare(key, "series"), *no_worse, key.clock)
    if not keys:
        row("time per folio: no more than stock", None, *no_worse, "time")
    for case, most in (("all-split", 1), ("none-split", 2), ("half-split", 2), ("contended", 2)):
        keys = [k for k in b.keys("locks", "acquisitions_per_folio") if k.case == case]
        # The last batch of a scan is not full: of the longest scans.
        longest = max((param(k, "nr_to_scan") or 0 for k in keys), default=0)
        for key in keys:
            got = b.interval(key, "series")
            if param(key, "nr_to_scan") != longest or got is None or key.clock != keys[0].clock:
                continue
            extra = most / longest if longest else 0
            low, high = (got.least, got.most) if got.low is None else (got.low, got.high)
            rows.append(["acquisitions per folio, %s: at most %d/%d, and one batch that is not full"
                         % (key_text(key), most, BATCH), show_interval(got, "number"),
                         judged(low, high, lambda lo, hi: hi <= most / BATCH + extra,
                                lambda lo, hi: lo > most / BATCH + extra), b.on(key.clock)])
        if not keys:
            rows.append(["acquisitions per folio, %s: at most %d/%d" % (case, most, BATCH), "-",
                         UNMEASURED, b.on("time")])
    return rows


def targets_section(doc, b):
    rows = targets(b)
    counts = collections.Counter(r[2] for r in rows)
    doc.text("; ".join("%d %s" % (counts[w], w) for w in (MET, NOT_MET, OPEN, UNMEASURED)
                       if counts[w]) + ". Met: the whole 95 % interval is on the right side, or, "
             "for what is to be no worse, does not exclude it; not decided: it is on both sides, "
             "or there are too few rounds or samples.")
    doc.table("What the series is meant to reach.", ["", "ratio (95 % interval)", "", ON], rows)


def second_section(doc, b, before):
    """Are the numbers of two runs within each other's intervals?"""
    doc.head(3, "A second run", "again-" + b.anchor)
    if not before:
        doc.lack("there is one run of make bench only; a second one shows whether the first can be "
                 "reproduced")
        return
    doc.text("This run is of %s, the one before of %s. What is claimed are ratios to stock, which "
             "takes its turn in the same run; medians of times are those of a machine that may be "
             "twice as fast an hour later." % (b.meta["date"], before.meta["date"]))
    for what, find, show_it in (
            ("ratios to stock", lambda run, key, v: run.compare(key, v) if v != "stock" else None,
             lambda got, kind: show_comparison(got)),
            ("medians", lambda run, key, v: run.interval(key, v), show_interval)):
        inside, outside = within_each_other(b, before, find, show_it)
        doc.text("Of %d %s with an interval in both, %d intervals overlap and %d do not; %d have no "
                 "interval in one of the two." % (inside[True] + inside[False], what, inside[True],
                                                  inside[False], inside["no interval"]))
        if outside:
            doc.table("Not within each other's intervals: %s." % what,
                      ["bench", "case", "metric", "variant", ">before", ">now", ON], outside, True)


def within_each_other(b, before, find, show_it):
    """How many intervals of two runs overlap, and the rows of those that do not.

    find: (a run, key, variant) -> something with low and high, or None if there is no such.
    """
    inside, outside = collections.Counter(), []
    for key in sorted(b.series, key=str):
        for variant in b.variants([key]):
            new = find(b, key, variant)
            old = find(before, key, variant) if key in before.series else None
            if new is None and variant == "stock" and old is None:
                continue
            if not new or not old or new.low is None or old.low is None:
                inside["no interval"] += 1
                continue
            good = new.low <= old.high and old.low <= new.high
            inside[good] += 1
            if not good:
                kind = unit(key.metric)
                outside.append([key.bench, key_text(key), key.metric, variant, show_it(old, kind),
                                show_it(new, kind), b.on(key.clock)])
    return inside, outside


def drift_section(doc, b):
    doc.head(3, "Warm-up and steady state", "steady-" + b.anchor)
    words, changes = collections.Counter(), []
    for key in b.series:
        for variant in b.variants([key]):
            series = b.series[key][variant]
            words[stats.drift(series.in_order).word] += 1
            if series.warm and series.values and stats.median(series.in_order) > 0 and \
                    unit(key.metric) == "time":
                changes.append(stats.median(list(series.warm.values())) /
                               stats.median(series.in_order))
    tested = words[stats.STEADY] + words[stats.DRIFTS]
    doc.text("Of %d series of rounds, %d are long enough to be tested for a drift between their "
             "first half and their second (rank sum, exact, 5 %%): %d drift, and %.0f would by "
             "chance. The rounds of the warm-up are in no median%s." % (
                 sum(words.values()), tested, words[stats.DRIFTS], tested * 0.05,
                 "; what takes time took %s times as long in them (median of %d)" % (
                     significant(stats.median(changes)), len(changes)) if changes else
                 "; there are none"))


def bench_sections(doc, b, before):
    doc.head(2, b.name, "bench-" + b.anchor)
    doc.text("Kernel %s, %s, %s vCPUs, debug options: %s%s; %s; %s." % (
        b.kernel, b.accel, b.meta["vcpus"], b.meta.get("debug") or "none",
        ", a quick run" if b.meta.get("quick") else "", b.meta["date"],
        b.meta.get("source", "source not recorded")))
    for text, count in sorted(b.wrong.items()):
        doc.lack("%s%s" % (text, "" if count == 1 else " (%d rows)" % count))
    for variant in ("stock", "series"):
        if variant not in b.variants(list(b.series)):
            doc.lack("nothing was measured of %s" % variant)
    targets_section(doc, b)
    scan_section(doc, b)
    hold_section(doc, b)
    latency_section(doc, b)
    locks_section(doc, b)
    workload_section(doc, b)
    sync_section(doc, b)
    model_section(doc, b)
    drift_section(doc, b)
    second_section(doc, b, before)


# What the other verbs have proved.

README = os.path.join(TOP, "patches", "mutants", "README.md")


def matrices(path):
    """The tables of make mutants: (base and arch, what it says about them, columns, rows)."""
    try:
        text = common.file_bytes(path).decode()
    except OSError:
        return []
    found = []
    for name, body in re.findall(r"<!-- make mutants: (\S+ \S+) -->\n(.*?)<!-- end of \1 -->", text,
                                 re.S):
        # Behind the first table stands another one, of KUnit's cases.
        m = re.match(r"(.*?)^(\|.*?)(?:\n\n|\Z)", body, re.S | re.M)
        before, table = m.groups() if m else (body, "")
        lines = [[c.strip() for c in line.strip().strip("|").split("|")]
                 for line in table.split("\n") if line.startswith("|")]
        said = [line for line in before.split("\n") if line and line[0] != "#"]
        if len(lines) > 2 and all(len(line) == len(lines[0]) for line in lines):
            found.append((name, " ".join(said), lines[0], lines[2:]))
    return found


def kill_section(doc, path=README):
    doc.head(2, "Kill matrix")
    found = matrices(path)
    if not found:
        doc.lack("no table in %s: run make mutants" % os.path.relpath(path, TOP))
    for name, said, columns, rows in found:
        doc.head(3, name, "kill-" + re.sub(r"\W+", "-", name))
        doc.text(said)
        names = ["bug", "what it does"] + columns[2:]
        doc.table("%s. Seconds to detection; * is what the bug's header names; empty: it stayed "
                  "green; -: it did not run." % name,
                  names[:2] + [">" + c for c in names[2:]],
                  [row[:2] + [re.sub(r"\*\*(.*?)\*\*", r"\1 *", c) for c in row[2:]]
                   for row in rows])
        known = set(common.mutants(name.split()[0]))
        absent = sorted(known - {row[0] for row in rows})
        if absent:
            doc.lack("%s: not in the matrix: %s" % (name, " ".join(absent)))


def explorations():
    """What make explore has left: kernel -> (info, accelerator, vCPUs, combinations)."""
    found = {}
    runs = sorted(glob.glob(os.path.join(common.cache_dir("runs"), "*", "results.json")),
                  key=os.path.getmtime, reverse=True)
    for path in runs:
        try:
            with open(path) as f:
                got = json.load(f)
            if "explored" not in got:
                continue
            info, chosen = got["kernel"], [explore.saved(r) for r in got["explored"]]
            name = (info["base"], info["arch"], info["label"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue            # half of one, or one of an older kit
        first = found.setdefault(name, (info, accelerator_of(os.path.dirname(path)),
                                        got.get("cpus"), {}))
        # Offsets are those of one binary: that of the newest run.
        if first[0].get("key") == info.get("key"):
            for c in chosen:
                first[3].setdefault(c.name, c)
    return found


def accelerator_of(where):
    for path in glob.glob(os.path.join(where, "**", "meta.json"), recursive=True):
        try:
            with open(path) as f:
                return json.load(f)["accel"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return "accelerator not recorded"


def explorer_section(doc):
    doc.head(2, "Explorer")
    found = explorations()
    if not found:
        doc.lack("make explore has left nothing in the cache: run make explore")
    for (base, arch, label), (info, accel, cpus, combinations) in sorted(found.items()):
        chosen = list(combinations.values())
        on = "%s %s %s, %s, %s vCPUs" % (base, arch, label, accel, cpus)
        planned = {c.name for c in explore.plan([], [], [], base)}
        doc.head(3, "%s %s %s" % (base, arch, label), "explore-%s-%s-%s" % (
            base.replace(".", "-"), arch, label))
        verdicts = collections.Counter(c.verdict for c in chosen)
        doc.text("%s: %d of the %d combinations of the whole matrix were explored%s. %s. One CPU was "
                 "held at %d instructions, or pairs of them; %d were red." % (
                     info.get("source", on), len(planned & set(combinations)), len(planned),
                     "".join(", and %d others" % n for n in [len(set(combinations) - planned)] if n),
                     ", ".join("%s %d" % item for item in sorted(verdicts.items())),
                     sum(c.held for c in chosen), sum(len(c.red) for c in chosen)))
        rows = [[c if n == 0 else "{:,}".format(c) for n, c in enumerate(row)] +
                ["%.0f %%" % (100 * row[2] / row[1]) if row[1] else "-", on]
                for row in explore.covered(chosen)]
        if rows:
            doc.table("By function: instructions, how many were executed in any of the "
                      "combinations, and, over all of these, at how many one was to be held, was "
                      "held, was held and blocked the other, and was red.",
                      [">" + c if n else c for n, c in enumerate(explore.COVERAGE)] +
                      [">executed of all", ON], rows)


# The verb.

def find(run):
    """The newest bench.json for each base and architecture, with the one before, if any."""
    if run:
        path = os.path.join(run, "bench.json") if os.path.isdir(run) else run
        if not os.path.isfile(path):
            die("RUN=%s: there is no bench.json" % run, "run make bench")
        return [(Bench(path), None)]
    # One is there twice, by the link to the last run.
    paths = sorted({os.path.realpath(path) for path in glob.glob(
        os.path.join(common.cache_dir("runs"), "*", "bench.json"))},
                   key=os.path.getmtime, reverse=True)
    # With a planted fault it says nothing about a kernel.
    benches = [b for b in map(Bench, paths) if not b.meta.get("planted")]
    if not benches:
        die("there is no bench.json in %s" % common.cache_dir("runs"), "run make bench first")
    found = {}
    for b in benches:
        mine = found.setdefault(b.name, [])
        if not mine or (len(mine) == 1 and b.kernel == mine[0].kernel and
                        bool(b.meta.get("quick")) == bool(mine[0].meta.get("quick"))):
            mine.append(b)
    return [(b[0], b[1] if len(b) > 1 else None) for _, b in sorted(found.items())]


def build(benches, mutants=README):
    """The document."""
    doc = Document("splitq: what it costs, and what catches it")
    doc.text("Written %s by make report. Each table and figure names the kernel, accelerator, vCPUs "
             "and clock. A result under TCG is not a result on hardware; instruction counts are "
             "not time; debug options change both." % time.strftime("%Y-%m-%d %H:%M"))
    doc.text("A median has an exact 95 % interval (sign test; six rounds at least), a ratio is the "
             "median of the ratios within the rounds, in which the variants ran interleaved. \"No "
             "difference\" means that its interval includes 1: it says how large a difference could "
             "still be. Each interval stands for itself: of twenty, one is wrong by chance. Counted "
             "instructions repeat when they are counted again: in place of an interval they have "
             "the range of the rounds, from two on.")
    doc.table("The variants.", ["variant", "what it is"], [
        ["stock", "the base as it is: 6.12 has a private list and a safe previous folio"],
        ["locked", "the same list, with list_del_init() under the queue's lock"],
        ["batch", "a folio_batch, as upstream had it in 6.19"],
        ["series", "this series"],
        ["nosync", "this series, without TTU_SYNC in unmap_folio()"]])
    for b, before in benches:
        bench_sections(doc, b, before)
    kill_section(doc, mutants)
    explorer_section(doc)
    return doc


def outputs(out):
    """The HTML file and the text file."""
    if not out.endswith(".html"):
        out = os.path.join(out, "report.html")
    where = os.path.dirname(os.path.abspath(out))
    try:
        os.makedirs(where, exist_ok=True)
    except OSError as e:
        die("OUT=%s: cannot make %s (%s)" % (out, where, e.strerror))
    if not os.access(where, os.W_OK):
        die("OUT=%s: cannot write to %s" % (out, where))
    return out, out[:-len(".html")] + ".txt"


def verb():
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default=env("RUN") or "", metavar="DIR",
                        help="a run of make bench, or its bench.json (RUN, the newest ones)")
    parser.add_argument("--out", default=env("OUT") or "report.html",
                        help="the HTML file, or a directory (OUT, report.html)")
    args = parser.parse_args()
    benches = find(args.run)
    page, text = outputs(args.out)
    doc = build(benches)
    # Whole or not at all.
    common.write_atomically(text, doc.as_text())
    common.write_atomically(page, doc.as_html())
    for lack in doc.missing:
        say("missing: %s" % lack)
    say("written: %s and %s, %d figures, %d missing" % (
        page, text, sum(k == "figure" for k, _ in doc.blocks), len(doc.missing)))
    return 0


if __name__ == "__main__":
    common.main(verb)
