"""Checks of a project's models and files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lakehouse import settings
from lakehouse.definitions import graph
from lakehouse.project import activate
from lakehouse.quality.project_checks import find_problems
from tests.lakehouse.projects import make_project


def check(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the problems of a project, warnings in brackets."""
    monkeypatch.setenv("LAKEHOUSE_PROJECT", str(root))
    monkeypatch.syspath_prepend(root)
    activate(root)
    loaded = settings.load()
    graph.examine(loaded.declarations)
    problems = list(find_problems(loaded))
    del sys.modules["shop_sources"]
    return [problem.text if problem.is_error else f"({problem.text})" for problem in problems]


def test_models_are_found_without_their_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {
        "good": "raise RuntimeError('this module must not be imported')\nCODE = ('learners',)\n",
        "lost": "CODE = ('learners', 'no_such_package', 'learners.good')\n",
        "computed": "CODE = (*['learners'],)\n",
        "broken": "def (\n",
    }
    root = make_project(
        tmp_path,
        {"learners/__init__.py": "", **{f"learners/{name}.py": text for name, text in models.items()}},
        models={name: f"learners.{name}" for name in (*models, "missing")} | {"other": "no_such_module.model"},
        example="no_such_example",
    )
    assert check(root, monkeypatch) == [
        "model lost: CODE names 'no_such_package', which is no package",
        "model lost: CODE names 'learners.good', which is no package",
        "model broken: learners.broken cannot be read: invalid syntax (<unknown>, line 1)",
        "model missing: there is no module learners.missing; correct `models` in conf/base.yml",
        "model other: there is no module no_such_module.model; correct `models` in conf/base.yml",
        "setting example: there is no module no_such_example",
    ]


def test_files_that_nothing_reads_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "conf/cluster.yml": "sprak: local.conf\nroot: ${NOT_SET_HERE}\nspark: lost.conf\n",
        "conf/broken.yml": "root: [\n",
        "conf/list.yml": "- root\n",
        "conf/prod.yaml": "",
        "conf/expectations/raw/items.yml": "",
        "conf/expectations/README.md": "",
        "notes/plain.py": "x = 1\n",
        "unread/deep/tables.py": "from lakehouse import Rebuild, table\n@table('a.b')\ndef b(): ...\n",
        "unread/__init__.py": "",
        "more.py": "from lakehouse import source\nmore = source('raw.more')\n",
        "tests/sources.py": "from lakehouse import source\nmore = source('raw.more')\n",
        ".cache/sources.py": "from lakehouse import source\nmore = source('raw.more')\n",
    }
    problems = check(make_project(tmp_path, files), monkeypatch)
    assert problems.pop(0).startswith("conf/broken.yml: cannot be read: while parsing a flow node")
    hint = "declares a source or table, but is not read; name its package in `declarations` of conf/base.yml"
    assert problems == [
        "conf/cluster.yml: unknown setting sprak; did you mean spark?",
        "conf/cluster.yml: spark='lost.conf' is not a file in conf/spark",
        "conf/list.yml: is not a list of settings such as `root: data`",
        "(conf/prod.yaml: is not read; rename it to prod.yml)",
        "(conf/expectations/raw/items.yml: is not read; a suite is a file <layer>/<table>.json)",
        f"(more.py: {hint})",
        f"(unread/deep/tables.py: {hint})",
    ]
