"""Promotion: decided by the paired difference on the clean view."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from omnicore.config import PromoteConfig
from omnicore.errors import DataError
from omnicore.lineage import model_card, signing
from omnicore.lineage.step_record import write_step
from omnicore.runtime.run import run_step
from omnicore.schema import Estimate, Response, View
from omnicore.steps import promote
from omnicore.storage.digests import SIGNATURE
from omnicore.storage.files import read_json, read_jsonl, write_json
from tests.errors import refused
from tests.unit.report_fixture import RECIPE, make
from tests.unit.test_card import described, prepared
from tests.unit.test_signing import KEY, private, public


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global thinker, torch

    import torch

    from omnicore.models import thinker


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"), control=False, second=False)


def inputs(made: dict[str, Path], champion: str, candidate: str) -> dict[str, Path]:
    return {
        "queries": made["queries"],
        "manifest": made["audit"],
        "champion": made[champion],
        "candidate": made[candidate],
    }


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=50)


@pytest.mark.parametrize(
    ("difference", "by_benchmark", "decision", "said"),
    [
        (
            estimate(0.4, 0.35, 0.45),
            {"elm": estimate(0.4, 0.3, 0.5)},
            "promote",
            ["above 2", "no benchmark loses more than 5"],
        ),
        (
            estimate(0.4, 0.02, 0.45),
            {"elm": estimate(0.4, 0.3, 0.5)},
            "keep",
            ["not above 2", "no benchmark loses"],
        ),
        (estimate(0.01, 0.0, 0.02), {}, "keep", ["not above 2", "no benchmark loses"]),
        (
            estimate(0.4, 0.35, 0.45),
            {"elm": estimate(-0.05, -0.2, 0.1)},
            "promote",
            ["above 2", "no benchmark loses"],
        ),
        (
            estimate(0.4, 0.35, 0.45),
            {"elm": estimate(-0.06, -0.2, 0.1), "fir": estimate(0.2, 0.1, 0.3)},
            "promote",
            ["above 2", "no benchmark loses"],  # a few queries' noise
        ),
        (
            estimate(0.4, 0.35, 0.45),
            {"elm": estimate(-0.06, -0.1, -0.01), "fir": estimate(0.2, 0.1, 0.3)},
            "keep",
            ["above 2", "elm changes by -6.0"],
        ),
    ],
)
def test_decision(
    difference: Estimate, by_benchmark: dict[str, Estimate], decision: str, said: list[str]
) -> None:
    decided, reasons = promote.decide(difference, by_benchmark, PromoteConfig())
    assert decided == decision
    assert len(reasons) == len(said)
    assert all(part in reason for part, reason in zip(said, reasons, strict=True)), reasons


def test_difference_is_of_clean_queries_under_omni(made: dict[str, Path], tmp_path: Path) -> None:
    summary = promote.run(
        RECIPE, PromoteConfig(worst_drop=1), inputs(made, "sft", "rlvr"), tmp_path
    )
    found = read_json(tmp_path / "decision.json")
    verdicts = read_json(made["audit"] / "manifest.json")["verdicts"]
    kept = [(v["benchmark"], v["id"]) for v in verdicts if v["label"] != "solvable"]
    right = {}
    for arm in ("sft", "rlvr"):
        replies = {
            (r.benchmark, r.id): r.outcome == "correct"
            for r in read_jsonl(made[arm] / "responses.jsonl", Response)
            if r.view is View.omni
        }
        right[arm] = {key: replies[key] for key in kept}
    expected = np.mean([float(right["rlvr"][key]) - float(right["sft"][key]) for key in kept])
    assert found["difference"]["value"] == pytest.approx(expected)
    assert found["difference"]["n"] == len(kept) == summary["queries"]
    assert found["by_benchmark"]["elm"]["n"] == sum(benchmark == "elm" for benchmark, _ in kept)
    assert found["decision"] == summary["decision"] == "promote"
    assert found["champion"] == read_json(made["sft"] / "step.json")["digest"]
    assert found["candidate"] == read_json(made["rlvr"] / "step.json")["digest"]
    assert found["clean"]["candidate"] == read_json(made["rlvr"] / "scores.json")["clean"]["micro"]


def test_a_worse_candidate_is_kept_out(made: dict[str, Path], tmp_path: Path) -> None:
    promote.run(RECIPE, PromoteConfig(), inputs(made, "rlvr", "sft"), tmp_path)
    found = read_json(tmp_path / "decision.json")
    assert found["decision"] == "keep"
    assert found["difference"]["high"] < 0
    assert len(found["reasons"]) > 2  # some benchmark is named as well


@pytest.mark.parametrize("field", ["profile_hash", "manifest_hash"])
def test_scores_that_cannot_be_compared_are_refused(
    made: dict[str, Path], tmp_path: Path, field: str
) -> None:
    ours = read_json(made["rlvr"] / "scores.json")[field]
    other = tmp_path / "rlvr"
    shutil.copytree(made["rlvr"], other)
    (other / "scores.json").write_text((other / "scores.json").read_text().replace(ours, "e" * 64))
    with refused(DataError, "scores-not-comparable", field=field) as caught:
        promote.run(
            RECIPE, PromoteConfig(), {**inputs(made, "sft", "rlvr"), "candidate": other}, tmp_path
        )
    assert "e" * 64 in str(caught.value)
    assert not (tmp_path / "decision.json").exists()


def test_a_manifest_that_keeps_nothing_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    manifest = read_json(made["audit"] / "manifest.json")
    for verdict in manifest["verdicts"]:
        verdict["label"] = "solvable"
    empty = tmp_path / "clean"
    empty.mkdir()
    (empty / "manifest.json").write_text(json.dumps(manifest))
    with refused(DataError, "promote-clean-view-empty", path=empty / "manifest.json"):
        promote.run(
            RECIPE, PromoteConfig(), {**inputs(made, "sft", "rlvr"), "manifest": empty}, tmp_path
        )


def with_model(made: dict[str, Path], root: Path, **files: str) -> dict[str, Path]:
    """The inputs with a candidate's checkpoint that its evaluation names; `files` are more of its
    files."""
    model, candidate = root / "model", root / "candidate"
    (model / "checkpoint").mkdir(parents=True)
    model_card.write_card(model / "checkpoint", described(RECIPE, {"data": prepared(root, sft=3)}))
    for name, text in {"model.safetensors": "", "config.json": "{}", **files}.items():
        (model / "checkpoint" / name).write_text(text)
    write_step(
        model, {"step": "rlvr", "section": "rlvr", "key": "k", "seconds": 1.0, "summary": {}}
    )
    shutil.copytree(made["rlvr"], candidate)
    step = read_json(candidate / "step.json")
    write_json(
        candidate / "step.json",
        {**step, "inputs": {"model": read_json(model / "step.json")["digest"]}},
    )
    return {**inputs(made, "sft", "rlvr"), "candidate": candidate, "model": model}


LOOSE = PromoteConfig(worst_drop=1)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, ""),
        (
            {
                "tokenizer.json": '{"auto_map": 1}',
                "chat_template.jinja": "",
                "README.md": "",
                "model.sig": "",
            },
            "",
        ),
        ({"pytorch_model.bin": ""}, "the candidate holds pytorch_model.bin, which may run code"),
        ({"modeling.py": ""}, "the candidate holds modeling.py, which may run code"),
        ({"config.json": '{"auto_map": {}}'}, "the candidate: config.json asks for remote code"),
        ({"config.json": "{"}, "the candidate: config.json is not JSON"),
    ],
)
def test_unsafe_files_are_kept_out(
    files: dict[str, str], said: str, made: dict[str, Path], tmp_path: Path
) -> None:
    given = with_model(made, tmp_path / "inputs", **files)
    promote.run(RECIPE, LOOSE, given, tmp_path)
    found = read_json(tmp_path / "decision.json")
    assert found["decision"] == ("keep" if said else "promote")
    assert said in found["reasons"][-1]
    assert found["files"] == "checked"
    assert (tmp_path / "release").exists() == (not said)
    assert found["models"] == {
        "champion": None,
        "candidate": read_json(given["model"] / "step.json")["digest"],
    }
    assert str(tmp_path) not in (tmp_path / "decision.json").read_text()


@pytest.mark.parametrize("config", [LOOSE, PromoteConfig(min_effect=0.9)], ids=["promote", "keep"])
def test_candidate_is_released_with_scores_after_any_decision(
    config: PromoteConfig, made: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    given = with_model(made, tmp_path / "inputs")
    summary = promote.run(RECIPE, config, given, tmp_path)
    assert summary["decision"] in request.node.name
    released, step = (
        model_card.read_card(tmp_path / "release"),
        read_json(given["model"] / "step.json"),
    )
    scores, evaluation = (
        read_json(given["candidate"] / "scores.json"),
        read_json(given["candidate"] / "step.json"),
    )
    assert released.made == model_card.ProducingStep(
        section="rlvr", key=step["key"], digest=step["digest"]
    )
    assert released.scores
    assert (
        released.scores.evaluation
        == evaluation["digest"]
        == read_json(tmp_path / "decision.json")["candidate"]
    )
    assert released.scores.model_dump(mode="json", include=set(model_card.VIEWS)) == {
        view: scores[view] for view in model_card.VIEWS
    }
    assert (tmp_path / "release" / "README.md").read_text() == model_card.render_markdown(released)
    assert (tmp_path / "release" / "model.safetensors").samefile(
        given["model"] / "checkpoint" / "model.safetensors"
    )
    assert model_card.read_card(given["model"] / "checkpoint").scores is None


def test_release_is_signed_with_a_key_and_keeps_its_digest(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("model_signing")
    given = with_model(made, tmp_path / "inputs")
    monkeypatch.delenv(signing.SIGNING_KEY, raising=False)
    plain = run_step("promote", RECIPE, given, tmp_path / "plain")
    monkeypatch.setenv(signing.SIGNING_KEY, private(KEY))
    signed = run_step("promote", RECIPE, given, tmp_path / "signed")
    monkeypatch.setenv(signing.VERIFY_KEY, public(KEY))
    signing.verify_signature(tmp_path / "signed" / "release")
    assert not (tmp_path / "plain" / "release" / SIGNATURE).exists()
    assert signed["digest"] == plain["digest"]


def test_a_checkpoint_that_was_changed_since_is_not_released(
    made: dict[str, Path], tmp_path: Path
) -> None:
    given = with_model(made, tmp_path / "inputs")
    (given["model"] / "checkpoint" / "model.safetensors").write_text("others")
    with pytest.raises(
        DataError, match=r"model\.safetensors was changed after the step was finished"
    ):
        promote.run(RECIPE, LOOSE, given, tmp_path)


def test_a_model_that_was_not_evaluated_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    given = {**with_model(made, tmp_path / "inputs"), "candidate": made["rlvr"]}
    with refused(DataError, "promote-model-not-evaluated", field="model"):
        promote.run(RECIPE, LOOSE, given, tmp_path)


def test_a_candidate_that_the_canary_has_not_heard_is_kept_out(
    made: dict[str, Path], tmp_path: Path
) -> None:
    deaf = tmp_path / "rlvr"
    shutil.copytree(made["rlvr"], deaf)
    step = read_json(deaf / "step.json")
    del step["summary"]["canary_audio"]
    write_json(deaf / "step.json", step)
    promote.run(RECIPE, LOOSE, {**inputs(made, "sft", "rlvr"), "candidate": deaf}, tmp_path)
    found = read_json(tmp_path / "decision.json")
    assert (found["decision"], found["canary"]) == (
        "keep",
        {"canary_image": "answers", "canary_noise": 0.0},
    )
    assert found["reasons"][-1] == "the canary has not verified that the candidate perceives audio"


def test_what_a_training_saves_is_safe_and_voices_are_not(tmp_path: Path) -> None:
    """The whole Omni's class asks for a file of voices, a pickle: the one that is written is
    empty."""
    thinker.save(*thinker.load("embedded:tiny-base"), tmp_path / "checkpoint")
    assert promote.unsafe_files(tmp_path / "checkpoint") == []
    for content in ({"Chelsie": torch.zeros(2)}, Path):
        torch.save(content, tmp_path / "checkpoint" / "spk_dict.pt")
        assert (
            "holds spk_dict.pt, which may run code"
            in promote.unsafe_files(tmp_path / "checkpoint")[0]
        )
    (tmp_path / "checkpoint" / "spk_dict.pt").write_bytes(b"no archive")
    assert promote.unsafe_files(tmp_path / "checkpoint")
    empty, evil = pickle.dumps({}), pickle.dumps(Path)
    for pickles in (
        {},
        {"data": empty, "more": empty},
        {"data": empty, "more": evil},
        {"data": evil},
    ):
        with ZipFile(tmp_path / "checkpoint" / "spk_dict.pt", "w") as archive:
            for name, content in pickles.items():
                archive.writestr(f"archive/{name}.pkl", content)
        assert promote.unsafe_files(tmp_path / "checkpoint"), pickles
