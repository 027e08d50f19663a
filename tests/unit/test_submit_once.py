"""One run a name, whoever submits it at the same time: every order of the requests of two, many at
once, and the dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest

from omnicore.cluster import submit as submitting
from omnicore.cluster.kubeflow import OVER, KfpServer
from tests.kfp_server import Kfp, kfp

__all__ = ["kfp"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "PAUSES", (0.02, 0.05, 0.1, 0.2, 0.4))


def submit(host: str) -> str:
    return submitting.submit("omniboost", "boost-1", "tiny", host=host)


def alive(kfp: Kfp) -> list[str]:
    return [run["run_id"] for run in kfp.runs if run.get("state") not in OVER]


class Turns:
    """Lets the requests about runs of two submitters through in a given order, as far as each has
    any."""

    def __init__(self, order: str) -> None:
        self.order, self.gone = list(order), set[str]()
        self.changed = threading.Condition()

    def take(self, who: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: not self._left() or self.order[0] == who, 20)
            if self.order:
                self.order.pop(0)
            self.changed.notify_all()

    def leave(self, who: str) -> None:
        with self.changed:
            self.gone.add(who)
            self.changed.notify_all()

    def _left(self) -> bool:
        while self.order and self.order[0] in self.gone:
            self.order.pop(0)
        return bool(self.order)


def orders(each: int = 3) -> Iterator[str]:
    """Every order of so many requests of A and as many of B: the look, the creation, the look after
    it."""
    for places in combinations(range(2 * each), each):
        yield "".join("A" if at in places else "B" for at in range(2 * each))


def both(kfp: Kfp, order: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What A and B say, their requests about runs in this order."""
    kfp.experiments.append({"display_name": "omniboost", "experiment_id": "e0"})
    turns, who = Turns(order), threading.local()
    ask = KfpServer.request

    def in_turn(server: KfpServer, call: object, *arguments: object, **options: object) -> object:
        if "run_service" in getattr(call, "__name__", ""):
            turns.take(who.name)
        return ask(server, call, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(KfpServer, "request", in_turn)

    def run(name: str) -> str:
        who.name = name
        try:
            return submit(kfp.url)
        finally:
            turns.leave(name)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, "AB"))


@pytest.mark.parametrize("order", orders())
def test_two_submitters_in_any_order_leave_one_run(
    order: str, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = both(kfp, order, monkeypatch)
    (left,) = alive(kfp)
    assert {line.rpartition("/")[2] for line in said} == {left}
    assert sorted("is created" in line for line in said) == [False, True]


def test_older_run_that_is_listed_later_leaves_one(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KFP dates a run before it can be seen: A looks, sees its own alone and is done; then B's is
    there, and is the older one."""
    kfp.later_is_older = True
    both(kfp, "BAAABB", monkeypatch)
    assert len(kfp.runs) == 2
    assert len(alive(kfp)) == 1


def test_eight_at_once_leave_one_run(kfp: Kfp) -> None:
    seen, made = threading.Barrier(8), threading.Barrier(8)
    kfp.after_list, kfp.after_create = once(seen), once(made)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(submit, [kfp.url] * 8))
    (left,) = alive(kfp)
    assert len(kfp.runs) == 8  # they did meet
    assert {line.rpartition("/")[2] for line in said} == {left}
    assert len(kfp.experiments) == 1


def once(barrier: threading.Barrier) -> object:
    """Holds the first answers until all are due, and no later one."""
    through = threading.Semaphore(barrier.parties)

    def hold() -> None:
        if through.acquire(blocking=False):
            barrier.wait(20)

    return hold


def test_oldest_run_of_dead_submitters_stays(kfp: Kfp) -> None:
    common = {"display_name": "boost-1", "namespace": ""}
    kfp.runs = [
        {**common, "run_id": "r0", "state": "FAILED"},
        *({**common, "run_id": f"r{n}"} for n in (1, 2, 3)),
    ]
    assert submit(kfp.url).endswith("exists already (pending): " + kfp.url + "/#/runs/details/r1")
    assert [run["state"] for run in kfp.runs[2:]] == ["CANCELING"] * 2
    assert alive(kfp) == ["r1"]


def test_cancelled_run_is_recreated_and_failed_one_not(
    kfp: Kfp,
) -> None:
    for state, runs in (("CANCELING", 2), ("FAILED", 1)):
        kfp.runs.clear()
        kfp.after_create = lambda state=state: (
            len(kfp.runs) == 1 and kfp.runs[0].update(state=state)
        )
        assert "is created" in submit(kfp.url)
        assert len(kfp.runs) == runs
