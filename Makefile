# Two commands are enough: make smoke, make test. Both make .venv first, from the pins of this Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Constraints exist for Python 3.11 and for 3.12 and newer.
PINS := $(shell $(PYTHON) -c 'import sys; print("constraints-3.11.txt" if sys.version_info < (3, 12) else "constraints-3.12.txt")')
STAMP := $(VENV)/installed-$(PINS)
RUN ?= runs/digits
# For the programs in tests/ that are no tests.
SUPPORT := PYTHONPATH=tests/support:tests/references

.PHONY: smoke test test-long check docs format soak host-faults corruption bench bench-input bench-inference bench-ffcv bench-tpu large-batch gs-workdir pictures pins clean

# The recipe's eight replicas on one device, in two thirds of the time of eight virtual devices on two cores.
smoke: $(STAMP)
	$(BIN)/efficientnet-pod train --config=configs/digits.py --config.cpu_replicas=1 --config.replicas=8 --workdir=$(RUN) $(ARGS)

# Neighbouring tests share what they compile, so each worker takes a stretch of them. Of three workers on two cores
# one may wait for the processes of its test.
test: $(STAMP)
	$(BIN)/python -m pytest -q -n 3 --dist=worksteal --durations=10

# Long and large: minutes of random kills, all hosts lost in turn, networks of full size.
test-long: $(STAMP)
	$(BIN)/python -m pytest -q -m long
	$(SUPPORT) $(BIN)/python tests/long/soak.py --minutes 10
	$(SUPPORT) $(BIN)/python tests/long/host_faults.py

# Random kills and damage: make soak ARGS="--minutes 20"
soak: $(STAMP)
	$(SUPPORT) $(BIN)/python tests/long/soak.py $(ARGS)

# How long the others go on after a host has died, raised or got stuck.
host-faults: $(STAMP)
	$(SUPPORT) $(BIN)/python tests/long/host_faults.py $(ARGS)

# Damage to checkpoints, beside Orbax alone.
corruption: $(STAMP)
	$(BIN)/python -m benchmarks.corruption $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python docs/check.py

# The documentation site, in .docs/index.html; any warning is an error.
docs: $(STAMP)
	$(BIN)/pip install -q -c $(PINS) -e '.[docs]'
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs .docs

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/pip install -q -c $(PINS) -e '.[bench]'
	$(BIN)/python -m benchmarks.cpu_step

# One image and eight, beside PyTorch, onnxruntime, Keras and TensorFlow, on two cores.
bench-inference: $(STAMP)
	$(BIN)/pip install -q -c $(PINS) -e '.[bench]'
	test -d $(VENV)-onnx || { $(PYTHON) -m venv $(VENV)-onnx && $(VENV)-onnx/bin/pip install -q -r requirements-onnx.txt; }
	$(BIN)/python -m benchmarks.inference --onnx-python=$(VENV)-onnx/bin/python --json=.cache/inference.json $(ARGS)

# With FFCV among the peers once `make bench-ffcv` has built it.
bench-input: $(STAMP)
	$(BIN)/pip install -q -c $(PINS) -e '.[bench]'
	$(BIN)/python -m benchmarks.input_rate $(addprefix --ffcv-python=,$(wildcard $(VENV)-ffcv/bin/python)) $(ARGS)
	$(BIN)/python -m benchmarks.input_memory --images 60000
	$(BIN)/python -m benchmarks.host_cores
	$(BIN)/python -m benchmarks.shuffle
	$(BIN)/python -m benchmarks.lanes
	$(BIN)/python -m benchmarks.sources

# What libtpu's compiler says of one step beside plain Flax's, and of 8 to 2,048 cores: hours; goes on where it was.
bench-tpu: $(STAMP)
	$(BIN)/python -m benchmarks.tpu_step --resume
	$(BIN)/python -m benchmarks.tpu_scale --resume

# Accuracy against images a step for SGD, RMSProp and LARS, with a picture: minutes on a laptop.
large-batch: $(STAMP)
	$(BIN)/python -m benchmarks.large_batch --json=.cache/large_batch.jsonl --plot=.cache/large_batch.svg $(ARGS)

# FFCV is built from its source package, which needs a C++ compiler, pkg-config and the headers of OpenCV and
# libturbojpeg (Debian: libopencv-dev libturbojpeg0-dev).
bench-ffcv:
	$(PYTHON) -m venv $(VENV)-ffcv
	$(VENV)-ffcv/bin/pip install -q setuptools wheel assertpy fastargs numba opencv-python-headless pillow psutil terminaltables torch==2.13.0 tqdm
	$(VENV)-ffcv/bin/pip install -q --no-deps pytorch-pfn-extras
	$(VENV)-ffcv/bin/pip install -q --no-deps --no-build-isolation ffcv==1.0.2

# A workdir on gs://, against an emulator; needs no account and sends nothing.
gs-workdir: $(STAMP)
	$(BIN)/pip install -q -c $(PINS) -e '.[gcs]' cryptography gcp-storage-emulator
	$(BIN)/python -m benchmarks.gs_workdir

$(STAMP): pyproject.toml setup.py $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "efficientnet-pod needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; choose another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c $(PINS) -e '.[dev]'
	@touch $@

# The two pictures of the README, from a run of the digits; needs Chromium.
pictures: $(STAMP)
	$(BIN)/python docs/pictures.py $(ARGS)

# New pins, with uv: newest versions for the oldest Python of each file.
pins:
	for v in 3.11 3.12; do uv pip compile -q --no-header --no-annotate --no-emit-index-url --python-version $$v --extra dev --extra docs --extra preflight-cuda --upgrade pyproject.toml -o constraints-$$v.txt; done

clean:
	rm -rf $(VENV) $(VENV)-ffcv $(VENV)-onnx .cache .docs .pytest_cache .ruff_cache
