"""Write the reference of commands, declarations and settings: python -m docs.generate [--check].

With --check nothing is written. The exit code is 1 where a page differs from the code.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
import yaml

import lakehouse
from docs.inventory import read_code, walk_commands
from lakehouse.cli.main import app
from lakehouse.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "`make reference` writes this page from the code. `make check` compares them.\n"
VALUES = {str: "text", Path: "path", bool: "flag", int: "number", float: "number", datetime: "YYYY-MM-DD"}
STARS = {inspect.Parameter.VAR_KEYWORD: "**"}
KINDS = {
    "Path": "path",
    "Location": "folder or `s3://bucket/prefix`",
    "str": "text",
    "float": "number",
    "int": "number",
}


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def describe_parameter(parameter: Any) -> tuple[str, str, str, str]:
    """Return the names, the values, the default and the help of a parameter."""
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    default = f"`{parameter.default}`" if parameter.default not in (None, False) else ""
    default = "required" if parameter.required else default
    return ", ".join(f"`{name}`" for name in names), list_allowed(parameter), default, parameter.help or ""


def list_allowed(parameter: Any) -> str:
    """Return what a parameter of a command may be."""
    kind = parameter.type_descriptor.annotation
    values = VALUES.get(kind, "")
    if get_origin(kind) is Literal:
        values = ", ".join(f"`{choice}`" for choice in get_args(kind))
    elif get_origin(kind) is list:
        values = f"{VALUES[get_args(kind)[0]]}, repeatable"
    lowest, highest = getattr(parameter, "min", None), getattr(parameter, "max", None)
    return values + (lowest is not None) * f", at least {lowest}" + (highest is not None) * f", at most {highest}"


def write_commands() -> str:
    """Return the page of all commands."""
    parts = ["# Commands\n", NOTE]
    for path, command in walk_commands(typer.main.get_command(app), "lakehouse"):
        parameters = [entry for entry in command.params if not getattr(entry, "hidden", False)]
        parts += [f"## {path}\n", inspect.cleandoc(command.help or "") + "\n"]
        if parameters:
            head = ("argument or option", "values", "default", "meaning")
            parts.append(write_table(head, list(map(describe_parameter, parameters))))
    return "\n".join(parts)


def format_docstring(text: str) -> str:
    """Return a docstring of Google's style as Markdown. Entries of its sections become lists."""
    lines, section = [], False
    for line in inspect.cleandoc(text).replace("``", "`").splitlines():
        if title := re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
            section = True
            lines += [f"**{title[1]}**", ""]
        elif section and (entry := re.match(r"    (\w+): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section and line.startswith("    "):
            lines.append(("  " if lines[-1].startswith(("- ", "  ")) else "") + line.strip())
        else:
            section = section and not line
            lines.append(line)
    return "\n".join(lines)


def format_parameter(parameter: inspect.Parameter, module: str) -> str:
    """Return a parameter as code. Aliases of literals are written out."""
    text = f"{STARS.get(parameter.kind, '')}{parameter.name}: {parameter.annotation}"
    for alias in re.findall(r"\b[A-Z]\w+", text):
        choices = getattr(sys.modules[module], alias, None)
        if get_origin(choices) is Literal:
            text = text.replace(alias, " | ".join(f'"{choice}"' for choice in get_args(choices)))
    if parameter.default is parameter.empty:
        return text.replace("'", '"')
    default = "Contract()" if parameter.default == lakehouse.Contract() else repr(parameter.default)
    return f"{text} = {default}".replace("'", '"')


def format_signature(name: str, value: Callable[..., Any]) -> str:
    """Return a signature as code, with one parameter a line where it is long."""
    signature = inspect.signature(value)
    entries, has_star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not has_star:
            entries, has_star = [*entries, "*"], True
        entries.append(format_parameter(parameter, value.__module__))
    result = f" -> {signature.return_annotation}" if inspect.isfunction(value) else ""
    text = f"{name}({', '.join(entries)}){result}"
    return text if len(text) <= 100 else f"{name}(\n" + "".join(f"    {entry},\n" for entry in entries) + f"){result}"


def read_comment(name: str) -> str:
    """Return the comment above a constant of the package's definitions."""
    for file in sorted((ROOT / "lakehouse" / "definitions").glob("*.py")):
        if match := re.search(rf"((?:^# .*\n)+){name}\b", file.read_text("utf-8"), re.M):
            return re.sub(r"^# ", "", match[1], flags=re.M)
    return ""


def write_declarations() -> str:
    """Return the page of the public names of the package `lakehouse`."""
    parts = ["# Declarations\n", NOTE, "`from lakehouse import source, table, Merge` imports these names.\n"]
    for name in lakehouse.__all__:
        value = getattr(lakehouse, name)
        parts.append(f"## {name}\n")
        if callable(value):
            parts += [
                f"```python\n{format_signature(name, value)}\n```\n",
                format_docstring(value.__doc__ or "") + "\n",
            ]
        else:
            text = f"{name} = {value!r}".replace("'", '"')
            parts += [f"```python\n{text}\n```\n", read_comment(name)]
    return "\n".join(parts)


def read_descriptions() -> dict[str, str]:
    """Return the docstring below each field of the settings."""
    tree = read_code("lakehouse")["lakehouse.settings"]
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    pairs = [(a.target, b.value) for a, b in pairwise(body) if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr)]
    return {ast.unparse(target): inspect.cleandoc(str(ast.literal_eval(text))) for target, text in pairs}


def describe_values(name: str, annotation: str) -> str:
    """Return what a setting may be."""
    field = Settings.model_fields[name]
    hint = get_type_hints(Settings)[name]
    if "Literal" in annotation:
        return ", ".join(f"`{value}`" if value else "empty" for value in get_args(hint))
    if annotation.startswith(("tuple", "dict")):
        return "list of modules" if annotation.startswith("tuple") else "mapping of names to modules"
    values = next((text for kind, text in KINDS.items() if re.search(rf"\b{kind}\b", annotation)), "name of a module")
    limits = {key: value for entry in field.metadata for key, value in find_limits(entry)}
    words = {"ge": ", at least {}", "le": ", at most {}", "pattern": " that matches `{}`"}
    return values + "".join(words[key].format(value) for key, value in limits.items())


def find_limits(entry: Any) -> Iterator[tuple[str, Any]]:
    """Yield the bounds and the pattern in the metadata of a setting."""
    for key in ("ge", "le", "pattern"):
        if getattr(entry, key, None) is not None:
            yield key, getattr(entry, key)


def format_default(name: str) -> str:
    """Return a setting's default in the code; empty where there is none."""
    field = Settings.model_fields[name]
    if field.is_required():
        return "required"
    return f"`{field.default}`" if field.default_factory is None and field.default not in (None, "") else ""


def write_settings() -> str:
    """Return the page of all settings."""
    tree = read_code("lakehouse")["lakehouse.settings"]
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    annotations = {ast.unparse(n.target): ast.unparse(n.annotation) for n in body if isinstance(n, ast.AnnAssign)}
    descriptions = read_descriptions()
    base = yaml.safe_load((ROOT / "conf" / "base.yml").read_text("utf-8"))
    rows = []
    for name in Settings.model_fields:
        value = base.get(name, "")
        text = ", ".join(value) if isinstance(value, list | dict) else str(value)
        allowed = describe_values(name, annotations[name])
        own = f"`{text}`" if text else ""
        rows.append((f"`{name}`", f"`{PREFIX}{name.upper()}`", allowed, format_default(name), own, descriptions[name]))
    head = ("setting", "variable", "values", "default", "this project's base.yml", "meaning")
    return "\n".join(
        [
            "# Settings\n",
            NOTE,
            "Settings are in `conf/base.yml` and in the profile's file, such as `conf/minio.yml`. "
            "A variable overrides both.",
            "In the variable, a list or a mapping is JSON. An unknown setting is refused by name.\n",
            write_table(head, rows),
        ]
    )


def main() -> int:
    """Write the pages, or compare them with the code."""
    pages = {"commands.md": write_commands(), "declarations.md": write_declarations(), "settings.md": write_settings()}
    pages = {name: re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n" for name, text in pages.items()}
    if "--check" not in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for name, text in pages.items():
            (FOLDER / name).write_text(text, "utf-8")
        return 0
    files = {name: FOLDER / name for name in pages}
    stale = [name for name, file in files.items() if not file.exists() or file.read_text("utf-8") != pages[name]]
    if stale:
        sys.stderr.write(f"docs/reference/{', '.join(stale)}: differs from the code. Run `make reference`.\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
