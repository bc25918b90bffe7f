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
    "no-ttu-sync": ("no-ttu-sync: series without TTU_SYNC", 11, 3),
}
BENCHES = ("scan", "hold", "latency", "locks", "workload", "ttu_sync")
CLOCKS = ("time", "icount")
QUANTILES = (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999))
CASES = ("all-split", "none-split", "half-split", "all-contended")
FLAT = 1.5          # times, from a full batch on: what is called flat
BATCH = 31          # folios in a folio_batch
SHORTER = 20        # times, than stock: the longest hold
CPUS = (2, 4, 8, 16, 32, 64, 128, 256)
STEP = {"time": "wall time", "icount": "instructions"}

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
            if variant not in VARIANTS:
                return "unknown variant '%s' (%s), left out" % (variant, where)
            if bench not in BENCHES or clock not in CLOCKS:
                return "unknown bench or clock '%s', '%s', left out" % (bench, clock)
            histogram = stats.Histogram([tuple(b) for b in buckets]) \
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
        return "%s %s, %s, %s vCPUs, %s" % (self.name, self.kernel, self.accel,
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
        return (stats.exact_interval if key.clock == "icount" else stats.median_interval)(
            series.in_order)

    def compare(self, key, variant, baseline="stock", other=None):
        """Paired by rounds; other: of another key, the same variant or not."""
        a, b = self.series[key].get(variant), self.series[other or key].get(baseline)
        if not a or not b:
            return None
        return stats.paired(a.values, b.values, exact=key.clock == "icount")


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


def unit(metric, clock):
    """time, instructions, seconds or number."""
    if metric.endswith("_ns") or metric.startswith("ns_"):
        return "instructions" if clock == "icount" else "time"
    return "seconds" if metric == "seconds" else "number"


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
    return significant(value, 4 if kind == "instructions" else 3)


def show_interval(got, kind):
    if got is None:
        return "-"
    if got.low is None:
        return "%s (%d round%s)" % (show(got.middle, kind), got.n, "" if got.n == 1 else "s")
    return "%s (%s to %s)" % (show(got.middle, kind), show(got.low, kind), show(got.high, kind))


def show_comparison(got):
    if got is None or got.ratio is None:
        return "-"
    if got.low is None:
        return "%s (%s)" % (significant(got.ratio), stats.FEW)
    if got.low == got.high == got.ratio == 1:
        return "1, the same"
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


def key_text(key):
    return ", ".join(w for w in (key.case, params_text(key.params)) if w) or "all"


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
            classes += ["on"] if columns[n] == ON else []
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
main{max-width:1080px;min-width:0;flex:1;padding:1rem 1.5rem 4rem}
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
td.on{color:var(--dim);font-size:.78rem}
td.wrap{white-space:normal;min-width:16rem}
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

    def __init__(self, x, y, logx=True, logy=True, height=400, key="outside top center"):
        self.commands = [
            "set term svg size 800,%d dynamic font 'sans-serif,14'" % height,
            "set encoding utf8", "set key %s horizontal maxrows 3 samplen 4 width 1" % key,
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
                 VARIANTS[variant][0] if title is None else title)

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
    return re.sub(r"\n\s*", "\n", svg).replace("<svg ", "<svg role='img' ", 1)
