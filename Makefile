# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# One at a time, should two terminals install at once; macOS has no flock, and does without.
LOCKED := $(if $(shell command -v flock),flock Makefile,)
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo examples curves docs wheel test test-long fuzz versions licences audit lock lint coverage sparse bench bench-gpu bench-accuracy bench-peers bench-devices clean
.NOTPARALLEL:

help:  ## Lists the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s '	'

.venv/.ready: pyproject.toml
	$(LOCKED) sh -c '$(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" && touch $@'

demo: .venv/.ready  ## Trains a real model by every method, exports and verifies it (minutes).
	$(BIN)/python examples/mnist.py

examples: .venv/.ready  ## Runs every example and the notebook, with their times (minutes).
	$(BIN)/python examples/run_all.py

docs: .venv/.ready  ## Builds the documentation into site/; a broken link is an error.
	$(BIN)/python -m mkdocs build --strict

wheel: .venv/.ready  ## Builds the wheel twice, the same bytes; README's commands on it in an empty environment (minutes).
	$(BIN)/python tools/wheel.py
	$(BIN)/python tools/check_wheel.py

curves: .venv/.ready  ## Draws docs/curves.png and docs/curves.svg.
	$(BIN)/python examples/curves.py

test: lint  ## Lint, types, tests and doctests.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-long: .venv/.ready  ## The tests that take minutes.
	QAT_ROUND_EXAMPLES=1000 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow
	QAT_ROUND_EXAMPLES=1000 $(BIN)/python -m pytest tests/test_properties.py

fuzz: .venv/.ready  ## SECONDS=60 of damaged files into every reader, and of random small models from Keras to the file.
	$(BIN)/python tools/fuzz.py --seconds $(or $(SECONDS),60) --seed $(or $(SEED),0)

versions: .venv/.ready  ## The tests in an environment for each supported set of versions (hours, network).
	$(BIN)/python tools/versions.py

licences: .venv/.ready  ## Licences of all that the package needs, from their metadata; docs/licences.md too.
	$(BIN)/python tools/licences.py
	$(BIN)/python tools/licences.py --page docs/licences.md

audit: .venv/.ready  ## The locked versions against a list of unsafe ones (of 2021, from the package index).
	$(BIN)/python tools/audit.py

lock: .venv/.ready  ## Writes the versions of this environment to requirements-dev.lock.
	$(BIN)/python tools/lock.py > requirements-dev.lock

lint: .venv/.ready  ## Format, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: .venv/.ready  ## What becomes integer-only: 17 networks and every layer, stock TFMOT, ours, post-training (long).
	$(BIN)/python -m benchmarks.coverage.run
	$(BIN)/python -m benchmarks.coverage.run --keras3 --results keras3
	$(BIN)/python -m benchmarks.coverage.run --layers --together --results layers
	$(BIN)/python -m benchmarks.coverage.random_graphs

sparse: .venv/.ready  ## Pruned and clustered models through QAT, ours beside TFMOT's PQAT and CQAT (minutes).
	$(BIN)/python -m benchmarks.accuracy.sparse

bench: .venv/.ready  ## Speed and memory: kernels, training steps, start-up, growth (hours; alone on the machine).
	$(BIN)/python -m benchmarks.speed.bandwidth
	$(BIN)/python -m benchmarks.speed.kernels --dtypes float32
	$(BIN)/python -m benchmarks.speed.kernels --dtypes bfloat16 --sizes 1e4 1e6 1e7 --name kernels_bfloat16
	$(BIN)/python -m benchmarks.speed.kernels --dtypes float32 --sizes 1e5 1e6 1e7 --rounds 3 --memory --name kernels_memory
	$(BIN)/python -m benchmarks.speed.steps --batches 32 --rounders ste sigmoid sine
	$(BIN)/python -m benchmarks.speed.steps --batches 8 --rounders ste sigmoid sine --steady-only --nets small mobilenet_v2_0.35 mobilenet_v2_1.0 --name steps_batch8
	$(BIN)/python -m benchmarks.speed.steps --nets small mobilenet_v2_0.35 --batches 32 --rounders ste sigmoid sine --parts --no-learned --steady-only --name profile
	$(BIN)/python -m benchmarks.speed.modes
	$(BIN)/python -m benchmarks.speed.startup
	$(BIN)/python -m benchmarks.speed.scaling

bench-gpu: .venv/.ready  ## Training steps, memory and kernels where there is a GPU (six minutes).
	$(BIN)/python -m benchmarks.speed.gpu

bench-accuracy: .venv/.ready  ## Accuracy at low bits, on real data; goes on where it stopped (hours).
	$(BIN)/python -m benchmarks.accuracy.run recipes
	$(BIN)/python -m benchmarks.accuracy.run rounders --seeds 10
	$(BIN)/python -m benchmarks.accuracy.run w2a4_rounders
	$(BIN)/python -m benchmarks.accuracy.run seed_methods --seeds 3
	$(BIN)/python -m benchmarks.accuracy.run ablation --seeds 3
	$(BIN)/python -m benchmarks.accuracy.run slow_ranges --only "w2a2/1 recipe" "w2a4/1 recipe" --no-files
	for net in separable residual mlp; do \
	  $(BIN)/python -m benchmarks.accuracy.run recipes --net $$net --seeds 2 --only w8a8 w4a8 w2a2 || exit; done
	$(BIN)/python -m benchmarks.accuracy.run rounders --data digits --seeds 10 --no-files
	$(BIN)/python -m benchmarks.accuracy.run rounders --data words --net along_time --seeds 10 --no-files
	$(BIN)/python -m benchmarks.accuracy.adaround
	$(BIN)/python -m benchmarks.accuracy.adaround --data tumours --nets mlp

PEERS := tfmot_nbit qkeras_auto mct_qat
PEERS_PYTHON ?= python3.11

bench-peers: .venv/.ready  ## The same by TFMOT's n-bit scheme, QKeras and MCT, each in artifacts/peers (an hour, network).
	$(BIN)/python -m benchmarks.peers.float_weights
	for peer in $(PEERS); do env=artifacts/peers/$$peer; \
	  $(PEERS_PYTHON) -m venv $$env && $$env/bin/python -m pip install --quiet -r benchmarks/peers/$$peer.txt && \
	  $$env/bin/python -m benchmarks.peers.$$peer || exit; done
	$(BIN)/python -m benchmarks.peers.table

bench-devices: .venv/.ready  ## Every kind of file on every runtime, against Keras; and Vela (a quarter of an hour).
	$(BIN)/python -m benchmarks.devices.run

clean:  ## Removes the environment and all that was built.
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache artifacts
