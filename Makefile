# `make` prints this help. Everything needs Python 3.11 and Java 17 or 21; stack and its tests also PostgreSQL, and MinIO or Go.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

# The project with these extras, by uv, which takes half of pip's time; by pip where it has an index of its own, or where uv fails.
define install
$(PIP) uv
{ ! $(BIN)/python -m pip config list | grep -q index && $(UV) --editable '$(1)'; } || $(PIP) --editable '$(1)'
$(BIN)/python -m lakehouse.engine.spark.class_archive
endef

# Tests start hundreds of processes: each would compile the project anew where the environment forbids Python to keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

# Two modules run side by side, each with a Spark session of its own, the longest first, so that none runs alone at the end.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-servers faults test-example test-share test-all jars programs check reference bench scorecard \
	gpu-kit env stack stack-down logstore setup setup-test setup-stack java clean

help:  ## Print the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: setup  ## Set up, then run the flights example from first file to scored flights.
	$(BIN)/lakehouse demo

test: setup-test jars  ## Set up with the test extras, then run the tests of every package (about a quarter of an hour; no server).
	$(PYTEST) $(shell $(PYTHON) -m tests.shares packages)

test-servers: setup-test jars programs  ## Run the tests on object stores, PostgreSQL, the cluster and docker compose.
	$(PYTEST) tests/servers

faults: setup-test jars  ## Run the tests of bad days: kills, broken files, damaged logs, two runs at once.
	$(PYTEST) tests/faults

test-example: setup-test jars  ## Run the long tests of the example: the demo (also on servers), its jobs and notebook, its page, planted defects, a GPU.
	$(PYTEST) tests/example

test-share: setup-test jars  ## Run one of the four shares of what `make test` leaves out (SHARE=0 to 3).
	@case "$$($(PYTHON) -m tests.shares $(SHARE))" in *servers*) $(MAKE) --no-print-directory programs ;; esac
	$(PYTEST) $$($(PYTHON) -m tests.shares $(SHARE))

test-all: test test-servers faults test-example  ## Run every test.

# Every jar, before processes side by side would fetch it: Ivy does not lock its cache.
jars: setup-test
	@$(BIN)/python -m tests.sessions

# The servers' programs, which take minutes to build where the machine lacks them.
programs: setup-test
	$(BIN)/python -m deploy.programs

check: setup-test  ## Lint, types, import directions, the reference pages, GitHub's workflows.
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

scorecard: setup-test  ## Plant defects in a month of flights and count what the rules catch, miss and falsely report.
	$(BIN)/python -m benchmarks.scorecard

gpu-kit: setup  ## Gather what a machine with a GPU and no network needs to compare it with its CPU (PARTS=yes TRAINING=yes).
	$(BIN)/python -m deploy.gpu_kit $(if $(filter yes,$(PARTS)),--parts) $(if $(filter yes,$(TRAINING)),--training)

env:  ## Make .env with new secrets, unless it is there.
	@$(PYTHON) -m deploy.env

stack: setup-stack env  ## Start the servers of docker-compose.yml without Docker.
	$(BIN)/python -m deploy.stack up

stack-down:  ## Stop the servers that `make stack` started.
	$(BIN)/python -m deploy.stack down

# What it compiles against: Spark has Hadoop's classes, and Delta's are where any session has put them.
LOGSTORE_NEEDS = $(wildcard $(VENV)/lib/python3*/site-packages/pyspark/jars/hadoop-client-api-*.jar $(HOME)/.ivy2*/jars/io.delta_delta-storage-*.jar)
LOGSTORE_JARS = lakehouse/engine/spark/logstore
LOGSTORE_CLASSES = build/logstore
space := $(subst ,, )

# Two jars: what is on the class path at the start (the local file system) must not bring a class that needs Delta's jars (the log store).
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

# macOS has a java that only says that there is none: so it is asked, not looked for.
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
	$(call install,.)
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,.[test])
	@touch $@ $(VENV)/.installed $(VENV)/.installed-stack

$(VENV)/.installed-stack: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,.[stack])
	@touch $@ $(VENV)/.installed

clean:  ## Remove .venv and caches (not data/).
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
