# SPDX-License-Identifier: GPL-2.0
# splitq: a patch series for the THP deferred split queue, and the kit that proves
# it. Every verb is a program in scripts/ that can be run by hand; see make help.

SERIES ?= 1
export BASE ARCH PAGES SERIES MUTANT M LINUX TESTS KUNIT_FILTER REPEAT PARALLEL MODULE SMP MEM ACCEL DET GDB JOBS OUT VICTIM OP STATE RANGE PAIRS SCHEDULE TIME SEED GOOD BAD RATE CONFIDENCE CONFIGS BENCH EVERY RUN SPLITQ_CACHE
# Empty it means no option at all: not so if it was not given.
ifneq ($(origin DEBUG),undefined)
export DEBUG
endif

.DEFAULT_GOAL := help
.PHONY: help run compare coverage explore replay torture mutants mmtests bench bisect litmus report \
	check setup setup-check setup-report fetch prepare configure build shell kunit series bisectable \
	configs judge

help:
	@scripts/help.sh

setup:
	@scripts/setup.sh run
setup-check:
	@scripts/setup.sh check
setup-report:
	@scripts/setup.sh report

run: setup
	@scripts/run.py
compare: setup
	@scripts/compare.py
coverage: setup
	@scripts/coverage.py
explore: setup
	@scripts/explore.py --replay ""
replay: setup
	@scripts/explore.py $(if $(SCHEDULE),,--replay none)
torture: setup
	@scripts/torture.py
litmus: setup
	@scripts/litmus.py
bisect: setup
	@scripts/race_bisect.py --whole
mutants: setup
	@scripts/mutants.py
mmtests: setup
	@scripts/mmtests.py
bench: setup
	@scripts/bench.py
report: setup-report
	@scripts/report.py
check: setup-check
	@scripts/check.py
fetch: setup
	@scripts/fetch.py
prepare: setup
	@scripts/prepare.py
configure: setup
	@scripts/configure.py
build: setup
	@scripts/build.py
shell: setup
	@scripts/boot.py
kunit: setup
	@scripts/kunit.py
series: setup
	@scripts/series.py
bisectable: setup
	@scripts/bisectable.py
configs: setup
	@scripts/configs.py
judge: setup
	@scripts/judge.py $(RUN)
