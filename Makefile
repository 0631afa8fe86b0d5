# `make demo` and `make test` work from a fresh clone: they set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow opencv4 lint bench clean

demo: .venv/ready
	$(BIN)/geomatch demo

test: lint
	$(BIN)/python -m pytest -q

slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow

# the drop-in for OpenCV scripts on the last OpenCV 4, which is put before the installed one
opencv4: .venv/ready
	test -d .venv/opencv4/cv2 || $(BIN)/pip install -q --no-deps --target .venv/opencv4 opencv-python==4.14.0.94
	PYTHONPATH=.venv/opencv4 $(BIN)/python -c "import cv2; assert cv2.__version__.startswith('4.'), cv2.__version__"
	PYTHONPATH=.venv/opencv4 $(BIN)/python -m pytest -q -m "slow or not slow" tests/test_opencv_*.py

# mypy sees the package as users get it: the folders are mapped at installation
lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install -q --no-deps --no-build-isolation --target build/check .
	cd build/check && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p geomatch

bench: .venv/ready
	$(BIN)/python -m geomatch.benchmarks

# torch comes first and pinned: the newest release may bring gigabytes of CUDA
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch "setuptools>=77" wheel
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[all]" pytest ruff mypy jsonschema hypothesis "moto[server]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
