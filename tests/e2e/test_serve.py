"""`omnicore serve` as a process: requests by hand and by the engine of the audits."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from omnicore.config import EngineConfig, Profile
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import prompt_parts
from omnicore.engines import canary, canary_evidence, canary_media, media_orders
from omnicore.engines.base import Batch, Request, Sampling
from omnicore.engines.openai import OpenAIEngine
from omnicore.media.data_url import image_to_url, wav_to_base64
from omnicore.schema import Media, Query, View
from omnicore.storage.files import read_jsonl
from omnicore.telemetry.metrics import SERVE_METRICS
from tests.e2e.serve_process import MODEL, answers, chat, events, http_engine, item, start, wait

TORCHVISION = find_spec("torchvision") is not None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    process, url = start(MODEL)
    try:
        seen = wait(process, url, '"ready":true')
        assert all(
            code == 503 and ("loaded" in text or "canary" in text) for code, text in seen[:-1]
        )
        yield url
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def local() -> Any:
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine(MODEL, Profile())


@pytest.fixture(scope="module")
def asked(prepared: Path, small_recipe: Recipe) -> list[Request]:
    """Pictures, sounds, and both."""
    queries = read_jsonl(prepared / "controls.jsonl", Query) + read_jsonl(
        prepared / "queries.jsonl", Query
    )
    return [Request(prompt_parts(q, View.omni, small_recipe.profile), prepared) for q in queries]


@pytest.mark.parametrize("kinds", [{"image"}, {"audio"}, {"image", "audio"}])
def test_reply_equals_that_of_the_local_engine(
    server: str, local: Any, asked: list[Request], kinds: set[str]
) -> None:
    request = next(r for r in asked if {p.kind for p in r.parts if isinstance(p, Media)} == kinds)
    reply = chat(server, [item(p, request.root) for p in request.parts], logprobs=True).json()
    expected = local.generate(Batch([request], 0), Sampling(0, 14, logprobs=True))[0]
    choice = reply["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert (choice["finish_reason"], reply["model"], reply["object"]) == (
        "stop",
        MODEL,
        "chat.completion",
    )
    assert [t["logprob"] for t in choice["logprobs"]["content"]] == pytest.approx(
        expected.logprobs, abs=1e-3
    )
    prompt = len(local.reader.prompt(request).ids)
    completion = len(expected.logprobs)
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def test_http_engine_gives_the_replies_of_the_local_one(
    server: str, local: Any, asked: list[Request]
) -> None:
    sampling = Sampling(0, 14, logprobs=True)
    ours = answers(local, asked, sampling, 64)
    theirs = answers(http_engine(server), asked, sampling, 1)
    assert not any(reply.error for reply in theirs)
    assert [canary_evidence.reply_words(r) for r in theirs] == [
        canary_evidence.reply_words(r) for r in ours
    ]
    assert (
        max(canary_evidence.reply_distance(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    )


def test_canary_passes_with_its_reference(server: str, tmp_path: Path) -> None:

    from omnicore.models import thinker

    shutil.copytree(thinker.resolve(MODEL), tmp_path / "model")
    canary.write_reference(tmp_path / "model", Profile())
    served = EngineConfig(kind="http", url=f"{server}/v1", reference=str(tmp_path / "model"))
    found = canary.verify_engine(
        OpenAIEngine(served, MODEL, Profile()), served, Profile(), frozenset({"image", "audio"})
    )
    assert (found["canary_audio"], found["canary_image"], found["canary_agreement"]) == (
        "answers",
        "answers",
        1.0,
    )


NO_VIDEOS = pytest.mark.skipif(
    not TORCHVISION,
    reason="upstream's video processor needs torchvision, which is not installed",
)
TOGETHER: list[Any] = [
    ("image", "audio"),
    ("audio", "image"),
    ("image", "image"),
    ("audio", "image", "audio"),
    *(
        pytest.param(order, marks=NO_VIDEOS)
        for order in [("video",), ("video", "audio"), ("video", "video"), ("image", "video")]
    ),
]


@pytest.mark.parametrize("order", TOGETHER, ids=media_orders.order_label)
def test_canary_passes_for_media_together(server: str, order: media_orders.MediaOrder) -> None:
    served = EngineConfig(kind="http", url=f"{server}/v1")
    together = (order,) if len(order) > 1 else ()
    found = canary.verify_engine(
        OpenAIEngine(served, MODEL, Profile()), served, Profile(), frozenset(order), together
    )
    assert found.get("canary_rate", "answers") in ("answers", "logprobs")
    assert all(found[f"canary_{kind}"] in ("answers", "logprobs") for kind in order)


@pytest.mark.parametrize("fps", [2.0, 0.5])
@pytest.mark.parametrize("order", TOGETHER, ids=media_orders.order_label)
def test_media_together_get_the_reply_of_the_local_engine(
    server: str, local: Any, order: media_orders.MediaOrder, fps: float
) -> None:
    profile, sampling = Profile(fps=fps), Sampling(0, 6, logprobs=True)
    with canary_media.write_media(set(order)) as (root, media):
        names = {"image": ("7", "5"), "audio": ("6", "9"), "video": ("long", "long")}
        shown = [
            media[kind][names[kind][order[:place].count(kind)]] for place, kind in enumerate(order)
        ]
        clips = [m.model_copy(update={"end": 4.0}) if m.kind == "video" else m for m in shown]
        request = Request((*clips, "Which digit is written? 7 5 6 9"), root)
        engine = OpenAIEngine(EngineConfig(kind="http", url=f"{server}/v1"), MODEL, profile)
        (ours,) = local.with_profile(profile).generate(Batch([request], 0), sampling)
        (theirs,) = answers(engine, [request], sampling, 1)
    assert not theirs.error
    assert canary_evidence.reply_distance(ours, theirs) < 1e-3


def test_seeded_reply_does_not_depend_on_its_batch(server: str, asked: list[Request]) -> None:
    sampling = Sampling(1.0, 14)
    alone, together = (
        answers(http_engine(server, concurrency=n), asked[:24], sampling, 1) for n in (1, 24)
    )
    assert [r.text for r in alone] == [r.text for r in together]
    other = answers(http_engine(server), [*asked[1:24], asked[0]], sampling, 1)
    assert [r.text for r in [other[-1], *other[:-1]]] != [
        r.text for r in alone
    ]  # each batch has its own seed


def test_sampling_follows_the_distribution(server: str, local: Any) -> None:
    """At temperature 1, a token comes up as often as its probability says."""
    question = "Do 3 and 4 agree? yes no"
    body = {"temperature": 2.5, "max_tokens": 6}
    with ThreadPoolExecutor(16) as pool:
        texts = list(
            pool.map(
                lambda seed: chat(server, question, seed=seed, **body).json()["choices"][0][
                    "message"
                ]["content"],
                range(300),
            )
        )
    mine = local.generate(Batch([Request((question,), Path())] * 300, 0), Sampling(2.5, 6))
    share = [
        sum(t.startswith("<think>") for t in found) / 300
        for found in (texts, [r.text for r in mine])
    ]
    assert 0.05 < share[1] < 0.95
    assert abs(share[0] - share[1]) < 0.12  # four standard errors


@pytest.mark.parametrize(
    "_", range(10)
)  # tokens come while earlier ones are being sent: one try in ten once went wrong
def test_stream_adds_up_to_the_whole_reply(server: str, _: int) -> None:
    question = "What is the last digit of 3 plus 4? 7 1 2 3"
    whole = chat(server, question, logprobs=True).json()
    *pieces, end = events(server, question, logprobs=True, stream_options={"include_usage": True})
    deltas = [piece["choices"][0] for piece in pieces]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert (
        "".join(d["delta"]["content"] for d in deltas) == whole["choices"][0]["message"]["content"]
    )
    assert [d["finish_reason"] for d in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    tokens = [t["token"] for d in deltas if d["logprobs"] for t in d["logprobs"]["content"]]
    assert tokens == [t["token"] for t in whole["choices"][0]["logprobs"]["content"]]
    assert (end["choices"], end["usage"]) == ([], whole["usage"])


def test_truncated_reply_has_finish_reason_length(server: str) -> None:
    reply = chat(server, "What is the last digit of 3 plus 4? 7 1 2 3", max_tokens=3).json()
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == (
        "length",
        3,
    )
    assert (
        events(server, "Add 1 and 2. What is the last digit? 3 4", max_tokens=3)[-1]["choices"][0][
            "finish_reason"
        ]
        == "length"
    )


PNG = base64.b64encode(b"no picture").decode()
LONG = wav_to_base64(np.zeros(24_000, np.float32))  # of 1.5 s
VIDEO = "data:video/jpeg;base64,"


def picture(url: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}]


def dot() -> str:
    return image_to_url(Image.new("RGB", (28, 28)))


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"model": "gpt-4o"}, 404, "no model 'gpt-4o' here; this server has 'embedded:tiny-base'"),
        ({"messages": []}, 400, "messages: list should have at least 1 item"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            400,
            "messages.0.role: input should be 'system' or 'user'",
        ),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            400,
            "one user message, after at most one system message",
        ),
        ({"top_p": 0.5}, 400, "top_p: only 1 is supported here"),
        ({"tools": [{}]}, 400, "tools: only [] is supported here"),
        ({"content": [{"type": "image"}]}, 400, "messages.0.content.0: input tag 'image'"),
        (
            {"content": picture("https://example.com/a.png")},
            400,
            "messages.0.content.0: this server fetches nothing",
        ),
        ({"content": picture("file:///etc/passwd")}, 400, "this server fetches nothing"),
        (
            {"content": picture("data:image/png;base64,%%%")},
            422,
            "messages.0.content.0: the picture is not base64",
        ),
        ({"content": picture(f"data:image/png;base64,{PNG}")}, 422, "is not a readable picture"),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}]},
            422,
            "is not a readable wav",
        ),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": LONG, "format": "wav"}}]},
            422,
            "a sound of 1.5 s",
        ),
        (
            {"content": [{"type": "video_url", "video_url": {"url": VIDEO}}]},
            400,
            "videos need torchvision, which is not installed",
        ),
        ({"content": picture(dot()) * 17}, 400, "more than 16 media in one request"),
        ({"content": "see " * 3000}, 400, "together more than the context length of 2048"),
        ({"max_tokens": 5000}, 400, "max_tokens is 5000: together more than the context length"),
        (
            {"content": "look <|IMAGE|>"},
            400,
            "the text holds '<|IMAGE|>', which controls the model",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_invalid_request_gets_one_sentence(
    server: str, changed: dict[str, Any], status: int, message: str
) -> None:
    if "video_url" in str(changed) and TORCHVISION:
        pytest.skip("this machine reads videos")
    response = chat(server, changed.pop("content", "Which digit is written? 1 2"), **changed)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("body", [b"{", b"", b'"text"'])
def test_body_that_is_no_request_is_refused(server: str, body: bytes) -> None:
    response = httpx.post(f"{server}/v1/chat/completions", content=body)
    assert (response.status_code, response.json()["error"]["type"]) == (
        400,
        "invalid_request_error",
    )


def test_endless_body_is_refused(server: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * (1 << 20)

    try:
        response = httpx.post(f"{server}/v1/chat/completions", content=endless(), timeout=60)
    except httpx.TransportError:
        return  # the server closed the connection on what was still being sent
    assert response.status_code == 413
    assert "larger than 64 MiB" in response.json()["error"]["message"]


def test_abandoned_stream_does_not_block_others(server: str) -> None:
    body = {
        "model": MODEL,
        "temperature": 3,
        "max_tokens": 1900,
        "messages": [{"role": "user", "content": "a"}],
        "stream": True,
    }
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    assert chat(server, "What is the last digit of 3 plus 4? 7 1 2 3").status_code == 200


def test_models_liveness_and_metrics(server: str) -> None:
    assert [m["id"] for m in httpx.get(f"{server}/v1/models").json()["data"]] == [MODEL]
    assert httpx.get(server).json() == {"status": "alive"}
    chat(server, "Do 3 and 4 agree? yes no")
    chat(server, "x", model="unknown")
    said = httpx.get(f"{server}/metrics").text
    types = dict(re.findall(r"^# TYPE (omni_\w+) (\w+)$", said, re.MULTILINE))
    assert types.items() >= {(name, metric.kind) for name, metric in SERVE_METRICS.items()}
    assert {name.removesuffix("_created") for name in types} <= {
        name.removesuffix("_total") for name in SERVE_METRICS
    } | SERVE_METRICS.keys()
    lines = dict(line.rsplit(" ", 1) for line in said.splitlines() if line.startswith("omni_serve"))
    assert float(lines['omni_serve_requests_total{code="200"}']) >= 1
    assert float(lines['omni_serve_requests_total{code="404"}']) >= 1
    assert float(lines['omni_serve_tokens_total{kind="completion"}']) > 1
    assert (
        lines['omni_serve_canary_passed{kind="audio"}'],
        lines['omni_serve_canary_passed{kind="image"}'],
    ) == ("1.0", "1.0")
    assert float(lines["omni_serve_request_seconds_count"]) >= 2


def test_server_listens_only_on_loopback(server: str) -> None:
    """It binds 127.0.0.1: another address of this machine, which 0.0.0.0 would answer on, is
    refused."""
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.replace("127.0.0.1", "127.0.0.2"))


def test_used_port_is_refused(server: str) -> None:
    port = server.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", "serve", "--model", MODEL, "--port", port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "[serve-port-unavailable]" in done.stderr
