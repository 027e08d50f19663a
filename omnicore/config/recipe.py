"""`Recipe`: all settings of a run.

A recipe is a YAML file; dotted overrides (`rlvr.steps=40`) change single values. Unknown or
mistyped fields are refused with the field's path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

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
from omnicore.config.fields import (
    default_of,
    describe_fault,
    field_type,
    first_type,
    section_fields,
)
from omnicore.errors import ConfigError
from omnicore.schema import View


class Recipe(Config):
    """All settings of a run.

    The seed changes training and sampling; the queries of a benchmark never change.
    """

    name: str
    seed: int = Field(0, ge=0, le=2**32 - 1)
    threads: int = Field(
        2, ge=1, description="CPU threads of torch; at most as many as the machine has cores"
    )
    model: str = Field(
        "embedded:tiny-base", description="the model under study: a directory or embedded:NAME"
    )
    engine: EngineConfig = Field(
        EngineConfig(), description="the engine that answers in evaluate and distill"
    )
    launcher: LauncherConfig = LauncherConfig()
    tracker: TrackerConfig = TrackerConfig()
    profile: Profile = Profile()
    prepare: PrepareConfig = PrepareConfig()
    probe: ProbeConfig
    second_probe: ProbeConfig
    distill_probe: ProbeConfig = Field(
        description="the prompts of distill with pictures only; other fields default to `probe`"
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
    def _default_distill_probe(cls, values: Any) -> Any:
        """Fill missing fields of `distill_probe` from `probe`.

        A change of the probe's model or server then applies to both.
        """
        if not isinstance(values, dict):
            return values
        probe, own, distill = (
            values.get(name, {}) for name in ("probe", "distill_probe", "distill")
        )
        if not all(isinstance(section, dict) for section in (probe, own, distill)):
            return values
        filled = {name: probe[name] for name in ProbeConfig.model_fields if name in probe}
        filled["data"] = distill.get("data", DistillConfig().data)
        draws = probe.get("draws")
        if isinstance(draws, dict):
            filled["draws"] = {view: n for view, n in draws.items() if view == View.visual_only}
        filled |= own
        engine, own_engine = probe.get("engine"), own.get("engine")
        if isinstance(engine, dict) and isinstance(own_engine, dict):
            filled["engine"] = engine | own_engine
        return values | {"distill_probe": filled}

    @property
    def cores(self) -> int:
        """`threads`, at most the cores of this process: more threads would wait for one another."""
        return min(self.threads, len(os.sched_getaffinity(0)))

    @property
    def identity(self) -> str:
        """Hash of all fields that can change a result of any step."""
        fields = result_fields(self.model_dump(mode="json"))
        for name, section in fields.items():
            if isinstance(section, dict):
                fields[name] = result_fields(section)
        return digest(fields)


# Sections that reuse a step under another name; every other section is the step of its name.
SECTION_STEP = {"second_probe": "probe", "distill_probe": "probe", "sft_distilled": "sft"}


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    names = []
    for path in (files("omnicore.config") / "recipes").iterdir():
        if path.name.endswith(".yaml"):
            names.append(path.name.removesuffix(".yaml"))
    return sorted(names)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or a YAML file by path, and apply overrides.

    A file that `extends` a recipe, by name or by a path relative to itself, inherits the values
    that it does not give. Sections are merged; a list or mapping that is a value, such as
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
        _apply_override(values, override)
    return parse_recipe(values, name)


def _read_values(name: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of a recipe, merged into those of the one that it extends."""
    if name in extended_by:
        chain = " extends ".join((*extended_by, name))
        raise ConfigError(
            f"recipes extend one another: {chain}; remove one `extends`",
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
        for key, value in values.items():
            if key != "profile":
                values[key] = _resolve_paths(value, folder)
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
    values.setdefault("name", Path(name).stem)
    return _merge(_read_values(base, (*extended_by, name)), values, ())


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


def _resolve_paths(value: Any, folder: Path) -> Any:
    """Return a value whose paths that begin with ./ or ../ are relative to `folder`."""
    if isinstance(value, dict):
        return {key: _resolve_paths(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve_paths(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return os.path.normpath(folder / value)
    return value


def _merge(
    base: Mapping[str, Any], own: Mapping[str, Any], place: tuple[str, ...]
) -> dict[str, Any]:
    """Return the values of `own` in those of `base`, section by section."""
    result = dict(base)
    for key, value in own.items():
        path = (*place, key)
        is_section = bool(section_fields(field_type(Recipe, path)))
        inherited = result.get(key)
        if is_section and isinstance(value, dict) and isinstance(inherited, dict):
            result[key] = _merge(inherited, value, path)
        else:
            result[key] = value
    return result


def recipe_from_json(text: str, overrides: Sequence[str] = ()) -> Recipe:
    """Parse a recipe that was written as JSON, and apply overrides.

    Raises:
        ConfigError: The text is not a JSON object, or a field is wrong.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ConfigError(
            f"--recipe-json is not the JSON of a recipe: {error}",
            code="recipe-invalid-json",
            field="--recipe-json",
        ) from error
    for override in overrides:
        _apply_override(values, override)
    return parse_recipe(values, str(values.get("name", "--recipe-json")))


def parse_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """Validate a mapping of sections.

    Raises:
        ConfigError: A field is wrong; the error lists all wrong fields, its code and field are
            those of the first, or of the first one that was renamed.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = [describe_fault(Recipe, detail) for detail in error.errors()]
        first = min(faults, key=lambda fault: fault.code != "recipe-renamed-field")
        listed = "\n".join(f"  {fault.message}" for fault in faults)
        raise ConfigError(
            f"recipe {name} has {len(faults)} wrong field(s):\n{listed}",
            code=first.code,
            field=first.field,
        ) from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one field of a recipe's values.

    Raises:
        ConfigError: The override is not `field=value`, or its value is not YAML.
    """
    field, equals, text = override.partition("=")
    if not equals or not field:
        raise ConfigError(
            f"override {override!r}: write field=value, as in rlvr.steps=40",
            code="recipe-override-syntax",
        )
    *parents, last = path = field.split(".")
    for depth, parent in enumerate(parents, 1):
        inner = values.get(parent, {})
        if parent not in values:
            default = default_of(Recipe, path[:depth])
            # One member of a mapping changes, and the others keep their defaults.
            inner = default if isinstance(default, dict) else inner
        if not isinstance(inner, dict):
            raise ConfigError(
                f"override {override!r}: {parent} is a value, not a section",
                code="recipe-override-not-section",
                field=field,
            )
        # A copy: a YAML anchor makes one mapping of all sections that refer to it.
        values[parent] = dict(inner)
        values = values[parent]
    quoted = text.lstrip().startswith(('"', "'"))
    # A field that takes a text or a section has a section if the value is written as a mapping.
    section = bool(section_fields(field_type(Recipe, path))) and text.lstrip().startswith("{")
    if first_type(Recipe, path) is str and not quoted and not section:
        # Not read as YAML, in which a colon or a # would end the text.
        values[last] = text
        return
    try:
        values[last] = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"override {override!r}: the value is not YAML; quote it",
            code="recipe-override-not-yaml",
            field=field,
        ) from error
