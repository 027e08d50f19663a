"""Labels of options: stripped where each option has the label of its place, refused where a letter
could name two options."""

from __future__ import annotations

import unicodedata

import pytest

from omnicore.data.benchmarks.options import split_labels
from omnicore.data.benchmarks.records import Mislabelled, Refused

WORDS = ["a dog", "a cat", "a cow", "an owl"]
STRIPPED = [
    "{U}. ",
    "{U}.",
    "{l}) ",
    "{l}. ",
    "{U}．",
    "{U}：",
    "{U}、",
    "({U}) ",
    "[{U}] ",
    "（{U}）",
    "【{U}】",
    "{n}. ",
    "({n}) ",
    "{n}) ",
]
STRIPPED += ["{U} - ", "{U}- ", "{l} – ", "{U} ", "{U}\u3000", "{U}: ", " {U} . "]
TEXTS = [
    ["1 dog", "2 dogs", "3 dogs", "4 dogs"],
    ["A dog", "B cell"],
    ["A major", "B minor", "C sharp", "D flat"],
    ["A group", "B group", "C group"],
    ["1.5 m", "2.5 m", "3.5 m"],
    ["1:30", "2:30", "3:30"],
    ["A. Lincoln", "G. Washington", "J. Adams", "T. Jefferson"],
    ["A. Lincoln", "Washington", "Adams", "Jefferson"],
    ["A.M.", "P.M."],
    ["A", "B", "C", "D"],
    ["A.", "B.", "C.", "D."],
    ["1.", "2.", "3."],
    ["A-flat", "B-flat", "C-sharp"],
    ["dog", "cat"],
]
DISORDER = [
    ["A. dog", "B. cat", "A. cow", "B. owl"],
    ["A. dog", "B. cat", "C. cow", "an owl"],
    ["B. dog", "A. cat", "C. cow", "D. owl"],
    ["B. dog", "A. cat", "D. cow", "C. owl"],
    ["A. dog", "B. cat", "B. cow", "D. owl"],
    ["1. dog", "3. cat", "2. cow"],
    ["a) dog", "cat"],
]
REFUSED = [
    (["A. dog", "B. ", "C. cow"], "option 2 is blank"),
    (["dog", "", "cow"], "option 2 is blank"),
    (["dog", " \u3000"], "option 2 is blank"),
    (["A. dog", "B. \u200b"], "option 2 is blank"),
    (["dog", "a  cat", "a cat "], "options 2 and 3 are equal"),
    (["A. dog", "B. cat", "C. dog"], "options 1 and 3 are equal"),
    (
        [unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")],
        "options 1 and 2 are equal",
    ),
    (["dog", None], "option 2 is not a text: None"),
    (["dog", ["cat"]], "option 2 is not a text"),
    ("dog or cat", "is not a list"),
    (None, "is not a list"),
]


@pytest.mark.parametrize("form", STRIPPED)
def test_labels_in_turn_are_stripped(form: str) -> None:
    places = [form.format(U=chr(65 + place), l=chr(97 + place), n=place + 1) for place in range(4)]
    options = [label + word for label, word in zip(places, WORDS, strict=True)]
    assert split_labels("options", options) == (places, WORDS)
    wide = [label.translate({65 + i: 0xFF21 + i for i in range(26)}) for label in places]
    if wide != places and not form.endswith(("} ", "\u3000")):
        assert split_labels(
            "options", [label + word for label, word in zip(wide, WORDS, strict=True)]
        ) == (wide, WORDS)


def test_one_mark_may_be_missing() -> None:
    assert split_labels("options", ["A.dog", "B cat", "C.cow", "D. owl"])[1] == [
        "dog",
        "cat",
        "cow",
        "owl",
    ]


@pytest.mark.parametrize("options", TEXTS)
def test_texts_that_begin_like_labels_are_kept(options: list[str]) -> None:
    assert split_labels("options", options) == ([""] * len(options), options)


@pytest.mark.parametrize("options", DISORDER)
def test_labels_out_of_turn_are_refused(options: list[str]) -> None:
    with pytest.raises(Mislabelled, match="are not labelled in turn, but") as error:
        split_labels("options", options)
    assert error.value.texts == [
        option.split(" ")[-1] if option != "an owl" else option for option in options
    ]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_blank_and_equal_options_are_refused(options: object, message: str) -> None:
    with pytest.raises(Refused, match=message):
        split_labels("options", options)
