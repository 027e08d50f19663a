"""YAML whose unquoted scalars keep their text until the field that takes them is known.

YAML 1.1 reads `12.10` as 12.1, `12:30` as 750, `0755` as 493 and `no` as false. For a number that
may be what was meant; for a text, such as a version or a file mode in `launcher.env`, it is another
value. So scalars stay texts (`Plain`), `fit_to_field` gives a text field its text, and pydantic
reads the numbers and booleans.
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
        """Refuse a key that occurs twice: PyYAML takes the last one."""
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
    """Return the value of a YAML text, its unquoted scalars as `Plain`.

    Raises:
        yaml.YAMLError: The text is not YAML, or a key occurs twice.
    """
    return yaml.load(text, _Loader)


def dump(value: Any) -> str:
    """Return a value of `load` as one line of YAML that `load` reads as the same value."""
    if isinstance(value, Plain):
        return str(value)
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True
    ).strip()


def fit_to_field(value: Any, annotation: Any) -> Any:
    """Return `value` with every `Plain` as the type of its field takes it.

    It becomes None if the field may be None and YAML reads null, YAML's own value if the field
    takes anything (Kubernetes objects), and else its text, which pydantic parses. Inner models fit
    their own fields.
    """
    kinds = union_members(annotation)
    if isinstance(value, Plain):
        return _fit_scalar(value, kinds)
    inner: tuple[Any, ...] = (Any,)
    for kind in kinds:
        if get_origin(kind) in (dict, list, tuple):
            inner = get_args(kind)
            break
    if isinstance(value, Mapping) and not any(map(_is_model, kinds)):
        return {str(key): fit_to_field(item, inner[-1]) for key, item in value.items()}
    if isinstance(value, list):
        return [fit_to_field(item, inner[0]) for item in value]
    return value


def _fit_scalar(value: Plain, kinds: tuple[Any, ...]) -> Any:
    if Any in kinds or object in kinds:
        return _resolved(value)
    if types.NoneType in kinds and _resolved(value) is None:
        return None
    return str(value)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_fields")


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a field's annotation admits."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return union_members(get_args(annotation)[0])
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)


def _resolved(text: str) -> Any:
    """Return YAML's own value of an unquoted scalar."""
    loader: Any = yaml.SafeLoader("")
    return loader.construct_object(
        yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
    )
