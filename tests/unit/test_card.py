"""The model card: all that decided a checkpoint, no fact of the machine, no unstated licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore import __version__
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import DataError
from omnicore.lineage import model_card
from omnicore.lineage.code_version import code_digest, git_revision
from omnicore.lineage.step_record import read_step, write_step
from omnicore.storage.digests import digest_directory, model_directory, sha256_file
from tests.errors import refused

HUB = "models--Qwen--Qwen2.5-Omni-3B/snapshots/" + "f" * 40
README = (
    "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\nlanguage:"
    " [en]\n---\n# A base\n"
)


def finished(folder: Path, section: str, files: dict[str, str], **fields: Any) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    step = {"sft_distilled": "sft"}.get(section, section)
    write_step(
        folder,
        {"step": step, "section": section, "key": "k" * 64, "seconds": 1, "summary": {}, **fields},
    )
    return folder


def rows(**counts: int) -> str:
    return "".join(
        json.dumps({"benchmark": name, "id": str(i)}) + "\n"
        for name, count in counts.items()
        for i in range(count)
    )


def prepared(
    tmp_path: Path, file: str = "sft.jsonl", training: dict[str, Any] | None = None, **counts: int
) -> Path:
    place = tmp_path / "prepare"
    return finished(
        place, "prepare", {file: rows(**counts)}, config={"training": training or {}}, inputs={}
    )


def described(
    recipe: Recipe, inputs: dict[str, Path], section: str = "sft"
) -> model_card.CheckpointCard:
    digests = {role: read_step(path)["digest"] for role, path in inputs.items()}
    models = (
        {recipe.model: digest_directory(model_directory(recipe.model))}
        if "model" not in inputs
        else {}
    )
    return model_card.create_card(
        section, recipe, getattr(recipe, section), inputs, digests, models
    )


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def base(tmp_path: Path, place: str, readme: str | None) -> Path:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return folder


def test_card_holds_what_decided_the_checkpoint(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", ["seed=7"])
    data = prepared(tmp_path, sft=3)
    made = described(recipe, {"data": data})
    model_card.write_card(tmp_path, made)
    assert model_card.read_card(tmp_path) == made
    assert (made.stage, made.seed, made.recipe, made.recipe_hash) == (
        "sft",
        7,
        "tiny",
        recipe.identity,
    )
    assert made.base.name == "embedded:tiny-base"
    assert made.base.digest == digest_directory(model_directory("embedded:tiny-base"))
    assert made.code == model_card.CodeVersion(
        version=__version__, digest=code_digest(), revision=git_revision()
    )
    assert (made.data.name, made.data.rows, made.data.step) == ("sft.jsonl", 3, "prepare")
    assert made.data.sha256 == sha256_file(data / "sft.jsonl")
    assert made.data.digest == read_step(data)["digest"]
    assert made.config["steps"] == recipe.sft.steps
    assert (made.parents, made.made, made.scores) == ((), None, None)


def test_hub_reads_the_front_matter(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = model_card.render_markdown(
        described(load_recipe("tiny"), {"data": prepared(tmp_path, sft=3)})
    )
    found = hub.ModelCard(text).data
    assert (found.license, found.base_model) == ("apache-2.0", "embedded:tiny-base")
    assert (found.library_name, found.pipeline_tag, found.tags) == (
        "transformers",
        "any-to-any",
        ["omnicore", "sft"],
    )


@pytest.mark.parametrize(
    ("place", "readme", "name", "revision", "licence"),
    [
        (
            HUB,
            README,
            "Qwen/Qwen2.5-Omni-3B",
            "f" * 40,
            {"license": "other", "license_name": "qwen-research", "license_link": "LICENSE"},
        ),
        ("my-base", "---\nlicense: mit\n---\n", "my-base", "", {"license": "mit"}),
        ("my-base", "---\ntags: [x]\n---\n", "my-base", "", {}),
        ("my-base", "# no front matter\n---\nlicense: mit\n---\n", "my-base", "", {}),
        ("my-base", "---\nlicense: [\n---\n", "my-base", "", {}),
        ("my-base", None, "my-base", "", {}),
    ],
)
def test_licence_is_what_the_base_states(
    tmp_path: Path,
    place: str,
    readme: str | None,
    name: str,
    revision: str,
    licence: dict[str, str],
) -> None:
    recipe = load_recipe("tiny", [f"model={base(tmp_path, place, readme)}"])
    made = described(recipe, {"data": prepared(tmp_path, sft=3)})
    assert (made.base.name, made.base.revision, made.base.licence) == (name, revision, licence)
    text = model_card.render_markdown(made)
    assert {
        field: value for field, value in front(text).items() if field.startswith("license")
    } == licence
    assert ("not stated by its files" in text) is not licence


def test_sources_are_named_without_local_folders(tmp_path: Path) -> None:
    training = {
        "omni": {"path": "m-a-p/OmniInstruct_v1", "revision": "a" * 40},
        "mine": {"path": str(tmp_path / "secret" / "rows.jsonl"), "revision": ""},
    }
    made = described(
        load_recipe("tiny"), {"data": prepared(tmp_path, training=training, omni=2, mine=1)}
    )
    assert [(s.name, s.rows, s.place, s.revision, s.licence) for s in made.data.sources] == [
        ("mine", 1, "rows.jsonl", "", ""),
        ("omni", 2, "m-a-p/OmniInstruct_v1", "a" * 40, ""),
    ]
    text = model_card.render_markdown(made)
    assert front(text)["datasets"] == ["m-a-p/OmniInstruct_v1"]
    assert f"Data `omni` (m-a-p/OmniInstruct_v1 {'a' * 40}), 2 rows: not stated." in text


def test_parents_lead_to_the_base(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    data = prepared(tmp_path, sft=3)
    shutil.copy(data / "sft.jsonl", data / "rlvr.jsonl")
    at = {"sft": finished(tmp_path / "sft", "sft", {"checkpoint/config.json": "{}"})}
    model_card.write_card(at["sft"] / "checkpoint", described(recipe, {"data": data}))
    at["rlvr"] = finished(tmp_path / "rlvr", "rlvr", {"checkpoint/config.json": "{}"})
    model_card.write_card(
        at["rlvr"] / "checkpoint", described(recipe, {"data": data, "model": at["sft"]}, "rlvr")
    )
    digests = {name: read_step(path)["digest"] for name, path in at.items()}
    distilled = finished(
        tmp_path / "distill",
        "distill",
        {"distilled.jsonl": rows(distilled=4)},
        inputs={"model": digests["rlvr"]},
    )
    made = described(recipe, {"data": distilled, "model": at["rlvr"]}, "sft_distilled")
    assert made.base.name == "embedded:tiny-base"
    assert [(parent.stage, parent.digest) for parent in made.parents] == [
        ("sft", digests["sft"]),
        ("rlvr", digests["rlvr"]),
    ]
    assert {parent.recipe_hash for parent in made.parents} == {recipe.identity}
    assert made.data.inputs == {"model": digests["rlvr"]}
    assert made.data.sources[0].place == "replies of the model itself"
    assert "`embedded:tiny-base` → sft → rlvr → **sft_distilled**" in model_card.render_markdown(
        made
    )


def test_parent_without_a_card_is_the_base(tmp_path: Path) -> None:
    parent = finished(tmp_path / "sft", "sft", {"checkpoint/config.json": "{}"})
    made = described(
        load_recipe("tiny"),
        {"data": prepared(tmp_path, "rlvr.jsonl", sft=3), "model": parent},
        "rlvr",
    )
    assert made.base == model_card.BaseCheckpoint(
        name="sft", digest=read_step(parent)["digest"], licence={}
    )
    assert made.parents == ()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("sft.save_steps=5", True),
        ("rlvr.save_steps=5", True),
        ("sft.dataloader_num_workers=2", True),
        ("engine.timeout=3", True),
        ("probe.engine.concurrency=3", True),
        ("launcher.cpu=2", True),
        ("seed=1", False),
        ("sft.steps=1", False),
        ("engine.reference=x", False),
        ("profile.server=vllm-0.32.0", False),
    ],
)
def test_card_changes_only_with_deciding_values(tmp_path: Path, change: str, same: bool) -> None:
    data = prepared(tmp_path, sft=3)
    first, second = (
        described(load_recipe("tiny", changes), {"data": data}) for changes in ([], [change])
    )
    assert (first == second) is same


def test_card_has_no_machine_path(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", [f"model={base(tmp_path, 'my-base', None)}"])
    model_card.write_card(tmp_path, described(recipe, {"data": prepared(tmp_path, sft=3)}))
    assert all(
        str(tmp_path) not in (tmp_path / name).read_text()
        for name in (model_card.CARD_FILE, model_card.README)
    )


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        (None, "card-missing", None),
        ("{", "json-invalid", None),
        ({"seed": "x"}, "card-invalid", "seed"),
        ({"mood": "good"}, "card-invalid", "mood"),
    ],
)
def test_missing_or_invalid_card_is_refused(
    tmp_path: Path, content: Any, code: str, field: str | None
) -> None:
    if isinstance(content, dict):
        made = described(load_recipe("tiny"), {"data": prepared(tmp_path, sft=3)})
        content = json.dumps({**made.model_dump(mode="json"), **content})
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    with refused(DataError, code, field=field, path=tmp_path / "card.json"):
        model_card.read_card(tmp_path)
