#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What make help prints: every verb and every variable.
case "${1:-}" in -h|--help) echo "help.sh: print the verbs and variables of the kit's Makefile"; exit 0 ;; esac
cat <<'TXT'
make VERB [VARIABLE=VALUE ...]       each verb is a program in scripts/ with -h

verb         what it does
  run        fetch, apply, build, boot, test: a verdict about one kernel
  compare    the same for stock and series, side by side, and what it must show
  check      the project's own tests, ends with 'N passed, N failed'
  explore    hold one CPU at every instruction, run an operation on another
  replay     one schedule of make explore alone, ten times (SCHEDULE)
  torture    random operations by many tasks for a while (TIME, SEED)
  shell      an interactive guest (DET=1, GDB=1)
  kunit      the KUnit suite by the kernel's own kunit.py
  series     write the complete series, tests included, as git format-patch does
  fetch      bring the pristine kernel source into the cache
  prepare    a working tree with the series applied and the tests copied in
  configure  its configuration, merged and verified
  build      kernel, module and kselftests
  judge      judge a guest's run directory again (RUN=directory)
  setup      install what is missing (Debian packages); done by every verb

variable     default              meaning
  BASE       6.12                 the kernel; 7.3: stock only (SERIES=0)
  ARCH       the host's           the guest's architecture: x86_64 or arm64
  SERIES     1                    1: with the series, 0: stock, first-N: N patches
  MUTANT     -                    a known bug put back on top of the series
  DEBUG      lockdep,list,vm      list of lockdep list vm kasan kcsan preempt_none
                                  (make explore, make replay: list,vm)
  LINUX      -                    a kernel tree to use instead; it is only read
  TESTS      all                  words; only tests whose name contains one
  SMP        2                    vCPUs; an even number has two NUMA nodes
  MEM        1024                 guest memory in MiB
  ACCEL      auto                 auto (a probe guest decides), kvm or tcg
  DET        0                    1: deterministic guest (-icount, fixed clock, seed)
  GDB        0                    1: make shell waits for a debugger
  VICTIM     all                  make explore: functions to hold
  OP         all                  make explore: operations to run meanwhile
  STATE      all                  make explore: queued underused partial, +root +pinned
                                  +locked +64k behind it
  RANGE      all                  make explore: offsets of the function, 0xOFF-0xOFF
  PAIRS      0                    1: make explore with two preemptions
  SCHEDULE   -                    make replay: a schedule as make explore prints it
  TIME       60                   make torture: seconds; PAIRS=1: of each combination
  SEED       random               make torture: what is drawn, printed at the start
  RUN        -                    make judge: a guest's run directory
  JOBS       all CPUs             jobs of a kernel build
  OUT        series-BASE          where make series writes
  SPLITQ_CACHE  ~/.cache/splitq   downloads, builds and runs
TXT
