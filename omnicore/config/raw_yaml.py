"""YAML whose unquoted scalars keep the text that was written until the field that takes them is
known.

YAML 1.1 reads `12.10` as 12.1, `12:30` as 750, `0755` as 493 and `no` as false. For a number that
may be what was meant; for a text, as a version or a file mode in `launcher.env`, it is another
value. So scalars stay texts (`Plain`), `fitted` gives a text field its text, and pydantic reads the
numbers and booleans.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import yaml


class Plain(str):
    """An unquoted scalar, as it was written."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    # Only the merge key `<<` is still resolved.
    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012 - as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: PyYAML lets the last one win."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    return Plain(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:str", _text)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


_Dumper.add_representer(Plain, lambda dumper, text: dumper.represent_str(str(text)))
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def load(text: str) -> Any:
    """The value of a YAML text, its unquoted scalars as `Plain`.

    Raises yaml.YAMLError, also for a key that occurs twice.
    """
    return yaml.load(text, _Loader)


def dump(value: Any) -> str:
    """A value of `load` as one line of YAML that `load` reads as the same value."""
    if isinstance(value, Plain):
        return str(value)
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True
    ).strip()


def fit_to_field(value: Any, annotation: Any) -> Any:
    """`value` with every `Plain` as the type of its field takes it: null where the field may be
    null, YAML's own reading where it may be anything (objects of Kubernetes), else the text, which
    pydantic reads on.

    Inner models fit their own fields.
    """
    kinds = union_members(annotation)
    if isinstance(value, Plain):
        if Any in kinds or object in kinds:
            return _resolved(value)
        return None if types.NoneType in kinds and _resolved(value) is None else str(value)
    inner = next(
        (get_args(kind) for kind in kinds if get_origin(kind) in (dict, list, tuple)), (Any,)
    )
    if isinstance(value, Mapping) and not any(
        isinstance(kind, type) and hasattr(kind, "model_fields") for kind in kinds
    ):
        return {str(key): fit_to_field(item, inner[-1]) for key, item in value.items()}
    if isinstance(value, list):
        return [fit_to_field(item, inner[0]) for item in value]
    return value


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The types that a field's annotation admits."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return union_members(get_args(annotation)[0])
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)


def _resolved(text: str) -> Any:
    """What YAML makes of an unquoted scalar."""
    loader: Any = yaml.SafeLoader("")
    return loader.construct_object(
        yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
    )
