# make demo | make test | make test-slow | make test-extra | make lint | make pictures. Needs Python >= 3.11 and make.
#   make demo CLIP=<hub id or folder> VIDEOS=<folder with one sub-folder per class>
#   make test VENV=<an existing environment, used as it is>
#   make pictures PARTS=ablation             makes the pictures of README.md and docs/ anew, half an hour for all
#   make space MODEL=<folder>      build/space: the page as a Hugging Face Space, with the demo's model or this one
#   make test-extra PARTS="wheel oldest"     what needs an environment of its own; each part says what it installs

PYTHON ?= python3

ifeq ($(origin VENV), undefined)
VENV := .venv
READY := $(VENV)/ready
endif

BIN := $(VENV)/bin
TESTS := $(BIN)/python -m pytest -q -n auto --maxprocesses 16 --dist worksteal

# Tests start many processes: without compiled files each of them would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo space test test-slow test-extra lint pictures
setup: $(READY)

demo: setup
	$(BIN)/python scripts/demo.py $(if $(CLIP),--clip "$(CLIP)") $(if $(VIDEOS),--videos "$(VIDEOS)")

# A folder that is pushed to a Space as it is. The package is not taken from an index: its wheel goes with it.
MODEL ?= demo_output/model
space: setup
	@test -f "$(MODEL)/config.json" || { echo "There is no model in '$(MODEL)': run 'make demo' or give MODEL=<folder>." >&2; exit 2; }
	rm -rf build && mkdir build && cp -r examples/space build/space && cp -rL "$(MODEL)" build/space/model
	rm -f build/space/model/*.bin && mkdir build/space/examples
	for class in "$(MODEL)"/../videos/held_out/*/; do \
		video=$$(ls -d "$$class"* 2> /dev/null | head -n 1); \
		test -z "$$video" || cp "$$video" "build/space/examples/$$(basename "$$class").mp4"; \
	done
	$(BIN)/uv build --quiet --wheel --out-dir build/space/wheels .
	cd build/space && sed -i "s|^transformers-ila\[app\]$$|./$$(ls wheels/*.whl)[app]|" requirements.txt && rm -f wheels/.gitignore
	@echo "build/space is ready: push it to a Space, or run docker build build/space."

test: setup
	$(TESTS) -m "not slow"

test-slow: setup
	$(TESTS) -m "slow and not proof and not exporter"

test-extra: setup
	tests/extra/run.sh $(BIN)/python $(PARTS)

pictures: setup
	$(BIN)/python benchmarks/pictures.py $(if $(PARTS),--parts $(PARTS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy src

# pip only brings uv, which installs in seconds and hard-links from its cache; where uv reaches no index, pip goes on.
# Compiled now, torch and transformers are imported in half the time by every process that follows.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=...), this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' \
		|| $(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
