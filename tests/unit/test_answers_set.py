"""Adversarial replies to questions with several right options, with the set that a careful reader
would record."""

import pytest

from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge

ANIMALS = ("cat", "dog", "a red fox", "owl")  # A, B, C, D; right are A and C

# reply, letters
LETTER = [
    # lists
    ("A, C", "AC"),
    ("A,C", "AC"),
    ("C, A", "AC"),
    ("A and C", "AC"),
    ("A & C", "AC"),
    ("A, B and C", "ABC"),
    ("A, B, and C", "ABC"),
    ("A; C", "AC"),
    ("A、C", "AC"),
    ("A，C。", "AC"),
    ("Ａ，Ｃ", "AC"),
    ("A和C", "AC"),
    ("A\nC", "AC"),
    ("A\n\nC\n", "AC"),
    ("(A), (C)", "AC"),
    ("(a), (c)", "AC"),
    ("（A）、（C）", "AC"),
    ("A., C.", "AC"),
    ("A, C.", "AC"),
    ("**A**, **C**", "AC"),
    ("**A, C**", "AC"),
    ('"A, C"', "AC"),
    ("$A, C$", "AC"),
    ("\\boxed{A, C}", "AC"),
    ("\\boxed{\\text{A and C}}", "AC"),
    ("A. cat, C. a red fox", "AC"),
    ("A. cat\nC. a red fox", "AC"),
    ("A: Cat; C: A Red Fox", "AC"),
    ("A, B, C, D", "ABCD"),
    # bare capitals
    ("AC", "AC"),
    ("A C", "AC"),
    ("**AC**", "AC"),
    ("ABCD", "ABCD"),
    ("CA", None),
    ("CAB", None),
    ("BAD", None),
    ("AA", None),
    ("AE", None),
    ("A c", None),
    # one alone, and part of the set
    ("A", "A"),
    ("(C)", "C"),
    ("B. dog", "B"),
    ("Answer: A", "A"),
    # tags and statements
    ("<answer>A, C</answer>", "AC"),
    ("<answer>AC</answer>", "AC"),
    ("<answer>A</answer>", "A"),
    ("<answer>A, C</answer><answer>C and A</answer>", "AC"),
    ("<answer>A</answer><answer>C</answer>", None),
    ("<answer>A, C</answer><answer>A</answer>", None),
    ("<answer>A, C", None),
    ("<answer></answer>", None),
    ("<think>A, B</think>A, C", "AC"),
    ("<think>A, C", None),
    ("The answer is A and C.", "AC"),
    ("The answer is A and C. They are heard.", "AC"),
    ("**Answer: A, C**", "AC"),
    ("答案：A、C", "AC"),
    ("答案是AC。因为有声音", "AC"),
    ("The answer is A, C. The answer is A.", None),
    ("The answer is A. C.", None),
    ("Answer:\nA\nC", None),
    ("Answer: A, Answer: C", None),
    ("The answer is not A, C", None),
    # hedges, ranges, words
    ("A or C", None),
    ("A and/or C", None),
    ("A/C", None),
    ("A-C", None),
    ("A|C", None),
    ("A + C", None),
    ("A, maybe C", None),
    ("A, not C", "A"),
    ("A and not C", None),
    ("Both A and C", None),
    ("A, C because they are heard", "AC"),
    ("Because", None),
    ("A cat and a red fox", "AC"),
    ("All of the above", None),
    ("None", None),
    ("a, c", None),
    ("A, E", None),
    ("A, A", None),
    ("A,, C", None),
    (", A, C", None),
    ("A. dog, C. a red fox", None),
    ("cat, a red fox", "AC"),
    ("1, 3", None),
    ("", None),
    (" \n", None),
]

MEALS = (
    "salt",
    "salt, pepper",
    "fish and chips",
    "2**3",
    "R, and D",
)  # right are salt and fish and chips

VALUE = [
    ("salt, fish and chips", ("salt", "fish and chips")),
    ("Fish and Chips, Salt.", ("salt", "fish and chips")),
    ("salt and fish and chips", ("salt", "fish and chips")),
    ("salt\nfish and chips", ("salt", "fish and chips")),
    ("<answer>salt; fish and chips</answer>", ("salt", "fish and chips")),
    ("salt", ("salt",)),
    ("salt, pepper", ("salt, pepper",)),
    ("salt, salt, pepper", ("salt", "salt, pepper")),
    ("2**3, R, and D", ("2**3", "R, and D")),
    ("pepper", None),
    ("fish, chips", None),
    ("salt, pepper, salt, pepper", None),
    ("salt or 2**3", None),
    ("A, C", None),
]


def query(options, *right):
    return Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        options=options,
        answer=right[0],
        also=right[1:],
        answer_kind=AnswerKind.set,
        cluster="c",
    )


@pytest.mark.parametrize(("reply", "letters"), LETTER)
def test_letters(reply, letters):
    given = (
        None
        if letters is None
        else ", ".join(ANIMALS[ord(letter) - ord("A")] for letter in letters)
    )
    worth = {None: Outcome.no_answer, "AC": Outcome.correct}.get(letters, Outcome.incorrect)
    assert judge(reply, query(ANIMALS, "a red fox", "cat"), "letter") == (given, worth)


@pytest.mark.parametrize(("reply", "named"), VALUE)
def test_texts(reply, named):
    worth = {None: Outcome.no_answer, ("salt", "fish and chips"): Outcome.correct}.get(
        named, Outcome.incorrect
    )
    given = None if named is None else ", ".join(named)
    assert judge(reply, query(MEALS, "fish and chips", "salt"), "value") == (given, worth)


def test_a_list_that_reads_in_two_ways_names_nothing():
    options = ("a", "b", "a, b")
    assert judge("a, b", query(options, "a", "b"), "value") == (None, Outcome.no_answer)
    assert judge("b, a", query(options, "a", "b"), "value") == ("a, b", Outcome.correct)
    # Same words when joined, yet another set.
    assert judge("\\boxed{b; a}", query(options, "a, b"), "value") == ("a, b", Outcome.incorrect)


def test_letters_follow_shown_order_and_answer_the_querys_own():
    assert judge("A, B", query(ANIMALS, "owl", "a red fox"), "letter", (3, 2, 1, 0)) == (
        "a red fox, owl",
        Outcome.correct,
    )


def test_a_set_of_one():
    assert judge("C", query(ANIMALS, "a red fox"), "letter") == ("a red fox", Outcome.correct)
    assert judge("A, C", query(ANIMALS, "a red fox"), "letter")[1] is Outcome.incorrect


def test_tables_are_large_enough():
    assert len(LETTER) >= 60
