"""Read and judge replies with the reader that probe, reward and evaluation share."""

from omnicore.schema import AnswerKind, Query
from omnicore.scoring.verify import judge

CHOICE = Query(
    benchmark="mine",
    id="q1",
    type="instrument",
    question="Which instrument plays?",
    options=("piano", "violin", "drum", "flute"),
    answer="violin",
    cluster="clip-1",
)
NUMBER = Query(
    benchmark="mine",
    id="q2",
    type="count",
    question="How many times does the bell ring?",
    answer="12",
    answer_kind=AnswerKind.number,
    cluster="clip-2",
)
REPLIES = [
    (CHOICE, "The correct option is B."),
    (CHOICE, "It is not B."),
    (CHOICE, "B or C"),
    (CHOICE, "<answer>A</answer>"),
    (CHOICE, "<answer>E</answer>"),
    (NUMBER, "The answer is twelve."),
    (NUMBER, "<answer>11</answer>"),
]

for query, reply in REPLIES:
    answer, outcome = judge(reply, query, style="letter")
    print(f"{reply:<28} {answer or '-':<8} {outcome}")
