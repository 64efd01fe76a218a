# make run: a ready gateway on loopback.  make demo: every route, once.  make test: everything checked.
# make bench: how fast, beside real peers.  make fuzz SECONDS=60: that long for each fuzzer; ONLY=name for one of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VAR ?= var/alpha.test

.PHONY: run demo test lint bench fuzz clean

$(VENV)/installed: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --config-settings editable_mode=compat -e '.[test]'
	@$(BIN)/pip download --quiet --no-deps --no-binary :all: -d $(VENV)/sources 'pyspf>=2.0.14' || true  # its test suite
	@touch $@

run: $(VENV)/installed
	@$(BIN)/gatewayctl init $(VAR) --domain alpha.test --hostname mx.alpha.test --loopback --first-steps \
		--account alice:parley-demo --account bob:parley-demo
	@exec $(BIN)/twistd -n --pidfile= gatewayd --config $(VAR)/gatewayd.toml

demo: $(VENV)/installed
	@$(BIN)/python -m demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	@$(BIN)/python -m bench $(ONLY)

SECONDS ?= 60
fuzz: $(VENV)/installed
	@$(BIN)/python -m fuzz $(SECONDS) $(ONLY)

clean:
	rm -rf var build *.egg-info
