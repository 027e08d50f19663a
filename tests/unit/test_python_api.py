"""The public Python API: audits in memory equal the step, runs load as frames."""

from __future__ import annotations

from pathlib import Path

import pytest

import omnicore
from omnicore import Draw, Query, View
from omnicore.errors import DataError
from tests.errors import refused

OPTIONS = ("cat", "dog", "owl", "fox")


def query(number: int) -> Query:
    return Query(
        benchmark="mine",
        id=f"{number:03d}",
        type="which",
        question="Which?",
        options=OPTIONS,
        answer="cat",
        cluster=f"c{number}",
    )


def draw(number: int, place: int, answer: str, view: View = View.visual_only) -> Draw:
    outcome = "correct" if answer == "cat" else "incorrect"
    return Draw(
        benchmark="mine",
        id=f"{number:03d}",
        view=view,
        draw=place,
        permutation=(0, 1, 2, 3),
        reply=answer,
        answer=answer,
        outcome=outcome,
    )


def test_solved_queries_leave_the_clean_view() -> None:
    """Forty of two hundred are always solved; the probe guesses evenly on the others."""
    queries = [query(number) for number in range(200)]
    draws = [
        draw(number, place, "cat" if number < 40 else OPTIONS[(number * 7 + place * 3) % 4])
        for number in range(200)
        for place in range(8)
    ]
    manifests = omnicore.audit_draws(queries, draws)
    kept = manifests["repeated"].kept()
    assert {q.id for q in queries if q.key not in kept} == {f"{number:03d}" for number in range(40)}
    first_right = [d for d in draws if d.draw == 0 and d.answer == "cat"]
    assert len(queries) - len(manifests["single_pass"].kept()) == len(first_right)
    whole = omnicore.audit_draws(queries, draws, kept_whole=frozenset({"mine"}))
    assert len(whole["repeated"].kept()) == 200


def test_an_audit_needs_draws_without_sound() -> None:
    with refused(DataError, "audit-no-visual-draws"):
        omnicore.audit_draws([query(0)], [draw(0, 0, "cat", View.text_only)])


def test_a_query_without_its_draws_is_named() -> None:
    draws = [draw(0, 0, "cat"), draw(0, 1, "cat"), draw(1, 0, "cat")]
    with pytest.raises(DataError, match="001"):
        omnicore.audit_draws([query(0), query(1)], draws)


@pytest.mark.parametrize("name", omnicore.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(omnicore, name)
    assert name == "__version__" or value.__name__ == name


def test_a_run_is_loaded_by_its_folder(tmp_path: Path) -> None:
    with refused(DataError, "runs-missing", path=tmp_path / "absent"):
        omnicore.load_run(tmp_path / "absent")
