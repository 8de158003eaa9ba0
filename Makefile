# make run and make test need nothing but Python 3.10+ and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test ecosystem requests-suite fuzz bench bench-fleet simulate model servers servers-page lint types matrix dist docs format clean

run: .venv/demo.stamp  ## a token's life, shown against an embedded server
	$(BIN)/python -m examples.demo

test: .venv/test.stamp  ## the whole suite, with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

ecosystem: | $(BIN)/python  ## other people's libraries with a Client; ARGS="--write" writes docs/works-with.rst
	$(BIN)/python -m tests.ecosystem $(ARGS)

servers: .venv/test.stamp  ## what the integration tests need, besides Redis and Memcached; needs npm, Maven, Java
	npm ci --prefix tests/integration/oidc_provider --no-audit --no-fund --loglevel=error
	$(BIN)/python -m tests.integration.keycloak

servers-page: .venv/test.stamp  ## the table of docs/servers.rst, from the tests
	$(BIN)/python -m tests.integration.servers_page

requests-suite: | $(BIN)/python  ## requests' own tests with a Client in the place of its Session
	$(BIN)/python -m tests.requests_suite $(ARGS)

fuzz: .venv/test.stamp .venv/fuzz.stamp  ## look for input that breaks the parsers, for ten minutes
	mkdir -p .venv/corpus
	$(BIN)/python -m tests.fuzz.fuzz_parsers .venv/corpus tests/fuzz/corpus -max_total_time=600 $(ARGS)

bench: .venv/bench.stamp  ## alf and its peers, measured; ARGS="--only hot-path --peers alf"
	$(BIN)/python benchmarks/bench.py $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

matrix: .venv/dev.stamp  ## the suite on every Python here, with old and new requests and urllib3
	$(BIN)/tox run $(ARGS)

dist: .venv/dev.stamp  ## what goes to PyPI
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

docs: .venv/docs.stamp  ## docs/_build/html; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html docs docs/_build/html

bench-fleet: .venv/test.stamp  ## token requests and Redis commands of 200 clients
	$(BIN)/python -m benchmarks.fleet $(ARGS)

simulate: .venv/test.stamp  ## the same of 10,000 clients, simulated; then the model
	$(BIN)/python -m benchmarks.simulate $(ARGS)
	$(BIN)/python -m tests.model

model: .venv/test.stamp  ## a million random schedules of alf's own code; ARGS="--without all"
	$(BIN)/python -m tests.model $(ARGS)

format: .venv/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venvs .tox benchmarks/.venvs build dist docs/_build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv .venv

# One stamp an extra of setup.py.
.venv/%.stamp: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
