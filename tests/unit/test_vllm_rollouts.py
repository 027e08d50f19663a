"""Rollouts by a vLLM server, against a stub of its routes; tests/e2e/test_vllm.py has the real
one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from omnicore.config import RlvrConfig
from omnicore.config.recipe import Recipe
from omnicore.errors import EngineError
from omnicore.training.mixture import modality
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global PromptReader, read_rows, Sample, thinker, torch, TrainingRow, VllmRollouts

    import torch

    from omnicore.engines.transformers import PromptReader
    from omnicore.models import thinker
    from omnicore.training.rollouts import Sample
    from omnicore.training.rows import TrainingRow, read_rows
    from omnicore.training.vllm import VllmRollouts


BASE = "embedded:tiny-base"


@pytest.fixture(scope="module")
def rows(prepared: Path, small_recipe: Recipe) -> list[TrainingRow]:
    reader = PromptReader(thinker.load(BASE)[1], small_recipe.profile)
    return read_rows(prepared / "rlvr.jsonl", reader, small_recipe.profile, targets=False)


class Stub(BaseHTTPRequestHandler):
    """The routes of vLLM that are asked for, with `answer` for a chat completion."""

    asked: ClassVar[list[tuple[str, Any]]] = []
    answer: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "policy"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        self.reply(self.answer if "chat" in self.path else {})

    def reply(self, value: Any) -> None:
        self.send_response(404 if self.path == self.answer.get("missing") else 200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: Any) -> None: ...


CHOICE = {
    "token_ids": [5, 2],
    "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
    "finish_reason": "stop",
}


@pytest.fixture
def vllm(rows: list[TrainingRow], small_recipe: Recipe, tmp_path: Path) -> Iterator[VllmRollouts]:
    Stub.asked, Stub.answer = (
        [],
        {
            "prompt_token_ids": [1, 2, 3],
            "choices": [CHOICE, {**CHOICE, "finish_reason": "length"}],
        },
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        config = RlvrConfig(
            rollout_engine="vllm", vllm_server_base_url=url, vllm_enable_sleep_mode=True
        )
        yield VllmRollouts(config, small_recipe.profile, thinker.load(BASE)[1], tmp_path)
        server.shutdown()
        thread.join()


def test_vllm_wakes_loads_generates_and_sleeps(
    vllm: Any, rows: list[TrainingRow], tmp_path: Path
) -> None:
    model = thinker.load(BASE)[0]
    model.lm_head.weight.data += 1e-4
    row = next(row for row in rows if modality(row.query) == "omni")
    vllm.wake()
    vllm.load(model)
    found = vllm.generate([row], 2, temperature=0.7, seed=9)
    vllm.sleep()
    routes = [path for path, _ in Stub.asked]
    resets = ["/reset_prefix_cache", "/reset_encoder_cache"]
    assert routes == [
        "/wake_up",
        "/collective_rpc",
        *resets,
        "/v1/chat/completions",
        "/sleep?level=1",
    ]
    assert found == [Sample((1, 2, 3), (5, 2), cut, (-0.5, -0.25)) for cut in (False, True)]
    reload, body = Stub.asked[1][1], Stub.asked[4][1]
    assert reload == {
        "method": "reload_weights",
        "kwargs": {"weights_path": str(tmp_path / "policy")},
    }
    saved = thinker.load(tmp_path / "policy")[0]
    assert torch.equal(saved.lm_head.weight, model.lm_head.weight), (
        "weights are handed over as they train, not rounded"
    )
    assert (body["n"], body["temperature"], body["seed"], body["model"]) == (2, 0.7, 9, "policy")
    kinds = [item["type"] for item in body["messages"][-1]["content"]]
    assert sorted(kinds) == ["image_url", "input_audio", "text"]
    assert set(body["logit_bias"]) == {str(token) for token in vllm._encoder.suppressed}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"choices": [CHOICE]}, "rollout-no-token-ids"),
        (
            {"prompt_token_ids": [1], "choices": [{**CHOICE, "token_ids": [5]}]},
            "rollout-incomplete",
        ),
        (
            {"prompt_token_ids": [1], "choices": [{**CHOICE, "finish_reason": "abort"}]},
            "rollout-incomplete",
        ),
        ({"missing": "/v1/chat/completions"}, "rollout-server-no-route"),
    ],
)
def test_incomplete_rollout_stops_the_run(
    vllm: Any, rows: list[TrainingRow], answer: dict[str, Any], code: str
) -> None:
    Stub.answer = answer
    with refused(EngineError, code, field="rlvr.vllm_server_base_url"):
        vllm.generate(rows[:1], 1, temperature=1.0, seed=0)


def test_missing_server_is_reported_at_once(small_recipe: Recipe, tmp_path: Path) -> None:
    config = RlvrConfig(rollout_engine="vllm", vllm_server_base_url="http://127.0.0.1:9/v1")
    with refused(EngineError, "rollout-server-unreachable"):
        VllmRollouts(config, small_recipe.profile, None, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs rlvr\.vllm_server_base_url"):
        RlvrConfig(rollout_engine="vllm")
