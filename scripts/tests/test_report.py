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
import queueing  # noqa: E402
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

    def test_instructions_that_repeat_are_exact(self):
        self.assertEqual(stats.exact_interval([5, 5])[:4], (5, 5, 5, 2))
        self.assertEqual(stats.exact_interval([5])[:4], (5, None, None, 1))
        self.assertEqual(stats.exact_interval([5, 6])[:4], (5.5, None, None, 2))


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
        mean = 12000 + met * hold / 2
        self.row("latency", variant, case, number, "unmaps_per_second", 1e9 / mean, **words)
        holds = [hold * self.noise() for _ in range(50)] if nr else []
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


if __name__ == "__main__":
    unittest.main()
