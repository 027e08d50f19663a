"""A released checkpoint: its files, and scores of this very checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import CheckpointError, ConfigError, DataError, OmniError
from omnicore.lineage import model_card, signing
from omnicore.lineage.release import release
from omnicore.lineage.step_record import read_step
from omnicore.storage import store
from omnicore.storage.digests import SIGNATURE, digest_directory
from tests.errors import refused
from tests.seaweed import BUCKET, seaweed, signed_in
from tests.unit.test_card import described, finished, prepared
from tests.unit.test_signing import KEY, OTHER, private, public

__all__ = ["seaweed", "signed_in"]


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 40}


def evaluated(folder: Path, model: Path, clean: float = 0.8915) -> Path:
    scores = {
        **{name: name for name in ("profile_hash", "manifest_hash", "queries_hash")},
        "raw": {name: estimate(0.95) for name in ("macro", "micro", "chance_corrected")},
        "clean": {name: estimate(clean) for name in ("macro", "micro", "chance_corrected")},
        "by_benchmark": {
            "elm": {"raw": estimate(0.9), "clean": None, "chance": 0.25, "counts": {}}
        },
        "ablation": {"no_audio": estimate(0.3)},
        "errors": 0,
    }
    return finished(
        folder,
        "evaluate",
        {"scores.json": json.dumps(scores)},
        inputs={"model": read_step(model)["digest"]},
    )


def trained(folder: Path, data: Path, weights: str) -> Path:
    (folder / "checkpoint" / "more").mkdir(parents=True)
    model_card.write_card(folder / "checkpoint", described(load_recipe("tiny"), {"data": data}))
    files = {"config.json": "{}", "model.safetensors": weights, "more/a.txt": "a"}
    return finished(folder, "sft", {f"checkpoint/{name}": text for name, text in files.items()})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = prepared(tmp_path / "run", sft=3)
    for name in ("sft", "other"):
        trained(tmp_path / "run" / name, data, name)
        evaluated(tmp_path / "run" / f"evaluate-{name}", tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.mark.parametrize("place", ["sft", "sft/checkpoint"])
@pytest.mark.parametrize("scores", ["evaluate-sft", ""], ids=["named", "found"])
def test_release_has_files_and_scores(run: Path, tmp_path: Path, place: str, scores: str) -> None:
    before = digest_directory(run / "sft")
    made = release(str(run / place), str(run / scores), str(tmp_path / "new" / "release"))
    folder = tmp_path / "new" / "release"
    assert model_card.read_card(folder) == made
    assert (folder / "README.md").read_text() == model_card.render_markdown(made)
    assert (folder / "model.safetensors").read_text() == "sft"
    assert (folder / "more" / "a.txt").read_text() == "a"
    step = read_step(run / "sft")
    assert made.made == model_card.ProducingStep(
        section="sft", key=step["key"], digest=step["digest"]
    )
    assert made.scores is not None
    assert made.scores.evaluation == read_step(run / "evaluate-sft")["digest"]
    assert made.scores.clean["macro"].model_dump() == estimate(0.8915)
    assert (
        "| macro | 95.0 [90.0, 100.0], n 40 | 89.1 [84.1, 94.2], n 40 |"
        in model_card.render_markdown(made)
    )
    assert "| elm | 90.0 [85.0, 95.0], n 40 | none |" in model_card.render_markdown(made)
    assert digest_directory(run / "sft") == before
    assert list((tmp_path / "new").iterdir()) == [folder]


def test_hub_shows_the_scores_of_a_release(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    release(str(run / "sft"), str(run / "evaluate-sft"), str(tmp_path / "release"))
    data = hub.ModelCard.load(tmp_path / "release" / "README.md").data
    shown = {
        (result.dataset_type, result.dataset_config, result.metric_name): result.metric_value
        for result in data.eval_results
    }
    assert data.model_name == "tiny: sft"
    assert shown["all benchmarks", "clean", "macro"] == 89.15
    assert shown["all benchmarks", "raw", "chance corrected"] == 95.0
    # The benchmark has no clean queries.
    assert shown["elm", "raw", "accuracy"] == 90.0
    assert len(shown) == 7


def test_release_can_be_scored_again_and_be_a_base(run: Path, tmp_path: Path) -> None:
    first = release(str(run / "sft"), output=str(tmp_path / "first"))
    assert first.scores is None
    second = release(str(tmp_path / "first"), str(run), str(tmp_path / "second"))
    assert second.scores is not None
    assert second.model_copy(update={"scores": None}) == first
    after = described(
        load_recipe("tiny", [f"model={tmp_path / 'second'}"]), {"data": run / "prepare"}
    )
    assert [parent.digest for parent in after.parents] == [read_step(run / "sft")["digest"]]


def test_command_shows_a_card_and_writes_a_release(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(run / "sft")]) == 0
    assert "Not scored yet" in capsys.readouterr().out
    assert (
        main(
            ["card", str(run / "sft"), "--scores", str(run), "--output", str(tmp_path / "release")]
        )
        == 0
    )
    assert main(["trace", str(tmp_path / "release" / "README.md"), "--in", str(run)]) == 0
    assert capsys.readouterr().out.startswith(
        f"sft  {tmp_path}/release/README.md  named by the model card"
    )


def change(path: Path) -> None:
    path.write_text("changed")


@pytest.mark.parametrize(
    ("spoil", "scores", "error", "code"),
    [
        (
            lambda run: change(run / "sft/checkpoint/model.safetensors"),
            "",
            DataError,
            "step-files-changed",
        ),
        (
            lambda run: (run / "sft/step.json").unlink(),
            "",
            DataError,
            "release-step-unknown",
        ),
        (
            lambda run: (run / "sft/checkpoint/card.json").unlink(),
            "",
            DataError,
            "step-file-missing",
        ),
        (
            lambda run: None,
            "evaluate-other",
            DataError,
            "release-scores-missing",
        ),
        (lambda run: None, "prepare", DataError, "release-scores-missing"),
        (
            lambda run: evaluated(run / "again", run / "sft", 0.5),
            ".",
            DataError,
            "release-scores-ambiguous",
        ),
        (lambda run: change(run.parent / "release"), "", ConfigError, "output-not-empty"),
    ],
)
def test_changed_or_ambiguous_release_is_refused(
    run: Path, tmp_path: Path, spoil: Any, scores: str, error: type[OmniError], code: str
) -> None:
    spoil(run)
    with refused(error, code):
        release(str(run / "sft"), str(run / scores) if scores else "", str(tmp_path / "release"))
    assert not (tmp_path / "release").is_dir()


def test_release_is_signed_only_if_verified(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("model_signing")
    monkeypatch.setenv(signing.SIGNING_KEY, private(KEY))
    release(str(run / "sft"), str(run), str(tmp_path / "release"))
    monkeypatch.setenv(signing.VERIFY_KEY, public(KEY))
    signing.verify_signature(tmp_path / "release")
    with refused(CheckpointError, "checkpoint-unsigned"):
        release(str(run / "sft"), output=str(tmp_path / "again"))
    release(str(tmp_path / "release"), output=str(tmp_path / "again"))
    assert (tmp_path / "again" / SIGNATURE).is_file()
    monkeypatch.setenv(signing.VERIFY_KEY, public(OTHER))
    with refused(CheckpointError, "checkpoint-signature-invalid"):
        release(str(tmp_path / "release"), output=str(tmp_path / "third"))


def test_release_goes_from_bucket_to_bucket(
    run: Path, tmp_path: Path, signed_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {
        name: f"s3://{BUCKET}/{tmp_path.name}/{name}" for name in ("sft", "evaluate-sft", "release")
    }
    for name in ("sft", "evaluate-sft"):
        store.publish(run / name, at[name])
    made = release(at["sft"], at["evaluate-sft"], at["release"])
    published = store.fetch(at["release"], tmp_path / "back")
    assert capsys.readouterr().out == f"{at['release']}  digest {published.digest}\n"
    assert model_card.read_card(tmp_path / "back") == made
    assert (tmp_path / "back" / "model.safetensors").read_text() == "sft"
