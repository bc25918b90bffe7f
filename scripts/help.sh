#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What make help prints: every verb and every variable.
case "${1:-}" in -h|--help) echo "help.sh: print the verbs and variables of the kit's Makefile"; exit 0 ;; esac
cat <<'TXT'
make VERB [VARIABLE=VALUE ...]       each verb is a program in scripts/ with -h

verb         what it does
  run        fetch, apply, build, boot, test: a verdict about one kernel
  compare    the same for stock and series, side by side, and what it must show
  coverage   which lines of the queue's code the tests run, and which not
  check      the project's own tests, ends with 'N passed, N failed'
  explore    hold one CPU at every instruction, run an operation on another
  replay     one schedule of make explore alone, ten times (SCHEDULE)
  torture    random operations by many tasks for a while (TIME, SEED)
  litmus     judge selftests/litmus by herd7 and the kernel's memory model
  bisect     find the commit that a race came with, or went with, that shows only
             sometimes (LINUX, GOOD, BAD, TESTS, RATE)
  mutants    put known bugs back, one after the other: each must be caught (M, TIME)
  mmtests    the kernel's own mm selftests in the guest: what do they see (SERIES=0)?
  bench      measure designs of the queue side by side, in one kernel (BENCH, DET=1)
  report     what make bench measured and what catches bugs, as HTML and text (RUN, OUT)
  shell      an interactive guest (DET=1, GDB=1)
  kunit      the KUnit suite by the kernel's own kunit.py
  series     write the complete series, tests included, as git format-patch does
  bisectable every prefix of the series built, booted and tested
  configs    the kernel without memcg, NUMA, SMP, swap, THP; mm/ of allmodconfig
  fetch      bring the pristine kernel source into the cache
  prepare    a working tree with the series applied and the tests copied in
  configure  its configuration, merged and verified
  build      kernel, module and kselftests
  judge      judge a guest's run directory again (RUN=directory)
  setup      install what is missing (Debian packages); done by every verb

variable     default              meaning
  BASE       6.12                 the kernel: 6.12 or 7.3; with LINUX the one whose series
                                  applies
  ARCH       the host's           the guest's architecture: x86_64 or arm64
  PAGES      4k                   base pages: 4k, or 64k with ARCH=arm64, where a THP is 512 MiB
                                  (mTHPs are tested; MEM=4096: these as well)
  SERIES     1                    1: with the series, 0: stock, first-N: N patches
  MUTANT     -                    a known bug put back on top of the series: its id, a
                                  patch; all: one kernel for all, all:ID with that one
  M          all                  make mutants: ids, or a patch that somebody wrote
  EVERY      0                    1: make mutants runs every detector, not only what a
                                  mutant's header names and KUnit (hours)
  DEBUG      lockdep,list,vm      list of lockdep list vm kasan kcsan preempt_none hmm gcov
                                  (make explore, make replay: list,vm; make bench: none)
  LINUX      -                    a kernel tree to use instead; it is only read
  TESTS      all                  words; only tests whose name contains one; quick: a
                                  minute of races
  KUNIT_FILTER -                  SUITE.CASE, globs: of the KUnit suite only these, as in
                                  deferred_split.a_frozen_*
  REPEAT     1                    make run, make compare: so many times, and a count per
                                  test: 10 of 10; make mutants: each so many times by
                                  one detector
  PARALLEL   1                    with REPEAT, and make mutants: guests at a time
  MODULE     1                    0: make run without splitq.ko, as on a machine on which
                                  nobody built it
  SMP        2                    vCPUs; an even number has two NUMA nodes
  MEM        1024                 guest memory in MiB
  ACCEL      auto                 auto (a probe guest decides), kvm or tcg
  DET        0                    1: deterministic guest (-icount, fixed clock, seed)
  GDB        0                    1: make shell waits for a debugger
  VICTIM     all                  make explore: functions to hold
  OP         all                  make explore: operations to run meanwhile
  STATE      all                  make explore: queued underused partial dropped, +root
                                  +pinned +locked +neighbour +64k behind it
  RANGE      all                  make explore: offsets of the function, 0xOFF-0xOFF
  PAIRS      0                    1: make explore with two preemptions
  SCHEDULE   -                    make replay: a schedule as make explore prints it
  TIME       60                   make torture: seconds; PAIRS=1: of each combination;
                                  make mutants: of torture for each (0: none)
  SEED       random               make torture: what is drawn, printed at the start
  CONFIGS    all                  make configs: memcg numa smp swap thp allmodconfig
  GOOD       -                    make bisect: a commit of LINUX without the race
  BAD        -                    make bisect: a commit of LINUX with it
  RATE       -                    make bisect: how often it shows on BAD: 0.3, or 6/20
  CONFIDENCE 0.99                 make bisect: of the commit that it names
  BENCH      full                 make bench: full (15 minutes) or quick (2 minutes)
  RUN        -                    make judge: a guest's run directory; make report: a run of
                                  make bench (the newest)
  JOBS       all CPUs             jobs of a kernel build
  OUT        series-BASE          where make series writes; make report: report.html
  SPLITQ_CACHE  ~/.cache/splitq   downloads, builds and runs
TXT
