# `make demo` and `make test` work from a fresh clone: they set up .venv when it is missing.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check
INSTALL := $(PIP) -c constraints.txt
# of all that pip says: what is downloaded, how large it is, and errors
SHOWN := 2> >(grep -v ^WARNING >&2) | awk '/^ *(Downloading|Using cached)/ { print; fflush() }'
LOCK := $(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: demo gallery test slow docs opencv4 lint lock check-lock bench axe clean

demo: .venv/package
	@echo "registering the two bundled pairs; the pictures go to demo-out/ ..."
	$(BIN)/geomatch demo --overwrite

# the pictures of docs/gallery.md, each by the command under it
gallery: .venv/tools
	$(BIN)/python docs/gallery/make.py

test: lint
	@echo "tests, in two processes ..."
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p xdist -n 2

slow: .venv/tools
	@echo "slow tests ..."
	$(BIN)/python -m pytest -q -m slow

# the site, without the network; warnings are errors, such as a link to a page or heading that is not there
docs: .venv/package
	@if ! $(BIN)/python -c "import furo, myst_parser, sphinx_click, sphinx_copybutton" 2> /dev/null; then \
	  $(INSTALL) -q pip && $(INSTALL) --group docs $(SHOWN); fi
	$(BIN)/sphinx-build -q -W --keep-going -d build/doctrees docs build/site
	@echo "the site is in build/site/index.html"

# the drop-in for OpenCV scripts on the last OpenCV 4, which is put before the installed one
opencv4: .venv/tools
	test -d .venv/opencv4/cv2 || $(PIP) -q --no-deps --target .venv/opencv4 opencv-python==4.14.0.94
	PYTHONPATH=.venv/opencv4 $(BIN)/python -c "import cv2; assert cv2.__version__.startswith('4.'), cv2.__version__"
	PYTHONPATH=.venv/opencv4 $(BIN)/python -m pytest -q -n 2 -m "slow or not slow" tests/test_opencv_*.py

# mypy sees the package as users get it: the folders are mapped at installation
lint: .venv/tools
	@echo "ruff, then mypy ..."
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/check build/lib build/bdist.*
	$(PIP) -q --no-deps --no-build-isolation --target build/check .
	cd build/check && ../../$(BIN)/mypy --cache-dir ../../.mypy_cache --config-file ../../pyproject.toml -p geomatch

# every package that an installation can bring, at one version; existing pins stay unless they must move
lock: .venv/tools
	$(LOCK) -o constraints.txt

# fails when `make lock` would leave another file; where no package index can be reached the tests alone look at it
check-lock: .venv/tools
	@mkdir -p build && cp constraints.txt build/constraints.txt
	@if $(LOCK) -o build/constraints.txt 2> build/lock.log; then \
	  diff constraints.txt build/constraints.txt || { echo "constraints.txt is old: run \`make lock\`"; exit 1; }; \
	  echo "constraints.txt is what pyproject.toml asks for"; \
	elif grep -q "Failed to fetch" build/lock.log; then \
	  echo "no package index can be reached: constraints.txt is not compared"; \
	else cat build/lock.log; exit 1; fi

bench: .venv/tools
	$(BIN)/python -m geomatch.benchmarks.studies

# what the browser tests check pages with; they skip it where it is not there
axe: build/axe/axe.min.js
build/axe/axe.min.js:
	@mkdir -p build/axe
	cd build/axe && npm pack --silent axe-core@4.10.3 | xargs tar xzf && mv package/axe.min.js . && rm -r package *.tgz

# the package and what it needs, nothing else; torch comes first, since it is by far the largest
.venv/package: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "1 of 2: torch (on Linux with CUDA, several GB; the README has the command for a CPU build) ..."
	$(INSTALL) torch setuptools wheel $(SHOWN)
	@echo "2 of 2: geomatch and the other packages it needs ..."
	$(INSTALL) --no-build-isolation -e . $(SHOWN)
	@touch $@

.venv/tools: .venv/package
	@echo "the optional packages and the test tools ..."
	$(INSTALL) -q pip # 25.1 or newer, which knows groups
	$(INSTALL) --no-build-isolation -e ".[all]" --group dev $(SHOWN)
	@touch $@

clean:
	rm -rf .venv build *.egg-info
