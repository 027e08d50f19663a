"""`profile.scoring`: replies that a server bounds to the choices, and choices by log-probability in
this process."""

from pathlib import Path
from typing import Any

import pytest

from omnicore.config import EngineConfig, Profile
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.prompts import answer_choices, profile_hash, prompt_parts
from omnicore.engines.base import Batch, Request, Sampling
from omnicore.engines.task import InferenceTask
from omnicore.errors import ConfigError, DataError, EngineError
from omnicore.schema import AnswerKind, Media, Query, View
from omnicore.storage.files import read_jsonl
from tests.errors import refused
from tests.stub_server import Stub, completion
from tests.unit.http_fixture import answers, connect, short_waits

__all__ = ["short_waits"]

WORDS = ("cat", "a red fox", "owl")


def query(
    kind: AnswerKind = AnswerKind.choice,
    options: tuple[str, ...] = WORDS,
    media: tuple[Media, ...] = (),
) -> Query:
    answer = options[0] if options else "3"
    return Query(
        benchmark="b",
        id="7",
        type="t",
        question="?",
        options=options,
        answer=answer,
        answer_kind=kind,
        media=media,
        cluster="c",
    )


@pytest.mark.parametrize(
    ("scoring", "style", "kind", "expected"),
    [
        ("reply", "letter", AnswerKind.choice, ()),
        ("choice", "letter", AnswerKind.choice, ("A", "B", "C")),
        ("choice", "value", AnswerKind.choice, ("owl", "cat", "a red fox")),
        ("logprob", "value", AnswerKind.yes_no, ("owl", "cat", "a red fox")),
        ("choice", "letter", AnswerKind.set, ()),
    ],
)
def test_choices_are_what_the_style_asks_for(
    scoring: Any, style: Any, kind: AnswerKind, expected: tuple[str, ...]
) -> None:
    assert answer_choices(query(kind), Profile(scoring=scoring, style=style), (2, 0, 1)) == expected


def test_question_without_options_has_no_choices() -> None:
    assert answer_choices(query(AnswerKind.number, ()), Profile(scoring="choice")) == ()


def test_options_that_are_media_need_letters() -> None:
    sounds = tuple(Media(kind="audio", uri=f"{i}.wav", sha256="0" * 64) for i in range(2))
    asked = query(options=("<media_1>", "<media_2>"), media=sounds)
    assert answer_choices(asked, Profile(scoring="choice", style="letter")) == ("A", "B")
    with pytest.raises(DataError, match=r"b, id 7: an option is a medium.*profile\.style=letter"):
        answer_choices(asked, Profile(scoring="choice"))


def test_scoring_is_part_of_the_profile() -> None:
    assert (
        len({profile_hash(Profile(scoring=scoring)) for scoring in ("reply", "choice", "logprob")})
        == 3
    )


def bounded(*replies: Any) -> tuple[Stub, list[Batch]]:
    said = iter(replies)
    requests = [Request(("question?",), Path(), choices=WORDS), Request(("free?",), Path())]
    return Stub(lambda request: next(said)), [
        Batch([request], seed) for seed, request in enumerate(requests)
    ]


def test_server_is_sent_the_choices_of_a_request() -> None:
    stub, batches = bounded(completion("a red fox"), completion("I see an owl"))
    with stub:
        replies = answers(connect(stub, concurrency=1), batches)
    assert [reply.text for reply in replies] == ["a red fox", "I see an owl"]
    assert [request.get("structured_outputs") for request in stub.requests] == [
        {"choice": list(WORDS)},
        None,
    ]


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (
            completion("I see a cat"),
            "engine-choices-ignored",
            ["'I see a cat'", "the choices 'cat', 'a red fox', 'owl'", "structured_outputs"],
        ),
        (completion(""), "engine-choices-ignored", ["replied ''", "structured_outputs"]),
        (completion("a red", finish_reason="length"), "engine-choice-truncated", ["at 'a red'"]),
    ],
)
def test_server_that_ignores_the_choices_is_refused(
    reply: Any, code: str, words: list[str]
) -> None:
    stub, batches = bounded(reply, completion("x"))
    with stub, refused(EngineError, code) as caught:
        answers(connect(stub, concurrency=1), batches)
    assert [word for word in words if word not in str(caught.value)] == []


def test_thought_that_was_cut_is_a_cut_reply() -> None:
    stub, batches = bounded(
        completion("", reasoning_content="Hm, a", finish_reason="length"), completion("x")
    )
    with stub:
        assert answers(connect(stub, concurrency=1), batches)[0].truncated


@pytest.mark.parametrize(
    ("scoring", "engine"),
    [
        ("choice", EngineConfig()),
        ("logprob", EngineConfig(kind="http", url="http://127.0.0.1:9/v1")),
    ],
)
def test_engine_that_lacks_the_scoring_is_refused_at_once(
    scoring: str, engine: EngineConfig, tmp_path: Path
) -> None:
    recipe = load_recipe("tiny", [f"profile.scoring={scoring}"])
    with refused(ConfigError, "engine-scoring-unsupported", field="profile.scoring"):
        InferenceTask(engine, "embedded:tiny-base", [], Sampling(0, 14), 8).run(
            recipe, tmp_path, "x"
        )


@pytest.fixture(scope="module")
def engine() -> Any:
    from omnicore.engines.transformers import TransformersEngine

    return TransformersEngine("embedded:tiny-base", Profile())


def test_log_probabilities_are_those_of_generation(
    engine: Any, prepared: Path, small_recipe: Recipe
) -> None:
    """Against another way to the same numbers: token by token, with a cache, as a reply is
    generated."""
    from omnicore.models.choose import log_probabilities

    asked = [
        q for q in read_jsonl(prepared / "controls.jsonl", Query) if q.type in ("picture", "speech")
    ][:6]
    for one in asked:
        request = Request(prompt_parts(one, View.omni, small_recipe.profile), prepared)
        (said,) = engine.generate(Batch([request], 0), Sampling(0, 14, logprobs=True))
        assert not said.truncated
        other = f"{said.text} {said.text}"  # padding must not count
        found, longer = log_probabilities(
            engine.model, engine.encoder, engine.reader.prompt(request), [said.text, other]
        )
        assert found == pytest.approx(sum(said.logprobs[:-1]), abs=1e-3)
        assert longer < found


def test_likeliest_choice_is_the_right_one_where_the_model_knows(
    engine: Any, prepared: Path, small_recipe: Recipe
) -> None:
    asked = [
        q for q in read_jsonl(prepared / "controls.jsonl", Query) if q.type in ("picture", "speech")
    ]
    profile = small_recipe.profile.model_copy(update={"scoring": "logprob"})
    # The embedded models think before they answer: what they would not say has no log-prob that tells anything.
    verbs = {"picture": "see", "speech": "hear"}

    def thought(q: Query, option: str) -> str:
        return f"<think>{verbs[q.type]} {option}</think><answer>{option}</answer>"

    requests = [
        Request(
            prompt_parts(q, View.omni, profile),
            prepared,
            choices=tuple(thought(q, option) for option in answer_choices(q, profile)),
        )
        for q in asked
    ]
    replies = engine.generate(Batch(requests, 0), Sampling(0, 14))
    right = sum(thought(q, q.answer) == reply.text for q, reply in zip(asked, replies, strict=True))
    assert right / len(asked) > 0.7


def test_length_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    from omnicore.models import choose

    monkeypatch.setattr(choose, "log_probabilities", lambda *_: [-3.0, -6.0])
    assert choose.most_likely_choice(None, None, None, ["owl", "a red fox"]) == "a red fox"  # type: ignore[arg-type]
