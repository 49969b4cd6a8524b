# `make` prints the targets. All need Python 3.11 and Java 17 or 21. stack and its tests also need PostgreSQL, and MinIO
# or Go.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

# Install the project with these extras. uv takes half of pip's time. pip is used if it has a configured index, or if uv
# fails.
define install
$(PIP) uv
{ ! $(BIN)/python -m pip config list | grep -q index && $(UV) --editable '$(1)'; } || $(PIP) --editable '$(1)'
endef

# Tests start hundreds of processes. Without bytecode files, each of them would compile the project again.
export PYTHONDONTWRITEBYTECODE :=

# Two modules run in parallel, each with its own Spark session. The longest modules start first.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-servers faults test-example test-share test-all jars programs check reference bench scorecard \
	gpu-kit env stack stack-down logstore setup setup-test setup-stack java clean

help:  ## Print the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: setup  ## Set up, then run the flights example from landed files to scored flights.
	$(BIN)/lakehouse demo

test: setup-test jars  ## Set up with the test extras, then run the tests of every package (about 15 minutes; no server).
	$(PYTEST) $(shell $(PYTHON) -m tests.shares packages)

test-servers: setup-test jars programs  ## Run the tests on object stores, PostgreSQL, the cluster and docker compose.
	$(PYTEST) tests/servers

faults: setup-test jars  ## Run the tests of failures: kills, broken files, damaged logs, two runs at once.
	$(PYTEST) tests/faults

test-example: setup-test jars  ## Run the long tests of the example: demo (also on servers), jobs, notebook, page, planted defects, GPU.
	$(PYTEST) tests/example

test-share: setup-test jars  ## Run one of the four shares of the tests that `make test` leaves out (SHARE=0 to 3).
	@case "$$($(PYTHON) -m tests.shares $(SHARE))" in *servers*) $(MAKE) --no-print-directory programs ;; esac
	files="$$($(PYTHON) -m tests.shares $(SHARE))" && $(PYTEST) $$files

test-all: test test-servers faults test-example  ## Run every test.

# Fetch every jar before parallel processes need it: Ivy does not lock its cache.
jars: setup-test
	@$(BIN)/python -m tests.sessions

# The servers' programs. A missing program takes minutes to build.
programs: setup-test
	$(BIN)/python -m deploy.programs

check: setup-test  ## Check lint, types, import directions, reference pages and GitHub's workflows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/python -m deploy.workflows

reference: setup-test  ## Write docs/reference from the code.
	$(BIN)/python -m docs.generate

bench: setup-test  ## Measure the project against a hand-written script, polars, and itself on MinIO.
	$(BIN)/python -m benchmarks

scorecard: setup-test  ## Plant defects in a month of flights, and count those that the checks catch, miss and falsely report.
	$(BIN)/python -m benchmarks.scorecard

gpu-kit: setup  ## Build a kit that compares GPU and CPU on a machine without a network (PARTS=yes TRAINING=yes).
	$(BIN)/python -m deploy.gpu_kit $(if $(filter yes,$(PARTS)),--parts) $(if $(filter yes,$(TRAINING)),--training)

env:  ## Write .env with new secrets, unless it exists.
	@$(PYTHON) -m deploy.env

stack: setup-stack env  ## Start the servers of docker-compose.yml without Docker.
	$(BIN)/python -m deploy.stack up

stack-down:  ## Stop the servers that `make stack` started.
	$(BIN)/python -m deploy.stack down

# Jars to compile against: Spark contains Hadoop's classes, and an earlier session has fetched Delta's.
LOGSTORE_NEEDS = $(wildcard $(VENV)/lib/python3*/site-packages/pyspark/jars/hadoop-client-api-*.jar $(HOME)/.ivy2*/jars/io.delta_delta-storage-*.jar)
LOGSTORE_JARS = lakehouse/engine/spark/logstore
LOGSTORE_CLASSES = build/logstore
space := $(subst ,, )

# Two jars: the local file system is on the class path at the start. It must not contain the log store, which needs
# Delta's jars.
logstore:  ## Build the jars of the S3 log store and of local files from their sources (needs a JDK 17 and one earlier Spark session).
	rm -rf $(LOGSTORE_CLASSES)
	javac --release 17 -Xlint:all -Werror -d $(LOGSTORE_CLASSES) -cp "$(subst $(space),:,$(LOGSTORE_NEEDS))" lakehouse/engine/spark/logstore/*.java
	cd $(LOGSTORE_CLASSES) && jar --create --file $(abspath $(LOGSTORE_JARS))/conditional-put-logstore.jar --no-manifest --date 2026-01-01T00:00:00Z \
	  lakehouse/ConditionalPutLogStore*.class
	cd $(LOGSTORE_CLASSES) && jar --create --file $(abspath $(LOGSTORE_JARS))/posix-local-files.jar --no-manifest --date 2026-01-01T00:00:00Z \
	  lakehouse/PosixLocalFileSystem*.class

setup: java $(VENV)/.installed  ## Make .venv from pyproject.toml and constraints.txt.

setup-test: java $(VENV)/.installed-test

setup-stack: java $(VENV)/.installed-stack

# On macOS, a java program exists that only reports a missing Java. Therefore it is called.
java:
	@java -version >/dev/null 2>&1 || "$$JAVA_HOME/bin/java" -version >/dev/null 2>&1 || { \
	  echo "Java 17 or 21 is missing. Debian, Ubuntu: apt-get install openjdk-17-jre-headless (or openjdk-21-jre-headless);"; \
	  echo "Fedora: dnf install java-21-openjdk-headless; macOS: brew install openjdk@17 and then"; \
	  echo "export JAVA_HOME=\"\$$(brew --prefix openjdk@17)\"; or any Temurin 17 or 21 package with JAVA_HOME pointing at it."; \
	  exit 1; }

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) is missing; name yours: make PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,.[example])
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,.[test])
	@touch $@ $(VENV)/.installed $(VENV)/.installed-stack

$(VENV)/.installed-stack: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,.[stack])
	@touch $@ $(VENV)/.installed

clean:  ## Remove .venv and caches (not data/).
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
