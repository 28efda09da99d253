# make run    make an environment, install, and serve on :9115   (make run ARGS="--config.file=my.yml")
# make test   everything, in parallel     (make test JOBS=0 ARGS="-k redirect": in one process, some of the tests)
# make quick  the unit tests that take milliseconds: some thousand, in seconds
# make lint   ruff, codespell and mypy --strict: all that CI checks
# make fuzz   fuzz every parser for a minute each   (make fuzz ARGS="dns --seconds 3600": one of them, for longer)
# make bench  side by side with the original
# make sizing   how many targets a core probes; writes docs/sizing.md
# make instructions   count the instructions of each probe, and hold them to the budget
# make memory   the exporter's memory: at rest, with hanging probes, after many probes
# make timings   the error of measured durations, beside the original
# make growth   instructions of a probe with few and with many targets and modules
# make docs   write the generated parts of docs/, the dashboards and the manifests anew
# make site   the documentation as a site in build/site, with every link checked
# make manifests   render the Helm chart anew: deploy/kubernetes/ and what tests compare with
# make constraints   pin what a fresh environment resolves to today

VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Test processes: by default one per core, at most eight. Tests of everything wait for other programs for a third of the
# time: twice as many processes use it. A process that has no tests left takes some of another.
JOBS   ?=
MORE   := $(shell cores=$$(nproc); echo $$((cores < 4 ? 2 * cores : 8)))
PYTEST  = $(BIN)/pytest --maxprocesses 8 --dist worksteal
# pytest rewrites each `assert` of a test, and keeps the result beside the bytecode: without that, a run takes some
# seconds more in each process.
unexport PYTHONDONTWRITEBYTECODE
# Python 3.13 takes the least CPU for a probe, 6 % less than 3.11 and 3.14 (docs/performance.md). The distribution's own build
# counts for more: made with profile-guided optimisation, it takes three quarters of the CPU of a version manager's plain
# build. `make run PYTHON=…` for another.
PYTHONS := /usr/bin/python3.13 /usr/bin/python3 python3 python3.13 python3.11 python3.12 python3.14
comma  := ,
usable = $(firstword $(foreach p,$(PYTHONS),$(shell \
	$(p) -c 'import sys$(1); sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $(p))))
# Looked for once, by what makes an environment: each candidate is started, which takes a second where a version manager
# starts them.
ifndef PYTHON
PYTHON = $(eval PYTHON := $(or $(call usable,$(comma) venv$(comma) ensurepip),$(call usable)))$(PYTHON)
endif
# Twice quiet: errors are printed, and no warnings about indexes and versions that a first-time user can't judge.
PIP    := $(BIN)/pip --disable-pip-version-check --quiet --quiet
# What `make quick` runs: tests of code that starts no program and hardly waits.
UNITS  := addresses exposition network prober protocols scrape settings telemetry tls test_flags.py test_layers.py \
          test_runner.py
# Without those that hold no Python at the moment, such as modules/: mypy refuses them.
CODE   := $(foreach d,probe_exporter modules tests benchmarks docs examples deploy,$(if $(wildcard $(d)/*.py),$(d)))

.PHONY: run test quick units lint types fuzz bench sizing instructions memory timings growth docs manifests site constraints clean

run: $(VENV)/.run
ifeq ($(ARGS),)
	@echo "Serving the shipped modules on http://localhost:9115/ until Ctrl-C. In another terminal:"
	@echo "    $(BIN)/probe-exporter run http_2xx localhost:9115"
	@echo "    curl 'localhost:9115/probe?module=http_2xx&target=localhost:9115'"
endif
	@$(BIN)/probe-exporter $(ARGS)

test: $(VENV)/.test
	$(PYTEST) -n $(or $(JOBS),$(MORE)) $(ARGS)

# No test of hypothesis runs, so its plugin need not read every file for constants: a second.
quick: $(VENV)/.test
	$(PYTEST) -n $(or $(JOBS),auto) -q -p no:hypothesispytest -m "not slow and not generated" $(addprefix tests/,$(UNITS)) $(ARGS)

# Prints what `make quick` runs.
units:
	@echo $(addprefix tests/,$(UNITS))

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(MAKE) types

types: $(VENV)/.test
	$(BIN)/mypy $(CODE)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks $(ARGS)

sizing: $(VENV)/.test
	$(BIN)/python -m benchmarks.sizing $(ARGS)

instructions: $(VENV)/.test
	$(BIN)/python -m benchmarks.instructions $(ARGS)

memory: $(VENV)/.test
	$(BIN)/python -m benchmarks.memory $(ARGS)

timings: $(VENV)/.test
	$(BIN)/python -m benchmarks.timings $(ARGS)

growth: $(VENV)/.test
	$(BIN)/python -m benchmarks.growth $(ARGS)

# Debian splits venv from Python: without it `python3 -m venv` fails half-way with a long message. Ask first.
define require_python
@[ -n "$(PYTHON)" ] || { \
  echo "probe-exporter needs Python 3.11 or newer, and none is on the PATH. On Debian 12 or Ubuntu 24.04:" >&2; \
  echo "    sudo apt-get install python3 python3-venv" >&2; \
  exit 1; }
@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
  echo "Python is here, but not its venv module. On Debian and Ubuntu:" >&2; \
  echo "    sudo apt-get install $$(basename $$(readlink -f $(PYTHON)) | grep -x 'python3\(\.[0-9]*\)*' || echo python3)-venv" >&2; \
  exit 1; }
endef

$(VENV)/bin/pip:
	$(require_python)
	@echo "Making a virtual environment in $(VENV) with $(PYTHON)."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt $(VENV)/bin/pip
	@echo "Installing probe-exporter and its libraries into $(VENV): once, for a minute or so."
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: tests/requirements.txt $(VENV)/.run
	@echo "Installing what the tests need into $(VENV)."
	@$(PIP) install --constraint constraints.txt --requirement tests/requirements.txt
	@touch $@

docs: $(VENV)/.test
	$(BIN)/python -m docs.generate
	$(BIN)/python -m deploy.mixin.dashboards
	$(BIN)/python deploy/render.py --generate

manifests: $(VENV)/.test
	$(BIN)/python deploy/render.py --generate

site: $(VENV)/.test
	$(BIN)/python docs/site.py

constraints:
	$(require_python)
	rm -rf $(VENV)/fresh
	$(PYTHON) -m venv $(VENV)/fresh
	$(VENV)/fresh/bin/pip --quiet install --editable . --requirement tests/requirements.txt
	{ sed -n '/^#/p' constraints.txt; $(VENV)/fresh/bin/pip freeze --exclude-editable | sort -f; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)/fresh

clean:
	rm -rf $(VENV) dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find probe_exporter modules tests benchmarks examples -name __pycache__ -exec rm -rf {} +
