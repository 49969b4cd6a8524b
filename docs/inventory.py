"""List of all that users and other programs see of the project: python docs/inventory.py [FILE].

Run it before and after a move of modules and compare. Only the last section, which names modules, should differ.
"""

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parent.parent
PLATFORM, EXAMPLE = ("lakehouse",), ("bronze", "silver", "gold", "models", "flights", "jobs")
CODE = (*PLATFORM, *EXAMPLE, "deploy", "benchmarks")
FILES = (
    "Makefile",
    ".env.example",
    "docker-compose.yml",
    "README.md",
    "docs/**/*.md",
    "deploy/**/*[!c]",
    "conf/**/*.*",
)
# Documents on disk, in MLflow, of the API, or printed by --json. Some keys tell a document's dict or class from others.
DOCUMENTS = """
commit record: run batch generation inputs fingerprint; consumed version: version generation; lease: lease_seconds token
manifest: source batch files rejected_files; landed file: path identity file_id; rejected file: path identity reason
extract: number after until file; training.json: id started_at metrics baseline
made from: feature_table declared candidate_params; digest: path size checksum
recipe.json: fitted_on; bound for: lake registry; declared: key label time splits; learner.json: learner module
environment: python packages device threads; candidates.json: chosen candidates; candidate: params train validation
lock: run since jvms; lock holder: pid created host; released lease: released token; Data Docs: table run
run tags: mlflow.source.git.commit; decision: decision decision_reason; MLflow input: context digest rows
study: learner space seed; failed trial: error trace; journal: request_id model_name at; gap: first last partition_count
plan: table action reasons downstream; status: table state gaps; tables: table write bytes; problem: detail faults
history: version operation record; quarantine: table rules outcomes; reconcile: table row_counts differences
prediction: probability model_version alias unknown; version: run_id input_columns typical; model: serving canary
"""
FACTS = ("required", "default", "min", "max", "nargs", "multiple", "is_flag", "metavar", "envvar", "hidden", "help")
VARIABLE = re.compile(r"\b(?:LAKEHOUSE|SERVING|AWS|MLFLOW|(?:PY)?SPARK|OPENLINEAGE|JAVA|PG)[A-Z0-9_]*[A-Z0-9]\b")
TYPE = re.compile(r"(string|boolean|tinyint|smallint|int|bigint|float|double|date|timestamp(_ntz)?|binary|array<\w+>)$")
PATH = re.compile(r"\S*\.(jsonl?|db|parquet|lock|token|log|html|png|csv)$|(delta|spark)\.\S+$|[\w{}…]+(/[\w{}….-]+)+$")


@cache
def read_code(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of the modules in these folders, by the modules' names."""
    if folders != CODE:  # each file is parsed once
        return {name: tree for name, tree in read_code(*CODE).items() if name.partition(".")[0] in folders}
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return {name: ast.parse(file.read_text("utf-8")) for name, file in zip(names, files, strict=True)}


def read_template(node: ast.AST | None) -> str:
    """Return the text of a literal, an f-string or a sum of these, with {…} for computed parts."""
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else []
    parts = node.values if isinstance(node, ast.JoinedStr) else parts
    text = str(node.value) if isinstance(node, ast.Constant) else "{…}"
    return "".join(map(read_template, parts)) or text


@cache
def list_strings(*folders: str) -> set[str]:
    """Return all literals and templates but docstrings."""
    nodes = [node for tree in read_code(*folders).values() for node in ast.walk(tree)]
    skipped = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    literals = [node for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in skipped]
    return {text for text in map(read_template, literals) if re.search(r"[A-Za-z]", text)}


def load_definition(name: str) -> Any:
    """Import the definition of a name from its module of the platform."""
    home = next(m for m, t in read_code("lakehouse").items() for n in t.body if getattr(n, "name", "") == name)
    return getattr(importlib.import_module(home), name)


def walk_commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each command of Typer with its full name. A group comes before its commands."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk_commands(child, f"{path} {name}")


def list_commands(program: Any) -> Iterator[str]:
    """Yield each command of Typer with its parameters. A group comes before its commands."""
    for path, command in walk_commands(program, "lakehouse"):
        yield f"{path}: {command.help}"
        for param in command.params:
            facts = {name: vars(param).get(name) for name in FACTS if vars(param).get(name) is not None}
            kind = f"{param.type_descriptor.annotation} {param.type_descriptor.parameter_info.formats or ''}"
            yield f"{path} {' '.join(param.opts + param.secondary_opts)} ({param.param_type_name}): {kind} {facts}"


def list_programs() -> Iterator[str]:
    """Yield the command line, and the scripts of jobs and others with their arguments."""
    module = re.findall(r'^lakehouse = "(.*):', (ROOT / "pyproject.toml").read_text(), re.M)[0]
    groups = [value for value in vars(importlib.import_module(module)).values() if isinstance(value, typer.Typer)]
    program = max(groups, key=lambda group: len(group.registered_commands) + len(group.registered_groups))
    yield from list_commands(typer.main.get_command(program))
    for name, tree in read_code("jobs", "deploy", "benchmarks").items():
        texts = [ast.unparse(node) for node in [*tree.body, *ast.walk(tree)] if isinstance(node, ast.If | ast.Call)]
        yield from (f"{name}: {text}" for text in texts if re.match(r"if __name__|\w+\.add_argument\(", text))


def list_settings() -> Iterator[str]:
    """Yield the settings, the values in conf/, and the environment variables that code and other files name."""
    settings = load_definition("Settings")
    for key, field in settings.model_fields.items():
        facts = re.sub(r"function \w+ at \w+|\b(?:[a-z]\w*\.)+", "", repr(field))
        yield f"{settings.model_config['env_prefix']}{key.upper()}: {facts}"
    for file in [*ROOT.glob("conf/**/*.*"), *ROOT.glob("lakehouse/**/*.*")]:
        lines = file.read_text().splitlines() if file.suffix in (".yml", ".conf") else []
        yield from (f"{file.name}: {line}" for line in lines if line and line[0] != "#")
    texts = [file.read_text() for pattern in FILES for file in ROOT.glob(pattern) if file.is_file()]
    yield from (f"variable in code: {name}" for name in VARIABLE.findall("\n".join(list_strings(*CODE))))
    yield from (f"variable in other files: {name}" for name in VARIABLE.findall("\n".join(texts)))


def list_errors() -> Iterator[str]:
    """Yield the exceptions with their bases and arguments, and the messages of each."""
    nodes = [node for tree in read_code(*CODE).values() for node in ast.walk(tree)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    errors = {"Exception", "add_note"}
    while more := {name for name, node in classes.items() if errors & {*map(ast.unparse, node.bases)}} - errors:
        errors |= more
    yield from (outline(classes[name]) for name in errors & classes.keys())
    calls = [(getattr(n.func, "attr", getattr(n.func, "id", "")), n) for n in nodes if isinstance(n, ast.Call)]
    yield from (f"{name}: {' '.join(map(read_template, call.args))}" for name, call in calls if name in errors)


def list_layout() -> Iterator[str]:
    """Yield documents, columns, files and folders, properties, and the example's tables with the hash of each."""
    nodes = [node for tree in read_code(*PLATFORM).values() for node in ast.walk(tree)]
    dicts = [node for node in nodes if isinstance(node, ast.Dict)]
    shapes = [[read_template(key) if key else "**" for key in node.keys] for node in dicts]
    bodies = [node.body for node in nodes if isinstance(node, ast.ClassDef)]
    shapes += [[ast.unparse(n.target) for n in body if isinstance(n, ast.AnnAssign)] for body in bodies]
    for title, keys in re.findall(r"([^;\n]+): ([^;\n]+)", DOCUMENTS):
        matches = [shape for shape in shapes if {*keys.split()} <= {*shape}] or [["none"]]
        exact = [shape for shape in matches if {*shape} - {"**"} == {*keys.split()}]
        yield from (f"document, {title.strip()}: {' '.join(sorted(shape))}" for shape in exact or matches)
    for node in dicts:
        columns = {read_template(k): read_template(v) for k, v in zip(node.keys, node.values, strict=True)}
        if columns and all(map(TYPE.match, columns.values())):
            yield f"columns: {columns}"
    parts = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "joinpath"]
    parts += [argument for call in calls for argument in call.args]
    names = [*map(read_template, parts), *filter(PATH.match, list_strings(*PLATFORM))]
    yield from (f"path or property: {name}" for name in names if re.search("[A-Za-z]", name))
    modules = [importlib.import_module(name) for name in read_code("bronze", "silver", "gold")]
    for table in [value for module in modules for value in vars(module).values() if hasattr(value, "stats")]:
        facts = {name: value for name, value in vars(table).items() if name not in ("name", "function", "inputs")}
        facts["hash"] = load_definition("compute_fingerprint")(table)
        yield from (f"{table.name} {name}: {value}" for name, value in facts.items())


def find_uses() -> Iterator[tuple[str, str]]:
    """Yield the module and name of each part of the platform that the example, the documents and notebooks use."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]
    texts = [path.read_text() for path in pages]
    sources = [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.S)]
    yield from (("", name) for text in texts for name in re.findall(r"`([A-Z][a-z]\w+)", text))
    cells = [cell for file in ROOT.glob("notebooks/*.ipynb") for cell in json.loads(file.read_text())["cells"]]
    sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for tree in [*read_code(*EXAMPLE).values(), *map(ast.parse, sources)]:
        imports = [(n.module, a) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module for a in n.names]
        modules = {a.asname or a.name: f"{m}.{a.name}" for m, a in imports if f"{m}.{a.name}" in read_code(*PLATFORM)}
        yield from ((m, a.name) for m, a in imports if m.split(".")[0] in PLATFORM and a.name not in modules)
        pairs = [(ast.unparse(n.value), n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
        yield from ((modules[name], attribute) for name, attribute in pairs if name in modules)


def outline(node: ast.AST) -> str:
    """Return a function's signature, the public members of a class, or a constant."""
    pattern = r"class|@|    @|    def (?!_[a-z])|    [a-z]\w*: " if isinstance(node, ast.ClassDef) else r"\S"
    return " ".join(line.strip() for line in ast.unparse(node).splitlines() if re.match(pattern, line))


def main() -> None:
    """Print the inventory, or write it to the file named on the command line."""
    sys.path.insert(0, str(ROOT))  # an installed project may be another one
    nodes = [(module, node) for module, tree in read_code(*PLATFORM).items() for node in tree.body]
    defined = {(m, getattr(n, "name", "") or ast.unparse(n).partition(" ")[0].rstrip(":")): n for m, n in nodes}
    uses = set(find_uses())
    moved = {name for module, name in uses if (module, name) not in defined}
    public = {place: node for place, node in defined.items() if place in uses or place[1] in moved}
    parts = re.split(r"\n(?=#)", (ROOT / "docs" / "benchmarks.md").read_text())
    rows = [f"{part.splitlines()[0]} {row}" for part in parts for row in re.findall(r"^\|(?! -).*|^#.*", part, re.M)]
    sections: dict[str, Iterable[str]] = {
        "commands": list_programs(),
        "settings": list_settings(),
        "errors": list_errors(),
        "disk layout": list_layout(),
        "benchmarks": [*rows, *(f"text: {text}" for text in list_strings("benchmarks"))],
        "public names": [f"{name}: {outline(node)}" for (_, name), node in public.items()],
        "other strings": list_strings(*CODE[:-1]),
        "modules": [f"{name}: {module}" for module, name in public] + [f"module {name}" for name in read_code(*CODE)],
    }
    lines = []
    for title, entries in sections.items():
        lines += [f"\n== {title} ==\n", *sorted({re.sub(r"\s*\n\s*", " ⏎ ", entry.strip()) for entry in entries})]
    text = "\n".join(lines).replace(str(ROOT), "PROJECT") + "\n"
    Path(sys.argv[1]).write_text(text) if sys.argv[1:] else sys.stdout.write(text)


if __name__ == "__main__":
    main()
