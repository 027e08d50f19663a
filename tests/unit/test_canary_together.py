"""Media shown together and videos: servers that lose, reorder or mislabel them are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore.config import EngineConfig, Profile
from omnicore.data.benchmarks import synthetic
from omnicore.engines import canary, canary_media, canary_questions, canary_reference, media_orders
from omnicore.engines.base import Batch, Engine, FinishedBatches, Reply, Request, Sampling
from omnicore.errors import EngineError
from omnicore.media.read import read_media
from omnicore.media.video import Video
from omnicore.schema import Media
from omnicore.storage.files import write_json
from tests.errors import refused
from tests.seeing_stub import Seen, seeing
from tests.stub_server import Answer, Stub
from tests.unit.canary_fixture import BOTH, LOCAL, Changed, base
from tests.unit.http_fixture import connect

__all__ = ["base"]


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
            canary_media.DIGITS,
            key=lambda d: float(
                np.abs(pixels - np.asarray(canary_media.draw_digits(d), float)).mean()
            ),
        )
        if canary_questions.RATE_QUESTION in text:
            digit = str(round(len(shown.frames) / shown.fps))
        letter = next(line[0] for line in text.splitlines() if line.endswith(f". {digit}"))
        return Reply(f"The answer is {letter}.")


def test_videos_are_told_apart_by_letter_answers() -> None:
    config, profile = (
        EngineConfig(kind="http", url="http://x"),
        Profile(style="letter", instruction="Answer with a letter."),
    )
    found = canary.verify_engine(Oracle(), config, profile, {"video"})
    seen = {"canary_video": "answers", "canary_rate": "answers"}
    assert found == {**seen, "canary_noise": 0.0, "canary_agreement": "no reference"}
    blind = Changed(Oracle(), change_reply=lambda _: Reply("The answer is A."))
    with refused(EngineError, "canary-not-perceived", field="video") as caught:
        canary.verify_engine(blind, config, profile, {"video"})
    assert "the filmed 7 and the filmed 5" in str(caught.value)


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


def verify_over_http(
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
def test_working_server_passes_for_every_order(
    order: media_orders.MediaOrder,
) -> None:
    found, asked = verify_over_http(seeing(), order)
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
    ("lose", "order", "code", "field", "words"),
    [
        (
            lambda seen: seen[:1],
            ("video", "audio"),
            "canary-not-perceived",
            "audio",
            ["video+audio", "a 5 as sound and a 9 as sound"],
        ),
        (
            lambda seen: seen[:1],
            ("audio", "image"),
            "canary-not-perceived",
            "image",
            ["audio+image", "keeps the first media"],
        ),
        (
            lambda seen: seen[:1],
            ("image", "image"),
            "canary-not-perceived",
            "image",
            ["2*image", "a 5 as picture 2"],
        ),
        (
            lambda seen: seen[-1:],
            ("image", "audio"),
            "canary-not-perceived",
            "image",
            ["image+audio"],
        ),
        (once, ("image", "image"), "canary-not-perceived", "image", ["2*image"]),
        (
            once,
            ("image", "audio", "image", "audio"),
            "canary-not-perceived",
            "image",
            ["image+audio+image+audio"],
        ),
        (
            last_of_each,
            ("video", "video", "audio"),
            "canary-not-perceived",
            "video",
            ["2*video+audio", "a 7 as video 1"],
        ),
        (
            deaf_beside_others,
            ("video", "audio"),
            "canary-not-perceived",
            "audio",
            ["video+audio", "drops a kind beside another"],
        ),
        (
            blind_beside_sound,
            ("image", "audio"),
            "canary-not-perceived",
            "image",
            ["image+audio"],
        ),
        (
            lambda seen: seen[:5],
            ("image",) * 6,
            "canary-not-perceived",
            "image",
            ["6*image", "a 5 as picture 6"],
        ),
        (
            lambda seen: seen[::-1],
            ("image", "image"),
            "canary-media-swapped",
            None,
            ["for a 7 as picture 1 what a 5 as picture 2 holds"],
        ),
        (
            sorted,
            ("image", "image"),
            "canary-same-prompt",
            None,
            ["for 2*image (75, 69) and for 2*image (69, 75)"],
        ),
        (
            sorted,
            ("image", "audio"),
            "canary-same-prompt",
            None,
            ["for image+audio (75, 69) and for audio+image (69, 75)", "gathers kinds"],
        ),
        (
            sorted,
            ("video", "audio"),
            "canary-same-prompt",
            None,
            ["for video+audio (75, 69) and for audio+video"],
        ),
    ],
)
def test_server_that_loses_media_beside_others_is_refused(
    lose: Callable[[Sequence[Seen]], Sequence[Seen]],
    order: media_orders.MediaOrder,
    code: str,
    field: str | None,
    words: list[str],
) -> None:
    with refused(EngineError, code, field=field) as caught:
        verify_over_http(seeing(lose), order)
    assert [word for word in words if word not in str(caught.value)] == []


def test_server_with_one_frame_rate_is_refused_unless_unseen() -> None:
    with refused(EngineError, "canary-same-prompt") as caught:
        verify_over_http(seeing(rate=2.0), ("video", "audio"))
    message = str(caught.value)
    assert "for a video of 8 s and for a video of 128 s" in message
    assert "engine.video_rate=unseen" in message
    summary, _ = verify_over_http(seeing(rate=2.0), ("video", "audio"), video_rate="unseen")
    assert "canary_rate" not in summary


def test_reference_of_videos_depends_on_their_rate(tmp_path: Path) -> None:
    with Stub(seeing()) as stub:
        reference = canary.record_reference(
            connect(stub), EngineConfig(kind="http", url=stub.url), Profile(), videos=True
        )
    write_json(tmp_path / canary_reference.FILE, reference)
    assert len(reference.answers) == 18 + len(canary_media.MIXED)
    kept = {"reference": str(tmp_path), "video_rate": "unseen"}
    assert verify_over_http(seeing(), ("video", "audio"), **kept)[0]["canary_agreement"] == 1.0
    assert verify_over_http(seeing(), ("image", "audio"), **kept)[0]["canary_agreement"] == 1.0
    with refused(EngineError, "canary-other-model") as caught:
        verify_over_http(seeing(rate=2.0), ("video", "video"), **kept)
    assert " 0 of 6 replies" in str(caught.value)


def test_two_videos_differ_only_in_frame_rate() -> None:
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
def test_embedded_model_passes_for_every_order(base: Any, order: media_orders.MediaOrder) -> None:
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
def test_frequent_orders_are_those_of_the_requests(shown: Any, found: Any) -> None:
    media = {
        kind: Media(kind=kind, uri=kind, sha256="0" * 64) for kind in ("image", "audio", "video")
    }
    requests = [Request((*(media[kind] for kind in kinds), "?"), Path()) for kinds in shown]
    assert list(media_orders.frequent_orders(requests)) == found
    many = [Request(tuple(media[k] for k in ("image", "audio") * n), Path()) for n in range(1, 20)]
    assert len(media_orders.frequent_orders(many)) == media_orders.MAX_ORDERS


def test_media_of_a_kind_share_size_and_base_split() -> None:
    with canary_media.write_media(BOTH) as (root, media):
        assert {Image.open(root / m.uri).size for m in media["image"].values()} == {
            (canary_media.SIDE, canary_media.SIDE)
        }
        assert {soundfile.info(root / m.uri).frames for m in media["audio"].values()} == {9600}
        assert not soundfile.read(root / media["audio"]["silence"].uri)[0].any()
    drawn = {(picture.source, str(picture.digit)) for picture in synthetic._pictures("base", 1)}
    assert {(source, digit) for digit, source in canary_media.HANDWRITING.items()} <= drawn
    assert set(canary_media.VOICES.values()) <= {clip.voice for clip in synthetic._clips("base")}


def test_embedded_models_know_the_canary_questions() -> None:
    wordings = {
        wording for kind in ("picture", "speech", "sum") for wording in synthetic.WORDINGS[kind]
    }
    assert {*canary_questions.QUESTIONS.values(), canary_questions.SUM_QUESTION} <= wordings
