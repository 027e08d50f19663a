"""The retrain request: what it says is checked, what it says is its name, and its run is submitted
once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.cli.main import main
from omnicore.cluster.request import read_request
from omnicore.errors import ConfigError
from pipelines import compile as compiling
from tests.errors import refused
from tests.kfp_server import Kfp, kfp

__all__ = ["kfp"]

CHAMPION = "s3://b/runs/results/rlvr-1/" + "a" * 32
DATA = {"mine": "b" * 64}
SOURCE = (
    'prepare.training={"mine": {"format": "queries", "path": "s3://b/data", "files": "rows.jsonl",'
    ' "stages": ["rlvr"]}}'
)
VALUES: dict[str, Any] = {"recipe": "tiny", "model": "embedded:tiny-base", "reason": "a try"}


def written(folder: Path, **values: Any) -> Path:
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump({**VALUES, **values}))
    return path


def submit(kfp: Kfp, path: Path, *options: str) -> int:
    return main(
        [
            "cluster",
            "submit",
            "--request",
            str(path),
            "--host",
            kfp.url,
            "--param",
            f"champion={CHAMPION}/checkpoint",
            *options,
        ]
    )


def test_repository_request_is_rendered() -> None:
    """A value that `make compile` has not rendered would be submitted as it was before."""
    request = read_request(compiling.REQUEST)
    rendered = [file.read_text() for file in compiling.RENDERED.iterdir()]
    assert any(request.run in text for text in rendered)


def test_run_name_follows_the_values_not_the_text(tmp_path: Path) -> None:
    made = read_request(written(tmp_path))
    assert re.fullmatch(r"retrain-[0-9a-f]{12}", made.run)
    path = tmp_path / "other.yaml"
    path.write_text(
        "# Another order, and words\n"
        + yaml.safe_dump(dict(reversed(VALUES.items())), sort_keys=False)
    )
    assert read_request(path).run == made.run
    others = [
        {"model": "embedded:tiny-probe"},
        {"reason": "another"},
        {"overrides": ["seed=1"]},
        {"benchmarks": {"daily_omni": "/d"}},
    ]
    assert len(
        {made.run, *(read_request(written(tmp_path, **other)).run for other in others)}
    ) == 1 + len(others)


@pytest.mark.parametrize(
    ("values", "code", "field"),
    [
        ({"reson": "typo"}, "request-field-invalid", "reson"),
        ({"reason": ""}, "request-field-invalid", "reason"),
        (
            {"benchmarks": {"daily_omni": "hub@main"}},
            "request-field-invalid",
            "benchmarks.daily_omni",
        ),
        ({"data": {"mine": "latest"}}, "request-field-invalid", "data.mine"),
        ({"data": DATA}, "request-data-unknown", "data.mine"),
    ],
)
def test_mistake_is_reported_by_file_and_field(
    values: dict[str, Any], code: str, field: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **values)
    with refused(ConfigError, code, field=field, path=path):
        read_request(path)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"overrides": ["rlvr.stepz=1"]}, "rlvr.stepz"), ({"recipe": "tyni"}, "tyni")],
)
def test_mistake_of_the_recipe_names_the_file(
    values: dict[str, Any], word: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **values)
    with pytest.raises(ConfigError) as raised:
        read_request(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert word in str(raised.value)
    assert raised.value.path == str(path)


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "request-not-yaml"), ("- a", "request-field-invalid"), (None, "request-unreadable")],
)
def test_file_that_is_no_request_is_refused(text: str | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    if text is not None:
        path.write_text(text)
    with refused(ConfigError, code, path=path):
        read_request(path)


def test_run_takes_the_values_of_the_request(
    kfp: Kfp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path,
        overrides=[SOURCE, "seed=1"],
        data=DATA,
        benchmarks={"daily_omni": "/data/daily_omni"},
    )
    assert submit(kfp, path) == 0
    (run,) = kfp.runs
    assert run["display_name"] == read_request(path).run
    assert run["pipeline_version_reference"]["pipeline_id"] == "id-retrain"
    parameters = run["runtime_config"]["parameters"]
    assert json.loads(parameters.pop("overrides")) == [
        SOURCE,
        "seed=1",
        f'prepare.training.mine.revision="{"b" * 64}"',
    ]
    benchmarks = {"daily_omni": "/data/daily_omni"}
    # The result around the weights that serve: what `retrain` imports.
    fixed = {
        "recipe": "tiny",
        "model": "embedded:tiny-base",
        "benchmarks": benchmarks,
        "champion": CHAMPION,
    }
    assert parameters == {**fixed, "run_name": run["display_name"]}
    assert capsys.readouterr().out.endswith("\nreason: a try\n")


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "FAILED", "CANCELED"])
def test_request_runs_once_unless_again(
    state: str, kfp: Kfp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    assert submit(kfp, path) == 0
    kfp.runs[0]["state"] = state
    over = state in {"FAILED", "CANCELED"}
    assert submit(kfp, path) == 0
    assert len(kfp.runs) == 1
    assert ("--again runs it anew" in capsys.readouterr().out) == over
    assert submit(kfp, path, "--again") == 0
    assert len(kfp.runs) == (2 if over else 1)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--pipeline", "omniboost"], "[cli-request-conflict]"),
        (["--set", "seed=1"], "[cli-request-conflict]"),
        (
            ["--param", f"champion=s3://b/champion/{'0' * 32}/checkpoint"],
            "[request-champion-missing]",
        ),
        (["--param", "champion="], "[request-champion-missing]"),
    ],
)
def test_conflicting_options_are_refused(
    options: list[str], code: str, kfp: Kfp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp, written(tmp_path), *options) == 2
    assert code in capsys.readouterr().err
    assert kfp.runs == []


@pytest.mark.parametrize("options", [["--run", "a"], ["--newest"], ["--pipeline", "retrain"]])
def test_pipeline_and_run_or_request_are_required(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "submit", *options]) == 2
    assert "[cli-pipeline-missing]" in capsys.readouterr().err


def test_rendering_depends_on_request_and_pipeline_only(tmp_path: Path) -> None:
    manifest = compiling.COMPILED / "retrain.k8s.yaml"
    made = read_request(written(tmp_path))
    files = compiling.render_request(made, manifest)
    assert files == compiling.render_request(made, manifest)
    pipeline, version = yaml.safe_load_all(files["pipeline.yaml"])
    _, compiled = yaml.safe_load_all(manifest.read_text())
    assert version["spec"] == compiled["spec"]
    waves = [
        found["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]
        for found in (pipeline, version)
    ]
    assert waves == ["0", "1"]
    assert files["submit.env"].split() == [
        f"RUN={made.run}",
        f"VERSION={compiled['metadata']['name']}",
    ]
    other = compiling.render_request(made.model_copy(update={"reason": "another"}), manifest)
    assert other["pipeline.yaml"] == files["pipeline.yaml"]
    assert other["submit.env"] != files["submit.env"]


def test_check_names_the_outdated_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["compile", "--check"])
    monkeypatch.setattr(compiling, "REQUEST", written(tmp_path))
    assert compiling.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(compiling.RENDERED / "submit.env"))
    monkeypatch.setattr(compiling, "REQUEST", written(tmp_path, recipe="tyni"))
    assert compiling.main() == 2
    assert "no recipe 'tyni'" in capsys.readouterr().err
