"""`omnicore audit`: a benchmark, a served probe and models to score, in one command."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.cli.parser import Parser, add_set, extra_required
from omnicore.errors import ConfigError

if TYPE_CHECKING:
    from omnicore.runtime.audit import Audit

DESCRIPTION = """\
Audit a benchmark: ask a served probe with the sound withheld, keep the queries that it cannot
solve so, score models on all and on the kept ones, and write one page.

examples:
  omnicore audit questions.jsonl --columns question=q,options=choices,answer=gold,video=clip \\
      --probe http://127.0.0.1:8000/v1 --evaluate http://127.0.0.1:8002/v1 --run runs/mine
  omnicore audit daily_omni --root data/Daily-Omni --probe http://127.0.0.1:8000/v1 \\
      --second http://127.0.0.1:8001/v1 --run runs/daily --dry-run --price 0.2,0.6
  omnicore audit runs/hand/prepare --probe Qwen3-VL@http://127.0.0.1:8000/v1 --run runs/b

Re-run the same command to resume; a finished audit prints its table at once."""


def add_commands(parser: Parser) -> None:
    """Add `audit`."""
    summary = "audit a benchmark and score models on it, in one command"
    command = parser.add_command("audit", summary, run_audit_command, DESCRIPTION)
    command.add_argument(
        "benchmark",
        metavar="BENCHMARK",
        help="a table or folder of your own, an output of prepare, or a public benchmark's name",
    )
    add_columns(command)
    command.add_argument("--root", metavar="DIR", help="local copy of a public benchmark")
    command.add_argument("--hub", metavar="COMMIT", help="download it from the hub at this commit")
    command.add_argument(
        "--probe", required=True, metavar="URL", help="server of the probe; URL or NAME@URL"
    )
    command.add_argument("--model", default="", metavar="NAME", help="name of the probe's model")
    command.add_argument(
        "--second", default="", metavar="URL", help="a second probe, of another model family"
    )
    command.add_argument(
        "--evaluate",
        action="append",
        default=[],
        metavar="URL",
        help="server of a model to score; repeat",
    )
    command.add_argument(
        "--run", dest="folder", type=Path, required=True, metavar="DIR", help="run folder"
    )
    command.add_argument(
        "--recipe",
        default="qwen3-vl-audit",
        help="prompts, draws and thresholds (default: qwen3-vl-audit)",
    )
    add_set(command)
    command.add_argument(
        "--dry-run", action="store_true", help="prepare, and print requests, tokens and hours"
    )
    command.add_argument(
        "--price",
        default="",
        metavar="IN,OUT",
        help="money a million prompt and reply tokens, for --dry-run",
    )


def add_columns(command: Parser) -> None:
    """Add the options that describe a table of the user's own."""
    command.add_argument(
        "--columns",
        default="",
        metavar="PART=COLUMN,...",
        help="the table's columns, as in question=q,options=choices,answer=gold,video=clip",
    )
    command.add_argument(
        "--media", default="", metavar="DIR", help="folder that the table's paths start at"
    )


def own_source(place: str, columns: str, media: str) -> dict[str, Any]:
    """Return the `prepare.sources` entry of a table of the user's own.

    Raises:
        ConfigError: `columns` is not `part=column,...`.
    """
    source: dict[str, Any] = {"path": place, "columns": {}}
    for pair in filter(None, columns.split(",")):
        part, equals, column = pair.partition("=")
        if not (part and equals and column):
            raise ConfigError(
                f"--columns {pair!r}: write part=column, as in question=q,answer=gold",
                code="cli-columns-invalid",
                field="--columns",
            )
        source["columns"][part] = column
    return source | ({"media": media} if media else {})


def run_audit_command(options: Namespace) -> None:
    """Run an audit, or print its price."""
    with extra_required("omnicore audit", "audit"):
        from omnicore.runtime import audit as audits

        audit = _audit(options)
        if options.dry_run:
            _print_price(audit, options.price)
            return
        page = audits.run_audit(audit)
    _print_result(audit)
    print(page)


def _audit(options: Namespace) -> Audit:
    from omnicore.runtime import audit as audits

    probe = audits.parse_endpoint(options.probe, options.model)
    second = audits.parse_endpoint(options.second) if options.second else None
    place = Path(options.benchmark)
    prepared = place if audits.is_prepared(place) else None
    overrides = list(options.set)
    if not prepared:
        overrides.insert(0, _source_override(options))
    recipe = audits.audit_recipe(options.recipe, overrides, probe, second)
    evaluate = [audits.parse_endpoint(url) for url in options.evaluate]
    return audits.Audit(recipe, options.folder, prepared, second is not None, evaluate)


def _source_override(options: Namespace) -> str:
    """Return the override that names the benchmark: a public one, or a table."""
    if options.root or options.hub:
        place = options.root or f"hub@{options.hub}"
        return f"prepare.sources.{options.benchmark}={json.dumps(place)}"
    place = Path(options.benchmark)
    if not place.exists():
        raise ConfigError(
            f"{options.benchmark} is not a file or folder here; for a public benchmark add"
            " --root DIR or --hub COMMIT",
            code="audit-benchmark-missing",
            field="benchmark",
        )
    name = place.resolve().stem if place.is_file() else place.resolve().name
    source = own_source(str(place), options.columns, options.media)
    return f"prepare.sources.{name.replace('.', '-')}={json.dumps(source)}"


def _print_price(audit: Audit, price: str) -> None:
    from omnicore.runtime import audit as audits

    money = _price(price) if price else None
    total = 0.0
    for name, estimate in audits.estimate_audit(audit):
        print(name)
        for line in estimate.lines():
            print(f"  {line}")
        if money:
            total += money.of(estimate)
            print(f"  money          {money.of(estimate):,.2f} at most")
    if money:
        print(f"together         {total:,.2f} at most")


def _price(text: str) -> Any:
    from omnicore.runtime.audit import Price

    try:
        prompt, reply = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--price {text!r}: write two numbers, of a million prompt tokens and of a million"
            " reply tokens, as in 0.2,0.6",
            code="cli-price-invalid",
            field="--price",
        ) from error
    return Price(prompt, reply)


def _print_result(audit: Audit) -> None:
    from omnicore.audit import manifest_io
    from omnicore.evaluation.verdicts import read_manifest
    from omnicore.runtime import audit as audits

    print(manifest_io.format_manifest(read_manifest(audit.run / "clean")))
    scores = audits.audit_scores(audit)
    if scores:
        print("\nmodel, macro accuracy in %      raw  clean")
    for model, views in scores.items():
        figures = "  ".join(f"{100 * views[view]:5.1f}" for view in views)
        print(f"{model:<30}{figures}")
