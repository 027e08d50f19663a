"""Broken servers, each a real engine with one thing changed, are refused; honest ones pass."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omnicore.config import EngineConfig, Profile
from omnicore.engines import canary, canary_media, canary_reference
from omnicore.engines.base import Reply, Request
from omnicore.errors import ConfigError, DataError, EngineError, OmniError
from omnicore.schema import Media, View
from omnicore.storage.digests import sha256_file
from tests.errors import refused
from tests.unit.canary_fixture import BOTH, LOCAL, Changed, base, checkpoint

__all__ = ["base", "checkpoint"]


def without(kind: str) -> Callable[[Sequence[Request]], Sequence[Request]]:
    return lambda requests: [
        replace(r, parts=tuple(p for p in r.parts if isinstance(p, str) or p.kind != kind))
        for r in requests
    ]


def soundless(media: Media, path: Path) -> Media:
    return media.model_copy(update={"uri": path.name, "sha256": sha256_file(path)})


def silenced(requests: Sequence[Request]) -> Sequence[Request]:
    """The sound arrives, but as zeros: as long, and so as many tokens."""
    out = []
    for number, request in enumerate(requests):
        heard = [p for p in request.parts if isinstance(p, Media) and p.kind == "audio"]
        for medium in heard:
            wave, rate = soundfile.read(request.root / medium.uri)
            soundfile.write(request.root / f"zeros-{number}.wav", np.zeros_like(wave), rate)
        zeros = {m: soundless(m, request.root / f"zeros-{number}.wav") for m in heard}
        out.append(
            replace(
                request,
                parts=tuple(zeros.get(p, p) if isinstance(p, Media) else p for p in request.parts),
            )
        )
    return out


def crossed(requests: Sequence[Request]) -> Sequence[Request]:
    """Every request is answered with the other digit of the pair."""
    first, second = canary_media.DIGITS[:2]
    media = {p.uri: p for r in requests for p in r.parts if isinstance(p, Media)}
    pairs = [
        (f"{kind}-{first}{end}", f"{kind}-{second}{end}")
        for kind, end in (("image", ".png"), ("audio", ".wav"))
    ]
    other = {media[a]: media[b] for pair in pairs for a, b in (pair, pair[::-1]) if a in media}
    return [
        replace(r, parts=tuple(other.get(p, p) if isinstance(p, Media) else p for p in r.parts))
        for r in requests
    ]


def late(requests: Sequence[Request]) -> Sequence[Request]:
    """Every request is answered with the media of the one before it."""
    return [*requests[-1:], *requests[:-1]]


def noisy(size: float) -> Callable[[Reply], Reply]:
    rng = random.Random(0)
    return lambda reply: replace(
        reply, logprobs=tuple(p + rng.uniform(-size, size) for p in reply.logprobs)
    )


def unstable(reply: Reply) -> Reply:
    unstable.count += 1  # type: ignore[attr-defined]
    return replace(reply, text=f"{reply.text} {unstable.count % 7}")  # type: ignore[attr-defined]


unstable.count = 0  # type: ignore[attr-defined]


def thinking_apart(reply: Reply) -> Reply:
    """As a server with a reasoning parser sends it."""
    thought, _, text = reply.text.removeprefix("<think>").partition("</think>")
    return replace(reply, reasoning=thought, text=text)


def test_working_engine_passes_by_its_answers(base: Any) -> None:
    found = canary.verify_engine(base, LOCAL, Profile(), BOTH)
    assert {k: v for k, v in found.items() if k != "canary_agreement"} == {
        "canary_audio": "answers",
        "canary_image": "answers",
        "canary_noise": 0.0,
    }


@pytest.mark.parametrize(
    "replied",
    [noisy(0.02), thinking_apart, lambda r: replace(r, logprobs=())],
    ids=["noisy log-probs", "thinking apart", "no log-probs"],
)
def test_working_server_passes(
    base: Any, checkpoint: Path, replied: Callable[[Reply], Reply]
) -> None:
    served = EngineConfig(reference=str(checkpoint))
    found = canary.verify_engine(Changed(base, change_reply=replied), served, Profile(), BOTH)
    assert (found["canary_audio"], found["canary_image"], found["canary_agreement"]) == (
        "answers",
        "answers",
        1.0,
    )


@pytest.mark.parametrize(
    ("changes", "code", "field", "words"),
    [
        (
            {"change_requests": without("audio")},
            "canary-not-perceived",
            "audio",
            ["the spoken 7 and the spoken 5", "nats", "audio=0"],
        ),
        (
            {"change_requests": silenced},
            "canary-not-perceived",
            "audio",
            ["the spoken 7 and the spoken 5", "use_audio_in_video"],
        ),
        (
            {"change_requests": without("image")},
            "canary-not-perceived",
            "image",
            ["the written 7 and the written 5", "image=0", "chat template"],
        ),
        (
            {"change_requests": without("audio"), "change_reply": noisy(0.05)},
            "canary-not-perceived",
            "audio",
            ["two replies to the same request by 0.0"],
        ),
        (
            {"change_requests": without("audio"), "change_reply": noisy(2.0)},
            "canary-not-perceived",
            "audio",
            ["two replies to the same request by"],
        ),
        (
            {
                "change_requests": without("image"),
                "change_reply": lambda r: replace(r, logprobs=()),
            },
            "canary-not-perceived",
            "image",
            ["no log-probabilities"],
        ),
        (
            {"change_requests": without("audio"), "change_reply": unstable},
            "canary-not-perceived",
            "audio",
            ["replies to the same request change"],
        ),
        (
            {"change_requests": crossed},
            "canary-media-swapped",
            None,
            ["for the spoken 7 what the spoken 5 holds"],
        ),
        (
            {"change_requests": late},
            "canary-not-perceived",
            "audio",
            ["replies to the same request change"],
        ),
        (
            {"change_reply": lambda r: Reply(error="HTTP 400: At most 0 audio(s)")},
            "canary-request-failed",
            None,
            ["HTTP 400: At most 0"],
        ),
    ],
    ids=[
        "deaf",
        "zeros",
        "blind",
        "deaf, noisy",
        "deaf, very noisy",
        "blind, no log-probs",
        "deaf, unstable",
        "crossed",
        "late",
        "refused",
    ],
)
def test_broken_server_is_refused(
    base: Any, changes: dict[str, Any], code: str, field: str | None, words: list[str]
) -> None:
    with refused(EngineError, code, field=field) as caught:
        canary.verify_engine(Changed(base, **changes), LOCAL, Profile(), BOTH)
    assert str(caught.value).startswith("server ")
    assert [word for word in words if word not in str(caught.value)] == []


def test_noisy_deaf_server_never_passes_by_chance(base: Any) -> None:
    passed = []
    for seed in range(20):
        rng = random.Random(seed)

        def jitter(reply, rng=rng):
            return replace(reply, logprobs=tuple(p + rng.gauss(0, 0.3) for p in reply.logprobs[:2]))

        try:
            passed.append(
                canary.verify_engine(
                    Changed(base, without("audio"), jitter), LOCAL, Profile(), {"audio"}
                )
            )
        except EngineError:
            continue
    assert not passed


def test_model_without_hearing_is_refused_only_for_sound() -> None:
    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine("embedded:tiny-probe-2", Profile())
    assert canary.verify_engine(engine, LOCAL, Profile(), {"image"})["canary_image"] == "answers"
    with refused(EngineError, "canary-not-perceived", field="audio"):
        canary.verify_engine(engine, LOCAL, Profile(), BOTH)


def test_requests_without_media_skip_the_canary(base: Any) -> None:
    assert (
        canary.verify_engine(
            Changed(base, change_requests=lambda _: pytest.fail("asked")),
            LOCAL,
            Profile(),
            frozenset(),
        )
        == {}
    )
    assert canary.media_kinds([Request(("only text",), Path())]) == frozenset()


@pytest.mark.parametrize("kinds", [BOTH, {"image"}, {"audio"}])
def test_another_model_is_refused_for_any_media(checkpoint: Path, kinds: set[Any]) -> None:
    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine("embedded:tiny-probe", Profile())
    served = EngineConfig(reference=str(checkpoint))
    with refused(EngineError, "canary-other-model") as caught:
        canary.verify_engine(engine, served, Profile(), kinds)
    asked = 18 if len(kinds) == 2 else 6
    assert f" of {asked} replies" in str(caught.value)


def test_changed_configuration_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from omnicore.engines.transformers import TransformersEngine

    shutil.copytree(checkpoint, tmp_path / "model")
    config = (tmp_path / "model" / "config.json").read_text()
    assert (
        canary.verify_engine(
            TransformersEngine(tmp_path / "model", Profile()), LOCAL, Profile(), BOTH
        )["canary_agreement"]
        == 1.0
    )
    (tmp_path / "model" / "config.json").write_text(
        config.replace('"rope_theta": 10000.0', '"rope_theta": 1000000.0')
    )
    with refused(EngineError, "canary-other-model"):
        canary.verify_engine(
            TransformersEngine(tmp_path / "model", Profile()), LOCAL, Profile(), BOTH
        )


def test_same_model_in_bf16_agrees_with_the_reference(checkpoint: Path) -> None:
    import torch

    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine(checkpoint, Profile())
    engine.model = engine.model.to(torch.bfloat16)
    assert canary.verify_engine(engine, LOCAL, Profile(), BOTH)["canary_agreement"] == 1.0


def test_reference_of_another_profile_is_not_compared(checkpoint: Path) -> None:
    from omnicore.engines.transformers import TransformersEngine

    profile = Profile(system="You look and listen.")
    found = canary.verify_engine(TransformersEngine(checkpoint, profile), LOCAL, profile, BOTH)
    assert found["canary_agreement"] == "reference of another profile"


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        (None, ConfigError, "canary-reference-missing"),
        ('{"asked": "x"}', DataError, "canary-reference-invalid"),
    ],
)
def test_reference_that_cannot_be_read_is_refused(
    base: Any, tmp_path: Path, text: str | None, error: type[OmniError], code: str
) -> None:
    path = tmp_path / canary_reference.FILE
    if text:
        path.write_text(text)
    with refused(error, code, path=path) as caught:
        canary.verify_engine(base, EngineConfig(reference=str(tmp_path)), Profile(), BOTH)
    assert "`python -m omnicore.engines.canary DIR`" in str(caught.value)


def test_command_writes_the_reference(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / canary_reference.FILE).unlink()
    monkeypatch.setattr("sys.argv", ["canary", str(tmp_path / "model")])
    canary.main()
    assert (tmp_path / "model" / canary_reference.FILE).read_bytes() == (
        checkpoint / canary_reference.FILE
    ).read_bytes()


def test_training_writes_a_reference_to_the_checkpoint(
    prepared: Path, small_recipe: Any, tmp_path: Path
) -> None:
    from omnicore.engines.transformers import TransformersEngine
    from omnicore.steps import sft

    sft.run(
        small_recipe,
        small_recipe.sft.model_copy(update={"steps": 1, "train_batch_size": 4}),
        {"data": prepared},
        tmp_path,
    )
    answers = json.loads((tmp_path / "checkpoint" / canary_reference.FILE).read_text())["answers"]
    assert len(answers) == 18
    engine = TransformersEngine(tmp_path / "checkpoint", small_recipe.profile)
    assert (
        canary.verify_engine(engine, LOCAL, small_recipe.profile, BOTH)["canary_agreement"] == 1.0
    )


def test_step_refuses_a_model_that_does_not_hear(
    prepared: Path, small_recipe: Any, tmp_path: Path
) -> None:
    from omnicore.steps import probe

    deaf = small_recipe.probe.model_copy(
        update={"model": "embedded:tiny-probe-2", "draws": {View.audio_only: 1}}
    )
    with refused(EngineError, "canary-not-perceived", field="audio"):
        probe.run(small_recipe, deaf, {"queries": prepared}, tmp_path)
    seeing = deaf.model_copy(update={"draws": {View.visual_only: 1}})
    summary = probe.run(small_recipe, seeing, {"queries": prepared}, tmp_path)
    assert (summary["canary_image"], "canary_audio" in summary) == ("answers", False)
