"""The whole omniboost pipeline with its real steps, at a size that teaches nothing but takes every
path."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from omnicore.lineage import model_card
from tests.shared import shared

ROOT = Path(__file__).parents[2]
SMALL = [
    "prepare.scale=0.05",
    "probe.model=embedded:tiny-base",
    "second_probe.model=embedded:tiny-base",
    "distill_probe.model=embedded:tiny-probe",
    "prepare.distill_prompts=800",  # 40 of them
    "prepare.distill_mix={sum: 1, picture_both: 1}",  # half of which ask for the picture alone
    "clean.max_lost=0.1",  # of so few, no rule says with less risk which are solved
    "sft.steps=2",
    "rlvr.steps=2",
    "rlvr.prompts_per_step=4",
    "sft_distilled.steps=2",
]


def run(directory):
    pytest.importorskip("trl")
    command = [sys.executable, "-m", "pipelines.run", "--run", str(directory), "--seed", "1"]
    for override in SMALL:
        command += ["--set", override]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log = directory / "run.log"
    assert result.returncode == 0, result.stdout + result.stderr + log.read_text()[-4000:]
    return result.stdout


def digests(directory):
    return {
        file.parent.name: json.loads(file.read_text())["digest"]
        for file in (directory / "cache").glob("*/step.json")
    }


@pytest.fixture(scope="session")
def first(tmp_path_factory):
    """The one whole real run of a session, and what it printed."""

    def make(folder):
        folder.mkdir()
        (folder / "printed").write_text(run(folder / "run"))

    folder = shared(tmp_path_factory, "real-run", make)
    return folder / "run", (folder / "printed").read_text()


def test_every_stage_is_in_the_report(first):
    directory, said = first
    report = json.loads((directory / "report.json").read_text())
    assert report["seed"] == 1
    scores = [
        json.loads(path.read_text()) for path in directory.glob("cache/evaluate-*/scores.json")
    ]
    stages = [report["stages"][stage] for stage in ("base", "sft", "rlvr", "distilled")]
    for view in ("raw", "clean"):
        shown = [stage[view]["macro"] for stage in stages]
        assert sorted(map(str, shown)) == sorted(str(score[view]["macro"]) for score in scores)
    assert said.splitlines()[-3:] == [
        str(directory / name) for name in ("report.html", "report.json", "metrics.prom")
    ]
    assert len(digests(directory)) == 15


def test_replies_solved_by_the_picture_are_not_distilled(first):
    directory, _ = first
    (distilled,) = (path.parent for path in (directory / "cache").glob("distill-*/step.json"))
    replies = [
        json.loads(line) for line in (distilled / "selection.jsonl").read_text().splitlines()
    ]
    reasons = {
        kind: Counter(one["reason"] for one in replies if one["type"] == kind)
        for kind in ("picture", "sum")
    }
    assert reasons["picture"]["solvable"] >= 20, reasons
    assert reasons["sum"]["solvable"] == 0 < reasons["sum"][None]
    summary = json.loads((distilled / "step.json").read_text())["summary"]
    assert summary["rejected_solvable"] == reasons["picture"]["solvable"]


def test_checkpoint_card_lists_its_stages_back_to_the_base(first):
    directory, _ = first
    cards = {
        json.loads(path.read_text())["stage"]: path.parent
        for path in (directory / "cache").glob("*/checkpoint/card.json")
    }
    assert {
        name: [parent.stage for parent in model_card.read_card(path).parents]
        for name, path in cards.items()
    } == {
        "sft": [],
        "rlvr": ["sft"],
        "sft_distilled": ["sft", "rlvr"],
    }
    final = model_card.read_card(cards["sft_distilled"])
    assert final.base.name == "embedded:tiny-base"
    assert {parent.digest for parent in final.parents} | {final.data.digest} < set(
        digests(directory).values()
    )
    assert (cards["sft_distilled"] / "README.md").read_text() == model_card.render_markdown(final)


def test_release_has_the_scores_of_the_report(first):
    directory, _ = first
    (released,) = (directory / "outputs").glob("*/promote/decision/release")
    scores = model_card.read_card(released).scores
    report = json.loads((directory / "report.json").read_text())["stages"]["distilled"]
    for view in model_card.VIEWS:
        assert {
            name: found.model_dump() for name, found in getattr(scores, view).items()
        } == report[view]
    assert model_card.read_card(released).made.section == "sft_distilled"
    assert "Not scored yet" not in (released / "README.md").read_text()
    (weights,) = released.glob("*.safetensors")
    (decided,) = (path.parent for path in (directory / "cache").glob("promote-*/step.json"))
    assert weights.samefile(decided / "release" / weights.name)


@pytest.fixture
def guide(first, tmp_path):
    """Runs the commands of one verb that docs/provenance.md shows, with a score of this run; what
    they said."""
    directory, _ = first
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(directory)
    shown = json.loads((directory / "report.json").read_text())["stages"]["distilled"]["clean"][
        "macro"
    ]["value"]
    commands = re.findall(
        r"^\.venv/bin/omnicore (.*)$", (ROOT / "docs" / "provenance.md").read_text(), re.MULTILINE
    )

    def run_all(verb):
        said = []
        for command in (command for command in commands if command.startswith(f"{verb} ")):
            line = f"{sys.executable} -m omnicore {command.replace('89.1', f'{100 * shown:.6f}')}"
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            result = subprocess.run(
                line,
                shell=True,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == 0, result.stderr
            said.append(result.stdout)
        return said

    return run_all


def test_guide_releases_a_checkpoint_with_its_scores(first, tmp_path, guide):
    directory, _ = first
    shown, silent = guide("card")
    assert "Not scored yet" in shown
    assert silent == ""
    scores = model_card.read_card(tmp_path / "runs" / "release").scores
    report = json.loads((directory / "report.json").read_text())["stages"]["rlvr"]
    assert scores.clean["macro"].model_dump() == report["clean"]["macro"]
    assert scores.raw["micro"].model_dump() == report["raw"]["micro"]
    assert (tmp_path / "runs" / "release" / "model.safetensors").is_file()


def test_a_score_of_the_report_is_traced_as_the_guide_says(first, guide):
    directory, _ = first
    said = guide("trace")
    assert len(said) == 2
    head, _ = said[0].split(
        "\n\n"
    )  # stages that learn nothing may have the same score: then there is no tree
    assert re.search(r"^evaluate of \w+ .*scores\.json  clean\.macro", head, re.MULTILINE)
    assert re.search(
        r"^copied to report .*report\.json  stages\.distilled\.clean\.macro", head, re.MULTILINE
    )
    assert said[1].count("weights checkpoint/model.safetensors") == 3
    assert set(re.findall(r"digest ([0-9a-f]{64})", said[1])) >= {
        digest
        for name, digest in digests(directory).items()
        if not name.startswith("promote")  # of which a report tells nothing
    }


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_directory(first, tmp_path):
    directory, _ = first
    run(tmp_path / "second")
    ours, theirs = digests(directory), digests(tmp_path / "second")
    # The page tells how long each step took.
    assert {name: value for name, value in ours.items() if not name.startswith("report")} == {
        name: value for name, value in theirs.items() if not name.startswith("report")
    }


@pytest.mark.slow
def test_the_same_command_again_is_answered_from_the_cache(first):
    directory, _ = first
    before = digests(directory)
    assert run(directory).count("from cache") == 15
    assert digests(directory) == before
