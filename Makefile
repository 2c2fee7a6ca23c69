# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make and use .venv.
.PHONY: demo test check slow bench help

export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0

bin = .venv/bin

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.installed: scripts/setup.sh pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	@sh scripts/setup.sh

demo: .venv/.installed  ## the main job on a real model and real tasks, a few minutes on a laptop
	$(bin)/spicerack demo --output runs/demo

test: .venv/.installed check  ## lint, types, import contract, tests
	$(bin)/python -m pytest

check: .venv/.installed  ## lint, types and import contract alone
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

slow: .venv/.installed  ## the tests on the real model
	$(bin)/python -m pytest -m slow

bench: .venv/.installed  ## the gradient pass beside a training step
	$(bin)/python benchmarks/gradients.py
