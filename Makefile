# Targets for a fresh clone. They need make, a network and Python 3.11 or 3.12, nothing else.
#
#   make demo     record, train and evaluate the cube transfer; continues where it was interrupted
#   make test     ruff, pyright and every test
#   make parity   compare model, dataset and policies with LeRobot 0.6.1, live (needs Python 3.12)
#   make docs     the documentation as a site, in build/docs
#   make bench    compare speed with LeRobot 0.6.1 (half an hour, on an idle machine)
#   make faults   100 kills, a disk full at every write, altered bytes, 360,000 fuzzed files
#   make robot-demo    teleoperate, record, train and run on an emulated ALOHA: a success rate
#   make robot-parity  LeRobot 0.6.1's drivers on emulated arms, alone and through imitact; recordings
#   make wire     openpi's client asks `imitact serve`, live
#   make robot-faults  18 kinds of fault on emulated arms, LeRobot's too, 200 seeds; kill -9
#   make lock     write requirements/ (hashes) from constraints.txt, and THIRD_PARTY.md's tables
#   make clean    remove the environments and caches (runs/ stays)
#
# PYTHON=/path/to/python names the interpreter; ARGS="--train.seed 1" adds to the demo's command line.

PYTHON ?=
DEMO_OUT ?= runs/demo
ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo
LEROBOT := .venv-lerobot
LEROBOT_READY := $(LEROBOT)/.ready
OPENPI := .venv-openpi
OPENPI_READY := $(OPENPI)/.ready

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test parity docs bench faults robot-demo robot-parity robot-faults wire lock clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

demo: $(DEMO_READY)
	$(BIN)/imitact demo --out $(DEMO_OUT) --setup-s $$(cat $(DEMO_READY)) $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

parity: $(READY) $(LEROBOT_READY)
	$(BIN)/python scripts/parity_model.py --lerobot-python $(LEROBOT)/bin/python
	$(LEROBOT)/bin/python scripts/parity_dataset.py
	$(BIN)/python scripts/parity_policies.py --lerobot-python $(LEROBOT)/bin/python $(ARGS)

robot-parity: $(READY) $(LEROBOT_READY)
	$(LEROBOT)/bin/python scripts/parity_recording.py
	$(LEROBOT)/bin/python scripts/parity_feetech.py
	$(BIN)/python scripts/robot_parity.py --lerobot-python $(LEROBOT)/bin/python \
	    --write benchmarks/results/robot_parity.json $(ARGS)
	$(BIN)/python scripts/robot_plugin.py --lerobot-python $(LEROBOT)/bin/python
	rm -rf runs/so101
	$(BIN)/python scripts/robot_learn_so101.py --lerobot-python $(LEROBOT)/bin/python \
	    --write benchmarks/results/robot_learn_so101.json

wire: $(READY) $(OPENPI_READY)
	$(BIN)/python scripts/parity_wire.py --openpi-python $(OPENPI)/bin/python

# docs/settings.md is generated from the code first.
docs: $(READY)
	$(BIN)/python scripts/settings_page.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/docs-trees docs build/docs
	@echo "site: build/docs/index.html"

bench: $(READY) $(LEROBOT_READY)
	rm -rf runs/bench
	$(BIN)/python benchmarks/bench.py --lerobot-python $(LEROBOT)/bin/python $(ARGS)

faults: $(READY)
	mkdir -p runs/faults
	$(BIN)/python -m tests.faults.kill_anywhere --kills 50 --out runs/faults/kills.json
	$(BIN)/python -m tests.faults.kill_conversion --out runs/faults/kill_conversion.json
	$(BIN)/python -m tests.faults.full_disk --out runs/faults/full_disk.json
	$(BIN)/python -m tests.faults.flip_bytes --out runs/faults/flips.json
	$(BIN)/python -m tests.faults.special_files --out runs/faults/special.json
	$(BIN)/python -m tests.faults.fuzz_readers --cases 100000 --out runs/faults/fuzz.json
	for kind in aloha robomimic replay; do \
	    $(BIN)/python -m tests.faults.fuzz_readers --only $$kind --cases 20000 \
	        --out runs/faults/fuzz-$$kind.json || exit 1; \
	done
	for seed in 0 1000 2000; do \
	    $(BIN)/python -m tests.faults.fuzz_lerobot --cases 20000 --seed $$seed \
	        --out runs/faults/fuzz_lerobot-$$seed.json || exit 1; \
	done
	$(BIN)/python -m tests.faults.fuzz_policies --cases 140000 --out runs/faults/fuzz_policies.json

# Hours on 2 cores; continues where it was interrupted. ARGS="--episodes 2 --starts 2" is a try.
robot-demo: $(READY)
	$(BIN)/python scripts/robot_demo.py --out runs/robot-demo \
	    --result benchmarks/results/robot_demo.json $(ARGS)

robot-faults: $(READY) $(LEROBOT_READY)
	mkdir -p runs/faults
	$(BIN)/python -m tests.faults.kill_session --kills 50 --out runs/faults/kill_session.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.robot_faults --seeds 200 --jobs $(JOBS) \
	    --out runs/faults/robot_faults.json
	OMP_NUM_THREADS=1 $(LEROBOT)/bin/python -m tests.faults.robot_faults --seeds 200 \
	    --jobs $(JOBS) --out runs/faults/lerobot_faults.json --devices so101_follower so101_leader \
	    koch_follower koch_leader bi_so_follower bi_so_leader
	$(LEROBOT)/bin/python -m tests.faults.lerobot_alone --out runs/faults/lerobot_alone.json
	$(BIN)/python -m tests.faults.kill_robot --kills 50 --out runs/faults/kill_robot.json

# The demo needs the simulator; everything else needs all extras. Each set is a file in requirements/
# (scripts/lock_requirements.py has its extras). A file in .venv marks it as installed and holds the
# seconds that took, which the demo reports. It is installed again when the pinned versions or the
# project's requirements change, or when PYTHON names another version than .venv has. An environment
# of a fitting Python is kept, so that a torch build chosen by hand stays.
$(DEMO_READY): SET := demo
$(READY): SET := all

VERSION := import sys; print("%d.%d" % sys.version_info[:2])
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null),$(shell $(BIN)/python -c '$(VERSION)' 2>/dev/null))
.PHONY: $(READY) $(DEMO_READY)
endif
endif
$(READY) $(DEMO_READY): $(wildcard requirements/*.txt) pyproject.toml scripts/install.sh
	@start=$$(date +%s); \
	python=$$(sh scripts/find_python.sh 3.11 3.12) || exit 2; \
	have=$$($(BIN)/python -c '$(VERSION)' 2>/dev/null); \
	case "$$have" in \
	    3.11 | 3.12) [ -z "$(PYTHON)" ] || [ "$$have" = "$$("$$python" -c '$(VERSION)')" ] || have= ;; \
	    *) have= ;; \
	esac; \
	if [ -z "$$have" ]; then \
	    echo "setup: a virtual environment in $(VENV) from $$python"; \
	    "$$python" -m venv --clear $(VENV) || exit 2; \
	fi; \
	echo "setup: installing requirements/$(SET).txt (torch is the largest)"; \
	sh scripts/install.sh $(BIN)/python $(SET) || exit 2; \
	seconds=$$(($$(date +%s) - start)); \
	echo "$$seconds" > $@; \
	echo "setup: done in $$seconds s"

$(LEROBOT_READY): scripts/lerobot-constraints.txt
	@python=$$(PYTHON= sh scripts/find_python.sh 3.12) || exit 2; \
	echo "setup: LeRobot 0.6.1 in $(LEROBOT) from $$python"; \
	"$$python" -m venv --clear $(LEROBOT) || exit 2; \
	$(LEROBOT)/bin/python -m pip install -c scripts/lerobot-constraints.txt \
	    'lerobot[dataset,feetech,dynamixel,pyzmq-dep]==0.6.1' ruckig -e . \
	    -e integrations/imitact_lerobot_host || exit 2; \
	touch $(LEROBOT_READY)

# typing_extensions: openpi-client imports it and does not require it.
$(OPENPI_READY):
	@python=$$(PYTHON= sh scripts/find_python.sh 3.11 3.12) || exit 2; \
	"$$python" -m venv --clear $(OPENPI) || exit 2; \
	$(OPENPI)/bin/python -m pip install openpi-client==0.1.2 typing_extensions 'websockets<18' \
	    || exit 2; \
	touch $(OPENPI_READY)

# UV may name an installed uv. It reads the package index and downloads no package.
UV ?= build/uv/bin/uv
build/uv/bin/uv:
	$(BIN)/python -m venv --clear build/uv
	build/uv/bin/python -m pip install uv==0.13.9

lock: $(READY) $(UV)
	$(BIN)/python scripts/lock_requirements.py --uv $(UV)
	$(BIN)/python scripts/third_party.py

clean:
	rm -rf $(VENV) $(LEROBOT) $(OPENPI) .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
