"""`omnicore cluster`: submit pipeline runs, reap orphaned jobs, deploy a champion."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from omnicore.cli.parser import Parser, add_recipe, extra_required
from omnicore.errors import ConfigError


def add_commands(parser: Parser) -> None:
    """Add the group `cluster`."""
    summary = "submit pipeline runs, delete orphaned jobs, deploy a champion"
    group = parser.add_command("cluster", summary)
    _add_submit(group)
    _add_reap(group)
    _add_deploy(group)


def run_submit(options: Namespace) -> None:
    """Create the run of a pipeline, or of a retrain request, and print its address."""
    with extra_required("omnicore cluster submit", "pipelines"):
        print(_submit(options))


def run_reap(options: Namespace) -> None:
    """Delete orphaned jobs and InferenceServices and print their names."""
    with extra_required("omnicore cluster reap", "cluster"):
        from omnicore.cluster.client import connect
        from omnicore.cluster.reap import reap
    cluster = connect(options.namespace)
    deleted = reap(cluster, run=options.run_id, stale=options.stale, dry_run=options.dry_run)
    print("\n".join(deleted) or "nothing to reap")


def run_deploy(options: Namespace) -> None:
    """Commit a promoted candidate as the champion and print the commit."""
    from omnicore.cluster.gitops import deploy

    message = deploy(
        options.decision,
        options.checkpoint,
        options.repo,
        options.branch,
        file=options.file,
        propose=options.propose,
    )
    print(message)


def _submit(options: Namespace) -> str:
    from omnicore.cluster.submit import parse_parameters, submit, submit_request

    parameters = parse_parameters(options.param)
    names = ("version", "host", "namespace", "service_account")
    target = {name: getattr(options, name) for name in names}
    if options.request:
        if options.pipeline or options.set or options.recipe != "tiny":
            raise ConfigError(
                "the file of --request names pipeline, recipe and values: leave out --pipeline,"
                " --recipe and --set",
                code="cli-request-conflict",
                field="--request",
            )
        return submit_request(
            options.request,
            options.run_name,
            newest=options.newest,
            again=options.again,
            parameters=parameters,
            **target,
        )
    if options.newest or options.again or not (options.pipeline and options.run_name):
        raise ConfigError(
            "give --pipeline and --run, or --request; --newest and --again need --request",
            code="cli-pipeline-missing",
            field="--pipeline",
        )
    return submit(
        options.pipeline, options.run_name, options.recipe, options.set, parameters, **target
    )


def _add_submit(group: Parser) -> None:
    summary = "run a pipeline on a cluster, once for each name of a run"
    command = group.add_command("submit", summary, run_submit)
    command.add_argument(
        "--request",
        type=Path,
        metavar="FILE",
        help="a retrain request in the form of k8s/gitops/retrain/request.yaml",
    )
    command.add_argument(
        "--newest",
        action="store_true",
        help="with --request: use the newest published version of each data set that it pins",
    )
    command.add_argument(
        "--again",
        action="store_true",
        help="with --request: create another run if the last one failed or was cancelled",
    )
    command.add_argument(
        "--pipeline", default="", metavar="NAME", help="omniclean, omniboost or retrain"
    )
    command.add_argument(
        "--run",
        dest="run_name",
        default="",
        metavar="NAME",
        help="name of the run; the same command again creates no second one (default: the"
        " request's)",
    )
    add_recipe(command, "a recipe of the pipeline's image, by name or path (default: tiny)")
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter: champion=s3://..., control=true; repeat",
    )
    command.add_argument(
        "--version", default="", metavar="NAME", help="of the pipeline (default: the newest)"
    )
    command.add_argument(
        "--host",
        default="",
        metavar="URL",
        help="KFP's API (default: KF_PIPELINES_ENDPOINT, or this cluster's own)",
    )
    command.add_argument(
        "--namespace", default="", help="of the profile, where KFP serves many users"
    )
    command.add_argument(
        "--service-account", default="omnicore-runner", metavar="NAME", help="of the run's pods"
    )


def _add_reap(group: Parser) -> None:
    command = group.add_command("reap", "delete orphaned jobs and InferenceServices", run_reap)
    command.add_argument(
        "--namespace", default="", help="default: this pod's own, or that of the kubeconfig"
    )
    command.add_argument(
        "--run",
        dest="run_id",
        default="",
        metavar="ID",
        help="everything that this run has left, whatever its age",
    )
    command.add_argument(
        "--stale",
        type=float,
        default=900,
        metavar="SECONDS",
        help="age from which a heartbeat counts as missing (default: 900)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print what would be deleted, and delete nothing"
    )


def _add_deploy(group: Parser) -> None:
    summary = "commit a promoted candidate as the champion that serves"
    command = group.add_command("deploy", summary, run_deploy)
    command.add_argument(
        "--decision", type=Path, required=True, metavar="DIR", help="output of promote"
    )
    command.add_argument(
        "--checkpoint",
        required=True,
        metavar="S3",
        help="address of the candidate's published training step",
    )
    command.add_argument(
        "--repo",
        required=True,
        metavar="URL",
        help="repository to push to, or a work tree, in which the commit is only made",
    )
    command.add_argument(
        "--branch", default="main", help="that the cluster follows (default: main)"
    )
    command.add_argument(
        "--propose", action="store_true", help="push a branch of its own, for a pull request"
    )
    command.add_argument(
        "--file",
        default="k8s/overlays/prod/champion.yaml",
        help="file that names the champion (default: %(default)s)",
    )
