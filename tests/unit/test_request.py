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
from omnicore.errors import ConfigError
from pipelines import compile as compiling
from pipelines import request
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


def test_the_request_in_the_repository_is_one() -> None:
    assert request.read(request.FILE).reason


def test_a_name_is_what_is_asked_for_and_not_how_it_is_written(tmp_path: Path) -> None:
    made = request.read(written(tmp_path))
    assert re.fullmatch(r"retrain-[0-9a-f]{12}", made.run)
    path = tmp_path / "other.yaml"
    path.write_text(
        "# Another order, and words\n"
        + yaml.safe_dump(dict(reversed(VALUES.items())), sort_keys=False)
    )
    assert request.read(path).run == made.run
    others = [
        {"model": "embedded:tiny-probe"},
        {"reason": "another"},
        {"overrides": ["seed=1"]},
        {"benchmarks": {"daily_omni": "/d"}},
    ]
    assert len(
        {made.run, *(request.read(written(tmp_path, **other)).run for other in others)}
    ) == 1 + len(others)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reson": "typo"}, r"request.yaml has 1 wrong field.*reson: Extra inputs"),
        ({"reason": ""}, "reason: String should have at least 1"),
        ({"benchmarks": {"daily_omni": "hub@main"}}, r"benchmarks.daily_omni: .*hub@main"),
        ({"data": {"mine": "latest"}}, "data.mine: .*latest"),
        (
            {"data": DATA},
            (
                "request.yaml: data.mine: the recipe has no prepare.training.mine; its sources are:"
                " none"
            ),
        ),
        (
            {"overrides": ["rlvr.stepz=1"]},
            r"request.yaml: recipe tiny has 1 wrong field.*rlvr\.stepz",
        ),
        ({"recipe": "tyni"}, "request.yaml: no recipe 'tyni'"),
    ],
)
def test_a_mistake_is_told_by_file_and_field(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        request.read(written(tmp_path, **values))
    assert re.search(words, str(raised.value).replace("\n", " ")), raised.value


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not YAML"), ("- a", "wrong field"), (None, "No such file.*request.yaml is")],
)
def test_what_is_no_request_is_told(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        request.read(path)


def test_its_run_has_what_it_asks_for(
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
    assert run["display_name"] == request.read(path).run
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
def test_a_request_is_run_once_however_its_run_ends_but_for_a_person_who_says_so(
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
    ("options", "words"),
    [
        (["--pipeline", "omniboost"], "--request says pipeline, recipe and values itself"),
        (["--set", "seed=1"], "--request says pipeline, recipe and values itself"),
        (
            ["--param", f"champion=s3://b/champion/{'0' * 32}/checkpoint"],
            r"no champion to beat: .*champion\.yaml",
        ),
        (["--param", "champion="], "no champion to beat"),
    ],
)
def test_what_does_not_go_together_is_told(
    options: list[str], words: str, kfp: Kfp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(kfp, written(tmp_path), *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert kfp.runs == []


@pytest.mark.parametrize("options", [["--run", "a"], ["--newest"], ["--pipeline", "retrain"]])
def test_neither_a_request_nor_a_pipeline_and_a_run(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *options]) == 2
    assert "give --pipeline and --run, or --request" in capsys.readouterr().err


def test_what_is_rendered_is_a_function_of_request_and_pipeline(tmp_path: Path) -> None:
    manifest = compiling.COMPILED / "retrain.k8s.yaml"
    made = request.read(written(tmp_path))
    files = request.rendered(made, manifest)
    assert files == request.rendered(made, manifest)
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
    other = request.rendered(made.model_copy(update={"reason": "another"}), manifest)
    assert other["pipeline.yaml"] == files["pipeline.yaml"]
    assert other["submit.env"] != files["submit.env"]


def test_a_request_that_was_changed_and_not_rendered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["compile", "--check"])
    monkeypatch.setattr(request, "FILE", written(tmp_path))
    assert compiling.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(compiling.RENDERED / "submit.env"))
    monkeypatch.setattr(request, "FILE", written(tmp_path, recipe="tyni"))
    assert compiling.main() == 2
    assert "no recipe 'tyni'" in capsys.readouterr().err
