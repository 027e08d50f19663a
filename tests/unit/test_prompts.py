from __future__ import annotations

import pytest

from omnicore.config import Profile
from omnicore.data.prompts import draw_permutation, profile_hash, prompt_parts
from omnicore.schema import Media, Query, View

PICTURE = Media(kind="image", uri="a.png", sha256="0" * 64)
SOUND = Media(kind="audio", uri="b.wav", sha256="1" * 64)
QUERY = Query(
    benchmark="b",
    id="1",
    type="t",
    question="Sum?",
    options=("3", "5", "7"),
    answer="5",
    media=(SOUND, PICTURE),
    cluster="c",
)


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (View.omni, (SOUND, PICTURE)),
        (View.visual_only, (PICTURE,)),
        (View.audio_only, (SOUND,)),
        (View.text_only, ()),
    ],
)
def test_views_withhold(view: View, shown: tuple[Media, ...]) -> None:
    assert prompt_parts(QUERY, view, Profile())[:-1] == shown


@pytest.mark.parametrize(
    ("profile", "order", "text"),
    [
        (Profile(), None, "Sum? 3 5 7"),
        (Profile(), (2, 0, 1), "Sum? 7 3 5"),
        (Profile(style="letter"), None, "Sum?\nA. 3\nB. 5\nC. 7"),
        (
            Profile(style="letter", instruction="Answer with the letter."),
            (1, 0, 2),
            "Sum?\nA. 5\nB. 3\nC. 7\nAnswer with the letter.",
        ),
    ],
)
def test_options_are_written_as_the_profile_says(
    profile: Profile, order: tuple[int, ...] | None, text: str
) -> None:
    assert prompt_parts(QUERY, View.text_only, profile, order) == (text,)


def test_profile_hash_distinguishes_profiles() -> None:
    profiles = [
        Profile(),
        Profile(system="Listen."),
        Profile(style="letter"),
        Profile(instruction="x"),
        Profile(max_new_tokens=15),
    ]
    assert len({profile_hash(p) for p in profiles}) == len(profiles)


def test_permutation_depends_on_query_view_draw_and_seed() -> None:
    query = QUERY.model_copy(update={"options": tuple("0123456789"), "answer": "5"})
    orders = {
        (view, draw, seed): draw_permutation(query, view, draw, seed)
        for view in (View.visual_only, View.text_only)
        for draw in (0, 1)
        for seed in (0, 1)
    }
    assert len(set(orders.values())) == len(orders)
    assert all(sorted(order) == list(range(10)) for order in orders.values())
    assert draw_permutation(query, View.visual_only, 0, 0) == orders[View.visual_only, 0, 0]
