"""The images: what they are made of, and the audit in containers through kfp.local on podman, the
model on a server outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from omnicore.storage.files import read_json
from tests.containers import ROOT, Podman, missing, podman

IMAGES = {"core", "train", "serve"}
USER = "10001:10001"
LOCKED = ("--read-only", "--cap-drop=ALL", "--network=none", "--rm")
needs_podman = pytest.mark.skipif(bool(missing()), reason=missing() or "podman is there")
needs_time = pytest.mark.skipif(
    "OMNI_TEST_TRAIN_IMAGE" not in os.environ, reason="a quarter of an hour: make test-images"
)


def lock(name: str) -> dict[str, str]:
    text = (ROOT / "images" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_dockerfiles_are_clean(name: str) -> None:
    command = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not command:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [command, str(ROOT / "images" / name / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["build", "core", "train"])
def test_locks_name_hashes_and_no_host(name: str) -> None:
    text = (ROOT / "images" / f"{name}.lock").read_text()
    assert "://" not in text
    assert "index-url" not in text
    for pinned in re.split(r"\n(?=[a-z])", text):
        if not pinned.startswith("#"):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", pinned), pinned


@pytest.mark.parametrize(
    ("name", "extras"),
    [("core", "audit cluster pipelines sign"), ("train", "audit cluster pipelines sign train gpu")],
    ids=["core", "train"],
)
def test_locks_are_what_pyproject_asks_for(name: str, extras: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in extras.split() for line in project["optional-dependencies"][extra]),
    ]
    pinned = lock(name)
    for requirement in map(Requirement, asked):
        if (
            requirement.name != "torch"
        ):  # the base's CUDA decides which build: pinned in the Dockerfile
            assert requirement.specifier.contains(pinned[requirement.name]), (
                f"{requirement}, locked {pinned[requirement.name]}: make lock"
            )
    assert ("transformers" in pinned) == (name == "train")
    assert {"torch", "vllm"}.isdisjoint(pinned)


def test_skaffold_builds_every_image_from_the_shared_base() -> None:
    config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    profiles = {profile["name"]: profile for profile in config["profiles"]}
    assert set(profiles) == {"local", "dev", "prod", "gpu"}
    for profile in (config, *profiles.values()):
        for path in profile.get("manifests", {}).get("kustomize", {}).get("paths", []):
            assert (ROOT / path / "kustomization.yaml").is_file()
        for artifact in profile.get("build", {}).get("artifacts", []):
            name = artifact["image"].removeprefix("omni-")
            assert artifact["docker"]["dockerfile"] == f"images/{name}/Dockerfile"
            assert (artifact.get("requires") == [{"image": "omni-core", "alias": "CORE"}]) == (
                name != "core"
            )
            arguments = re.findall(
                r"^ARG (\w+)", (ROOT / f"images/{name}/Dockerfile").read_text(), re.MULTILINE
            )
            assert set(artifact["docker"].get("buildArgs", {})) <= set(arguments)
    assert {artifact["image"] for artifact in profiles["gpu"]["build"]["artifacts"]} == {
        f"omni-{name}" for name in IMAGES
    }


@pytest.mark.parametrize(
    ("told", "image"),
    [
        (None, "localhost/omni-core:dev"),
        (
            {"builds": [{"imageName": "omni-core", "tag": "r.example/omni-core:1@sha256:ab"}]},
            "r.example/omni-core:1@sha256:ab",
        ),
        (
            {"builds": [{"imageName": "r.example/x/omni-core", "tag": "r.example/x/omni-core:2"}]},
            "r.example/x/omni-core:2",
        ),
        ({"builds": [{"imageName": "omni-train", "tag": "t"}]}, ""),
        ({"images": []}, ""),
        ("missing", ""),
    ],
)
def test_components_take_the_images_of_one_build(
    told: Any, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.images import BUILD
    from components.images import image as found
    from omnicore.errors import ConfigError

    monkeypatch.delenv(BUILD, raising=False)
    if told:
        monkeypatch.setenv(BUILD, str(tmp_path / "images.json"))
    if isinstance(told, dict):
        (tmp_path / "images.json").write_text(json.dumps(told))
    if image:
        assert found("omni-core") == image
    else:
        with pytest.raises(ConfigError, match="tells no image omni-core"):
            found("omni-core")


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    with podman() as engine:
        yield engine


@pytest.fixture(scope="module")
def core(engine: Podman) -> str:
    """Tag of the core image on Debian's Python."""
    engine.debian()
    return engine.build("core")["omni-core"]


@pytest.fixture(scope="module")
def client(engine: Podman) -> Any:
    import docker

    return docker.DockerClient(base_url=engine.environment["DOCKER_HOST"])


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """URL of `omnicore serve` on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "omnicore",
        "serve",
        "--model",
        "embedded:tiny-probe",
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, "omnicore serve ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5)
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def images_file(directory: Path, tag: str) -> str:
    """What a build tells, with one image for all steps."""
    file = directory / "images.json"
    file.write_text(
        json.dumps(
            {"builds": [{"imageName": name, "tag": tag} for name in ("omni-core", "omni-train")]}
        )
    )
    return str(file)


def run(engine: Podman, tag: str, directory: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "pipelines.run",
        "--containers",
        "--run",
        str(directory / "run"),
        *options,
    ]
    env = {**engine.environment, "OMNI_IMAGES": images_file(directory, tag), "TMPDIR": "/tmp"}
    return subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def asking(url: str) -> list[str]:
    """A small audit on the dev split whose probes ask a server."""
    fields = ["prepare.scale=0.05", "prepare.split=dev"]
    for section in ("probe", "second_probe"):
        engine = f"{section}.engine"
        fields += [
            f"{engine}.kind=http",
            f"{engine}.url={url}",
            f"{engine}.retries=0",
            f"{section}.model=embedded:tiny-probe",
        ]
    return [word for field in fields for word in ("--set", field)]


@needs_podman
@pytest.mark.slow
class TestCore:
    def test_it_is_locked_down(self, engine: Podman, core: str) -> None:
        found = json.loads(engine("image", "inspect", core))[0]
        assert found["Config"]["User"] == USER
        assert found["Config"]["Labels"]["org.opencontainers.image.title"] == "omni-core"
        print(f"\nomni-core: {found['Size'] / 1e6:.0f} MB")
        assert "Audit omni-modal benchmarks" in engine("run", *LOCKED, core, "omnicore", "--help")
        said = engine(
            "run",
            *LOCKED,
            core,
            "sh",
            "-c",
            "id -u; touch /opt/omnicore/x /x 2>&1; touch /tmp/x && echo written",
        )
        assert said.split("\n")[0] == "10001"
        assert said.count("Read-only file system") == 2
        assert said.endswith("written")

    def test_it_has_no_torch_and_no_pip(self, engine: Podman, core: str) -> None:
        code = (
            "import importlib.util as u; print([m for m in ('torch', 'transformers', 'vllm', 'pip')"
            " if u.find_spec(m)])"
        )
        assert engine("run", *LOCKED, core, "/opt/omnicore/bin/python", "-c", code) == "[]"

    def test_it_tells_nothing_of_where_it_was_built(self, engine: Podman, core: str) -> None:
        told = engine("history", "--no-trunc", "--format={{.CreatedBy}}", core)
        assert "COPY" in told
        assert "://" not in told
        places = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        hosts = set(re.findall(r"://(?:[^/@\s']*@)?([^/\s']+)", places))
        words = [word for host in hosts for word in ("-e", host)] or ["-e", "find-links"]
        search = [
            "grep",
            "-rlF",
            "--include=*.conf",
            "--include=*.toml",
            "--include=*.json",
            *words,
            "/etc",
            "/opt/omnicore",
        ]
        assert engine("run", *LOCKED, core, *search, check=False) == ""

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (["true"], 0),
            (["false"], 1),
            (["sh", "-c", "exit 3"], 3),
            (["sh", "-c", "sleep 1; exit 4"], 4),
            (["python3", "-c", "raise SystemExit(5)"], 5),
            (["python3", "-c", "raise SystemExit('told')"], 1),
            (["python3", "-c", "import os; os._exit(6)"], 6),
            (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        ],
        ids=["success", "instant", "exit 3", "later", "SystemExit", "message", "_exit", "killed"],
    )
    def test_exit_codes_arrive(self, command: list[str], code: int, client: Any, core: str) -> None:
        from pipelines.containers import run_container

        assert run_container(client, core, command, network_mode="host") == code
        assert client.containers.list(all=True) == []

    def test_step_may_be_silent_longer_than_the_engine_timeout(
        self, engine: Podman, core: str
    ) -> None:
        import docker

        from pipelines.containers import run_container

        hasty = docker.DockerClient(base_url=engine.environment["DOCKER_HOST"], timeout=5)
        assert run_container(hasty, core, ["sh", "-c", "sleep 9; exit 3"], network_mode="host") == 3

    def test_a_command_that_is_not_there_is_an_error(self, client: Any, core: str) -> None:
        from docker.errors import APIError

        from pipelines.containers import run_container

        with pytest.raises(APIError):
            run_container(client, core, ["no-such-command"], network_mode="host")
        assert client.containers.list(all=True) == []

    @pytest.mark.parametrize(
        "body", ["sys.exit(3)", "os._exit(3)", "raise SystemExit('told')", "1 / 0", "pass"]
    )
    def test_a_failed_component_fails_the_run(
        self, body: str, engine: Podman, core: str, tmp_path: Path
    ) -> None:
        """As kfp.local sees it, with the image's own user on a read-only root."""
        (tmp_path / "out").mkdir()
        (tmp_path / "out").chmod(0o777)  # the user of the image writes here
        script = f"""
import kfp.local
from kfp import dsl
from pipelines.containers import container_runner

kfp.local.init(container_runner({USER!r}), {str(tmp_path / "out")!r})

@dsl.component(base_image={core!r}, install_kfp_package=False)
def step(result: dsl.OutputPath(str)):
    import os, sys
    print("user", os.getuid(), os.getgid())
    {body}
    open(result, "w").write("done")

print("output", step().outputs["result"])
"""
        (tmp_path / "main.py").write_text(script)
        env = {**engine.environment, "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp"}
        done = subprocess.run(
            [sys.executable, str(tmp_path / "main.py")],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "user 10001 10001" in done.stdout, done.stdout + done.stderr
        if body == "pass":
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.endswith("output done\n")
        else:
            assert done.returncode == 1, done.stdout
            assert "FAILURE" in done.stderr
        assert engine("ps", "--all", "--quiet") == ""

    def test_the_audit_runs_in_containers(
        self, engine: Podman, core: str, model: str, tmp_path: Path
    ) -> None:
        begun = time.monotonic()
        said, _ = (
            process := run(engine, core, tmp_path, "--pipeline", "omniclean", *asking(model))
        ).communicate(timeout=240)
        assert process.returncode == 0, said + (tmp_path / "run" / "run.log").read_text()[-4000:]
        print(f"\naudit in containers: {time.monotonic() - begun:.0f} s")
        records = [read_json(file) for file in (tmp_path / "run" / "outputs").rglob("step.json")]
        assert sorted(record["section"] for record in records) == [
            "clean",
            "prepare",
            "probe",
            "report",
            "second_probe",
        ]
        inside = engine(
            "run",
            *LOCKED,
            core,
            "python3",
            "-c",
            "import platform; print(platform.python_version())",
        )
        assert {record["versions"]["python"] for record in records} == {inside}
        manifest = read_json(tmp_path / "run" / "manifest.json")
        assert len(manifest["verdicts"]) == next(
            record["summary"]["queries"] for record in records if record["step"] == "prepare"
        )
        assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
        assert engine("ps", "--all", "--quiet") == ""

    def test_a_failed_step_ends_red_and_says_why(
        self, engine: Podman, core: str, tmp_path: Path
    ) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
            said, _ = (
                process := run(engine, core, tmp_path, "--pipeline", "omniclean", *asking(url))
            ).communicate(timeout=240)
        assert process.returncode == 1, said
        assert "probe failed: " in said
        assert not (tmp_path / "run" / "manifest.json").exists()
        assert engine("ps", "--all", "--quiet") == ""

    def test_an_interrupted_run_leaves_no_container(
        self, engine: Podman, core: str, tmp_path: Path
    ) -> None:
        process = run(engine, core, tmp_path, "--pipeline", "omniclean")
        end = time.monotonic() + 60
        while not engine("ps", "--quiet"):
            assert process.poll() is None
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert engine("ps", "--all", "--quiet") == ""


@needs_podman
@needs_time
@pytest.mark.slow
class TestTrain:
    @pytest.fixture(scope="class")
    def train(self, engine: Podman, core: str) -> str:
        """Tag of the training image on Debian, with the build of torch that pip finds here."""
        return engine.build("train")["omni-train"]

    def test_it_imports_what_it_holds(self, engine: Podman, train: str) -> None:
        code = (
            "import accelerate, datasets, deepspeed, peft, torch, transformers, trl,"
            " omnicore.training.rlvr; print('all')"
        )
        said = engine("run", *LOCKED, train, "/opt/omnicore/bin/python", "-c", code)
        assert said.endswith("all")
        size = json.loads(engine("image", "inspect", train))[0]["Size"]
        print(f"\nomni-train on the CPU: {size / 1e6:.0f} MB")

    def test_the_whole_recipe_runs_in_containers(
        self, engine: Podman, train: str, tmp_path: Path
    ) -> None:
        begun = time.monotonic()
        said, _ = (process := run(engine, train, tmp_path, "--pipeline", "omniboost")).communicate()
        assert process.returncode == 0, said + (tmp_path / "run" / "run.log").read_text()[-4000:]
        print(f"\n{said}\nthe tiny recipe in containers: {time.monotonic() - begun:.0f} s")
        assert (tmp_path / "run" / "report.html").is_file()
        assert engine("ps", "--all", "--quiet") == ""
