"""The steps of a pipeline as commands."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnicore.cli.audit import add_columns, own_source
from omnicore.cli.parser import S3, Parser, add_recipe
from omnicore.errors import ConfigError
from omnicore.steps import STEPS, StepInfo

if TYPE_CHECKING:
    from omnicore.config.recipe import Recipe

_COUNTS = "estimate requests, tokens and hours from a small sample"
_MEMORY = "print what trains and the GPU memory that it takes, without loading weights"
# Steps that have --dry-run, with its help.
DRY_RUN = {"probe": _COUNTS, "evaluate": _COUNTS, "sft": _MEMORY, "rlvr": _MEMORY}


def add_commands(parser: Parser) -> None:
    """Add one command a step."""
    for name, info in STEPS.items():
        step = parser.add_command(name, info.summary, run_step_command, _describe(name, info))
        step.set_defaults(step=name)
        add_recipe(step, "a shipped recipe or the path of a .yaml file (default: tiny)")
        step.add_argument(
            "--recipe-json", metavar="JSON", help="the recipe itself, as a job's pod gets it"
        )
        if name == "prepare":
            _add_benchmarks(step)
        step.add_argument(
            "--section", help="part of the recipe that configures the step (default: its name)"
        )
        step.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="ROLE=DIR",
            help=f"output of an earlier step{S3}; repeat",
        )
        step.add_argument(
            "--output",
            required=name not in DRY_RUN,
            metavar="DIR",
            help=f"new, empty, or an earlier run of this step{S3}",
        )
        step.add_argument(
            "--replace",
            action="store_true",
            help="replace an output of other settings once the new result is finished",
        )
        if name in DRY_RUN:
            step.add_argument("--dry-run", action="store_true", help=DRY_RUN[name])


def run_step_command(options: Namespace) -> None:
    """Run a step, or print its cost for `--dry-run`."""
    from omnicore.runtime.torchrun import run

    recipe = _recipe(options)
    inputs = parse_inputs(options.input)
    if getattr(options, "dry_run", False):
        _print_cost(options, recipe, inputs)
        return
    if not options.output:
        raise ConfigError(
            f"omnicore {options.step} needs --output DIR: a new or empty directory, or an earlier"
            " run of this step",
            code="cli-output-missing",
            field="--output",
        )
    run(
        options.step,
        recipe,
        inputs,
        options.output,
        section=options.section,
        replace=options.replace,
    )


def parse_inputs(given: Sequence[str]) -> dict[str, str]:
    """Parse `--input ROLE=DIR` options into directories by role.

    Raises:
        ConfigError: An option is not of this form, or a role occurs twice.
    """
    inputs: dict[str, str] = {}
    for text in given:
        role, equals, path = text.partition("=")
        if not (role and equals and path):
            raise ConfigError(
                f"--input {text!r}: write role=directory, as in --input queries=runs/a/prepare",
                code="cli-input-invalid",
                field="--input",
            )
        if role in inputs:
            raise ConfigError(
                f"--input {role} is given twice: {inputs[role]} and {path}",
                code="cli-input-twice",
                field="--input",
            )
        inputs[role] = path
    return inputs


def _recipe(options: Namespace) -> Recipe:
    from omnicore.config.recipe import load_recipe, recipe_from_json

    overrides = list(options.set)
    if options.step == "prepare":
        overrides += _benchmark_overrides(options)
    if options.recipe_json:
        return recipe_from_json(options.recipe_json, overrides)
    return load_recipe(options.recipe, overrides)


def _print_cost(options: Namespace, recipe: Recipe, inputs: dict[str, str]) -> None:
    from omnicore.runtime.run import estimate_step

    paths = {role: Path(place) for role, place in inputs.items()}
    for role, path in paths.items():
        if path.parts[0] == "s3:":
            raise ConfigError(
                f"--dry-run reads local directories, and input {role} is in S3: fetch it first",
                code="cli-dry-run-remote-input",
                field="--input",
            )
    cost = estimate_step(options.step, recipe, paths, section=options.section)
    print("\n".join(cost.lines()))


def _add_benchmarks(step: Parser) -> None:
    step.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME",
        help="public benchmark, as in daily_omni, or your own name for a table with --columns"
        " (default: the embedded one); repeat with a --root each",
    )
    step.add_argument(
        "--root", action="append", default=[], metavar="DIR", help="the benchmark's local copy"
    )
    step.add_argument("--hub", metavar="COMMIT", help="download it from the hub at this commit")
    add_columns(step)
    step.add_argument("--limit", type=int, metavar="N", help="first N queries of each benchmark")
    step.add_argument("--sample", type=int, metavar="N", help="N random queries, by the seed")
    step.add_argument("--seed", type=int, metavar="N", help="the recipe's seed")


def _benchmark_overrides(options: Namespace) -> list[str]:
    """Return the overrides that `--benchmark NAME --root DIR` and its kin stand for."""
    from difflib import get_close_matches

    from omnicore.data.benchmarks import NAMES, has_adapter

    roots = options.root
    if options.hub:
        roots = [f"hub@{options.hub}"] * len(options.benchmark)
    if len(roots) != len(options.benchmark):
        raise ConfigError(
            "give each --benchmark its --root DIR, in the same order, or --hub COMMIT for one"
            " benchmark",
            code="cli-benchmark-without-root",
            field="--root",
        )
    overrides = []
    for name, root in zip(options.benchmark, roots, strict=True):
        public = has_adapter(name) and not options.columns
        near = [] if public or options.columns else get_close_matches(name, NAMES, 1)
        if near:
            raise ConfigError(
                f"no benchmark {name!r}; did you mean {near[0]}? For a table of your own of that"
                " name give --columns",
                code="benchmark-unknown",
                field=f"prepare.sources.{name}",
            )
        source = root if public or options.hub else own_source(root, options.columns, options.media)
        overrides.append(f"prepare.sources.{name}={json.dumps(source)}")
    for field, value in (("limit", options.limit), ("sample", options.sample)):
        if value is not None:
            overrides.append(f"prepare.{field}={value}")
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")
    return overrides


def _describe(name: str, info: StepInfo) -> str:
    lines = [f"{name}: {info.summary}", "", "inputs:"]
    for role, steps in info.required.items():
        lines.append(f"  {role:<17} output of {' or '.join(steps)}")
    default = " (absent: the recipe's model)" if "model" in info.reads else ""
    for role, steps in info.optional.items():
        lines.append(f"  {role:<17} output of {' or '.join(steps)}, optional{default}")
    if not (info.required or info.optional):
        lines.append("  none")
    lines += ["", "writes:", f"  {info.writes}", "  step.json, metrics.prom"]
    return "\n".join(lines)
