"""Images/serve as a cluster runs it: the ServingRuntime's command, flags, user and rights, and the
canary through its port.

vLLM is that of `make test-vllm`, mounted into a Debian in place of vLLM's own image, which is built
for CUDA.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from omnicore.cli import main
from omnicore.lineage.step_record import read_step
from tests.containers import BASE, ROOT, Podman, missing, podman


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global thinker

    from omnicore.models import thinker


HOME = os.environ.get("OMNI_TEST_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HOME, reason="OMNI_TEST_VLLM is not set: make test-vllm"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "podman is there"),
]
NAME = "tiny"
# What a CPU and a tiny model need: the last of two flags is the one that counts.
ON_A_CPU = [
    "--dtype=float32",
    "--max-model-len=1024",
    "--enforce-eager",
    "--no-enable-chunked-prefill",
]
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # the Debian has no compiler
}
PACKAGES = ("/vllm/shim", "/vllm/packages", "/vllm/told")
COMMAND = (
    f'#!/bin/sh\nPYTHONPATH={":".join(PACKAGES)} exec python3 -m vllm.entrypoints.cli.main "$@"\n'
)
VERSION = (  # vLLM asks what is installed as `vllm`, which is called vllm-cpu here, and finds its platform by the ending
    "0.32.0+cpu"
)
NUMA = Path(
    "/usr/lib/x86_64-linux-gnu/libnuma.so.1"
)  # vllm-cpu links it, and the Debian has it not


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    with podman() as engine:
        engine.debian()
        yield engine


@pytest.fixture(scope="module")
def image(engine: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Omni-serve on a Debian with a vllm command."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "vllm").write_text(COMMAND)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
    shutil.copy(NUMA, folder)
    lines = [
        f"FROM {BASE}",
        "COPY --chmod=755 vllm /usr/local/bin/vllm",
        f"COPY {NUMA.name} {NUMA}",
        f"COPY --chmod=644 METADATA {PACKAGES[2]}/vllm-{VERSION}.dist-info/METADATA",
    ]
    (folder / "Containerfile").write_text("\n".join(lines))
    engine("build", "--format=docker", "--tag=localhost/vllm-cpu", str(folder))
    return engine.build("serve", serve="localhost/vllm-cpu")["omni-serve"]


def runtime() -> tuple[dict[str, Any], str]:
    """The container of the ServingRuntime, and the size of its /dev/shm."""
    spec = yaml.safe_load((ROOT / "k8s/base/serving/servingruntime.yaml").read_text())["spec"]
    (container,) = spec["containers"]
    (shared,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm"]
    return container, shared["sizeLimit"].removesuffix("i")


def test_runtime_serves_from_the_image(engine: Podman, image: str, tmp_path: Path) -> None:
    container, shared = runtime()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        flag.replace("{{.Name}}", NAME).replace("8080", str(port)) for flag in container["args"]
    ]
    environment = {one["name"]: one["value"] for one in container["env"]} | CPU_ENVIRONMENT
    security = container["securityContext"]
    assert (security["readOnlyRootFilesystem"], security["capabilities"]) == (
        True,
        {"drop": ["ALL"]},
    )
    mounts = {
        PACKAGES[0]: Path(__file__).parent / "vllm_cpu",
        PACKAGES[1]: Path(HOME) / "lib/python3.11/site-packages",
        "/mnt/models": thinker.resolve("embedded:tiny-base"),
    }
    options = [
        "--detach",
        "--name=serve",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=host",
    ]
    options += [f"--shm-size={shared}"]
    options += [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--volume={place}:{inside}:ro" for inside, place in mounts.items()]
    command, *rest = container["command"]
    engine(
        "run",
        *options,
        f"--entrypoint={command}",
        image,
        *rest,
        *arguments,
        *ON_A_CPU,
        "--host=127.0.0.1",
    )

    def logs() -> str:
        log = subprocess.run(
            ["podman", "logs", "serve"],
            env=engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return log.stdout.decode()[-4000:]

    began = time.monotonic()
    try:
        while not _serves(f"http://127.0.0.1:{port}{container['startupProbe']['httpGet']['path']}"):
            assert engine("inspect", "--format={{.State.Running}}", "serve") == "true", logs()
            assert time.monotonic() - began < 300, logs()
            time.sleep(1)
        print(f"\nomni-serve serves after {time.monotonic() - began:.0f} s")
        assert engine("exec", "serve", "id", "-u") == "10001"
        assert engine("exec", "serve", "omnicore", "--version")

        small = ["--set", "prepare.split=dev", "--set", "prepare.scale=0.02"]
        asked = [
            f"probe.model={NAME}",
            "probe.engine.kind=http",
            f"probe.engine.url=http://127.0.0.1:{port}/v1",
        ]
        prepared, probed = tmp_path / "prepare", tmp_path / "probe"
        assert main.main(["prepare", *small, "--output", str(prepared)]) == 0
        words = [word for one in asked for word in ("--set", one)]
        assert (
            main.main(
                ["probe", *small, *words, "--input", f"queries={prepared}", "--output", str(probed)]
            )
            == 0
        ), logs()
        summary = read_step(probed)["summary"]
        assert {name for name in summary if name.startswith("canary_")} >= {
            "canary_audio",
            "canary_image",
        }, summary
    finally:
        engine("rm", "--force", "--time=0", "serve")


def _serves(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
