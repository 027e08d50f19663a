"""Everything that decides a step's result, and its digest: the key of the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from omnicore.config import BenchmarkSource, TrainingSource, digest, flat_fields, result_fields
from omnicore.config.recipe import SECTION_STEP, Recipe
from omnicore.data.prompts import profile_hash
from omnicore.errors import ConfigError
from omnicore.lineage.code_version import step_code_digest
from omnicore.lineage.step_record import read_step
from omnicore.steps import STEPS
from omnicore.storage import store
from omnicore.storage.digests import digest_directory, model_directory

SHOWN_DIFFERENCES = 5


class StepPlan(NamedTuple):
    """One step to run; `key` is the digest of `decides`, which holds all that decides its result.

    `digests` and `keys` are those of the inputs, `models` the digests of models named by the
    recipe.
    """

    step: str
    section: str
    recipe: Recipe
    config: BaseModel
    inputs: dict[str, Path]
    digests: dict[str, str]
    keys: dict[str, str]
    models: dict[str, str]
    decides: dict[str, Any]
    key: str


def plan_step(
    step: str,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    section: str | None = None,
) -> StepPlan:
    """Check a request and compute the key of its result; of an input only `step.json` is read.

    Raises:
        ConfigError: The step, the section, a role or the output directory is wrong.
        DataError: An input is not a finished output.
    """
    section = section or step
    _check_names(step, section)
    records = read_input_records(step, inputs)
    digests = {role: str(record["digest"]) for role, record in records.items()}
    keys = {role: str(record["key"]) for role, record in records.items()}
    for role, path in inputs.items():
        if output == path or output in path.parents or path in output.parents:
            raise ConfigError(
                f"output {output} and input {role} {path} contain one another; give the output its"
                " own directory",
                code="output-overlaps-input",
                field=role,
                path=output,
            )
    config: BaseModel = getattr(recipe, section)
    fields = _recipe_fields(step, recipe, inputs)
    models = _model_digests(fields.get("model"), getattr(config, "model", None))
    profile = recipe.profile.model_dump(mode="json")
    decides = {
        "step": step,
        "section": section,
        "config": result_fields(config.model_dump(mode="json")),
        "seed": recipe.seed,
        "profile": profile | {"hash": profile_hash(recipe.profile)},
        "recipe": result_fields(fields),
        "models": models,
        "sources": {
            name: _source_identity(source)
            for name, source in getattr(config, "sources", {}).items()
        },
        "training": {
            name: _row_identities(source)
            for name, source in getattr(config, "training", {}).items()
        },
        "inputs": digests,
        "code": step_code_digest(step),
    }
    key = digest(decides)
    return StepPlan(
        step, section, recipe, config, dict(inputs), digests, keys, models, decides, key
    )


def read_input_records(step: str, inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the `step.json` of each input by role.

    Raises:
        ConfigError: The step has no such role, a role is missing, or an input is the output of
            another step than the role takes.
        DataError: An input is not a finished output.
    """
    info = STEPS[step]
    roles = dict(info.required) | dict(info.optional)
    problems = [f"no input {role!r}" for role in inputs if role not in roles]
    problems += [f"input {role!r} is missing" for role in info.required if role not in inputs]
    if problems:
        raise ConfigError(
            f"step {step}: {'; '.join(problems)}. It takes {_describe_roles(step)}",
            code="input-roles-wrong",
        )
    records = {}
    for role, path in sorted(inputs.items()):
        record = read_step(path)
        if record["step"] not in roles[role]:
            raise ConfigError(
                f"step {step}: input {role!r} is {record['step']}'s {path}; it must come from"
                f" {' or '.join(roles[role])}",
                code="input-of-other-step",
                field=role,
                path=path,
            )
        records[role] = record
    return records


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs between two `decides`, at most five settings, to end a sentence."""
    if not old:
        return " of other settings"
    old_values, new_values = dict(flat_fields(old)), dict(flat_fields(new))
    names = [
        name
        for name in sorted(old_values.keys() | new_values.keys())
        if old_values.get(name) != new_values.get(name) and name != "profile.hash"
    ]
    if not names:
        return " made with another format of prompts and answers"
    texts = [
        _describe_difference(name, old_values.get(name), new_values.get(name), new["section"])
        for name in names[:SHOWN_DIFFERENCES]
    ]
    if len(names) > SHOWN_DIFFERENCES:
        texts.append(f"and {len(names) - SHOWN_DIFFERENCES} more")
    return ": " + ", ".join(texts)


def _check_names(step: str, section: str) -> None:
    if step not in STEPS:
        raise ConfigError(
            f"no step {step!r}; steps are {', '.join(STEPS)}", code="step-unknown", field=step
        )
    if SECTION_STEP.get(section, section) != step:
        sections = [step, *(name for name, owner in SECTION_STEP.items() if owner == step)]
        raise ConfigError(
            f"section {section!r} does not configure step {step}; use {' or '.join(sections)}",
            code="section-of-other-step",
            field=section,
        )


def _describe_roles(step: str) -> str:
    info = STEPS[step]
    texts = [f"{role} (from {' or '.join(steps)})" for role, steps in info.required.items()]
    for role, steps in info.optional.items():
        texts.append(f"{role} (from {' or '.join(steps)}, optional)")
    return ", ".join(texts) or "no inputs"


def _recipe_fields(step: str, recipe: Recipe, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Return the values outside its section that the step reads, unless an input replaces them."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    names = STEPS[step].reads
    if "*" in names:
        return values
    return {name: values[name] for name in names if name not in inputs}


def _model_digests(*names: str | None) -> dict[str, str]:
    """Return the digests of the models whose content may change under the same name."""
    digests = {}
    for name in sorted({name for name in names if name}):
        content = _model_digest(name)
        if content:
            digests[name] = content
    return digests


def _model_digest(model: str) -> str:
    """Return the digest of a directory or of a publication in S3; empty for any other model."""
    if store.is_s3(model):
        return store.require(model).digest
    directory = model_directory(model)
    return digest_directory(directory) if directory.is_dir() else ""


def _source_identity(source: str | BenchmarkSource) -> str | list[str]:
    """Return the identity of a benchmark: a public one's local copy, or a user's own rows."""
    return _folder_identity(Path(source)) if isinstance(source, str) else _row_identities(source)


def _row_identities(source: TrainingSource | BenchmarkSource) -> list[str]:
    """Return the identity of a source's rows, and of its media where they have another folder."""
    if isinstance(source, BenchmarkSource):
        from omnicore.data.benchmarks.own import source_files

        return [_file_identity(source_files(source), Path(source.path).parent)]
    return [_folder_identity(Path(place)) for place in (source.path, source.media) if place]


def _folder_identity(root: Path) -> str:
    """Return the identity of the files below a folder, or beside a file of rows."""
    # The media of a file of rows are beside it.
    folder = root.parent if root.is_file() else root
    return _file_identity(sorted(path for path in folder.rglob("*") if path.is_file()), folder)


def _file_identity(files: Sequence[Path], root: Path) -> str:
    """Return a digest of names relative to `root`, sizes and times.

    Hashing a hundred gigabytes of video on every call would take minutes, and a copy with other
    times only makes the step run again.
    """
    stats = [(os.path.relpath(path, root), path.stat()) for path in files]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def _describe_difference(name: str, old: Any, new: Any, section: str) -> str:
    kind, _, field = name.partition(".")
    match kind:
        case "code":
            return "other code of this step"
        case "inputs" | "models" | "sources" | "training":
            return f"another content of {kind}.{field}"
        case "config":
            return f"{section}.{field} {old} -> {new}"
        case "recipe":
            return f"{field} {old} -> {new}"
        case _:
            return f"{name} {old} -> {new}"
