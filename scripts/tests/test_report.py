#!/usr/bin/env python3
"""Own tests of stats.py, queueing.py and report.py: differences that are planted, and none."""
import collections
import contextlib
import copy
import io
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.dirname(HERE)
sys.path.insert(0, SCRIPTS)
import common  # noqa: E402
import queueing  # noqa: E402
import report  # noqa: E402
import stats  # noqa: E402


def noise(generator, middle, spread=0.05):
    return middle * generator.lognormvariate(0, spread)


class Medians(unittest.TestCase):
    def test_median(self):
        self.assertEqual(stats.median([3, 1, 2]), 2)
        self.assertEqual(stats.median([4, 1, 2, 3]), 2.5)
        self.assertEqual(stats.median([1, float("inf"), float("inf")]), float("inf"))
        with self.assertRaises(ValueError):
            stats.median([])

    def test_ranks_are_those_of_the_tables(self):
        # Two-sided 95 %: none below 6, then as printed in any book.
        self.assertEqual([stats.sign_rank(n) for n in (1, 5, 6, 8, 9, 11, 12, 15, 20, 25)],
                         [0, 0, 1, 1, 2, 2, 3, 4, 6, 8])
        self.assertEqual(stats.rounds_needed(), 6)

    def test_too_few_rounds_have_no_interval(self):
        got = stats.median_interval([1, 2, 3, 4, 5])
        self.assertEqual(got, (3, None, None, 5, 1, 5))
        self.assertEqual(stats.paired({0: 1, 1: 2}, {0: 2, 1: 4}).word, stats.FEW)

    def test_interval_holds_the_median_as_often_as_it_says(self):
        generator, held = random.Random(2), 0
        for _ in range(2000):
            got = stats.median_interval([noise(generator, 7, 0.5) for _ in range(9)])
            held += got.low <= 7 <= got.high
        self.assertGreater(held / 2000, 0.95)
        self.assertLess(held / 2000, 0.98)      # 96.1 % by the tables

    def test_counted_instructions_have_a_range(self):
        self.assertEqual(stats.counted_interval([5, 5])[:4], (5, 5, 5, 2))
        self.assertEqual(stats.counted_interval([5])[:4], (5, None, None, 1))
        self.assertEqual(stats.counted_interval([5, 6, 9])[:4], (6, 5, 9, 3))
        self.assertEqual(stats.paired({1: 9, 2: 10}, {1: 10, 2: 11}, counted=True).word,
                         stats.LESS)
        self.assertEqual(stats.paired({1: 9, 2: 10}, {1: 10, 2: 11}).word, stats.FEW)


class Comparisons(unittest.TestCase):
    def rounds(self, generator, middle, load):
        """What ran interleaved: a loaded round is slow for all."""
        return {n: noise(generator, middle) * load[n] for n in range(len(load))}

    def test_planted_difference(self):
        generator = random.Random(3)
        load = [generator.uniform(1, 3) for _ in range(12)]
        got = stats.paired(self.rounds(generator, 80, load), self.rounds(generator, 100, load))
        self.assertEqual(got.word, stats.LESS)
        self.assertAlmostEqual(got.ratio, 0.8, 1)
        self.assertTrue(got.low <= 0.8 <= got.high, got)
        back = stats.paired(self.rounds(generator, 100, load), self.rounds(generator, 80, load))
        self.assertEqual(back.word, stats.MORE)

    def test_no_difference_is_said_as_often_as_it_should(self):
        generator, same = random.Random(4), 0
        for _ in range(500):
            load = [generator.uniform(1, 3) for _ in range(9)]
            same += stats.paired(self.rounds(generator, 100, load),
                                 self.rounds(generator, 100, load)).word == stats.SAME
        self.assertGreater(same / 500, 0.93)
        self.assertLess(same, 500)

    def test_pairing_is_what_sees_it(self):
        """The load differs by ten times what the variants do."""
        generator = random.Random(5)
        load = [2.0**n for n in range(10)]
        got = stats.paired(self.rounds(generator, 70, load), self.rounds(generator, 100, load))
        self.assertEqual(got.word, stats.LESS)

    def test_only_common_rounds(self):
        got = stats.paired({n: 1 for n in range(3, 12)}, {n: 2 for n in range(8)})
        self.assertEqual(got.n, 5)
        self.assertIsNone(stats.paired({0: 1}, {1: 1}))

    def test_nothing_over_nothing(self):
        self.assertEqual(stats.paired({n: 0 for n in range(6)}, {n: 0 for n in range(6)}).word,
                         stats.SAME)
        got = stats.paired({n: 4 for n in range(6)}, {n: 0 for n in range(6)})
        self.assertEqual((got.ratio, got.word), (float("inf"), stats.MORE))
        with self.assertRaises(ValueError):
            stats.ratio(-1, 1)


class Quantiles(unittest.TestCase):
    def histogram(self, values):
        return stats.Histogram([(2**(int(v) - 1).bit_length(), 1) for v in values])

    def test_ranks(self):
        # By hand, n = 10: P(X < 2) = 0.0107, P(X < 3) = 0.0547 of Binomial(10, 1/2).
        self.assertEqual(stats.binomial_ranks(10, 0.5, 0.025), (2, 9))
        low, high = stats.binomial_ranks(1000000, 0.9999, 0.025)
        self.assertAlmostEqual(low, 999880, delta=2)
        self.assertAlmostEqual(high, 999920, delta=2)

    def test_value_is_the_upper_edge(self):
        h = stats.Histogram([(10, 90), (20, 9), (40, 1)])
        self.assertEqual(h.quantile(0.5).value, 10)
        self.assertEqual(h.quantile(0.9).value, 10)
        self.assertEqual(h.quantile(0.95).value, 20)
        self.assertEqual(h.quantile(0.995).value, 40)
        self.assertEqual(h.largest(), 40)
        self.assertEqual(h.above(), [(10, 0.1), (20, 0.01), (40, 0)])

    def test_too_few_samples(self):
        h = stats.Histogram([(10, 36000), (20, 500)])
        self.assertEqual(h.quantile(0.9999).needed, 36887)
        self.assertIsNone(h.quantile(0.9999).high)
        self.assertIsNone((h + stats.Histogram([(10, 400)])).quantile(0.9999).needed)
        self.assertIsNone(h.quantile(0.99).needed)

    def test_zero_samples(self):
        got = stats.Histogram([(10, 0)]).quantile(0.5)
        self.assertEqual((got.value, got.n), (None, 0))
        self.assertIsNone(stats.Histogram().largest())
        self.assertEqual(stats.paired_quantiles({0: stats.Histogram()}, {0: stats.Histogram()},
                                                0.5).word, stats.THIN)

    def test_bad_bucket(self):
        with self.assertRaises(ValueError):
            stats.Histogram([(10, -1)])

    def test_interval_holds_the_quantile(self):
        generator, held = random.Random(6), 0
        for _ in range(400):
            got = stats.Histogram([(round(generator.random(), 6), 1)
                                   for _ in range(1000)]).quantile(0.99)
            held += got.low <= 0.99 <= got.high
        self.assertGreater(held / 400, 0.93)

    def tails(self, generator, rounds, tail):
        """99.9 % take 1000, the rest the tail: by round."""
        return {r: self.histogram([tail if generator.random() < 0.001 else 1000
                                   for _ in range(7990)] + [2 * tail // 4, tail // 4] * 5)
                for r in range(rounds)}

    def test_planted_tail(self):
        generator = random.Random(7)
        # So wide are the buckets that these are apart by no more than one.
        a, b = (self.tails(generator, 6, tail) for tail in (8000, 16000))
        self.assertEqual(stats.paired_quantiles(a, b, 0.9999).word, stats.SAME)
        a, b = (self.tails(generator, 6, tail) for tail in (8000, 64000))
        self.assertEqual(stats.paired_quantiles(a, b, 0.5).word, stats.SAME)
        got = stats.paired_quantiles(a, b, 0.9999)
        self.assertEqual((got.word, got.ratio), (stats.LESS, 0.125))
        self.assertEqual(stats.paired_quantiles(a, a, 0.9999).word, stats.SAME)

    def test_one_bad_round_is_no_difference(self):
        """Not independent: all that is slow is in one round of one of the two."""
        generator = random.Random(8)
        a = self.tails(generator, 6, 8000)
        b = dict(a)
        b[3] = self.histogram([64000] * 4000 + [1000] * 4000)
        self.assertEqual(stats.paired_quantiles(a, b, 0.99).word, stats.SAME)

    def test_few_samples_are_not_compared(self):
        generator = random.Random(9)
        a, b = (self.tails(generator, 4, tail) for tail in (8000, 64000))
        self.assertEqual(stats.paired_quantiles(a, b, 0.999).word, stats.FEW)
        self.assertEqual(stats.paired_quantiles(a, b, 0.9999).word, stats.THIN)

    def test_mean(self):
        self.assertEqual(stats.Histogram([(16, 1), (32, 1)]).mean(), 16)
        # One bucket alone: how wide it is must be known.
        self.assertEqual(stats.Histogram([(32, 7)]).mean(), 16)
        self.assertEqual(stats.Histogram([(32, 7)], 16).mean(), 31)
        self.assertEqual(stats.merged([stats.Histogram([(32, 7)], 16)] * 2).mean(), 31)
        self.assertEqual((stats.Histogram([(32, 7)], 16) + stats.Histogram([(32, 7)])).mean(), 16)


class Drifts(unittest.TestCase):
    def test_p_is_that_of_the_tables(self):
        # 4 and 4, apart: 2 of 70.
        self.assertAlmostEqual(stats.rank_sum_p([1, 2, 3, 4], [5, 6, 7, 8]), 2 / 70)
        self.assertAlmostEqual(stats.rank_sum_p([1, 4], [2, 3]), 1)
        self.assertEqual(stats.rank_sum_p([1, 1, 1], [1, 1, 1]), 1)

    def test_planted(self):
        generator = random.Random(11)
        steady = [noise(generator, 100) for _ in range(12)]
        falling = [v * (1.5 if n < 6 else 1) for n, v in enumerate(steady)]
        self.assertEqual(stats.drift(steady).word, stats.STEADY)
        got = stats.drift(falling)
        self.assertEqual(got.word, stats.DRIFTS)
        self.assertAlmostEqual(got.ratio, 0.67, 1)

    def test_seldom_without_reason(self):
        generator = random.Random(12)
        said = sum(stats.drift([generator.random() for _ in range(10)]).word == stats.DRIFTS
                   for _ in range(1000))
        self.assertLess(said / 1000, 0.05)
        self.assertGreater(said, 0)

    def test_too_few(self):
        self.assertEqual(stats.drift([1, 2, 3, 40, 50, 60]).word, stats.FEW)
        self.assertEqual(stats.drift([]).word, stats.FEW)


def exponential(middle, count=2000):
    return [-middle * math.log(1 - (n + 0.5) / count) for n in range(count)]


def repairman(tasks, think, hold):
    """The closed form: (throughput, mean wait)."""
    terms = [math.perm(tasks, k) * (hold / think)**k for k in range(tasks + 1)]
    throughput = (1 - 1 / sum(terms)) / hold
    return throughput, tasks / throughput - think - hold


class Model(unittest.TestCase):
    def near(self, got, expected, share):
        self.assertLess(abs(got - expected), share * abs(expected), (got, expected))

    def test_machine_repairman(self):
        """One class, exponential holds: the closed form, at little load, some, and too much."""
        for tasks, think, hold in ((3, 4.0, 1.0), (16, 100.0, 1.0), (16, 100.0, 5.0),
                                   (64, 100.0, 5.0)):
            got = queueing.play([queueing.Class(tasks, think, exponential(hold))])
            throughput, wait = repairman(tasks, think, hold)
            self.near(got.throughput[0], throughput, 0.02)
            self.near(queueing.mean(got.waits[0]), wait, 0.08)

    def test_one_task_never_waits(self):
        got = queueing.play([queueing.Class(1, 4.0, [1.0])])
        self.near(got.throughput[0], 1 / 5, 0.02)
        self.assertEqual(max(got.waits[0]), 0)

    def test_always_held(self):
        got = queueing.play([queueing.Class(64, 10.0, [10.0])])
        self.assertLessEqual(sum(got.used), 1 + 1e-9)
        self.near(got.throughput[0], 1 / 10, 0.01)
        self.near(queueing.mean(got.waits[0]), 64 * 10 - 20, 0.02)

    def test_one_who_meets_a_scanner(self):
        """By hand: each scan of 1000 begins at any time in a cycle of an unmap of 100; who is
        not thinking long enough waits for the rest of it. Never more than one wait a scan."""
        classes = [queueing.Class(1, 100.0, [1e-6]), queueing.Class(1, 9000.0, [1000.0])]
        got = queueing.play(classes)
        waited = [w for w in got.waits[0] if w]
        scans = len(got.waits[1])
        self.near(len(waited), scans, 0.05)
        # Memoryless: 1000 less an exponential of 100, cut at 1000.
        self.near(queueing.mean(waited), 900, 0.05)

    def test_longer_holds_are_longer_waits(self):
        waits = [queueing.mean(queueing.play([queueing.Class(16, 1000.0, [10.0]),
                                              queueing.Class(1, 1000.0, [h])]).waits[0])
                 for h in (10.0, 100.0, 1000.0, 10000.0)]
        self.assertEqual(waits, sorted(waits))
        self.assertGreater(waits[-1], 1000)

    def test_saturation_and_bound(self):
        self.assertEqual(queueing.saturation(90.0, 10.0), 10)
        self.assertEqual(queueing.saturation(90.0, 0.0), math.inf)
        classes = [queueing.Class(15, 90.0, [10.0, 20.0]), queueing.Class(1, 90.0, [5000.0])]
        self.assertEqual(queueing.worst_wait(classes), [14 * 20 + 5000, 15 * 20])
        got = queueing.play(classes)
        for waits, bound in zip(got.waits, queueing.worst_wait(classes)):
            self.assertLessEqual(waits[-1], bound)

    def test_quantile_of_few_waits(self):
        self.assertIsNone(queueing.quantile(list(range(1000)), 0.9999))
        self.assertEqual(queueing.quantile(list(range(1000)), 0.99), 989)

    def test_holds_keep_their_mean(self):
        h = stats.Histogram([(10, 9990), (1000, 0), (1010, 10)])
        self.near(queueing.mean(queueing.holds_of(h)), h.mean(), 1e-9)

    def test_nonsense(self):
        for c in (queueing.Class(1, -1.0, [1.0]), queueing.Class(1, 0.0, [0.0]),
                  queueing.Class(1, 1.0, [])):
            with self.assertRaises(ValueError):
                queueing.play([c])


def edge(value):
    """As splitq_bench.c: each power of two in 16 parts, the largest value of its bucket."""
    value = int(value)
    shift = max(value.bit_length() - 5, 0)
    return (((value >> shift) + 1) << shift) - 1


def histogram(values):
    return [list(item) for item in sorted(collections.Counter(map(edge, values)).items())]


class Synthetic:
    """A bench.json like that of make bench: what differs is known."""

    VARIANTS = {"stock": 2.0, "locked": 1.9, "batch": 1.05, "series": 1.0}

    def __init__(self, rounds=8, samples=2500):
        self.generator, self.rounds, self.samples = random.Random(20), rounds, samples
        self.rows = []
        for clock in ("time", "icount"):
            self.scan(clock)
            self.hold(clock)
        self.latency()
        self.workload()
        self.sync()

    def row(self, bench, variant, case, number, metric, value, hist=None, clock="time", queue=2048,
            nr=128, tasks=1):
        if clock == "icount":
            metric = re.sub(r"(^|_)ns(_|$)", r"\1instructions\2", metric)
        self.rows.append({"bench": bench, "variant": variant, "case": case,
                          "params": {"queue": queue, "nr_to_scan": nr, "tasks": tasks},
                          "round": number, "warmup": not number, "clock": clock,
                          "metric": metric, "value": value, "hist": hist})

    def each(self):
        for number in range(self.rounds + 1):
            self.load = self.generator.uniform(1, 1.3) + (0.4 if not number else 0)
            for variant in self.VARIANTS:
                yield number, variant

    def noise(self, clock="time"):
        return self.load * self.generator.lognormvariate(0, 0.03) if clock == "time" else 1

    def hold_of(self, variant, nr):
        """Stock has the lock for all it takes, the others for a batch."""
        return 300 + (60 * nr if variant in ("stock", "locked") else 60 * min(nr, 31))

    def scan(self, clock):
        for case, base, back in (("all-split", 30000, 0), ("none-split", 700, 1),
                                 ("half-split", 16000, 0.5), ("contended", 500, 1)):
            for nr in (128, 2048):
                for number, variant in self.each():
                    factor = {"stock": 1.0, "locked": 1.0, "batch": 1.1, "series": 0.9}[variant]
                    self.row("scan", variant, case, number, "ns_per_folio",
                             base * factor * self.noise(clock), clock=clock, nr=nr)
                    locks = 2 / nr if variant == "stock" else (1 + back) / 31
                    self.row("locks", variant, case, number, "acquisitions_per_folio", locks,
                             clock=clock, nr=nr)

    def hold(self, clock):
        for queue in (1000, 10000):
            for nr in (1, 10, 100, 1000, 10000):
                if nr > queue:
                    continue
                for number, variant in self.each():
                    hold = [self.hold_of(variant, nr) * self.noise(clock) for _ in range(20)]
                    self.row("hold", variant, "none-split", number, "hold_max_ns", edge(max(hold)),
                             histogram(hold), clock, queue, nr)

    def latency(self):
        for nr in (0, 128, 10000):
            for tasks in (1, 2, 4):
                for number, variant in self.each():
                    self.latency_row(number, variant, nr, tasks)

    def latency_row(self, number, variant, nr, tasks):
        hold = self.hold_of(variant, nr) if nr else 0
        met = 0.004 if nr else 0
        unmap = [self.generator.lognormvariate(8, 0.2) + (self.generator.random() * hold
                 if self.generator.random() < met else 0) for _ in range(self.samples)]
        words = dict(queue=10000, nr=nr, tasks=tasks)
        case = "while-scanning" if nr else "quiet"
        self.row("latency", variant, case, number, "unmap_ns", edge(sorted(unmap)[-1]),
                 histogram(unmap), **words)
        self.row("latency", variant, case, number, "free_ns", edge(sorted(unmap)[-1] * 2),
                 histogram([2 * u for u in unmap]), **words)
        # A scanner that has the lock for long has it a fifth of the time: nobody unmaps then.
        share = 0 if not nr else 0.2 if hold > 1e5 else 0.01
        rate = 1e9 / 12000 * (1 - share)
        self.row("latency", variant, case, number, "unmaps_per_second", rate, **words)
        spent = self.samples / rate * 1e9
        holds = [hold] * max(1, round(share * spent / hold)) if nr else []
        self.row("latency", variant, case, number, "hold_max_ns", max(holds, default=0),
                 histogram(holds) or None, **words)

    def workload(self):
        for case, seconds in (("allocator", 2.0), ("memcg-pressure", 5.0), ("fork-exit", 1.0)):
            for number, variant in self.each():
                for metric, value in (("seconds", seconds * self.noise()),
                                      ("splits", 100 + self.generator.randrange(9)),
                                      ("refaults", 0)):
                    self.row("workload", variant, case, number, metric, value, tasks=2)

    def sync(self):
        for number in range(self.rounds + 1):
            self.load = 1
            for variant in ("nosync", "series"):
                self.row("ttu_sync", variant, "half-mapped", number, "ns_per_folio",
                         200000 * self.noise() * (1.2 if variant == "series" else 1))
                zap = [self.generator.lognormvariate(10, 0.3) for _ in range(300)]
                self.row("ttu_sync", variant, "zap", number, "free_ns", edge(max(zap)),
                         histogram(zap))

    @property
    def doc(self):
        return {"meta": {"base": "6.12", "arch": "x86_64", "accel": "tcg", "vcpus": 2,
                         "kernel": "6.12.117-splitq", "date": "2026-11-21 10:00:00",
                         "debug": "none", "quick": False}, "rows": self.rows}


class Sandbox(unittest.TestCase):
    """A cache of its own, and a model and a bootstrap that are quick."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="splitq-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)
        for patch in (unittest.mock.patch.dict(os.environ, SPLITQ_CACHE=self.dir),
                      unittest.mock.patch.object(queueing, "EVENTS", 3000),
                      unittest.mock.patch.object(queueing, "MOST", 6000),
                      unittest.mock.patch.object(stats, "RESAMPLES", 40)):
            patch.start()
            self.addCleanup(patch.stop)

    def put(self, doc, name="20260101-000000-bench", file="bench.json", age=0):
        path = os.path.join(self.dir, "runs", name, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(doc if isinstance(doc, str) else json.dumps(doc))
        os.utime(path, (1000000000 - age, 1000000000 - age))
        return path

    def bench(self, rows, **meta):
        doc = dict(SAMPLE.doc, rows=rows)
        doc["meta"] = dict(doc["meta"], **meta)
        return report.Bench(self.put(doc))

    def rows(self, *benches):
        return copy.deepcopy([r for r in SAMPLE.rows if r["bench"] in benches])

    def run_verb(self, *words):
        """(exit status, stdout, stderr) of the program."""
        out, err = io.StringIO(), io.StringIO()
        argv = ["report.py", "--out", os.path.join(self.dir, "out")] + list(words)
        with unittest.mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), \
                contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as done:
            common.main(report.verb)
        return done.exception.code, out.getvalue(), err.getvalue()

    def written(self):
        where = os.path.join(self.dir, "out")
        return sorted(os.listdir(where)) if os.path.isdir(where) else []


SAMPLE = Synthetic(samples=700)


class Whole(Sandbox):
    """The file, of everything."""

    def test_everything_is_there(self):
        self.put(SAMPLE.doc)
        status, said, err = self.run_verb()
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(self.written(), ["report.html", "report.txt"])
        page, text = (common.file_bytes(os.path.join(self.dir, "out", n)).decode()
                      for n in self.written())
        self.alone(page)
        self.named(page, text)
        # What was planted.
        self.assertRegex(text, r"stock over series at least 20 +\d\d\d \(.*more +met ")
        self.assertRegex(text, r"instructions per folio, none-split.*0\.9000 \(exact\) less +met")
        self.assertRegex(text, r"half-mapped +\S+ +series .* 1\.[12]\d? \(.*more")
        self.assertRegex(text, r"p99\.99 of an unmap, while-scanning, nr_to_scan 10,000, tasks 1.*(met|not decided)")
        self.assertIn("no difference", text)
        self.assertNotIn("NOT MET", text)
        self.assertIn("unmaps a second are off by", text)
        self.assertIn("instructions (-icount), which is not time", text)
        missing = re.findall(r"^missing: (.*)$", said, re.M)
        self.assertEqual(len(missing), 2, missing)
        for words in ("one run of make bench", "make explore"):
            self.assertIn(words, " ".join(missing))

    def alone(self, page):
        """It needs nothing from elsewhere, and its parts do not meddle with each other."""
        self.assertNotRegex(page, r"<script|<link|<img|@import|url\((?!#)| src=|\bon\w+=")
        self.assertEqual({u for u in re.findall(r"https?://[^\s\"'<]+", page)
                          if not u.startswith("http://www.w3.org/")}, set())
        self.assertTrue(all(h.startswith("#") for h in re.findall(r"href=['\"]([^'\"]+)", page)))
        ids = re.findall(r"\bid=['\"]([^'\"]+)", page)
        self.assertEqual(len(ids), len(set(ids)))
        self.assertLessEqual(set(re.findall(r"href=['\"]#([^'\"]+)", page)), set(ids))
        self.assertNotRegex(page, r"rgb\(\s*1,\s*0,|['\"](black|white)['\"]")
        self.assertIn("prefers-color-scheme:dark", page)
        for tag in ("table", "figure", "svg", "details", "div", "tr"):
            self.assertEqual(len(re.findall("<%s[ >]" % tag, page)), page.count("</%s>" % tag), tag)

    def named(self, page, text):
        """Each figure and each line of a table says on what it was measured."""
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
        self.assertGreater(len(captions), 12)
        for caption in captions:
            self.assertRegex(caption, "Kernel 6.12.117-splitq, TCG, 2 vCPUs.*Clock: "
                             "(wall time under TCG|executed instructions)")
        lines = re.findall(r"<td class='on'>([^<]*)</td>", page)
        self.assertGreater(len(lines), 100)
        for line in lines:
            self.assertRegex(line, r"^6\.12\S* x86_64 tcg 2 vCPUs (time|instructions)$")
        self.assertEqual(text.count(" tcg 2 vCPUs time") + text.count(" tcg 2 vCPUs instructions"),
                         len(lines))

    def test_two_bases(self):
        rows = self.rows("scan")
        self.put(dict(SAMPLE.doc, rows=rows))
        other = dict(SAMPLE.doc, rows=[r for r in rows if r["variant"] in ("stock", "series")])
        other["meta"] = dict(other["meta"], base="7.3", kernel="7.3.4-splitq")
        self.put(other, "20260102-000000-bench")
        found = report.find("")
        self.assertEqual([b.name for b, _ in found], ["6.12 x86_64", "7.3 x86_64"])
        page = report.build(found).as_html()
        ids = re.findall(r"\bid=['\"]([^'\"]+)", page)
        self.assertEqual(len(ids), len(set(ids)))
        self.assertRegex(page, "7.3.4 x86_64 tcg")

    def test_names_are_escaped(self):
        doc = report.Document("a<b")
        doc.table("<i>", ["<x>"], [["<script>"]])
        self.assertNotRegex(doc.as_html(), "<i>|<x>|<script>")


class Planted(Sandbox):
    """What is wrong with a bench.json is said, and nothing is made of it."""

    def text(self, rows, **meta):
        return report.build([(self.bench(rows, **meta), None)]).as_text()

    def test_no_result_at_all(self):
        status, _, err = self.run_verb()
        self.assertEqual(status, 2)
        self.assertEqual(len(err.strip().split("\n")), 1)
        self.assertIn("make bench", err)
        self.assertEqual(self.written(), [])

    def test_run_without_result(self):
        status, _, err = self.run_verb("--run", self.dir)
        self.assertEqual((status, len(err.strip().split("\n"))), (2, 1))
        self.assertIn("RUN=", err)
        self.assertEqual(self.written(), [])

    def test_not_a_result(self):
        for doc in ("{", "[]", "{}", '{"meta": {}, "rows": []}',
                    json.dumps({"meta": SAMPLE.doc["meta"]}),
                    json.dumps({"meta": SAMPLE.doc["meta"], "rows": {}})):
            self.put(doc)
            status, _, err = self.run_verb()
            self.assertEqual((status, len(err.strip().split("\n"))), (2, 1), err)
            self.assertIn("bench.json", err)
            self.assertEqual(self.written(), [])

    def test_gnuplot_fails(self):
        self.put(dict(SAMPLE.doc, rows=self.rows("scan")))
        for name, text in (("missing", None), ("broken", "#!/bin/sh\necho no >&2; exit 1\n"),
                           ("silent", "#!/bin/sh\ncat >/dev/null\n")):
            where = os.path.join(self.dir, name)
            os.mkdir(where)
            if text:
                with open(os.path.join(where, "gnuplot"), "w") as f:
                    f.write(text)
                os.chmod(f.name, 0o755)
            os.symlink("/bin/sh", os.path.join(where, "sh"))
            os.symlink("/bin/cat", os.path.join(where, "cat"))
            with unittest.mock.patch.dict(os.environ, PATH=where):
                status, _, err = self.run_verb()
            self.assertEqual((status, len(err.strip().split("\n"))), (2, 1), err)
            self.assertIn("gnuplot", err)
            self.assertEqual(self.written(), [])

    def test_no_rows(self):
        text = self.text([])
        self.assertIn("MISSING: there is no row at all", text)
        for words in ("no cost per folio", "no hold times", "no latencies", "no counts",
                      "no workloads", "nothing about TTU_SYNC", "the model has nothing"):
            self.assertIn("MISSING: " + words, text)
        self.assertNotRegex(text, r" met ")

    def test_one_bench_is_missing(self):
        text = self.text(self.rows("scan", "hold", "locks"))
        self.assertIn("MISSING: no latencies", text)
        self.assertIn("MISSING: the model has nothing", text)
        self.assertNotIn("MISSING: no cost per folio", text)
        self.assertRegex(text, "p99.99 of an unmap while it is scanned.* not measured")

    def test_one_variant_is_missing(self):
        text = self.text([r for r in self.rows("scan", "hold") if r["variant"] != "stock"])
        self.assertIn("MISSING: nothing was measured of stock", text)
        self.assertRegex(text, r"stock over series at least 20 +- +not measured")

    def test_zero_samples(self):
        rows = self.rows("hold", "latency")
        for r in rows:
            if r["variant"] == "series" and r["metric"] == "unmap_ns":
                r["hist"], r["value"] = [], None
        text = self.text(rows)
        self.assertRegex(text, r"MISSING: latency unmap_ns of series: zero samples \(\d+ rows\)")
        self.assertIn("the model of series", text)

    def test_buckets_of_nothing(self):
        rows = self.rows("latency")
        for r in rows:
            if r["hist"]:
                r["hist"] = [[upper, 0] for upper, _ in r["hist"]]
        text = self.text(rows)
        self.assertIn("MISSING: no latencies", text)

    def test_unknown_variant(self):
        rows = self.rows("scan")
        for r in rows:
            if r["variant"] == "batch":
                r["variant"] = "butch"
        text = self.text(rows)
        self.assertRegex(text, r"MISSING: unknown variant 'butch' \(scan\), left out")
        self.assertEqual(text.count("butch"), text.count("unknown variant 'butch'"))

    def test_bad_rows(self):
        good = self.rows("scan")
        for change, words in (({"value": float("nan")}, "is nan"), ({"value": -1}, "is -1"),
                              ({"value": "7"}, "is '7'"), ({"value": True}, "is True"),
                              ({"bench": "scum"}, "unknown bench"),
                              ({"clock": "sundial"}, "unknown bench or clock"),
                              ({"hist": [[1]]}, "a row that is none"),
                              ({"hist": [[1, -1]]}, "a row that is none"),
                              ({"metric": None}, "a row that is none"),
                              ({"params": 7}, "a row that is none")):
            bench = self.bench(good + [dict(good[-1], round=99, **change)])
            self.assertEqual(len(bench.wrong), 1, change)
            self.assertIn(words, list(bench.wrong)[0])
        bench = self.bench(good + [good[-1], 7])
        self.assertIn("twice in one round", " ".join(bench.wrong))
        self.assertIn("a row that is none", " ".join(bench.wrong))

    def test_a_series_that_is_worse(self):
        rows = self.rows("scan", "hold", "locks")
        swap = {"stock": "series", "series": "stock"}
        for r in rows:
            r["variant"] = swap.get(r["variant"], r["variant"])
        text = self.text(rows)
        self.assertRegex(text, r"stock over series at least 20.* less +NOT MET")
        self.assertRegex(text, r"series, nr_to_scan from 100 to 10,000.*NOT MET")
        self.assertRegex(text, r"time per folio, none-split, nr_to_scan 128.* more +NOT MET")
        self.assertRegex(text, r"instructions per folio.*\(exact\) more +NOT MET")

    def test_too_many_locks(self):
        rows = self.rows("locks")
        for r in rows:
            if r["variant"] == "series":
                r["value"] *= 1.2
        text = self.text(rows)
        self.assertEqual(len(re.findall(r"acquisitions per folio.* NOT MET", text)), 3)

    def test_few_rounds_decide_nothing(self):
        text = self.text([r for r in self.rows("scan", "hold") if r["clock"] == "time" and
                          r["round"] < 4], quick=True)
        self.assertIn("too few rounds", text)
        self.assertIn("a quick run", text)
        self.assertNotRegex(text, r"(longest hold|per folio).* (met|NOT MET) ")
        self.assertRegex(text, r"\[\S+ \S+ to \S+ \S+ in 3\]")

    def test_warm_up_does_not_count(self):
        rows = self.rows("scan")
        for r in rows:
            if r["warmup"]:
                r["value"] *= 1000
        self.assertEqual(re.findall(r"^.*times stock.*$|(\d\S* \(.*?\) less)", self.text(rows), re.M),
                         re.findall(r"^.*times stock.*$|(\d\S* \(.*?\) less)",
                                    self.text(self.rows("scan")), re.M))

    def test_drift_is_seen(self):
        rows = [r for r in self.rows("scan") if r["clock"] == "time"]
        for r in rows:
            r["value"] *= 1 + r["round"]
        self.assertRegex(self.text(rows), r"drifts, p 0\.03")


class Predictions(Sandbox):
    """The model in the report: what it predicts of what was made."""

    def test_long_holds_predict_long_waits(self):
        bench = self.bench(self.rows("hold", "latency"))
        waits = {}
        for variant in ("stock", "series"):
            m = report.Measured(bench, variant, 10000)
            got = queueing.play([m.unmappers(63, 0.01), m.scanner(1)])
            waits[variant] = queueing.mean(got.waits[0])
            rate, real, _, _ = m.check(1)
            # Three holds a round, and a model that is cut short here.
            self.assertLess(abs(rate / real - 1), 0.15)
        self.assertGreater(waits["stock"], 10 * waits["series"])

    def test_error_is_shown(self):
        self.assertEqual(report.error_text(120, 100), "+20 %")
        self.assertEqual(report.error_text(None, 100), "-")

    def test_a_model_that_is_wrong_says_so(self):
        rows = self.rows("hold", "latency")
        doc = report.Document("t")
        report.model_section(doc, self.bench(rows))
        self.assertNotIn("So far off", doc.as_text())
        for r in rows:
            if r["case"] == "while-scanning" and r["metric"] == "unmaps_per_second":
                r["value"] /= 3
        report.model_section(doc, self.bench(rows))
        self.assertIn("So far off", doc.as_text())

    def test_nothing_to_begin_with(self):
        with self.assertRaises(LookupError):
            report.Measured(self.bench(self.rows("latency")), "series", 128)


class Others(Sandbox):
    """The second run, the matrix, the explorer."""

    def test_second_run(self):
        rows = self.rows("scan")
        self.put(dict(SAMPLE.doc, rows=rows))
        slow = copy.deepcopy(rows)
        for r in slow:
            if r["variant"] == "series" and r["clock"] == "time":
                r["value"] *= 3
        self.put(dict(SAMPLE.doc, rows=slow), "20250101-000000-bench", age=1000)
        (new, old), = report.find("")
        self.assertIsNotNone(old)
        text = report.build([(new, old)]).as_text()
        self.assertRegex(text, r"64 medians with an interval in both, 56 +intervals overlap and 8 "
                         r"do not|of 64\s+medians with an\s+interval in both, 56\s+intervals "
                         r"overlap and 8\s+do\s+not")
        self.assertRegex(text, r"48\s+ratios\s+to\s+stock\s+with\s+an\s+interval\s+in\s+both,\s+40\s+"
                         r"intervals\s+overlap\s+and\s+8\s+do\s+not")
        # A machine that is slower now: no median is what it was, and each ratio is.
        slow = copy.deepcopy(rows)
        for r in slow:
            r["value"] *= 3 if r["clock"] == "time" else 1
        self.put(dict(SAMPLE.doc, rows=slow), "20250101-000000-bench", age=1000)
        text = report.build([report.find("")[0]]).as_text()
        self.assertRegex(text, r"32\s+intervals\s+overlap\s+and\s+32\s+do\s+not")
        self.assertRegex(text, r"48\s+intervals\s+overlap\s+and\s+0\s+do\s+not")
        # Another kernel is no second run.
        other = dict(SAMPLE.doc, rows=rows)
        other["meta"] = dict(other["meta"], kernel="6.12.118")
        self.put(other, "20250101-000000-bench", age=1000)
        self.assertIsNone(report.find("")[0][1])

    def test_what_was_planted_is_no_result(self):
        whole = self.put(dict(SAMPLE.doc, rows=self.rows("scan")), age=1000)
        bad = dict(SAMPLE.doc, rows=[], meta=dict(SAMPLE.doc["meta"], planted=True))
        planted = self.put(bad, "20250102-000000-bench")
        for path in (whole, planted):
            self.assertTrue(os.path.exists(path), path)
        self.assertEqual([b.path for b, _ in report.find("")], [os.path.realpath(whole)])

    def kill(self, text):
        path = os.path.join(self.dir, "README.md")
        with open(path, "w") as f:
            f.write(text)
        doc = report.Document("t")
        report.kill_section(doc, path)
        return doc

    def test_kill_matrix(self):
        doc = self.kill("<!-- make mutants: 6.12 x86_64 -->\n## 6.12 x86_64\n\ntcg, 2 vCPUs.\n\n"
                        "| mutant | | kunit | explorer |\n|---|---|--:|--:|\n"
                        "| none | the series |  |  |\n| B22 | twice | **0.9** | - |\n\n"
                        "Of the 1 cases:\n\n| case | red with |\n|---|---|\n| `a_case` | B22 |\n"
                        "<!-- end of 6.12 x86_64 -->\n")
        text = doc.as_text()
        self.assertRegex(text, r"B22 +twice +0\.9 \* +-")
        self.assertNotIn("a_case", text)
        self.assertIn("tcg, 2 vCPUs", text)
        # The others of patches/mutants are not in this one.
        self.assertRegex(text, r"MISSING: 6.12 x86_64: not in the matrix: .*B02")

    def test_no_matrix(self):
        for text in ("", "<!-- make mutants: 6.12 x86_64 -->\n| a |\n"):
            self.assertEqual(len(self.kill(text).missing), 1)

    def test_matrix_of_the_kit_can_be_read(self):
        names = [m[0] for m in report.matrices(report.README)]
        self.assertIn("6.12 x86_64", names)

    def explored(self, name, key, age, combinations, **info):
        info = dict({"base": "6.12", "arch": "x86_64", "label": "series", "key": key,
                     "source": "linux 6.12"}, **info)
        self.put({"kernel": info, "cpus": 4, "explored": combinations}, name, "results.json", age)
        self.put({"accel": "tcg"}, name, "guest-1/meta.json")

    @staticmethod
    def combination(name, points):
        return {"name": name, "verdict": "PASS", "note": None, "points": points,
                "instructions": 10, "executed": [0, 4, 8], "total": 0, "tried": 0, "seconds": 1.0}

    def test_explorer(self):
        one, two = "deferred_split_scan/scan/munmap-half/queued", \
            "deferred_split_scan/scan/exit/queued"
        self.explored("a-explore", "k", 0, [self.combination(one, [[0, "ok", ""], [4, "blocked", ""]])])
        # Older: of this kernel it counts where the newer has nothing; of another, not at all.
        self.explored("b-explore", "k", 10, [self.combination(one, [[0, "LOST", ""]] * 3),
                                             self.combination(two, [[8, "ok", ""]])])
        self.explored("c-explore", "other", 20, [self.combination(
            "deferred_split_scan/scan/migrate/queued", [[0, "LOST", ""]])])
        self.explored("d-explore", "k", 30, [{"name": "half"}])
        doc = report.Document("t")
        report.explorer_section(doc)
        text = doc.as_text()
        self.assertRegex(text, r"linux 6.12: 2 of the \d+ combinations of the whole matrix")
        self.assertRegex(text, r"deferred_split_scan +10 +3 +6 +3 +1 +0 +30 % +6.12 x86_64 series, "
                         r"tcg, 4 vCPUs")
        self.assertEqual(doc.missing, [])

    def test_two_preemptions(self):
        c = report.explore.saved(self.combination(
            "deferred_split_scan/scan/migrate_folio_move/migrate/underused", [[[1, 2], "LOST", ""]]))
        self.assertEqual((c.victim2, c.op, c.points[0][0]), ("migrate_folio_move", "migrate", (1, 2)))


if __name__ == "__main__":
    unittest.main()
