# `make demo` and `make test` work from a fresh clone: they set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install -q -c constraints.txt

.PHONY: demo test slow opencv4 lint lock bench clean

demo: .venv/package
	$(BIN)/geomatch demo

test: lint
	$(BIN)/python -m pytest -q -n 2

slow: .venv/tools
	$(BIN)/python -m pytest -q -m slow

# the drop-in for OpenCV scripts on the last OpenCV 4, which is put before the installed one
opencv4: .venv/tools
	test -d .venv/opencv4/cv2 || $(BIN)/pip install -q --no-deps --target .venv/opencv4 opencv-python==4.14.0.94
	PYTHONPATH=.venv/opencv4 $(BIN)/python -c "import cv2; assert cv2.__version__.startswith('4.'), cv2.__version__"
	PYTHONPATH=.venv/opencv4 $(BIN)/python -m pytest -q -n 2 -m "slow or not slow" tests/test_opencv_*.py

# mypy sees the package as users get it: the folders are mapped at installation
lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install -q --no-deps --no-build-isolation --target build/check .
	cd build/check && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p geomatch

# every package that an installation can bring, at one version; existing pins stay unless they must move
lock: .venv/tools
	$(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints.txt

bench: .venv/tools
	$(BIN)/python -m geomatch.benchmarks

# the package and what it needs, nothing else; torch comes first, since it is by far the largest
.venv/package: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing torch (200 MB as a CPU build; see the README for CUDA) ..."
	$(INSTALL) torch setuptools wheel
	@echo "installing geomatch and the packages it needs ..."
	$(INSTALL) --no-build-isolation -e .
	touch $@

.venv/tools: .venv/package
	@echo "installing the optional packages and the test tools ..."
	$(INSTALL) pip # 25.1 or newer, which knows groups
	$(INSTALL) --no-build-isolation -e ".[all]" --group dev
	touch $@

clean:
	rm -rf .venv build *.egg-info
