"""Generate the reference pages of the site from the code.

`pages()` returns Markdown by page path: recipe fields from the pydantic models, commands from the
argument parser, error codes from the `raise` statements, metrics from their table, and the public
Python API as mkdocstrings directives.
"""

from __future__ import annotations

import argparse
import ast
import html
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]


def pages() -> dict[str, str]:
    """Return every generated page: path below the site -> Markdown."""
    return {
        "reference/recipe.md": recipe_page(),
        "reference/cli.md": cli_page(),
        "reference/api.md": api_page(),
        "reference/errors.md": errors_page(),
        "reference/metrics.md": metrics_page(),
        "reference/modules.md": modules_page(),
    }


def cell(text: str) -> str:
    """Return `text` as the content of a table cell: one line, with pipes and angle brackets escaped."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def code(text: str) -> str:
    """Return `text` as inline code of a table cell."""
    return "`" + " ".join(text.split()).replace("|", "\\|") + "`"


# Recipe


class RecipeField(NamedTuple):
    """One field of the recipe: `names` are its dotted names, several where sections share a model."""

    names: tuple[str, ...]
    field: FieldInfo


def is_section(annotation: Any) -> bool:
    """Return whether an annotation is a pydantic model, whose fields are listed by themselves."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def members(annotation: Any) -> list[Any]:
    """Return the types that an annotation admits: those of a union, or itself, without metadata."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in members(member)]
    return [annotation]


def inner_sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models that a field holds, each with what follows the field's name: "", ".NAME"."""
    for kind in members(annotation):
        if is_section(kind):
            yield "", kind
        elif get_origin(kind) is dict:
            values = members(get_args(kind)[1])
            yield from ((".NAME", value) for value in values if is_section(value))


def recipe_sections() -> dict[type[BaseModel], tuple[str, ...]]:
    """Return every model of the recipe with the dotted names of the sections that it describes."""
    from omnicore.config.recipe import Recipe

    found: dict[type[BaseModel], tuple[str, ...]] = {}

    def visit(model: type[BaseModel], name: str) -> None:
        found[model] = (*found.get(model, ()), name)
        for field_name, field in model.model_fields.items():
            for suffix, inner in inner_sections(field.annotation):
                visit(inner, f"{name}.{field_name}{suffix}".lstrip("."))

    visit(Recipe, "")
    return found


def type_name(annotation: Any) -> str:
    """Return an annotation in words: `int`, `"a" or "b"`, `mapping of string to number`."""
    names = {str: "string", int: "integer", float: "number", bool: "true or false", Any: "any"}
    options = []
    for kind in members(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            options.append(" or ".join(f'"{value}"' for value in arguments))
        elif origin in (tuple, list):
            options.append(f"list of {type_name(arguments[0])}")
        elif origin is dict:
            options.append(f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}")
        elif kind is type(None):
            options.append("null")
        elif is_section(kind):
            options.append("section")
        else:
            options.append(names.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(options)


def bounds(field: FieldInfo) -> str:
    """Return the limits of a field, as in `≥ 1, < 2`; an empty string where it has none."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = []
    for constraint in field.metadata:
        for name, sign in signs.items():
            if getattr(constraint, name, None) is not None:
                limits.append(f"{sign} {getattr(constraint, name)}")
        if getattr(constraint, "min_length", None):
            limits.append(f"length ≥ {constraint.min_length}")
        if getattr(constraint, "pattern", None):
            limits.append(f"matches {constraint.pattern}")
    return ", ".join(limits)


def default_text(field: FieldInfo) -> str:
    """Return a field's default as YAML writes it; empty for a section or a required field."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str([str(item) for item in value])
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def section_table(model: type[BaseModel], prefix: str) -> list[str]:
    """Return the table of a section's fields, named as `--set` names them."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        dotted = f"{prefix}.{name}".lstrip(".")
        limits = bounds(field)
        kind = type_name(field.annotation) + (f"; {limits}" if limits else "")
        default = "required" if field.is_required() else default_text(field)
        shown = code(default) if default not in ("", "required") else default
        meaning = cell(field.description or "")
        rows.append(f"| {code(dotted)} | {cell(kind)} | {shown} | {meaning} |")
    return rows


def recipe_page() -> str:
    """Return the page with every field of every section of a recipe."""
    lines = [
        "# Recipe fields",
        "",
        "A recipe is a YAML file with the sections below; `--set section.field=value` changes one"
        " value. `omnicore recipe show NAME` prints all values of a recipe.",
        "",
        "Unknown fields are refused. Every number is finite and at most 4294967295 (2^32 - 1).",
        "",
    ]
    for model, names in recipe_sections().items():
        lines += [f"## {', '.join(names) if names[0] else 'Top level'}", ""]
        lines += [inspect.getdoc(model) or "", ""]
        if len(names) > 1:
            others = " and ".join(f"`{name}`" for name in names[1:])
            lines += [f"Fields of `{names[0]}`; the same ones exist in {others}.", ""]
        lines += [*section_table(model, names[0]), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


# Command line


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and, below it, that of every command and nested command."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from commands(inner)


def cli_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the `omnicore` command."""
    from omnicore.cli.main import create_parser

    return create_parser()


def option_rows(parser: argparse.ArgumentParser) -> list[str]:
    """Return the table rows of one command's arguments and options, `--help` left out."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        takes_value = action.option_strings and action.nargs != 0
        value = action.metavar or action.dest.upper() if takes_value else ""
        if action.choices:
            value = " or ".join(map(str, action.choices))
        text = (action.help or "") % {"default": action.default, "prog": parser.prog}
        needed = "yes" if action.required else ""
        rows.append(f"| {code(f'{name} {value}'.strip())} | {needed} | {cell(text)} |")
    return rows


def cli_page() -> str:
    """Return the page with every command and its options."""
    lines = ["# Command line", ""]
    for parser in commands(cli_parser()):
        lines += [f"## {parser.prog}", ""]
        if parser.description:
            lines += ["```text", parser.description.strip(), "```", ""]
        rows = option_rows(parser)
        if rows:
            lines += ["| option | required | meaning |", "|---|---|---|", *rows, ""]
        if parser.epilog:
            lines += ["```text", parser.epilog.strip(), "```", ""]
    return "\n".join(lines)


# Python API


def public_names() -> dict[str, str]:
    """Return the public API: name in `omnicore.__all__` -> path of the object that it names."""
    import omnicore

    objects = {name: getattr(omnicore, name) for name in omnicore.__all__}
    return {
        name: f"{value.__module__}.{value.__qualname__}"
        for name, value in objects.items()
        if hasattr(value, "__qualname__")
    }


def api_page() -> str:
    """Return the page that documents the names of the public API by mkdocstrings."""
    lines = [
        "# Python API",
        "",
        "`import omnicore` gives these names. They import neither torch nor transformers; other"
        " modules may change without notice.",
        "",
    ]
    for path in public_names().values():
        lines += [f"::: {path}", ""]
    return "\n".join(lines)


# Error codes


class ErrorCode(NamedTuple):
    """One `raise` with a code: where it stands and what its message says."""

    code: str
    error: str
    message: str
    module: str


def message_text(node: ast.expr | None) -> str:
    """Return a message as written, with `{...}` in place of what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return message_text(node.value) if is_text(node.value) else placeholder(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return message_text(node.left) + message_text(node.right)
    return placeholder(node) if node else ""


def is_text(node: ast.expr) -> bool:
    """Return whether an expression is a literal text."""
    return isinstance(node, ast.Constant | ast.JoinedStr)


def placeholder(node: ast.expr) -> str:
    """Return `{name}` for a variable or an attribute, `{...}` for any other expression."""
    names = {ast.Name: "id", ast.Attribute: "attr"}
    return "{" + getattr(node, names.get(type(node), ""), "...") + "}"


def error_codes(root: Path = ROOT / "omnicore") -> list[ErrorCode]:
    """Return every call below `root` that passes a literal `code=`, sorted by code and module."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                value = keyword.value
                if keyword.arg != "code" or not isinstance(value, ast.Constant) or not value.value:
                    continue
                message = message_text(node.args[0] if node.args else None)
                error = ast.unparse(node.func).rpartition(".")[2]
                found.append(ErrorCode(str(value.value), error, message, module))
    return sorted(set(found))


def errors_page() -> str:
    """Return the page with every error code."""
    lines = [
        "# Error codes",
        "",
        "The command line prints an error that a user can fix with its code and exits with status 2."
        " Codes are stable; messages are not. `{...}` in a message stands for a value.",
        "",
        "| code | class | message | module |",
        "|---|---|---|---|",
    ]
    for error in error_codes():
        lines.append(
            f"| {code(error.code)} | {code(error.error)} | {cell(error.message)} |"
            f" {code(error.module)} |"
        )
    return "\n".join(lines) + "\n"


# Metrics


def metrics_page() -> str:
    """Return the page with every Prometheus metric."""
    from omnicore.telemetry.metrics import METRICS, SERVE_METRICS

    lines = [
        "# Metrics",
        "",
        "Metrics that a step serves, pushes and writes to `metrics.prom`; then those of `omnicore"
        " serve`. [Monitoring](../operate.md) describes how they are collected.",
        "",
    ]
    for title, table in (("Steps", METRICS), ("omnicore serve", SERVE_METRICS)):
        rows = [f"## {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for name, metric in table.items():
            labels = ", ".join(code(label) for label in metric.labels)
            rows.append(f"| {code(name)} | {metric.kind} | {labels} | {cell(metric.help)} |")
        lines += [*rows, ""]
    return "\n".join(lines)


# Modules


def modules_page(root: Path = ROOT / "omnicore") -> str:
    """Return the page with every module of the package and the first paragraph of its docstring."""
    lines = ["# Modules", "", "[Architecture](../architecture.md) explains the packages.", ""]
    folder = None
    for path in sorted(root.rglob("*.py"), key=lambda path: (path.parent, path.name)):
        if path.parent != folder:
            folder = path.parent
            name = ".".join(folder.relative_to(root.parent).parts)
            about = first_paragraph(folder / "__init__.py")
            lines += ["", f"## {name}", "", about, "", "| module | purpose |", "|---|---|"]
        if path.name != "__init__.py":
            lines.append(f"| {code(path.stem)} | {cell(first_paragraph(path))} |")
    return "\n".join(lines) + "\n"


def first_paragraph(path: Path) -> str:
    """Return the first paragraph of a module's docstring on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
