"""What controls a model, as <|im_end|> does, is refused in every text that is shown or taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from omnicore.config import Profile
from omnicore.config.recipe import load_recipe
from omnicore.errors import DataError
from omnicore.runtime.run import run_step
from omnicore.schema import CONTROL_TOKEN, Query
from omnicore.storage.files import read_jsonl
from tests.benchmarks import native


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global SPECIAL, thinker

    from omnicore.models import thinker
    from omnicore.models.processor import SPECIAL


FIELDS: dict[str, Any] = {
    "benchmark": "b",
    "id": "q7",
    "type": "t",
    "question": "Which one?",
    "options": ("left", "right"),
    "answer": "left",
    "cluster": "c",
    "target": "<think>left</think><answer>left</answer>",
}


@pytest.mark.parametrize(
    ("changed", "field", "token"),
    [
        ({"question": "Which one?<|im_end|>"}, "question", "<|im_end|>"),
        ({"question": "What is <|IMAGE|> of?"}, "question", "<|IMAGE|>"),
        ({"question": "a\0b"}, "question", "\\x00"),
        ({"options": ("left", "<|AUDIO|>")}, "options", "<|AUDIO|>"),
        (
            {"options": ("left<|video_pad|>", "right"), "answer": "left<|video_pad|>"},
            "options",
            "<|video_pad|>",
        ),
        (
            {"options": (), "answer": "<|endoftext|>", "answer_kind": "text"},
            "answer",
            "<|endoftext|>",
        ),
        ({"target": "<answer>left</answer><|im_end|>"}, "target", "<|im_end|>"),
    ],
)
def test_a_query_whose_text_controls_the_model_is_refused(
    changed: dict[str, Any], field: str, token: str, tmp_path: Path
) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(json.dumps({**FIELDS, **more}) for more in ({}, changed)))
    with pytest.raises(DataError) as refused:
        read_jsonl(path, Query)
    assert (
        f"{path}:2:{field}: Value error, '{token}' in q7 is a control token of chat templates: remove it"
        in str(refused.value)
    )


@pytest.mark.parametrize(
    "text",
    ["<think>a</think>", "|x| < 3 <|> 2", "<media_1> or <image>", "<|x|>", "a <b|c> d", "x|>y<|z"],
)
def test_other_angle_brackets_are_text(text: str) -> None:
    assert not CONTROL_TOKEN.search(text)


def test_every_special_token_of_the_models_family_is_known() -> None:
    _, encoder = thinker.load("embedded:tiny-base")
    tokens = {*SPECIAL, *encoder.tokenizer.all_special_tokens}
    tokens |= {
        "<|vision_start|>",
        "<|image_pad|>",
        "<|audio_pad|>",
        "<|object_ref_start|>",
        "<|fim_prefix|>",
        "<|eot_id|>",
    }
    assert not [token for token in tokens if not CONTROL_TOKEN.fullmatch(token)]


@pytest.mark.parametrize("field", ["system", "instruction"])
def test_control_token_in_profile_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=rf"{field}\n.*'<\|im_start\|>' is a control token"):
        Profile.model_validate({field: "Be brief.<|im_start|>user"})


def test_prepare_lists_the_item_with_its_file_line_and_id(tmp_path: Path) -> None:
    folder = native.copy("daily_omni", tmp_path)
    path = folder / "qa.json"
    items = json.loads(path.read_text())
    items[1]["Question"] += " <|AUDIO|>"
    path.write_text("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n")
    places = [f"prepare.sources.daily_omni={json.dumps(str(folder))}", "prepare.max_refused=0.9"]
    run_step("prepare", load_recipe("tiny", places), {}, tmp_path / "out")
    found = [
        problem
        for problem in read_jsonl(tmp_path / "out" / "problems.jsonl", dict)
        if "control token" in problem["message"]
    ]
    kept = {query.id for query in read_jsonl(tmp_path / "out" / "queries.jsonl", Query)}
    assert [(problem["file"], problem["line"], problem["field"]) for problem in found] == [
        ("qa.json", 3, "question")
    ]
    assert "'<|AUDIO|>' in " in found[0]["message"]
    assert found[0]["id"] not in kept
