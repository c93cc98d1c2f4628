# Each target sets itself up: a virtual environment in .venv and the packages that it needs, installed once for a
# pyproject.toml and a folder. Nothing is installed outside .venv.
#
#   make demo    train a spiking network on event data, with a picture of its spikes
#   make test    all tests
#   make lint    ruff: errors and format              make format  put right what ruff can
#   make smoke   every example, in seconds            make bench   time and memory beside other frameworks
#   make check-cuda   every CUDA kernel compiled for five GPU generations, without a GPU; writes docs/cuda-kernels.md
#   make gpu     on a machine with a GPU: all tests on it, compute-sanitizer, benchmarks/agree_gpu.py and gpu.py
#   make clean   remove .venv and what tests and builds leave behind
#
# Another Python: make test PYTHON=python3.12. Some tests: make test ARGS="-k raster".

VENV   ?= .venv
PYTHON ?=
DEMO   ?= examples/train_shd.py --demo
BENCH  ?= agree step memory
JOBS   ?= 2
ARGS   ?=

run   := $(VENV)/bin/python
key   := $(shell { cat pyproject.toml; pwd; } | cksum | cut -d ' ' -f 1)
basic := $(VENV)/.basic-$(key)
dev   := $(VENV)/.dev-$(key)
bench := $(VENV)/.bench-$(key)
gpu   := $(VENV)/.gpu-$(key)

.PHONY: demo test lint format smoke bench check-cuda gpu clean
.DEFAULT_GOAL := test

demo: $(basic)
	$(run) $(DEMO) $(ARGS)

# One process more than cores: tests that start others (the simulator, killed runs) leave a quarter of the time idle.
# Idle processes take tests over from busy ones: how long one takes depends on who compiles a kernel first.
test: $(dev)
	$(run) -m pytest -n $(shell expr $(JOBS) + 1) --dist worksteal $(ARGS)

lint: $(dev)
	$(run) -m ruff check .
	$(run) -m ruff format --check .

format: $(dev)
	$(run) -m ruff check --fix .
	$(run) -m ruff format .

smoke: $(dev)
	@ls examples/[!_]*.py | xargs -P $(JOBS) -I{} sh -c 'echo "== {} --smoke"; $(run) {} --smoke $(ARGS)'

bench: $(bench)
	@set -e; for name in $(BENCH); do echo "== benchmarks/$$name.py"; $(run) benchmarks/$$name.py $(ARGS); done

check-cuda: $(dev)
	$(run) -m nsim_cuda.check --jobs $(JOBS) --out docs/cuda-kernels.md $(ARGS)

# Without a GPU it ends in one sentence, before more is installed. One part that fails does not cost the others.
gpu: $(basic)
	@$(run) -c 'import nsim.cuda as c, sys; why = c.missing_driver(c.driver()); sys.exit(f"make gpu: {why[0]}" if why else 0)'
	@$(MAKE) --no-print-directory $(gpu)
	@failed=; part() { echo "== $$*"; $(run) "$$@" || failed="$$failed\n  $$*"; }; \
	part -m pytest -n $(JOBS); \
	part benchmarks/sanitize.py --under memcheck racecheck; \
	part benchmarks/agree_gpu.py; \
	part benchmarks/gpu.py $(ARGS); \
	if [ -n "$$failed" ]; then printf '%b\n' "make gpu: these failed:$$failed" >&2; exit 1; fi

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@tried="$(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)"; \
	for python in $$tried; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo "Setting up $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "nsim needs Python 3.11, 3.12 or 3.13 with its venv module; none of these is one: $$tried." >&2; \
	echo "Install one (on Debian and Ubuntu python3-venv too), or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

# A finished installation takes the place of the stamps of earlier ones: what .venv holds is always that of the stamp.
$(basic): $(VENV)/.made
	$(run) -m pip install --disable-pip-version-check -e .
	@rm -f $(VENV)/.basic-* $(VENV)/.dev-* $(VENV)/.bench-* $(VENV)/.gpu-*; touch $@

$(dev): $(VENV)/.made
	$(run) -m pip install --disable-pip-version-check -e ".[dev]"
	@rm -f $(VENV)/.basic-* $(VENV)/.dev-* $(VENV)/.bench-* $(VENV)/.gpu-*; touch $(basic) $@

$(bench): $(VENV)/.made
	$(run) -m pip install --disable-pip-version-check -e ".[dev,bench]"
	@rm -f $(VENV)/.basic-* $(VENV)/.dev-* $(VENV)/.bench-* $(VENV)/.gpu-*; touch $(basic) $(dev) $@

$(gpu): $(VENV)/.made
	$(run) -m pip install --disable-pip-version-check -e ".[dev,gpu]"
	@rm -f $(VENV)/.basic-* $(VENV)/.dev-* $(VENV)/.bench-* $(VENV)/.gpu-*; touch $(basic) $(dev) $@
