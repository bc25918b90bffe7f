"""What a lock comes to with more CPUs than there are: a closed queueing model.

Tasks of some classes (those that unmap, and the scanners) do something else for a while,
think, and then need the lock, which serves them in the order in which they came, and hold
it. Think times are exponential, holds are drawn from those that were measured. With one
class and exponential holds this is the machine repairman's; with a hold that is long and
seldom, the scanner's, the usual approximations (mean value analysis) are wrong by a factor:
who meets it once does not meet it again at his next unmap. So it is played, event by
event, with a fixed seed.
"""
import collections
import heapq
import math
import random

import stats

# holds: equally likely ones
Class = collections.namedtuple("Class", "tasks think holds")
# By class: requests served per unit of time, the waits for the lock in ascending order, how
# much of the time the class holds it.
Result = collections.namedtuple("Result", "throughput waits used")

ASSUMPTIONS = (
    "Each task runs on a CPU of its own, and all of them want the same lock: of one memcg, or of "
    "one node where there is none.",
    "The lock is fair: who came first gets it first, as with a qspinlock.",
    "Times between two requests are exponential and independent of each other; the holds are as "
    "they were measured, and take as long with many CPUs as with few.",
)
LIMITS = (
    "Handing a lock over costs the transfer of a cache line, tens to hundreds of ns on hardware, "
    "more across nodes. QEMU has no caches, and the model has none: where holds are that short, a "
    "real machine saturates earlier.",
    "Before this lock an unmap takes the page table's, and holds mmap_lock: the tasks of one "
    "process meet there first, and offer less load than is assumed here.",
    "A host that takes a vCPU away while it holds the lock is in the measured holds as often as it "
    "was then.",
    "What arrives in bursts (all tasks of a job exit, reclaim begins on all CPUs at once) waits "
    "longer than what arrives independently.",
)
EVENTS = 40000      # at least
ENOUGH = 100        # requests of the class that makes fewest
MOST = 200000


def mean(values):
    return sum(values) / len(values)


def holds_of(histogram, count=512):
    """Equally likely holds that stand for a measured distribution: amid their buckets."""
    found = []
    for n in range(count):
        lower, upper = histogram.bucket(max(1, math.ceil((n + 0.5) / count * histogram.total)))
        found.append((lower + upper) / 2)
    # The longest are few and matter most: the mean is kept, not only the quantiles.
    wanted, is_now = histogram.mean(), mean(found)
    return [h * wanted / is_now for h in found] if is_now else found


def play(classes, seed=1):
    """The lock and its tasks, event by event."""
    for c in classes:
        if c.tasks and (c.think < 0 or not c.holds or min(c.holds) < 0 or
                        not c.think + max(c.holds)):
            raise ValueError("%d tasks, think %s, holds %s" % (c.tasks, c.think, c.holds[:3]))
    generator = random.Random(seed)
    rates = [1 / c.think if c.think else math.inf for c in classes]

    def think(c):
        return generator.expovariate(rates[c]) if rates[c] < math.inf else 0.0
    arrivals = [(think(c), n, c) for c, kind in enumerate(classes) for n in range(kind.tasks)]
    heapq.heapify(arrivals)
    free = 0.0
    waits, held = [[] for _ in classes], [0.0] * len(classes)
    present = [c for c, kind in enumerate(classes) if kind.tasks]
    events = 0
    while present and events < MOST and (
            events < EVENTS or min(len(waits[c]) for c in present) < ENOUGH):
        came, n, c = arrivals[0]
        begins = came if came > free else free
        hold = generator.choice(classes[c].holds)
        free = begins + hold
        waits[c].append(begins - came)
        held[c] += hold
        heapq.heapreplace(arrivals, (free + think(c), n, c))
        events += 1
    return Result([len(w) / free if free else 0.0 for w in waits], [sorted(w) for w in waits],
                  [h / free if free else 0.0 for h in held])


def quantile(waits, q):
    """Of waits in ascending order; None: too few of them for it."""
    if len(waits) < stats.samples_needed(q):
        return None
    return waits[math.ceil(q * len(waits)) - 1]


def saturation(think, hold):
    """From how many tasks on the lock is always held."""
    return (think + hold) / hold if hold else math.inf


def worst_wait(classes):
    """With a fair lock no task of a class waits longer: once for each other, its longest hold."""
    total = sum(c.tasks * max(c.holds) for c in classes if c.tasks)
    return [total - max(c.holds) if c.tasks else 0.0 for c in classes]
