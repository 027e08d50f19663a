"""`omnicore doctor`: what this machine, a server, a bucket and a cluster can run, with the remedy.

Each check is a `Finding`; nothing is changed, except for one small object that is written to
the bucket and deleted again.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from omnicore.config import EngineConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import OmniError, install_command
from omnicore.schema import Finding
from omnicore.version import __version__

# What a person wants to do, and the extras whose packages it needs.
USES = {
    "audit public benchmarks, ask a server": ("audit",),
    "ask and train a model in this process": ("train",),
    "run pipelines with KFP": ("pipelines",),
    "launch jobs on a cluster, use s3://": ("cluster",),
    "serve a model over HTTP": ("train", "serve"),
    "sign checkpoints": ("sign",),
    "train with DeepSpeed's ZeRO": ("gpu",),
}
DISK = 10 * 2**30  # bytes; below, a checkpoint or the media of a benchmark may not fit


def check_machine() -> list[Finding]:
    """Check packages, processors, accelerators and disk of this machine."""
    cores = len(os.sched_getaffinity(0))
    findings = [Finding("omnicore", "ok", f"{__version__}, {cores} CPU cores")]
    findings += [_use(name, extras) for name, extras in USES.items()]
    findings += [_torchvision(), _accelerator(), _disk(Path.cwd())]
    return findings


def check_server(url: str, model: str, recipe: Recipe) -> list[Finding]:
    """Ask a server the canary's questions: whether it truly sees pictures and hears sound.

    Args:
        url: Root of an OpenAI-compatible API, as in http://127.0.0.1:8000/v1.
        model: The name under which it serves the model.
        recipe: Its profile formats the questions.
    """
    from omnicore.engines import canary, open_engine

    config = EngineConfig.model_validate(
        recipe.engine.model_dump() | {"kind": "http", "url": url, "reference": ""}
    )
    findings = []
    for kind in ("image", "audio"):
        subject = f"{url} {kind}"
        try:
            engine = open_engine(config, model, recipe.profile, workers=1)
            told = canary.verify_engine(engine, config, recipe.profile, {kind})
        except OmniError as error:
            findings.append(Finding(subject, "fail", str(error), "fix the server, then ask again"))
        else:
            findings.append(
                Finding(subject, "ok", f"perceived, told apart by {told[f'canary_{kind}']}")
            )
    return findings


def check_store(uri: str) -> list[Finding]:
    """Write, read and delete one small object below an s3:// address."""
    from omnicore.storage.store import open_bucket

    name = f".omnicore-doctor-{uuid.uuid4().hex[:8]}"
    try:
        bucket, prefix = open_bucket(uri)
        key = f"{prefix.rstrip('/')}/{name}".lstrip("/")
        with bucket.errors(f"{uri}/{name}"):
            bucket.write(key, b"omnicore")
            read = bucket.read(key)
            bucket.remove([key])
            left = bucket.read(key)
    except OmniError as error:
        return [Finding(uri, "fail", str(error), "fix the endpoint, the credentials or the policy")]
    if read != b"omnicore" or left is not None:
        found = "an object was not read back" if read != b"omnicore" else "delete had no effect"
        return [Finding(uri, "fail", found, "check the bucket's policy and its versioning")]
    return [Finding(uri, "ok", "write, read and delete")]


def check_cluster(namespace: str, recipe: Recipe) -> list[Finding]:
    """Check the cluster of the kubeconfig against a recipe; see `diagnose_cluster`."""
    if importlib.util.find_spec("kubernetes") is None:
        return [
            Finding("cluster", "fail", "kubernetes is not installed", install_command("cluster"))
        ]
    from omnicore.cluster.diagnose import diagnose_cluster

    return diagnose_cluster(namespace, recipe)


def _use(name: str, extras: tuple[str, ...]) -> Finding:
    wrong = [problem for extra in extras for problem in _unmet(extra)]
    if wrong:
        return Finding(name, "warn", ", ".join(wrong), install_command(",".join(extras)))
    return Finding(name, "ok", f"extra {' and '.join(extras)} installed")


def _unmet(extra: str) -> Iterator[str]:
    """Yield the requirements of an extra that this environment does not meet."""
    for line in requires("omnicore") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or "extra" not in str(marker) or not marker.evaluate({"extra": extra}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} is not {requirement.specifier}"


def _torchvision() -> Finding:
    subject = "ask about videos in this process"
    if importlib.util.find_spec("torchvision"):
        return Finding(subject, "ok", f"torchvision {version('torchvision')}")
    remedy = "pip install torchvision, or ask a server (engine.kind=http)"
    return Finding(subject, "warn", "torchvision is not installed", remedy)


def _accelerator() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("accelerator", "warn", "torch is not installed", install_command("train"))
    from omnicore.models.runtime import accelerators

    torch_version = version("torch")
    names = accelerators()
    if not names:
        remedy = "train the tiny recipe here, others on a machine or cluster with GPUs"
        return Finding("accelerator", "warn", f"torch {torch_version} sees no GPU", remedy)
    return Finding("accelerator", "ok", f"{', '.join(names)}, torch {torch_version}")


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.0f} GiB free at {place}"
    if free < DISK:
        return Finding("disk", "warn", found, "free some, or run in a directory on another disk")
    return Finding("disk", "ok", found)
