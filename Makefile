# Two commands do all the set-up on a fresh machine: `make search` and `make test`.
PYTHON ?= python3
VENV ?= .venv
Q ?= parse an ISO 8601 date
DIR ?=
EXIT ?=
BENCH ?=

export HF_HUB_DISABLE_TELEMETRY = 1
# Through the environment, so that quotes in a query reach the command.
export Q

# VENV may contain spaces: targets need them escaped, recipes need quotes.
space := $(subst ,, )
venv := $(subst $(space),\ ,$(VENV))
python := "$(VENV)/bin/python"
install := $(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -n 2 --dist loadfile

.PHONY: search bench test test-fast soak check lint types clean

search: $(venv)/.installed
	@$(python) -m mose.search demo "$$Q" $(if $(DIR),--source-tree "$(DIR)") $(if $(EXIT),--exit-layer $(EXIT))

# Every law of speed and every peer that is installed, in one run. BENCH takes flags of benchmarks/laws.py.
bench: $(venv)/.installed-dev
	@mkdir -p build/bench
	$(python) benchmarks/laws.py --json build/bench/laws.json --picture build/bench/laws.png $(BENCH)

test: $(venv)/.installed-dev $(venv)/.transformers-tests
	$(pytest)

# Everything but the tests marked slow, and those that import mteb: under a minute on two cores.
test-fast: $(venv)/.installed-dev
	$(pytest) -m "not slow" --ignore tests/eval/test_mteb.py

# Attacks that take minutes: kills, full disks, damage, malformed input. Prints what was tried and how it ended.
soak: $(venv)/.installed-dev $(venv)/.moto/.installed
	$(pytest) -m soak tests/hostile

check: lint types

lint: $(venv)/.installed-dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .

# The link gives the package its own name, whatever the clone's folder is called.
types: $(venv)/.installed-dev
	@mkdir -p build/check && ln -sfn "$(CURDIR)" build/check/mose
	MYPYPATH=build/check $(python) -m mypy -p mose

$(venv)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"MoSE needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv "$(VENV)"

$(venv)/.installed: setup.cfg pyproject.toml constraints.txt | $(venv)/bin/python
	@echo 'installing into $(VENV), which takes a minute or more …' >&2
	$(install) -e '.[all]'
	@touch "$@"

$(venv)/.installed-dev: $(venv)/.installed
	$(install) -e '.[dev]'
	@touch "$@"

# transformers' own model tests, of which tests/model runs those of any model. Without a network they are skipped.
$(venv)/.transformers-tests: $(venv)/.installed-dev
	@$(python) tests/support/transformers_suite.py && touch "$@" \
		|| echo "transformers' own model tests could not be fetched: they are skipped, or fail under CI=true" >&2

# A server of the S3 protocol, for attacks on indexes in object stores. Its needs do not go together with the pins.
$(venv)/.moto/.installed: | $(venv)/bin/python
	@$(PYTHON) -m venv "$(VENV)/.moto"
	@"$(VENV)/.moto/bin/python" -m pip install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.5' \
		&& touch "$@" || echo "moto could not be installed: the attacks on object stores are skipped" >&2

clean:
	rm -rf "$(VENV)" build dist *.egg-info
