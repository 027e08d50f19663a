"""The wheel in an environment of its own: it brings the package `omnicore` and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import omnicore
from tests.kfp_server import Kfp, kfp

__all__ = ["kfp"]
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(directory), str(ROOT)], check=True)
    (path,) = directory.glob("omnicore-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and its dependencies from this one.

    A line of a .pth file adds a folder without its own .pth files: the editable omnicore of this
    environment stays out of sight.
    """
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory


def run(environment: Path, *words: str, status: int = 0) -> str:
    """Run a program of the environment outside the checkout; return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=environment, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def names(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from archive.namelist()


def test_wheel_has_one_package(wheel: Path) -> None:
    top = {name.partition("/")[0] for name in names(wheel)}
    assert top == {"omnicore", f"omnicore-{omnicore.__version__}.dist-info"}
    assert "omnicore/py.typed" in set(names(wheel))


def test_public_names_are_importable(environment: Path) -> None:
    code = (
        "import omnicore, sys; print(omnicore.__file__, *[getattr(omnicore, n) for n in"
        " omnicore.__all__]); print(sorted({'torch', 'transformers', 'kfp'} & set(sys.modules)))"
    )
    path, *_, heavy = run(environment, "python", "-c", code).split()
    assert Path(path).is_relative_to(environment)
    assert heavy == "[]"


@pytest.mark.parametrize("package", ["components", "pipelines"])
def test_packages_of_the_checkout_are_not_installed(package: str, environment: Path) -> None:
    message = run(environment, "python", "-c", f"import {package}", status=1)
    assert f"No module named '{package}'" in message


def test_step_runs_on_the_embedded_benchmark(environment: Path) -> None:
    assert "prepare -> probe -> clean" in run(environment, "omnicore", "--help")
    output = environment / "prepare"
    run(environment, "omnicore", "prepare", "--set", "prepare.scale=0.05", "--output", str(output))
    assert (output / "step.json").is_file()
    assert (output / "queries.jsonl").read_text().count("\n") > 20


@pytest.mark.parametrize("module", ["omnicore", "omnicore.cli"])
def test_modules_run_as_the_command(module: str, environment: Path) -> None:
    printed = run(environment, "python", "-m", module, "--version")
    assert printed == f"omnicore {omnicore.__version__}\n"


def test_submit_finds_the_compiled_pipelines(environment: Path, kfp: Kfp) -> None:
    assert "--request FILE" in run(environment, "omnicore", "cluster", "submit", "--help")
    options = ["--pipeline", "omniclean", "--run", "a", "--host", kfp.url]
    message = run(environment, "omnicore", "cluster", "submit", *options, status=2)
    (file,) = [word for word in message.split() if word.endswith("omniclean.k8s.yaml,")]
    assert Path(file.rstrip(",")).is_relative_to(environment)
    assert Path(file.rstrip(",")).is_file()
