"""Explain, compare and describe recipes: fields with their meaning, differences, a JSON schema."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from omnicore.config import SAVING, TRANSPORT, flat_fields
from omnicore.config.recipe import Recipe, load_recipe, recipe_names
from omnicore.errors import ConfigError

UNLIMITED = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class FieldHelp(NamedTuple):
    """One field of a recipe: its dotted path, type, default, limits and meaning.

    `default` is empty for a field that must be given; `decides` says whether its value is part of
    the key of a result.
    """

    path: str
    kind: str
    default: str
    limits: str
    description: str
    decides: bool


class Difference(NamedTuple):
    """A field with two values; None stands for a field that one recipe does not have."""

    path: str
    a: Any
    b: Any


def explain(path: str) -> list[FieldHelp]:
    """Return a field, or all fields of a section, an empty path being the whole recipe.

    Raises:
        ConfigError: There is no such field; the message names the nearest ones.
    """
    fields = list(_fields(Recipe, ""))
    chosen = [field for field in fields if not path or _belongs(field.path, path)]
    if chosen:
        return chosen
    known = [field.path for field in fields]
    near = get_close_matches(path, known, 3) or [
        name for name in known if name.endswith(f".{path.rpartition('.')[2]}")
    ]
    hint = f"; did you mean {' or '.join(near)}?" if near else "; see `omnicore recipe explain`"
    raise ConfigError(
        f"a recipe has no field {path!r}{hint}", code="recipe-unknown-field", field=path
    )


def recipe_differences(a: Recipe, b: Recipe) -> list[Difference]:
    """Return the fields whose values differ, in the order of the recipe."""
    first, second = (dict(flat_fields(recipe.model_dump(mode="json"))) for recipe in (a, b))
    paths = list(dict.fromkeys([*first, *second]))
    differences = [Difference(path, first.get(path), second.get(path)) for path in paths]
    return [found for found in differences if found.a != found.b and found.path != "name"]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, for editors.

    Nothing is required: a file may `extend` another one, and a validator fills sections up.
    """
    schema = Recipe.model_json_schema()
    for definition in schema["$defs"].values():
        definition.pop("required", None)
    names = recipe_names()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "shipped recipe or path of a YAML file whose values this file changes",
        "examples": names,
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "omnicore recipe"
    schema.pop("required", None)
    return schema


def section(recipe: Recipe, path: str) -> Any:
    """Return the values of a section or field of a recipe, as JSON has them.

    Raises:
        ConfigError: There is no such section.
    """
    values: Any = recipe.model_dump(mode="json")
    for part in path.split("."):
        if not isinstance(values, Mapping) or part not in values:
            explain(path)  # raises with the nearest field
            raise ConfigError(
                f"{path} is not set in recipe {recipe.name}", code="recipe-unset-field", field=path
            )
        values = values[part]
    return values


def _belongs(field: str, path: str) -> bool:
    return field == path or field.startswith(f"{path}.")


def _fields(model: type[BaseModel], place: str) -> Iterator[FieldHelp]:
    for name, field in model.model_fields.items():
        path = f"{place}{name}"
        inner = _section_type(field.annotation)
        if inner is not None:
            yield from _fields(inner, f"{path}.")
        else:
            yield _field_help(path, field)


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a field that is a section itself, not a mapping or list of some."""
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _field_help(path: str, field: FieldInfo) -> FieldHelp:
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in UNLIMITED.items()
        if getattr(limit, name, None) is not None
    ]
    default = (
        ""
        if field.is_required()
        else _value(field.get_default(call_default_factory=True, validated_data={}))
    )
    last = path.rpartition(".")[2]
    return FieldHelp(
        path,
        type_name(field.annotation),
        default,
        " and ".join(limits),
        field.description or "",
        last not in TRANSPORT and last not in SAVING and not path.startswith("launcher."),
    )


def _value(default: Any) -> str:
    if isinstance(default, BaseModel):
        return str(default.model_dump(mode="json"))
    return repr(default) if isinstance(default, str) else str(default)


def type_name(annotation: Any) -> str:
    """Return a type in words: `integer`, `one of a, b`, `mapping of text to number`."""
    names = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    if annotation in names:
        return names[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is dict:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}"
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return f"one of {', '.join(annotation.__members__)}"
    return getattr(annotation, "__name__", str(annotation))


def named_difference(a: str, b: str) -> list[Difference]:
    """Return the differences of two recipes by name or path; raises ConfigError."""
    return recipe_differences(load_recipe(a), load_recipe(b))
