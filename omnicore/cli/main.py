"""The command line: `omnicore <step> --recipe tiny --set rlvr.steps=40 --input queries=DIR --output
DIR`.

What a step needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from omnicore import __version__, processes
from omnicore.errors import ConfigError, OmniError
from omnicore.steps import STEPS, StepInfo

ABOUT = """\
Audit omni-modal benchmarks for visual shortcuts, train a small omni-modal model in three
stages, and believe only scores that survive the audit.

the flow, each arrow a directory that one step fills and the next ones read:
  prepare -> probe -> clean                 which queries can be solved without the sound
  prepare + clean -> evaluate               a model's score on the raw and on the clean view
  prepare -> sft -> rlvr                    bi-modal fine-tuning, then verifiable rewards
  rlvr -> distill -> sft                    the model's own right answers as training rows
  evaluate -> report, promote               one page of everything; champion or candidate"""

EXAMPLES = """\
examples:
  omnicore prepare  --output runs/a/prepare
  omnicore probe    --input queries=runs/a/prepare --output runs/a/probe
  omnicore clean    --input queries=runs/a/prepare --input draws=runs/a/probe --output runs/a/clean
  omnicore sft      --input data=runs/a/prepare --output runs/a/sft
  omnicore rlvr     --set rlvr.steps=40 --input data=runs/a/prepare --input model=runs/a/sft \\
                    --output runs/a/rlvr
  omnicore evaluate --input queries=runs/a/prepare --input manifest=runs/a/clean \\
                    --input model=runs/a/rlvr --output runs/a/evaluate-rlvr
  omnicore distill  --input data=runs/a/prepare --input model=runs/a/rlvr --output runs/a/distill
  omnicore sft      --section sft_distilled --input data=runs/a/distill --input model=runs/a/rlvr \\
                    --output runs/a/sft-distilled
  omnicore recipe show tiny --set seed=1

Give the same command again to resume an interrupted step; one that is finished returns at once.
What an output holds of other settings is never removed without --replace.
`omnicore <step> --help` lists a step's inputs and files."""


SERVE = """\
serve: a checkpoint behind OpenAI's chat completions, with pictures and sound.

It is ready once the canary has seen that the model sees and hears. Requests that wait are
generated together; beyond --queue of them the answer is 429 with Retry-After. Ctrl-C or SIGTERM
ends it: what is on its way is answered first, for --grace seconds at most.

  omnicore serve --model embedded:tiny-base &
  curl -s localhost:8000/v2/health/ready
  P="data:image/png;base64,$(base64 -w0 picture.png)"
  curl -s localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
    "model": "embedded:tiny-base", "temperature": 0, "max_tokens": 14, "messages": [{"role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "'$P'"}},
                {"type": "text", "text": "Which digit is written? 3 7 1 9"}]}]}'

A sound is {"type": "input_audio", "input_audio": {"data": "<base64 of a wav>", "format": "wav"}}.
An audit asks it with: omnicore probe --set probe.engine.kind=http
  --set probe.engine.url=http://127.0.0.1:8000/v1 --set probe.model=embedded:tiny-base ...

routes: POST /v1/chat/completions (also as a stream), GET /v1/models, GET / (alive),
GET /v2/health/ready (503 with the reason before), GET /metrics"""


_ASKED = "say requests, tokens and hours, and ask only a few"
_HELD = "say what trains and what a GPU would hold, without loading a weight"
DRY = {"probe": _ASKED, "evaluate": _ASKED, "sft": _HELD, "rlvr": _HELD}  # who has --dry-run


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for a mistake that the user can mend, 130 after Ctrl-C.

    Anything else is a bug and raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except OmniError as error:
        print(
            f"omnicore: {'' if processes.is_main() else f'process {processes.rank()}: '}{error}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except (
        BrokenPipeError
    ):  # `| head` has seen enough; what is left must not be flushed into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str]) -> int:
    commands = (
        *STEPS,
        "serve",
        "compare",
        "manifest",
        "recipes",
        "recipe",
        "reap",
        "submit",
        "deploy",
        "trace",
        "card",
    )
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        from difflib import get_close_matches

        near = get_close_matches(arguments[0], commands, 1)
        raise ConfigError(
            f"no step {arguments[0]!r}{f'; did you mean {near[0]}?' if near else '.'} Steps:"
            f" {', '.join(STEPS)}"
        )
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        raise ConfigError(_unknown_option(options, unknown[0]))
    if options.command == "recipes":
        from omnicore.config.recipe import recipe_names

        print("\n".join(recipe_names()))
    elif options.command == "recipe":
        import yaml

        from omnicore.config.recipe import load_recipe

        recipe = load_recipe(options.name, options.set)
        print(
            yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
            end="",
        )
    elif options.command == "manifest":
        print(_manifest(options))
    elif options.command == "compare":
        _compare(options)
    elif options.command == "serve":
        _serve(options)
    elif options.command == "card":
        from omnicore.lineage.model_card import render_markdown
        from omnicore.lineage.release import release

        found = release(options.checkpoint, options.scores, options.output)
        if not options.output:
            print(render_markdown(found), end="")
    elif options.command == "trace":
        from omnicore.lineage.trace import trace

        trace(options.wanted, options.root)
    elif options.command == "reap":
        _reap(options)
    elif options.command == "deploy":
        from omnicore.cluster.gitops import deploy

        place = {"file": options.file, "propose": options.propose}
        print(deploy(options.decision, options.checkpoint, options.repo, options.branch, **place))
    elif options.command == "submit":
        print(_submit(options))
    else:
        from omnicore.config.recipe import load_recipe, recipe_from_json
        from omnicore.runtime.run import cost
        from omnicore.runtime.torchrun import run

        changes = [*options.set, *(_sources(options) if options.command == "prepare" else [])]
        recipe = (
            recipe_from_json(options.recipe_json, changes)
            if options.recipe_json
            else load_recipe(options.recipe, changes)
        )
        if getattr(options, "dry_run", False):
            inputs = {role: Path(place) for role, place in _inputs(options.input).items()}
            if any(path.parts[0] == "s3:" for path in inputs.values()):
                raise ConfigError(
                    "--dry-run counts what lies in local directories; fetch the inputs first"
                )
            print("\n".join(cost(options.command, recipe, inputs, section=options.section).lines()))
            return 0
        if not options.output:
            raise ConfigError(
                f"omnicore {options.command} needs --output DIR, new, empty, or an earlier run of"
                " this step"
            )
        run(
            options.command,
            recipe,
            _inputs(options.input),
            options.output,
            section=options.section,
            replace=options.replace,
        )
    return 0


def _unknown_option(options: Namespace, given: str) -> str:
    """The nearest option of the command that was asked for, and all that it has."""
    from difflib import get_close_matches

    known = re.findall(r"--[a-z-]+", options.parser.format_usage())
    near = get_close_matches(given.partition("=")[0], known, 1)
    meant = f"; did you mean {near[0]}?" if near else "."
    return (
        f"{options.parser.prog} takes no {given}{meant} Its options:"
        f" {', '.join(['--help', *known])}"
    )


def _serve(options: Namespace) -> None:
    from omnicore.config.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    try:
        from omnicore.serving.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"omnicore serve needs {error.name}: pip install 'omnicore[train,serve]'"
        ) from error
    serve(options.model, recipe, options.host, options.port, options.queue, options.grace)


def _reap(options: Namespace) -> None:
    try:
        from omnicore.cluster.client import connect
        from omnicore.cluster.reap import reap
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"omnicore reap needs {error.name}: pip install 'omnicore[cluster]'"
        ) from error
    gone = reap(
        connect(options.namespace), run=options.run, stale=options.stale, dry_run=options.dry_run
    )
    print("\n".join(gone) or "nothing to reap")


def _submit(options: Namespace) -> str:
    """What `omnicore submit` has to say.

    The library knows nothing of Kubeflow: this is the pipelines' own, by its name.
    """
    try:
        module = import_module("pipelines.submit")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"omnicore submit needs {error.name}: pip install 'omnicore[pipelines]'"
        ) from error
    place = {
        name: getattr(options, name) for name in ("version", "host", "namespace", "service_account")
    }
    parameters = module.parse_parameters(options.param)
    if options.request:
        if options.pipeline or options.set or options.recipe != "tiny":
            raise ConfigError(
                "--request says pipeline, recipe and values itself: leave out --pipeline, --recipe"
                " and --set"
            )
        how = {"newest": options.newest, "again": options.again, "parameters": parameters}
        return str(module.submit_request(options.request, options.run, **how, **place))
    if options.newest or options.again or not (options.pipeline and options.run):
        raise ConfigError(
            "give --pipeline and --run, or --request; --newest and --again go with --request alone"
        )
    return str(
        module.submit(
            options.pipeline, options.run, options.recipe, options.set, parameters, **place
        )
    )


def _compare(options: Namespace) -> None:
    from omnicore.evaluation.compare import compare, show
    from omnicore.storage.files import write_json

    found = compare(options.a, options.b, options.manifest)
    if options.json:
        write_json(options.json, found)
    show(found)


def _manifest(options: Namespace) -> str:
    """What `omnicore manifest` has to say."""
    from omnicore.audit import manifest_io

    if options.action == "show":
        return manifest_io.show(manifest_io.read(options.file))
    if options.action == "diff":
        return manifest_io.diff(manifest_io.read(options.first), manifest_io.read(options.second))
    if options.action == "export":
        count = manifest_io.write_table(
            manifest_io.read(options.file), options.output, options.listed
        )
        return f"{options.output}: {count} rows"
    columns = tuple(options.columns.split(","))
    if len(columns) != 2:
        raise ConfigError(f"--columns {options.columns!r}: name two, as in --columns benchmark,id")
    made, counts = manifest_io.read_table(options.file, columns, options.listed, options.queries)
    manifest_io.save(made, counts, (options.file, options.queries), options.output)
    told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    return (
        f"{manifest_io.show(made)}\n\n{told}\nuse it: omnicore evaluate --input"
        f" manifest={options.output}"
    )


def _sources(options: Namespace) -> list[str]:
    """`--benchmark NAME --root DIR` as the overrides that they stand for."""
    places = [f"hub@{options.hub}"] * len(options.benchmark) if options.hub else options.root
    if len(places) != len(options.benchmark):
        raise ConfigError(
            "give each --benchmark its --root DIR, in the same order, or --hub COMMIT for one"
            " benchmark"
        )
    return [
        f"prepare.sources.{name}={json.dumps(place)}"
        for name, place in zip(options.benchmark, places, strict=True)
    ]


def _inputs(given: Sequence[str]) -> dict[str, str]:
    inputs: dict[str, str] = {}
    for text in given:
        role, equals, path = text.partition("=")
        if not (role and equals and path):
            raise ConfigError(
                f"--input {text!r}: write role=directory, as in --input queries=runs/a/prepare"
            )
        if role in inputs:
            raise ConfigError(f"--input {role} is given twice: {inputs[role]} and {path}")
        inputs[role] = path
    return inputs


_S3 = ", or s3://bucket/prefix"
_BENCHMARK = (
    "public benchmark to read, as in daily_omni (default: the embedded one); repeat with a --root"
    " each"
)


class _Parser(ArgumentParser):
    """Leaves itself among the options that it has parsed: who finds an unknown one knows which
    command it was given to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)


def _parser() -> ArgumentParser:
    parser = _Parser(
        "omnicore", description=ABOUT, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"omnicore {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="step", title="steps and other commands"
    )
    for name, info in STEPS.items():
        step = commands.add_parser(
            name,
            help=info.summary,
            description=_describe(name, info),
            formatter_class=RawDescriptionHelpFormatter,
        )
        step.add_argument(
            "--recipe",
            default="tiny",
            help="a shipped recipe or the path of a .yaml file (default: tiny)",
        )
        step.add_argument(
            "--recipe-json", metavar="JSON", help="the recipe itself, as a job's pod gets it"
        )
        _add_set(step)
        if name == "prepare":
            step.add_argument(
                "--benchmark", action="append", default=[], metavar="NAME", help=_BENCHMARK
            )
            step.add_argument(
                "--root",
                action="append",
                default=[],
                metavar="DIR",
                help="the benchmark's local copy",
            )
            step.add_argument(
                "--hub", metavar="COMMIT", help="download it from the hub at this commit instead"
            )
        step.add_argument(
            "--section",
            help="part of the recipe that configures the step (default: the step's own)",
        )
        step.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="ROLE=DIR",
            help=f"output of an earlier step{_S3}; repeat",
        )
        step.add_argument(
            "--output",
            required=name not in DRY,
            metavar="DIR",
            help=f"new, empty, or an earlier run of this step{_S3}",
        )
        step.add_argument(
            "--replace",
            action="store_true",
            help="exchange what --output holds of other settings, once the new result is finished",
        )
        if name in DRY:
            step.add_argument("--dry-run", action="store_true", help=DRY[name])
    served = commands.add_parser(
        "serve",
        help="a checkpoint behind OpenAI's chat completions",
        description=SERVE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    served.add_argument(
        "--model",
        required=True,
        help="a checkpoint directory or embedded:NAME; also its name in requests",
    )
    served.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    served.add_argument("--port", type=int, default=8000, help="default: 8000")
    served.add_argument(
        "--queue",
        type=int,
        default=256,
        metavar="N",
        help="requests taken at a time; one more gets 429 (default: 256)",
    )
    served.add_argument(
        "--grace",
        type=float,
        default=25,
        metavar="SECONDS",
        help="for requests on their way after SIGTERM (default: 25)",
    )
    served.add_argument(
        "--recipe",
        default="tiny",
        help="whose profile the canary asks with, and whose threads are used",
    )
    _add_set(served)
    reap = commands.add_parser(
        "reap", help="remove jobs and served models on a cluster that nobody looks after any more"
    )
    reap.add_argument(
        "--namespace", default="", help="default: this pod's own, or that of the kubeconfig"
    )
    reap.add_argument(
        "--run", default="", metavar="ID", help="all that this run has left, however fresh"
    )
    reap.add_argument(
        "--stale",
        type=float,
        default=900,
        metavar="SECONDS",
        help="age of a heartbeat that is none (default: 900)",
    )
    reap.add_argument(
        "--dry-run", action="store_true", help="say what would go, and remove nothing"
    )
    submit = commands.add_parser(
        "submit",
        help="run a pipeline on a cluster; a name that runs, or has succeeded, is not run again",
    )
    submit.add_argument(
        "--request",
        type=Path,
        metavar="FILE",
        help="a retrain request, as k8s/gitops/retrain/request.yaml is",
    )
    submit.add_argument(
        "--newest", action="store_true", help="of a request: on the data that is published by now"
    )
    submit.add_argument(
        "--again",
        action="store_true",
        help="of a request: run it anew where it failed or was cancelled",
    )
    submit.add_argument(
        "--pipeline", default="", metavar="NAME", help="omniclean, omniboost or retrain"
    )
    submit.add_argument(
        "--run",
        default="",
        metavar="NAME",
        help=(
            "the run's name: the same command again creates no second one (default: the request's)"
        ),
    )
    submit.add_argument(
        "--recipe",
        default="tiny",
        help="a recipe of the pipeline's image, by name or path (default: tiny)",
    )
    _add_set(submit)
    submit.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter: champion=s3://..., control=true; repeat",
    )
    submit.add_argument(
        "--version", default="", metavar="NAME", help="of the pipeline (default: the newest)"
    )
    submit.add_argument(
        "--host",
        default="",
        metavar="URL",
        help="KFP's API (default: KF_PIPELINES_ENDPOINT, or this cluster's own)",
    )
    submit.add_argument(
        "--namespace", default="", help="of the profile, where KFP serves many users"
    )
    submit.add_argument(
        "--service-account", default="omnicore-runner", metavar="NAME", help="of the run's pods"
    )
    deploy = commands.add_parser(
        "deploy", help="commit a candidate that was promoted as the champion that serves"
    )
    deploy.add_argument(
        "--decision", type=Path, required=True, metavar="DIR", help="output of promote"
    )
    deploy.add_argument(
        "--checkpoint",
        required=True,
        metavar="S3",
        help="where the candidate's training step is published",
    )
    deploy.add_argument(
        "--repo",
        required=True,
        metavar="URL",
        help="to push to; or a work tree, where the commit is only made",
    )
    deploy.add_argument("--branch", default="main", help="that the cluster follows (default: main)")
    deploy.add_argument(
        "--propose", action="store_true", help="push a branch of its own, for a pull request"
    )
    deploy.add_argument(
        "--file",
        default="k8s/overlays/prod/champion.yaml",
        help="that names the champion (default: %(default)s)",
    )
    compare = commands.add_parser(
        "compare", help="paired differences between two outputs of evaluate: is B better than A?"
    )
    compare.add_argument("a", type=Path, metavar="A", help="output of evaluate")
    compare.add_argument(
        "b",
        type=Path,
        metavar="B",
        help="output of evaluate with the same profile, queries and manifest",
    )
    compare.add_argument(
        "--manifest",
        type=Path,
        metavar="DIR",
        help="output of clean that decides what is clean for both",
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, too")
    carded = commands.add_parser(
        "card", help="a checkpoint's model card; with its scores, and a copy to hand on"
    )
    carded.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"output of sft or rlvr, or a released checkpoint{_S3}",
    )
    carded.add_argument(
        "--scores",
        default="",
        metavar="DIR",
        help=f"output of evaluate, or a directory below which it lies{_S3}",
    )
    carded.add_argument(
        "--output",
        default="",
        metavar="DIR",
        help=f"new: the checkpoint with that card, signed{_S3}",
    )
    traced = commands.add_parser(
        "trace", help="from a score or a file back to weights, data, prompts and code"
    )
    traced.add_argument(
        "wanted",
        metavar="NUMBER-or-FILE",
        help="a figure as it is shown, as in 89.1 or 0.891, or any file",
    )
    traced.add_argument(
        "--in",
        dest="root",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the outputs of the steps lie",
    )
    _add_manifest(
        commands.add_parser("manifest", help="show, compare, import and export manifests")
    )
    commands.add_parser("recipes", help="list the shipped recipes")
    recipe = commands.add_parser("recipe", help="show a recipe with all its values")
    show = recipe.add_subparsers(dest="action", required=True, metavar="show").add_parser(
        "show", help="print the resolved YAML"
    )
    show.add_argument("name", help="a shipped recipe or the path of a .yaml file")
    _add_set(show)
    return parser


def _add_manifest(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    made = "manifest.json, or the output of clean that holds it"
    show = actions.add_parser("show", help="who judged and how; counts by benchmark")
    show.add_argument("file", type=Path, help=made)
    diff = actions.add_parser("diff", help="what moved between two manifests, and why")
    diff.add_argument("first", type=Path, help=made)
    diff.add_argument("second", type=Path, help=made)
    take = actions.add_parser(
        "import", help="make a manifest of any table of (benchmark, native id)"
    )
    take.add_argument("file", type=Path, help="a .csv, .jsonl or .parquet file")
    take.add_argument(
        "--queries",
        type=Path,
        required=True,
        metavar="DIR",
        help="output of prepare that holds the queries",
    )
    take.add_argument(
        "--listed", choices=("kept", "removed"), required=True, help="which queries the table lists"
    )
    take.add_argument(
        "--columns",
        default="benchmark,id",
        metavar="A,B",
        help="its columns (default: benchmark,id)",
    )
    take.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="new or empty; `evaluate` takes it as its manifest",
    )
    give = actions.add_parser("export", help="write a manifest as a table")
    give.add_argument("file", type=Path, help=made)
    give.add_argument(
        "--listed",
        choices=("kept", "removed"),
        help="only the ids of these (default: every verdict with its evidence)",
    )
    give.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="a .csv, .jsonl or .parquet file"
    )


def _add_set(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a value: rlvr.steps=40; repeat",
    )


def _describe(name: str, info: StepInfo) -> str:
    roles = [f"  {role:<17} output of {' or '.join(of)}" for role, of in info.required.items()]
    default = " (absent: the recipe's model)" if "model" in info.reads else ""
    roles += [
        f"  {role:<17} output of {' or '.join(of)}, optional{default}"
        for role, of in info.optional.items()
    ]
    writes = [f"  {info.writes}", "  step.json, metrics.prom"]
    return "\n".join(
        [f"{name}: {info.summary}", "", "inputs:", *(roles or ["  none"]), "", "writes:", *writes]
    )
