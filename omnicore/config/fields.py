"""Look up fields of a model by dotted path, and describe what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from omnicore.config.raw_yaml import union_members
from omnicore.config.renamed import present_name


class Fault(NamedTuple):
    """What is wrong with one field of a recipe."""

    code: str
    field: str
    message: str


def describe_fault(root: type[BaseModel], error: ErrorDetails) -> Fault:
    """Describe one validation error; for an unknown field also the fields that there are."""
    *parents, last = map(str, error["loc"] or ("recipe",))
    place = ".".join([*parents, last])
    section = first_type(root, parents)
    is_section = isinstance(section, type) and issubclass(section, BaseModel)
    if error["type"] != "extra_forbidden" or not is_section:
        code = "recipe-missing-field" if error["type"] == "missing" else "recipe-invalid-value"
        return Fault(code, place, f"{place}: {error['msg']} (got {error['input']!r:.80})")
    renamed = present_name(section, last)
    if renamed:
        present = ".".join([*parents, renamed])
        return Fault("recipe-renamed-field", place, f"{place}: renamed to {present}")
    near = get_close_matches(last, section.model_fields, 1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    fields = ", ".join(section.model_fields)
    return Fault(
        "recipe-unknown-field",
        place,
        f"{place}: no such field; {suggestion}{'.'.join(parents) or 'A recipe'} has {fields}",
    )


def first_type(root: type[BaseModel], path: Sequence[str]) -> Any:
    """Return the first type of the field at a dotted path, None if there is no such field."""
    for member in union_members(field_type(root, path)):
        if member is not type(None):
            return member
    return None


def field_type(root: type[BaseModel], path: Sequence[str]) -> Any:
    """Return the annotation of the field at a dotted path, None if there is no such field."""
    kind: Any = root
    for part in path:
        field = section_fields(kind).get(part)
        kind = field.annotation if field else _value_type(kind)
    return kind


def _value_type(annotation: Any) -> Any:
    """Return the type of the values of a mapping, None for other types."""
    for kind in union_members(annotation):
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return None


def section_fields(annotation: Any) -> Mapping[str, FieldInfo]:
    """Return the fields of the section that an annotation admits; none if it admits none."""
    for kind in union_members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_fields
    return {}


def default_of(root: type[BaseModel], path: Sequence[str]) -> Any:
    """Return the default of the field at a dotted path, None without one."""
    section = first_type(root, path[:-1]) if len(path) > 1 else root
    field = section_fields(section).get(path[-1])
    if not field or field.is_required():
        return None
    return field.get_default(call_default_factory=True, validated_data={})
