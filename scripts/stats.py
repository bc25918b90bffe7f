"""What may be said about measured numbers, and what not.

Medians have exact intervals: by the sign test, from order statistics. They assume
nothing about the shape of what is measured, and there are none at 95 % for fewer than
six rounds. Two variants are compared by the ratios within the rounds, in which they
ran interleaved: a round that was disturbed disturbs both. If the interval of the median
ratio includes 1, there is "no difference", and the interval says how large a one
could hide in it. Each interval stands for itself: of twenty, one is wrong by chance. Counted
instructions repeat, and have the range of the rounds in its place.
"""
import collections
import itertools
import math
import random

CONFIDENCE = 0.95
LESS, MORE, SAME, FEW = "less", "more", "no difference", "too few rounds"
THIN = "too few samples"
STEADY, DRIFTS = "steady", "drifts"
RESAMPLES = 400

# low and high are None where there are too few rounds for an interval; least and most are
# what was seen.
Interval = collections.namedtuple("Interval", "middle low high n least most")
Comparison = collections.namedtuple("Comparison", "ratio low high n word")
# needed: how many samples it takes, if there are too few of them; else None.
Quantile = collections.namedtuple("Quantile", "value low high n needed")
Drift = collections.namedtuple("Drift", "p ratio n word")


def median(values):
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the median of nothing")
    half = len(ordered) // 2
    if len(ordered) % 2 or ordered[half - 1] == ordered[half]:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def sign_rank(n, confidence=CONFIDENCE):
    """The k for which the k-th smallest and the k-th largest bound the median; 0: none."""
    below, k = 0, 0
    while k < n // 2:
        below += math.comb(n, k)
        if 1 - 2 * below / 2**n < confidence:
            break
        k += 1
    return k


def rounds_needed(confidence=CONFIDENCE):
    """How many rounds it takes for an interval of the median."""
    return next(n for n in itertools.count(1) if sign_rank(n, confidence))


def median_interval(values, confidence=CONFIDENCE):
    """The median with its exact interval."""
    ordered = sorted(values)
    k = sign_rank(len(ordered), confidence)
    if not k:
        return Interval(median(ordered), None, None, len(ordered), ordered[0], ordered[-1])
    return Interval(median(ordered), ordered[k - 1], ordered[-k], len(ordered), ordered[0],
                    ordered[-1])


def counted_interval(values, confidence=CONFIDENCE):
    """The same for instructions under -icount, which repeat: all that was seen, from two rounds on.

    Run again they come out the same; the rounds differ by what the kernel does in them.
    """
    if len(values) < 2:
        return median_interval(values, confidence)
    return Interval(median(values), min(values), max(values), len(values), min(values),
                    max(values))


def ratio(a, b):
    """a over b; nothing over nothing is the same."""
    if a < 0 or b < 0:
        raise ValueError("the ratio of %s and %s" % (a, b))
    if b == 0:
        return 1.0 if a == 0 else math.inf
    return a / b


def word(low, high):
    """What an interval of a ratio says."""
    if low is None or high is None:
        return FEW
    return LESS if high < 1 else MORE if low > 1 else SAME


def paired(a, b, counted=False, confidence=CONFIDENCE):
    """Compare {round: value} of two variants by the rounds that both have; None: no such."""
    ratios = [ratio(a[r], b[r]) for r in sorted(set(a) & set(b))]
    if not ratios:
        return None
    got = (counted_interval if counted else median_interval)(ratios, confidence)
    return Comparison(got.middle, got.low, got.high, got.n, word(got.low, got.high))


def binomial_ranks(n, q, tail):
    """Of a Binomial(n, q): the largest l with P(X < l) <= tail, the least u with
    P(X >= u) <= tail.
    """
    def pmf(k):
        return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) +
                        k * math.log(q) + (n - k) * math.log1p(-q))
    spread = 10 * math.sqrt(n * q * (1 - q)) + 20
    first, last = max(0, int(n * q - spread)), min(n, int(n * q + spread) + 1)
    low, below = first, 0.0
    for k in range(first, last + 1):
        below += pmf(k)
        if below > tail:
            low = k
            break
    high, above = last + 1, 0.0
    for k in range(last, first - 1, -1):
        above += pmf(k)
        if above > tail:
            high = k + 1
            break
    return low, high


def samples_needed(q, confidence=CONFIDENCE):
    """So many that the largest of them is beyond the quantile."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(q))


class Histogram:
    """[(upper edge, count)]: a sample is at most its bucket's upper edge.

    Buckets without a sample need not be there. parts: in how many equal ones they split each
    power of two, which says where the lower edge is; if it is not known, the narrowest
    that is seen does, as the widest of such is, for its edge, twice as wide.
    """

    def __init__(self, buckets=(), parts=None):
        counts = collections.Counter()
        for upper, count in buckets:
            if count < 0 or upper < 0:
                raise ValueError("the bucket %s: %s" % (upper, count))
            counts[upper] += count
        self.edges = sorted(counts)
        self.counts = [counts[e] for e in self.edges]
        self.total = sum(self.counts)
        self.parts = parts
        width = 1 / parts if parts else 2 * min(
            ((b - a) / b for a, b in zip(self.edges, self.edges[1:])), default=1)
        self.lower = [max(a, b * (1 - width)) for a, b in zip([0] + self.edges, self.edges)]

    def __add__(self, other):
        return Histogram(list(self) + list(other),
                         self.parts if self.parts == other.parts else None)

    def __iter__(self):
        return iter(zip(self.edges, self.counts))

    def bucket(self, rank):
        """Lower and upper edge of where the rank-th smallest sample is; ranks begin at 1."""
        seen = 0
        for lower, (upper, count) in zip(self.lower, self):
            seen += count
            if seen >= rank:
                return lower, upper
        raise ValueError("no sample %d of %d" % (rank, self.total))

    def quantile(self, q, confidence=CONFIDENCE):
        """The quantile, as the upper edge of its bucket, with its interval."""
        if not self.total:
            return Quantile(None, None, None, 0, samples_needed(q, confidence))
        value = self.bucket(max(1, math.ceil(q * self.total - 1e-9)))[1]
        low, high = binomial_ranks(self.total, q, (1 - confidence) / 2)
        if high > self.total:
            return Quantile(value, None, None, self.total, samples_needed(q, confidence))
        return Quantile(value, self.bucket(low)[0] if low else 0, self.bucket(high)[1],
                        self.total, None)

    def above(self):
        """[(edge, share of the samples beyond it)]: the complementary distribution."""
        left, found = self.total, []
        for upper, count in self:
            left -= count
            found.append((upper, left / self.total))
        return found

    def largest(self):
        """The upper edge of the last bucket with a sample in it; None: there is none."""
        return next((e for e, c in zip(self.edges[::-1], self.counts[::-1]) if c), None)

    def mean(self):
        """Samples taken to be amid their buckets."""
        return sum((lower + upper) / 2 * count
                   for lower, (upper, count) in zip(self.lower, self)) / self.total


def merged(histograms):
    found = list(histograms)
    return Histogram([b for h in found for b in h],
                     found[0].parts if len({h.parts for h in found}) == 1 else None)


def paired_quantiles(a, b, q, confidence=CONFIDENCE):
    """Compare a quantile of {round: Histogram} of two variants; None: no round in common.

    The interval is the wider one of two: that of the quantiles of all samples, which takes
    them for independent, and a bootstrap of whole rounds, which does not.
    """
    rounds = sorted(set(a) & set(b))
    if not rounds:
        return None
    all_a, all_b = merged(a[r] for r in rounds), merged(b[r] for r in rounds)
    qa, qb = all_a.quantile(q, confidence), all_b.quantile(q, confidence)
    if qa.value is None or qb.value is None:
        return Comparison(None, None, None, len(rounds), THIN)
    middle = ratio(qa.value, qb.value)
    if qa.needed or qb.needed:
        return Comparison(middle, None, None, len(rounds), THIN)
    if len(rounds) < rounds_needed(confidence):
        return Comparison(middle, None, None, len(rounds), FEW)
    low, high = ratio(qa.low, qb.high), ratio(qa.high, qb.low)
    drawn = sorted(resampled(a, b, rounds, q))
    cut = int(len(drawn) * (1 - confidence) / 2)
    low, high = min(low, drawn[cut]), max(high, drawn[-1 - cut])
    return Comparison(middle, low, high, len(rounds), word(low, high))


def resampled(a, b, rounds, q):
    """The ratio of the quantiles in rounds drawn again and again, of both the same."""
    def table(histograms):
        edges = sorted({e for r in rounds for e in histograms[r].edges})
        rows = []
        for r in rounds:
            counts = dict(histograms[r])
            rows.append([counts.get(e, 0) for e in edges])
        return edges, rows

    def quantile(edges, rows, chosen):
        counts = [sum(column) for column in zip(*(rows[n] for n in chosen))]
        wanted = max(1, math.ceil(q * sum(counts) - 1e-9))
        for edge, seen in zip(edges, itertools.accumulate(counts)):
            if seen >= wanted:
                return edge
        return 0
    generator = random.Random(1)
    tables = table(a), table(b)
    found = []
    for _ in range(RESAMPLES):
        chosen = generator.choices(range(len(rounds)), k=len(rounds))
        found.append(ratio(*(quantile(*t, chosen) for t in tables)))
    return found


def rank_sum_p(first, second):
    """Two-sided exact p of the rank sum test (Wilcoxon, Mann and Whitney); ties are right."""
    ordered = sorted(first + second)
    # Twice the mean rank of equals, which is a whole number.
    place = {v: 2 * ordered.index(v) + ordered.count(v) + 1 for v in set(ordered)}
    ways = collections.Counter({(0, 0): 1})
    for value in ordered:
        for (taken, total), count in list(ways.items()):
            if taken < len(first):
                ways[taken + 1, total + place[value]] += count
    sums = {t: c for (taken, t), c in ways.items() if taken == len(first)}
    middle = len(first) * (len(ordered) + 1)
    off = abs(sum(place[v] for v in first) - middle)
    return sum(c for t, c in sums.items() if abs(t - middle) >= off) / sum(sums.values())


def drift(values, significance=0.05):
    """Is the second half of what came in this order other than the first?"""
    half = len(values) // 2
    first, second = list(values[:half]), list(values[len(values) - half:])
    # Complete separation is the most that can be seen.
    if not half or 2 / math.comb(2 * half, half) >= significance:
        return Drift(None, None, len(values), FEW)
    p = rank_sum_p(first, second)
    return Drift(p, ratio(median(second), median(first)), len(values),
                 DRIFTS if p < significance else STEADY)
