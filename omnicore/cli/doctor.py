"""`omnicore doctor`: what this machine, a server, a bucket and a cluster can run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from omnicore.cli.parser import Parser, add_recipe
from omnicore.errors import OmniError

if TYPE_CHECKING:
    from omnicore.schema import Finding

DESCRIPTION = """\
Check what can run here, and say what to do about the rest: this machine, or the server, bucket or
cluster that is named. The exit status is 2 when something that was asked for cannot run.

examples:
  omnicore doctor
  omnicore doctor --server http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-Omni-3B
  omnicore doctor --cluster --recipe qwen2.5-omni-3b --set launcher.kind=trainjob
  omnicore doctor --store s3://bucket/runs"""
MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


class DoctorFailure(OmniError):
    """Something that was asked for cannot run; the findings are printed already."""


def add_commands(parser: Parser) -> None:
    """Add `doctor`."""
    summary = "check what this machine, a server, a bucket or a cluster can run"
    command = parser.add_command("doctor", summary, run_doctor, DESCRIPTION)
    command.add_argument("--server", default="", metavar="URL", help="an OpenAI-compatible server")
    command.add_argument("--model", default="", metavar="NAME", help="the server's model")
    command.add_argument("--store", default="", metavar="URI", help="s3://bucket/prefix")
    command.add_argument("--cluster", action="store_true", help="the cluster of the kubeconfig")
    command.add_argument("--namespace", default="", help="namespace of the jobs")
    add_recipe(command, "what the cluster must run (default: tiny)")


def run_doctor(options: Namespace) -> None:
    """Print the findings.

    Raises:
        DoctorFailure: A check failed.
    """
    failed = []
    for title, findings in _checks(options):
        print(title)
        _print_findings(findings)
        failed += [finding.subject for finding in findings if finding.state == "fail"]
    if failed:
        raise DoctorFailure(f"cannot run: {', '.join(failed)}", code="doctor-failed")


def _checks(options: Namespace) -> Iterator[tuple[str, list[Finding]]]:
    from omnicore.config.recipe import load_recipe
    from omnicore.runtime import doctor

    recipe = load_recipe(options.recipe, options.set)
    if not (options.server or options.store or options.cluster):
        yield "machine", doctor.check_machine()
    if options.server:
        from omnicore.runtime.audit import parse_endpoint

        endpoint = parse_endpoint(options.server, options.model)
        yield f"server {endpoint.url}", doctor.check_server(endpoint.url, endpoint.model, recipe)
    if options.store:
        yield "store", doctor.check_store(options.store)
    if options.cluster:
        yield "cluster", doctor.check_cluster(options.namespace, recipe)


def _print_findings(findings: Sequence[Finding]) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"  {MARKS[finding.state]}  {finding.subject:<{width}}  {finding.found}")
        if finding.remedy:
            print(f"        {'':<{width}}-> {finding.remedy}")
