# make demo    a complete Sora in the foreground, in ./demo (more flags: make demo ARGS="--accounts 10")
# make test    linters, types and the whole test suite, from nothing
# make bench   measurements, tables in benchmarks/results      make lock    renew .ci/requirements.lock
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
bin    := $(VENV)/bin
native := $(wildcard sora/_native/*.pyx sora/_native/*.pxd)

.PHONY: demo test check bench lock clean

demo: $(VENV)/.installed
	@exec $(bin)/soractl demo --dir demo $(ARGS)

test: $(VENV)/.installed-dev check
	$(bin)/python -m pytest -n auto --dist worksteal -q

check: $(VENV)/.installed-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

bench: $(VENV)/.installed-dev
	@mkdir -p build
	$(bin)/python -m pytest benchmarks -o addopts=--import-mode=importlib -q --benchmark-max-time=0.3 --benchmark-columns=median \
	  --benchmark-json=build/benchmarks.json $(ARGS)
	$(bin)/python -m benchmarks.report build/benchmarks.json

lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q --upgrade pip
	build/lock/bin/pip install -q $(shell sed -n '/^dependencies/,/^\]/p;/^dev = /,/^\]/p;/^requires = /p' pyproject.toml | grep -o '"[^"]*"')
	build/lock/bin/pip freeze --exclude sora-mail --all | grep -v '^pip==' > .ci/requirements.lock

clean:
	rm -rf build $(VENV) .venv-s3 sora/_native/*.c sora/_native/*.so

# A file of our own: bin/python is a link to the system's, which is not ours to touch.
$(VENV)/.created: .ci/bootstrap
	@PYTHON=$(PYTHON) .ci/bootstrap
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The lock holds run-time, build and test packages in exact versions; nothing else is fetched.
$(VENV)/.packages: .ci/requirements.lock $(VENV)/.created
	$(bin)/pip install -q --disable-pip-version-check -r .ci/requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.packages pyproject.toml setup.py $(native)
	$(bin)/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed tests/support/swift-requirements.txt
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install -q --disable-pip-version-check -r tests/support/swift-requirements.txt
	@touch $@
