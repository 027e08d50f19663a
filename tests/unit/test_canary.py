"""Doubles of broken servers, each a real engine with one thing changed; the honest one passes,
every other is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore.config import EngineConfig, Profile
from omnicore.data.benchmarks import synthetic
from omnicore.engines import canary, canary_media, media_orders
from omnicore.engines.base import Batch, Engine, FinishedBatches, Reply, Request, Sampling
from omnicore.errors import ConfigError, DataError, EngineError, OmniError
from omnicore.media.read import read_media
from omnicore.media.video import Video
from omnicore.schema import Media, View
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import write_json
from tests.seeing_stub import Seen, seeing
from tests.stub_server import Answer, Stub
from tests.unit.http_fixture import connect

BOTH = frozenset({"image", "audio"})
LOCAL = EngineConfig()


@pytest.fixture(scope="module")
def base() -> Any:
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine("embedded:tiny-base", Profile())


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of tiny-base with its reference."""
    from omnicore.models import thinker

    directory = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(thinker.resolve("embedded:tiny-base"), directory)
    canary.write_reference(directory, Profile())
    return directory


class Changed:
    """An engine whose requests or replies are changed on their way."""

    def __init__(
        self,
        engine: Engine,
        asked: Callable[[Sequence[Request]], Sequence[Request]] = lambda requests: requests,
        replied: Callable[[Reply], Reply] = lambda reply: reply,
        name: str = "server",
    ) -> None:
        self.name, self._engine, self._asked, self._replied = name, engine, asked, replied

    def with_profile(self, profile: Profile) -> Engine:
        return Changed(self._engine.with_profile(profile), self._asked, self._replied, self.name)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        assert sampling.temperature == 0
        changed = [Batch(self._asked(batch.requests), batch.seed) for batch in batches]
        for done in self._engine.answer(changed, sampling):
            yield [(index, [self._replied(reply) for reply in replies]) for index, replies in done]


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
    first, second = canary.DIGITS[:2]
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


def test_the_honest_engine_passes_by_its_answers(base: Any) -> None:
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
def test_an_honest_server_passes(
    base: Any, remembered: Path, replied: Callable[[Reply], Reply]
) -> None:
    served = EngineConfig(reference=str(remembered))
    found = canary.verify_engine(Changed(base, replied=replied), served, Profile(), BOTH)
    assert (found["canary_audio"], found["canary_image"], found["canary_agreement"]) == (
        "answers",
        "answers",
        1.0,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"asked": without("audio")},
            (
                r"does not hear: the spoken 7 and the spoken 5 are answered alike .*differ by"
                r" .*audio=0"
            ),
        ),
        ({"asked": silenced}, r"does not hear: the spoken 7 and the spoken 5 .*use_audio_in_video"),
        (
            {"asked": without("image")},
            r"does not see pictures: the written 7 and the written 5 .*image=0.*chat template",
        ),
        (
            {"asked": without("audio"), "replied": noisy(0.05)},
            r"does not hear: .*two askings of the same request by 0\.0",
        ),
        (
            {"asked": without("audio"), "replied": noisy(2.0)},
            r"does not hear: .*two askings of the same request by",
        ),
        (
            {"asked": without("image"), "replied": lambda r: replace(r, logprobs=())},
            r"does not see pictures: .*no log-probs",
        ),
        (
            {"asked": without("audio"), "replied": unstable},
            r"does not hear: .*change from one asking .* to the next",
        ),
        (
            {"asked": crossed},
            r"says of the spoken 7 what the spoken 5 holds, and the reverse: .*mixes up",
        ),
        ({"asked": late}, r"does not (hear|see pictures): .*change from one asking .* to the next"),
        (
            {"replied": lambda r: Reply(error="HTTP 400: At most 0 audio(s)")},
            r"cannot be asked with audio: HTTP 400: At most 0",
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
def test_broken_servers_are_refused(base: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=rf"server {message}"):
        canary.verify_engine(Changed(base, **changes), LOCAL, Profile(), BOTH)


def test_a_noisy_deaf_server_never_passes_by_luck(base: Any) -> None:
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


def test_what_was_never_taught_to_hear_is_refused_only_where_sound_is_shown() -> None:
    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine("embedded:tiny-probe-2", Profile())
    assert canary.verify_engine(engine, LOCAL, Profile(), {"image"})["canary_image"] == "answers"
    with pytest.raises(EngineError, match="does not hear"):
        canary.verify_engine(engine, LOCAL, Profile(), BOTH)


def test_nothing_is_asked_where_nothing_is_shown(base: Any) -> None:
    assert (
        canary.verify_engine(
            Changed(base, asked=lambda _: pytest.fail("asked")), LOCAL, Profile(), frozenset()
        )
        == {}
    )
    assert canary.media_kinds([Request(("only text",), Path())]) == frozenset()


ANOTHER = (
    r"perceives what it is shown, but answers as another or differently configured model would: \d+"
    r" of 18 replies are those"
)


@pytest.mark.parametrize("kinds", [BOTH, {"image"}, {"audio"}])
def test_another_model_is_refused_whatever_is_shown(remembered: Path, kinds: set[Any]) -> None:
    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine("embedded:tiny-probe", Profile())
    served = EngineConfig(reference=str(remembered))
    with pytest.raises(EngineError, match=ANOTHER.replace("18", str(18 if len(kinds) == 2 else 6))):
        canary.verify_engine(engine, served, Profile(), kinds)


def test_a_changed_configuration_is_refused(remembered: Path, tmp_path: Path) -> None:
    from omnicore.engines.transformers import TransformersEngine

    shutil.copytree(remembered, tmp_path / "model")
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
    with pytest.raises(EngineError, match=ANOTHER):
        canary.verify_engine(
            TransformersEngine(tmp_path / "model", Profile()), LOCAL, Profile(), BOTH
        )


def test_the_same_model_in_bf16_is_the_same(remembered: Path) -> None:
    import torch

    from omnicore.engines.transformers import TransformersEngine

    engine = TransformersEngine(remembered, Profile())
    engine.model = engine.model.to(torch.bfloat16)
    assert canary.verify_engine(engine, LOCAL, Profile(), BOTH)["canary_agreement"] == 1.0


def test_a_reference_of_other_questions_is_not_compared(remembered: Path) -> None:
    from omnicore.engines.transformers import TransformersEngine

    profile = Profile(system="You look and listen.")
    found = canary.verify_engine(TransformersEngine(remembered, profile), LOCAL, profile, BOTH)
    assert found["canary_agreement"] == "reference of another profile"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            None,
            ConfigError,
            (
                r"engine\.reference .* has no canary\.json: write it with `python -m"
                r" omnicore\.engines\.canary DIR`"
            ),
        ),
        ('{"asked": "x"}', DataError, r"canary\.json is broken: .*answers.*write it again"),
    ],
)
def test_a_reference_that_cannot_be_read_is_named(
    base: Any, tmp_path: Path, text: str | None, error: type[OmniError], message: str
) -> None:
    if text:
        (tmp_path / canary.FILE).write_text(text)
    with pytest.raises(error, match=f"(?s){message}"):
        canary.verify_engine(base, EngineConfig(reference=str(tmp_path)), Profile(), BOTH)


def test_the_command_writes_the_reference(
    remembered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(remembered, tmp_path / "model")
    (tmp_path / "model" / canary.FILE).unlink()
    monkeypatch.setattr("sys.argv", ["canary", str(tmp_path / "model")])
    canary.main()
    assert (tmp_path / "model" / canary.FILE).read_bytes() == (
        remembered / canary.FILE
    ).read_bytes()


class Oracle:
    """Answers letters: looks into the files, as a model that sees films would."""

    name = "oracle"

    def with_profile(self, profile: Profile) -> Engine:
        return self

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        yield [(i, [self._reply(r) for r in batch.requests]) for i, batch in enumerate(batches)]

    def _reply(self, request: Request) -> Reply:
        medium, text = request.parts
        assert isinstance(medium, Media)
        assert isinstance(text, str)
        shown = read_media(medium, request.root, Profile(max_frames=canary_media.VIDEO_FRAMES))
        assert isinstance(shown, Video)
        pixels = np.asarray(shown.frames[0], float)
        digit = min(
            canary.DIGITS,
            key=lambda d: float(
                np.abs(pixels - np.asarray(canary_media.draw_digits(d), float)).mean()
            ),
        )
        if canary.RATE in text:
            digit = str(round(len(shown.frames) / shown.fps))
        letter = next(line[0] for line in text.splitlines() if line.endswith(f". {digit}"))
        return Reply(f"The answer is {letter}.")


def test_films_are_told_apart_and_letters_understood() -> None:
    config, profile = (
        EngineConfig(kind="http", url="http://x"),
        Profile(style="letter", instruction="Answer with a letter."),
    )
    found = canary.verify_engine(Oracle(), config, profile, {"video"})
    seen = {"canary_video": "answers", "canary_rate": "answers"}
    assert found == {**seen, "canary_noise": 0.0, "canary_agreement": "no reference"}
    class_blind = Changed(Oracle(), replied=lambda _: Reply("The answer is A."))
    with pytest.raises(
        EngineError, match="does not see videos: the filmed 7 and the filmed 5 are answered alike"
    ):
        canary.verify_engine(class_blind, config, profile, {"video"})


ORDERS: list[media_orders.MediaOrder] = [
    ("video", "audio"),
    ("image", "audio"),
    ("audio", "image"),
    ("image", "image"),
    ("video", "video", "audio"),
    ("image", "audio", "image", "audio"),
    ("video", "image"),
    ("image",) * 6,
]


def asked_over_http(
    reply: Callable[[Any], Answer], order: media_orders.MediaOrder, **config: Any
) -> tuple[dict[str, Any], int]:
    """What the canary finds of a server that replies so, and how many requests it took."""
    with Stub(reply) as stub:
        engine = connect(stub, **config)
        served = EngineConfig(kind="http", url=stub.url, **config)
        return (
            canary.verify_engine(engine, served, Profile(), frozenset(order), (order,)),
            stub.counts.total(),
        )


@pytest.mark.parametrize("order", ORDERS, ids=media_orders.order_label)
def test_an_honest_server_is_seen_to_perceive_all_that_is_shown_together(
    order: media_orders.MediaOrder,
) -> None:
    found, asked = asked_over_http(seeing(), order)
    label = media_orders.order_label(order)
    assert {found[f"canary_{label}"], *(found[f"canary_{kind}"] for kind in order)} == {"answers"}
    assert found[f"canary_{label}_order"] in ("answers", "logprobs")
    assert found.get("canary_rate", "answers") == "answers"
    kinds = set(order)
    assert (
        asked
        == 4 * len(kinds)
        + 2 * ("audio" in kinds)
        + 4 * ("video" in kinds)
        + 4 * len(media_orders.tested_places(order))
        + 4
    )


def once(seen: Sequence[Seen]) -> Sequence[Seen]:
    """One of each kind, as under a limit of one."""
    return list({medium.kind: medium for medium in reversed(seen)}.values())[::-1]


def last_of_each(seen: Sequence[Seen]) -> Sequence[Seen]:
    return list({medium.kind: medium for medium in seen}.values())


def deaf_beside_others(seen: Sequence[Seen]) -> Sequence[Seen]:
    return [medium for medium in seen if medium.kind != "audio"] or seen


def blind_beside_sound(seen: Sequence[Seen]) -> Sequence[Seen]:
    return [medium for medium in seen if medium.kind == "audio"] or seen


@pytest.mark.parametrize(
    ("lose", "order", "message"),
    [
        (
            lambda seen: seen[:1],
            ("video", "audio"),
            "does not hear where requests show video.audio: a 5 as sound and a 9 as sound",
        ),
        (
            lambda seen: seen[:1],
            ("audio", "image"),
            "does not see pictures where requests show audio.image: .*keeps the first media",
        ),
        (
            lambda seen: seen[:1],
            ("image", "image"),
            "does not see pictures where requests show 2.image: a 5 as picture 2",
        ),
        (
            lambda seen: seen[-1:],
            ("image", "audio"),
            "does not see pictures where requests show image.audio",
        ),
        (once, ("image", "image"), "does not see pictures where requests show 2.image"),
        (
            once,
            ("image", "audio", "image", "audio"),
            "does not (see pictures|hear) where requests show",
        ),
        (
            last_of_each,
            ("video", "video", "audio"),
            "does not see videos where requests show 2.video.audio: a 7 as video 1",
        ),
        (
            deaf_beside_others,
            ("video", "audio"),
            "does not hear where requests show video.audio: .*drops a kind beside another",
        ),
        (
            blind_beside_sound,
            ("image", "audio"),
            "does not see pictures where requests show image.audio",
        ),
        (
            lambda seen: seen[:5],
            ("image",) * 6,
            "does not see pictures where requests show 6.image: a 5 as picture 6",
        ),
        (
            lambda seen: seen[::-1],
            ("image", "image"),
            "says of a 7 as picture 1 what a 5 as picture 2 holds, and the reverse",
        ),
        (
            sorted,
            ("image", "image"),
            r"(says of a 7 as picture 1|one and the same prompt for 2.image \(75, 69\))",
        ),
        (
            sorted,
            ("image", "audio"),
            (
                r"one and the same prompt for image.audio \(75, 69\) and for audio.image \(69,"
                r" 75\): .*gathers"
            ),
        ),
        (
            sorted,
            ("video", "audio"),
            r"one and the same prompt for video.audio \(75, 69\) and for audio.video",
        ),
    ],
    ids=lambda value: (
        ""
        if isinstance(value, str)
        else media_orders.order_label(value)
        if isinstance(value, tuple)
        else value.__name__
    ),
)
def test_a_server_that_loses_media_beside_others_is_refused(
    lose: Callable[[Sequence[Seen]], Sequence[Seen]], order: media_orders.MediaOrder, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        asked_over_http(seeing(lose), order)


def test_a_server_that_gives_every_video_one_rate_is_refused_unless_the_model_is_told_none() -> (
    None
):
    said = (
        r"one and the same prompt for a video of 8 s and for a video of 128 s:"
        r" .*mm_processor_kwargs.*engine\.video_rate=unseen"
    )
    with pytest.raises(EngineError, match=said):
        asked_over_http(seeing(rate=2.0), ("video", "audio"))
    assert (
        "canary_rate"
        not in asked_over_http(seeing(rate=2.0), ("video", "audio"), video_rate="unseen")[0]
    )


def test_a_reference_of_films_is_that_of_their_rate(tmp_path: Path) -> None:
    with Stub(seeing()) as stub:
        reference = canary.record_reference(
            connect(stub), EngineConfig(kind="http", url=stub.url), Profile(), videos=True
        )
    write_json(tmp_path / canary.FILE, reference)
    assert len(reference.answers) == 18 + len(canary_media.MIXED)
    kept = {"reference": str(tmp_path), "video_rate": "unseen"}
    assert asked_over_http(seeing(), ("video", "audio"), **kept)[0]["canary_agreement"] == 1.0
    assert asked_over_http(seeing(), ("image", "audio"), **kept)[0]["canary_agreement"] == 1.0
    with pytest.raises(
        EngineError,
        match="answers as another or differently configured model would: 0 of 6 replies",
    ):
        asked_over_http(seeing(rate=2.0), ("video", "video"), **kept)


def test_two_films_differ_in_their_rate_alone() -> None:
    with canary_media.write_media({"video"}) as (root, media):
        profile = Profile(fps=1.0, max_frames=canary_media.VIDEO_FRAMES)
        short, long = (
            read_media(media["video"][name], root, profile) for name in canary_media.VIDEO_SECONDS
        )
    assert isinstance(short, Video)
    assert isinstance(long, Video)
    assert (short.fps, long.fps) == (1.0, 1 / 16)
    assert short.jpegs == long.jpegs
    assert len(short.jpegs) == canary_media.VIDEO_FRAMES


@pytest.mark.parametrize(
    "order", [order for order in ORDERS if "video" not in order], ids=media_orders.order_label
)
def test_the_embedded_model_perceives_all_that_it_is_shown_together(
    base: Any, order: media_orders.MediaOrder
) -> None:
    found = canary.verify_engine(base, LOCAL, Profile(), frozenset(order), (order,))
    assert found[f"canary_{media_orders.order_label(order)}"] in ("answers", "logprobs")
    assert found[f"canary_{media_orders.order_label(order)}_order"] in ("answers", "logprobs")


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ([()], []),
        ([("image",), ("audio",)], []),
        (
            [("image", "audio")] * 3 + [("audio", "image")] * 5,
            [("audio", "image"), ("image", "audio")],
        ),
        ([("image",) * n for n in (2, 3, 7, 5)], [("image",) * 7]),
        (
            [("image", "audio"), ("image", "image", "audio"), ("image",)],
            [("image", "audio"), ("image", "image", "audio")],
        ),
    ],
)
def test_the_orders_of_a_step_are_those_of_its_requests(shown: Any, found: Any) -> None:
    media = {
        kind: Media(kind=kind, uri=kind, sha256="0" * 64) for kind in ("image", "audio", "video")
    }
    requests = [Request((*(media[kind] for kind in kinds), "?"), Path()) for kinds in shown]
    assert list(media_orders.frequent_orders(requests)) == found
    many = [Request(tuple(media[k] for k in ("image", "audio") * n), Path()) for n in range(1, 20)]
    assert len(media_orders.frequent_orders(many)) == media_orders.MAX_ORDERS


def test_media_of_a_kind_are_alike_in_size_and_of_the_base_split() -> None:
    with canary_media.write_media(BOTH) as (root, media):
        assert {Image.open(root / m.uri).size for m in media["image"].values()} == {
            (canary_media.SIDE, canary_media.SIDE)
        }
        assert {soundfile.info(root / m.uri).frames for m in media["audio"].values()} == {9600}
        assert not soundfile.read(root / media["audio"]["silence"].uri)[0].any()
    drawn = {(picture.source, str(picture.digit)) for picture in synthetic._pictures("base", 1)}
    assert {(source, digit) for digit, source in canary_media.HANDWRITING.items()} <= drawn
    assert set(canary_media.VOICES.values()) <= {clip.voice for clip in synthetic._clips("base")}


def test_embedded_models_know_the_questions() -> None:
    wordings = {
        wording for kind in ("picture", "speech", "sum") for wording in synthetic.WORDINGS[kind]
    }
    assert {*canary.QUESTIONS.values(), canary.BOTH} <= wordings


def test_training_leaves_a_reference_with_the_checkpoint(
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
    answers = json.loads((tmp_path / "checkpoint" / canary.FILE).read_text())["answers"]
    assert len(answers) == 18
    engine = TransformersEngine(tmp_path / "checkpoint", small_recipe.profile)
    assert (
        canary.verify_engine(engine, LOCAL, small_recipe.profile, BOTH)["canary_agreement"] == 1.0
    )


def test_a_step_refuses_who_does_not_hear(
    prepared: Path, small_recipe: Any, tmp_path: Path
) -> None:
    from omnicore.steps import probe

    deaf = small_recipe.probe.model_copy(
        update={"model": "embedded:tiny-probe-2", "draws": {View.audio_only: 1}}
    )
    with pytest.raises(EngineError, match="embedded:tiny-probe-2 does not hear"):
        probe.run(small_recipe, deaf, {"queries": prepared}, tmp_path)
    seeing = deaf.model_copy(update={"draws": {View.visual_only: 1}})
    summary = probe.run(small_recipe, seeing, {"queries": prepared}, tmp_path)
    assert (summary["canary_image"], "canary_audio" in summary) == ("answers", False)
