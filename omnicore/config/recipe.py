"""`Recipe`: everything that a run is.

A recipe is a YAML file; dotted overrides (`rlvr.steps=40`) change single values. Unknown or
mistyped fields are refused with the field's path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from omnicore.config import (
    CleanConfig,
    Config,
    DistillConfig,
    EngineConfig,
    EvaluateConfig,
    LauncherConfig,
    PrepareConfig,
    ProbeConfig,
    Profile,
    PromoteConfig,
    ReportConfig,
    RlvrConfig,
    SftConfig,
    TrackerConfig,
    digest,
    raw_yaml,
    result_fields,
)
from omnicore.config.renamed import present_name
from omnicore.errors import ConfigError
from omnicore.schema import View


class Recipe(Config):
    """Everything that a run is.

    The seed moves training and sampling; the benchmark's own queries never change.
    """

    name: str
    seed: int = Field(0, ge=0, le=2**32 - 1)
    threads: int = Field(
        2, ge=1, description="CPU threads of torch; more than the machine has cores are not used"
    )
    model: str = Field(
        "embedded:tiny-base", description="the model under study: a directory or embedded:NAME"
    )
    engine: EngineConfig = Field(EngineConfig(), description="who answers in evaluate and distill")
    launcher: LauncherConfig = LauncherConfig()
    tracker: TrackerConfig = TrackerConfig()
    profile: Profile = Profile()
    prepare: PrepareConfig = PrepareConfig()
    probe: ProbeConfig
    second_probe: ProbeConfig
    distill_probe: ProbeConfig = Field(
        description="the prompts of distill by the picture alone; what is not said is as in `probe`"
    )
    clean: CleanConfig = CleanConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sft: SftConfig = SftConfig(data="sft.jsonl")
    rlvr: RlvrConfig = RlvrConfig()
    distill: DistillConfig = DistillConfig()
    sft_distilled: SftConfig = SftConfig(data="distilled.jsonl")
    report: ReportConfig = ReportConfig()
    promote: PromoteConfig = PromoteConfig()

    @model_validator(mode="before")
    @classmethod
    def _prompts_of_distill_are_probed_as_the_benchmarks_are(cls, values: Any) -> Any:
        """Fills `distill_probe` up from `probe`: who changes the probe's model or server means that
        of the prompts, too."""
        sections = (
            [values.get(name, {}) for name in ("probe", "distill_probe", "distill")]
            if isinstance(values, dict)
            else []
        )
        if not sections or not all(isinstance(section, dict) for section in sections):
            return values
        probe, own, distill = sections
        draws, engines = (
            probe.get("draws"),
            [section["engine"] for section in (probe, own) if "engine" in section],
        )
        filled = {name: probe[name] for name in ProbeConfig.model_fields if name in probe}
        filled["data"] = distill.get("data", DistillConfig().data)
        if isinstance(draws, dict):
            filled["draws"] = {
                view: count for view, count in draws.items() if view == View.visual_only
            }
        filled |= own
        if len(engines) == 2 and all(isinstance(engine, dict) for engine in engines):
            filled["engine"] = {**engines[0], **engines[1]}
        return {**values, "distill_probe": filled}

    @property
    def cores(self) -> int:
        """`threads`, but no more than the cores that this process may use: more of them wait for
        one another."""
        return min(self.threads, len(os.sched_getaffinity(0)))

    @property
    def identity(self) -> str:
        """Hash of all values that can decide an answer, of whatever step."""
        whole = result_fields(self.model_dump(mode="json"))
        # The profile's `server` is another thing than a training's, which only says where it is.
        return digest(
            {
                name: result_fields(v) if isinstance(v, dict) and name != "profile" else v
                for name, v in whole.items()
            }
        )


# Sections that reuse a step under another name; every other section is the step of its name.
SECTION_STEP = {"second_probe": "probe", "distill_probe": "probe", "sft_distilled": "sft"}


def recipe_names() -> list[str]:
    return sorted(
        p.name.removesuffix(".yaml")
        for p in (files("omnicore.config") / "recipes").iterdir()
        if p.name.endswith(".yaml")
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or a YAML file by path, and apply overrides.

    A file that `extends` a recipe, by name or by a path relative to itself, takes over the values
    that it does not give. Sections are merged; a list or mapping that is a value, as
    `probe.draws`, is replaced whole. In a file, a path that begins with `./` or `../` is relative
    to the file.

    Args:
        name: Name of a shipped recipe, or path that ends in .yaml or .yml.
        overrides: `dotted.field=value` with YAML values, applied last.

    Raises:
        ConfigError: The file is missing or not a recipe; the message names file and field.
    """
    values = _read_values(name, ())
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, name)


def _read_values(name: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of a recipe, merged into those of the one that it extends."""
    if name in extended_by:
        chain = " extends ".join((*extended_by, name))
        raise ConfigError(
            f"recipes extend one another: {chain}; take one `extends` out",
            code="recipe-extends-itself",
            field="extends",
            path=name,
        )
    text, folder = _recipe_text(name)
    try:
        values = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"recipe {name} is not YAML: {error}", code="recipe-not-yaml", path=name
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"recipe {name} must be a mapping of sections", code="recipe-not-mapping", path=name
        )
    if folder is not None:
        values = {
            key: value if key == "profile" else _beside(value, folder)
            for key, value in values.items()
        }
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(
            f"recipe {name}: extends names one recipe, not {base!r:.60}",
            code="recipe-extends-invalid",
            field="extends",
            path=name,
        )
    if folder is not None and base.endswith((".yaml", ".yml")):
        base = os.path.normpath(folder / base)
    own_name = {"name": Path(name).stem} if "name" not in values else {}
    return _merged(_read_values(base, (*extended_by, name)), values | own_name, ())


def _recipe_text(name: str) -> tuple[str, Path | None]:
    """Return the text of a recipe, and the folder of its file; None for a shipped one."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"recipe {name}: no such file", code="recipe-missing", path=name)
        return path.read_text(), path.parent
    if name in recipe_names():
        return (files("omnicore.config") / "recipes" / f"{name}.yaml").read_text(), None
    raise ConfigError(
        f"no recipe {name!r}: shipped are {', '.join(recipe_names())}; or give the path of a"
        " .yaml file",
        code="recipe-unknown",
    )


def _beside(value: Any, folder: Path) -> Any:
    """Return a value whose paths that begin with ./ or ../ are relative to `folder`."""
    if isinstance(value, dict):
        return {key: _beside(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return os.path.normpath(folder / value)
    return value


def _merged(
    base: Mapping[str, Any], own: Mapping[str, Any], place: tuple[str, ...]
) -> dict[str, Any]:
    """Return the values of `own` in those of `base`, section by section."""
    result = dict(base)
    for key, value in own.items():
        path = (*place, key)
        is_section = bool(_fields(_field_type(path)))
        inherited = result.get(key)
        if is_section and isinstance(value, dict) and isinstance(inherited, dict):
            result[key] = _merged(inherited, value, path)
        else:
            result[key] = value
    return result


def recipe_from_json(text: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its own JSON, with overrides.

    Raises ConfigError.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ConfigError(f"--recipe-json is no recipe: {error}") from error
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, str(values.get("name", "--recipe-json")))


def parse_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a mapping of sections.

    Raises ConfigError naming every wrong field.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = [_fault(detail) for detail in error.errors()]
        first = min(faults, key=lambda fault: fault.code != "recipe-renamed-field")
        listed = "\n".join(f"  {fault.message}" for fault in faults)
        raise ConfigError(
            f"recipe {name} has {len(faults)} wrong field(s):\n{listed}",
            code=first.code,
            field=first.field,
        ) from error


class _Fault(NamedTuple):
    """What is wrong with one field of a recipe."""

    code: str
    field: str
    message: str


def _fault(error: ErrorDetails) -> _Fault:
    """Describe one validation error; for an unknown field also the fields that there are."""
    *parents, last = map(str, error["loc"] or ("recipe",))
    place = ".".join([*parents, last])
    section = _annotation(parents)
    is_section = isinstance(section, type) and issubclass(section, BaseModel)
    if error["type"] != "extra_forbidden" or not is_section:
        code = "recipe-missing-field" if error["type"] == "missing" else "recipe-invalid-value"
        return _Fault(code, place, f"{place}: {error['msg']} (got {error['input']!r:.80})")
    if renamed := present_name(section, last):
        present = ".".join([*parents, renamed])
        return _Fault("recipe-renamed-field", place, f"{place}: renamed to {present}")
    near = get_close_matches(last, section.model_fields, 1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    fields = ", ".join(section.model_fields)
    return _Fault(
        "recipe-unknown-field",
        place,
        f"{place}: no such field; {suggestion}{'.'.join(parents) or 'A recipe'} has {fields}",
    )


def _annotation(path: Sequence[str]) -> Any:
    """Return the first type of the field at a dotted path, None where there is no such field."""
    members = raw_yaml.union_members(_field_type(path))
    return next((kind for kind in members if kind is not type(None)), None)


def _field_type(path: Sequence[str]) -> Any:
    """Return the annotation of the field at a dotted path, None where there is no such field."""
    found: Any = Recipe
    for part in path:
        field = _fields(found).get(part)
        if field is None:
            found = next(
                (
                    get_args(kind)[1]
                    for kind in raw_yaml.union_members(found)
                    if get_origin(kind) is dict
                ),
                None,
            )
        else:
            found = field.annotation
    return found


def _fields(annotation: Any) -> Mapping[str, FieldInfo]:
    """The fields of the section that an annotation admits; none where it is no section."""
    sections = (
        kind
        for kind in raw_yaml.union_members(annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    )
    return next((section.model_fields for section in sections), {})


def _default(path: Sequence[str]) -> Any:
    """The default of the field at a dotted path; None where it has none."""
    field = _fields(_annotation(path[:-1]) if len(path) > 1 else Recipe).get(path[-1])
    return (
        field.get_default(call_default_factory=True, validated_data={})
        if field and not field.is_required()
        else None
    )


def _override(values: dict[str, Any], override: str) -> None:
    field, equals, text = override.partition("=")
    if not equals or not field:
        raise ConfigError(f"override {override!r}: write field=value, as in rlvr.steps=40")
    *parents, last = path = field.split(".")
    for depth, parent in enumerate(parents, 1):
        inner = values.get(parent, {})
        if parent not in values and isinstance(default := _default(path[:depth]), dict):
            inner = default  # one member of a mapping is changed, and the others are not lost
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        # A copy: what YAML says once, by an anchor, is one mapping in all sections that take it over.
        values[parent] = {**inner}
        values = values[parent]
    quoted = text.lstrip().startswith(('"', "'"))
    # A field that takes a text or a section has a section where the value is written as a mapping.
    section = bool(_fields(_field_type(path))) and text.lstrip().startswith("{")
    if _annotation(path) is str and not quoted and not section:
        values[last] = text  # as it is: in YAML a colon or a # would end it
        return
    try:
        values[last] = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML; quote it") from error
