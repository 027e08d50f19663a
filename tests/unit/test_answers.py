"""Tables of replies, many of them written to fool an extractor, with the option that a careful
reader would record."""

import time

import pytest

from omnicore.schema import Outcome, Query
from omnicore.scoring.extract import extract_option
from omnicore.scoring.verify import judge
from tests.cases import slow

DIGITS = ("3", "5", "8", "13")
ANIMALS = ("cat", "dog", "a red fox", "owl")  # A, B, C, D

# reply, expected, options where not DIGITS
VALUE = [
    # tags
    ("<answer>5</answer>", "5"),
    ("<think>see 3 hear 5</think><answer>8</answer>", "8"),
    ("  <answer>\n 5 \n</answer>  ", "5"),
    ("<ANSWER>5</ANSWER>", "5"),
    ("<answer>5.</answer>", "5"),
    ("<answer>**5**</answer>", "5"),
    ("<answer>`5`</answer>", "5"),
    ("<answer>“5”</answer>", "5"),
    ("<answer>５</answer>", "5"),
    ("<answer>5。</answer>", "5"),
    ("The sum is 3, so <answer>8</answer> and not 5", "8"),
    ("Answer: 3 <answer>8</answer>", "8"),
    ("<answer>13</answer>", "13"),
    ("<answer>1 3</answer>", None),
    ("<answer>3 5</answer>", None),
    ("<answer>3, 5</answer>", None),
    ("<answer>3 or 5</answer>", None),
    ("<answer>not 5</answer>", None),
    ("<answer>5 because I heard it</answer>", "5"),
    ("<answer>-5</answer>", None),
    ("<answer>5.0</answer>", None),
    ("<answer>5%</answer>", None),
    ("<answer>5!</answer>", None),
    ("<answer>five</answer>", None),
    ("<answer>7</answer>", None),
    ("<answer>B</answer>", None),
    ("<answer></answer>", None),
    ("<answer> . </answer>", None),
    ("<answer>****</answer>", None),
    ("<answer>5</answer><answer>5</answer>", "5"),
    ("<answer>5</answer> ... <answer>**5**</answer>", "5"),
    ("<answer>5</answer><answer>8</answer>", None),
    ("<answer>5</answer><answer>7</answer>", None),
    ("<answer>5</answer><answer></answer>", None),
    ("<answer>3</answer><answer>5</answer><answer>8</answer><answer>13</answer>", None),
    ("<answer>5", None),
    ("5</answer>", None),
    ("<answer>5</answer> so <answer>8", None),
    ("<answer><answer>5</answer>", None),
    ("<answer>5</answer></answer>", None),
    # thinking
    ("<think><answer>3</answer></think><answer>8</answer>", "8"),
    ("<think><answer>8</answer></think>", None),
    ("<think>see 3 <answer>8</answer>", None),
    ("<answer>8</answer><think>or was it 5", "8"),
    ("<answer>8</answer><think>wait</think>", "8"),
    ("so it is <answer>3</answer></think><answer>8</answer>", "8"),
    ("<THINK>3</THINK>8", "8"),
    ("<think>a <think>b</think> 3</think>8", "8"),
    ("<think>the answer is 8</think>", None),
    ("<think>8</think>", None),
    # no tags: the whole reply
    ("5", "5"),
    (" 5.\n", "5"),
    ("**5**", "5"),
    ("*5*", "5"),
    ("", None),
    (" \n ", None),
    ("5 8", None),
    ("It is 5", "5"),
    ("I see 5 and hear 8, together 13", None),
    ("15", None),
    # no tags: statements
    ("I see 3 and hear 5. The answer is 8.", "8"),
    ("The answer is **8**.", "8"),
    ("**Answer: 8**", "8"),
    ("**Answer:** 8", "8"),
    ("Final answer:\n\n8", "8"),
    ("The correct answer is: 8", "8"),
    ("The answer is 8. That is 3 plus 5.", "8"),
    ("Answer: 8\nI added 3 and 5", "8"),
    ("The answer is 8. Answer: 8", "8"),
    ("答案：8。", "8"),
    ("答案是8。因为3加5", "8"),
    ("The answer is 3. Wait, the answer is 8.", None),
    ("The answer is 3\nThe answer is 8", None),
    ("The answer is not 8.", None),
    ("The answer isn't 8.", None),
    ("The wrong answer is 8.", None),
    ("A possible answer: 8", None),
    ("The answer is 8 or 13", None),
    ("The answer is 8.5", None),
    ("The answer is 8, 13", None),
    ("Is the answer: 8?", None),
    ("The answer is either", None),
    ("The answer is", None),
    ("Answer:", None),
    ("The answers: 8", "8"),
    ("The answer is 8, I think. The answer is 8.", "8"),
    # two named one after the other
    ("The answer is 8. 13", None),
    ("Answer: 8\n13", None),
    ("Answer: 8\n\n8.", "8"),
    ("Answer: 8\n\n1. I saw 3", "8"),
    # LaTeX
    ("\\boxed{8}", "8"),
    ("$\\boxed{8}$", "8"),
    ("\\[ \\boxed{\\text{8}} \\]", "8"),
    ("3 + 5, so \\boxed{8}.", "8"),
    ("The answer is $\\boxed{8}$.", "8"),
    ("The answer is \\(8\\).", "8"),
    ("<answer>\\boxed{8}</answer>", "8"),
    ("\\boxed{3} and \\boxed{5}", None),
    ("The answer is 3, so \\boxed{8}", None),
    ("\\boxed{8", None),
    ("\\boxed{3, 8}", None),
    ("\\boxed{}", None),
    # texts that differ little
    ("<answer>THE Red  car</answer>", "the red car", ("the red car", "the red cart")),
    ("<answer>yes</answer>", "Yes", ("Yes", "No")),
    ("No, the answer is yes.", "Yes", ("Yes", "No")),
    ("No, they don't. Yes.", None, ("Yes", "No")),
    ("<answer>ph</answer>", None, ("pH", "PH")),
    ("<answer>pH</answer>", "pH", ("pH", "PH")),
    ("<answer>U.S</answer>", "U.S.", ("U.S.", "U.K.")),
    ("The answer is Mr. Smith.", "Mr. Smith", ("Mr. Smith", "Mr. Jones")),
    ("<answer>5!</answer>", "5!", ("5", "5!")),
    ("<answer>23</answer>", None, ("2**3", "8")),
    ("<answer>2**3</answer>", "2**3", ("2**3", "8")),
    ("<answer>（左）</answer>", "(左)", ("(左)", "(右)")),
    ("<answer></answer>", None, ("", "8")),
]

# reply, expected letter, options where not ANIMALS
LETTER = [
    # tags
    ("<answer>A</answer>", "A"),
    ("<answer>(B)</answer>", "B"),
    ("<answer>B.</answer>", "B"),
    ("<answer>B)</answer>", "B"),
    ("<answer>B:</answer>", "B"),
    ("<answer>**B**</answer>", "B"),
    ("<answer>**B.** dog</answer>", "B"),
    ("<answer>B. dog</answer>", "B"),
    ("<answer>B. DOG.</answer>", "B"),
    ("<answer>(C) a red fox</answer>", "C"),
    ("<answer>C: A Red Fox</answer>", "C"),
    ("<answer>Answer: D</answer>", "D"),
    ("<answer>Answer: **D**</answer>", "D"),
    ("<answer>（B）</answer>", "B"),
    ("<answer>Ｂ</answer>", "B"),
    ("<answer>B。</answer>", "B"),
    ("<answer>B、dog</answer>", "B"),
    ("<answer>答案：B</answer>", "B"),
    ("<answer>B. cat</answer>", None),
    ("<answer>(B) cat</answer>", None),
    ("<answer>B dog</answer>", "B"),
    ("<answer>Because</answer>", None),
    ("<answer>A cat</answer>", "A"),
    ("<answer>A. cat or B. dog</answer>", None),
    ("<answer>A or B</answer>", None),
    ("<answer>A and B</answer>", None),
    ("<answer>A, B</answer>", None),
    ("<answer>A、B</answer>", None),
    ("<answer>AB</answer>", None),
    ("<answer>A B</answer>", None),
    ("<answer>(A) (B)</answer>", None),
    ("<answer>A/B</answer>", None),
    ("<answer>not B</answer>", None),
    ("<answer>B?</answer>", None),
    ("<answer>b</answer>", "B"),
    ("<answer>dog</answer>", "B"),
    ("<answer>E</answer>", None),
    ("<answer>1</answer>", None),
    ("<answer></answer>", None),
    ("<answer>A</answer><answer>(A)</answer>", "A"),
    ("<answer>A</answer><answer>B</answer>", None),
    ("<answer>A</answer><answer>none</answer>", None),
    ("<answer>B", None),
    ("<answer>B</answer>, though <answer>A", None),
    # thinking
    ("<think>A, no, B</think><answer>B</answer>", "B"),
    ("<think>The answer is A.</think>B", "B"),
    ("The answer is A.</think>\n\nB", "B"),
    ("<think>The answer is B.", None),
    ("<think>B</think>", None),
    # no tags: the whole reply
    ("B", "B"),
    (" (B)\n", "B"),
    ("B. dog", "B"),
    ("**B. dog**", "B"),
    ("Answer: B", "B"),
    ("", None),
    ("a", "A"),
    ("A cat", "A"),
    ("A dog", "B"),
    ("A", "A"),
    ("Because the sound is a bark", None),
    ("Both", None),
    ("D-flat", None),
    ("B. I hear a bark", "B"),
    ("A cat is seen, a dog is heard", None),
    ("I", None),
    ("I", "I", tuple("abcdefghij")),
    ("I think so", None, tuple("abcdefghij")),
    # no tags: statements
    ("I hear a bark. The answer is B.", "B"),
    ("I hear a bark. The answer is (B) dog.", "B"),
    ("The answer is **B**.", "B"),
    ("**Answer: B**", "B"),
    ("**Answer:** B. dog", "B"),
    ("**Final Answer**:\n\n**B**", "B"),
    ("The answer is B. It barks.", "B"),
    ("The answer is C. A red fox.", "C"),
    ("The answer is B. A red fox.", None),
    ("答案：B", "B"),
    ("正确答案是（B）。", "B"),
    ("答案是A、B", None),
    ("The answer is A cat.", "A"),
    ("The answer is a", None),
    ("The answer is A or B.", None),
    ("The answer is A, B and C.", None),
    ("The answer is Because.", None),
    ("The answer is not A.", None),
    ("The answer is not A. The answer is B.", "B"),
    ("The answer is A. No wait, the answer is B.", None),
    ("The answer is A. Answer: A", "A"),
    ("The incorrect answer is A.", None),
    ("No answer: A is not it", None),
    ("Is it a cat? no\nAnswer: B", "B"),
    ("If the answer is A, I am wrong", None),
    ("Is the answer: A?", None),
    ("The answer is dog.", "B"),
    ("Options are A, B, C, D", None),
    # small letters are labels in brackets, after "answer:" and alone
    ("(b)", "B"),
    ("(b).", "B"),
    ("**(b)**", "B"),
    ("(b) dog", "B"),
    ("(b) cat", None),
    ("The answer is (b).", "B"),
    ("<answer>(b)</answer>", "B"),
    ("b)", "B"),
    ("b.", "B"),
    ("b. dog", "B"),
    ("b. cat", None),
    ("Answer: b", "B"),
    ("(a) or (b)", None),
    ("(e)", None),
    ("I saw a (b) in the picture", None),
    # what names no single letter
    ("A or B", None),
    ("Answer: C", "C"),
    ("Answer: C\nD", None),
    ("The answer is B. C.", None),
    ("The answer is B. dog", "B"),
    ("**B**", "B"),
    ("__B__", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{B}}", "B"),
    ("$B$", "B"),
    ("Option B", "B"),
    ("B is correct", "B"),
    ("It must be B", "B"),
    ("[B]", "B"),
    ("B;", "B"),
    ("Ａ．", "A"),
    ("选项B", "B"),
    ("答案：（b）", "B"),
    ("All of the above", None),
    ("None", None),
    # letters that are options too: the place counts
    ("<answer>A</answer>", "A", ("B", "A")),
]


def _rows(table, usual):
    return [(row[0], row[1], row[2] if len(row) > 2 else usual) for row in table]


@pytest.mark.parametrize(("reply", "expected", "options"), _rows(VALUE, DIGITS))
def test_value(reply, expected, options):
    assert extract_option(reply, options, "value") == expected


@pytest.mark.parametrize(("reply", "expected", "options"), _rows(LETTER, ANIMALS))
def test_letter(reply, expected, options):
    assert extract_option(reply, options, "letter") == (
        None if expected is None else options[ord(expected) - ord("A")]
    )


def test_tables_are_large_enough():
    assert min(len(VALUE), len(LETTER)) >= 60


@pytest.mark.parametrize(
    ("reply", "given", "outcome"),
    [
        ("<answer>8</answer>", "8", Outcome.correct),
        ("<answer>5</answer>", "5", Outcome.incorrect),
        ("<answer>7</answer>", None, Outcome.incorrect),
        ("", None, Outcome.no_answer),
    ],
)
def test_judge(reply, given, outcome):
    assert judge(reply, query(DIGITS, "8"), "value") == (given, outcome)


def query(options, answer):
    return Query(
        benchmark="b", id="0", type="t", question="?", options=options, answer=answer, cluster="c"
    )


def test_order_shown_decides_the_letter():
    animals = query(("dog", "cat"), "cat")
    assert judge("B", animals, "letter") == ("cat", Outcome.correct)
    assert judge("B", animals, "letter", (1, 0)) == ("dog", Outcome.incorrect)


def test_more_options_than_letters():
    with pytest.raises(ValueError, match="27 options"):
        extract_option("A", [str(i) for i in range(27)], "letter")


JUNK = (
    "x" * 200_000,
    "*" * 200_000,
    "." * 200_000,
    " ." * 100_000,
    "1" * 200_000,
    "1,234" * 40_000,
    "A, " * 70_000,
    "A and " * 35_000,
    " " * 200_000 + "x",
    "x\n" * 100_000,
    "no " * 66_000,
    "Yes, " + "no, " * 50_000,
    "\\boxed{" * 28_000,
    "\\boxed{" + "{}" * 100_000,
    "\\boxed{8} \\boxed{5} " * 10_000,
    "答案：" * 60_000,
    "A. " * 50_000,
    "<think>" * 20_000,
    "<answer>" * 20_000,
    "answer is " * 20_000,
    "Answer: " + "x. " * 50_000,
)


JUDGED = (
    Query(
        benchmark="b",
        id="0",
        type="t",
        question="?",
        options=("yes", "no"),
        answer="no",
        answer_kind="yes_no",
        cluster="c",
    ),
    Query(
        benchmark="b",
        id="1",
        type="t",
        question="?",
        options=DIGITS,
        answer="8",
        also=("5",),
        answer_kind="set",
        cluster="c",
    ),
    Query(
        benchmark="b", id="2", type="t", question="?", answer="8", answer_kind="number", cluster="c"
    ),
    Query(
        benchmark="b", id="3", type="t", question="?", answer="8", answer_kind="text", cluster="c"
    ),
)


@pytest.mark.parametrize(
    "reply", [*JUNK[:4], *map(slow, JUNK[4:])], ids=lambda reply: repr(reply[:12])
)
def test_long_junk_is_quick(reply):
    # Bounds what is quadratic, of which 200 kB take minutes; no measure of speed.
    start = time.process_time()
    for style in ("value", "letter"):
        assert extract_option(reply, DIGITS, style) is None
        for query in JUDGED:
            assert judge(reply, query, style)[1] is not Outcome.correct
    assert time.process_time() - start < 5
