# Every target does all of its set-up on a machine that has only Python 3.11 or newer (`make PYTHON=python3.12 demo` picks another one).
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint setup clean bench bench-methods bench-evaluation bench-terminal bench-startup bench-tables recipes screenshots

demo: $(READY)  ## condense a real dataset end to end in a minute and a half
	$(VENV)/bin/edc run projects/quickstart.toml

test: $(READY)  ## all tests, under ten minutes on two cores, no GPU and no network needed
	$(VENV)/bin/ruff check
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check

setup: $(READY)

bench: $(READY)  ## the stages beside the bare network on this machine, into the README, some ten minutes; ARGS="--only evaluate"
	$(VENV)/bin/edc bench --write README.md $(ARGS)

bench-methods: $(READY)  ## every method and CONFIG A to G on Fashion-MNIST, hours on two cores; ARGS="--iterations 200", ARGS="--help"
	$(VENV)/bin/python tests/bench/compare_methods.py $(ARGS)

bench-evaluation: $(READY)  ## methods and controls, both protocols, hard and soft labels, IPC 1, 10, 50 on Fashion-MNIST, hours; ARGS="--help"
	$(VENV)/bin/python tests/bench/evaluation.py $(ARGS)

bench-terminal: $(READY)  ## bytes a second to the terminal, first picture, memory and processor time of the app's screens, three minutes
	$(VENV)/bin/python tests/bench/bytes_per_second.py $(ARGS)

bench-startup: $(READY)  ## how soon edc answers: 200 runs listed, `edc list` and `edc show` from a fresh process, half a minute
	$(VENV)/bin/python tests/bench/startup.py $(ARGS)

bench-tables: $(READY)  ## memory for the class tables of 1,000 and 10,450 classes, 13 GB of disk for ten minutes; ARGS="--classes 1000"
	$(VENV)/bin/python tests/bench/large_tables.py $(ARGS)

# Made anew whenever the dependencies change.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

recipes: $(READY)  ## projects/table1.toml and table2.toml, from the paper's figures in engine/project/published.toml
	$(VENV)/bin/python projects/make_tables.py

screenshots: $(READY)  ## the README's pictures of the app, from a run of the quickstart
	$(VENV)/bin/python tests/bench/screenshots.py docs/screenshots

clean:
	rm -rf $(VENV) build *.egg-info
