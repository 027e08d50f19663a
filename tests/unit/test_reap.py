"""`omnicore cluster reap` against the mock API server: it deletes orphans and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from omnicore.cli.main import main
from omnicore.cluster import names, reap
from omnicore.cluster.client import connect
from omnicore.cluster.manifests import manifest
from tests.job_operator import KEY, NAME, RUN, spec
from tests.kube_server import NAMESPACE, KubeServer, rights

RIGHTS = rights(reap.VERBS)


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


@dataclass(frozen=True)
class Orphan:
    """One job, and the reason of its deletion; empty for one that stays."""

    heartbeat: float | None = 0  # minutes before the test
    condition: str = ""
    owner: str = ""
    ttl: str = "3600"
    words: str = ""
    ours: bool = True
    run: str = ""
    kind: str = "pytorchjob"


REAPED = {
    "looked after": Orphan(),
    "its launcher is dead": Orphan(16, words="no heartbeat for"),
    "its launcher is dead, of a TrainJob": Orphan(16, words="no heartbeat for", kind="trainjob"),
    "a launcher's clock is minutes behind": Orphan(10),
    "a launcher's clock is ahead": Orphan(-30),
    "made by hand": Orphan(None),
    "not ours": Orphan(9 * 24 * 60, ours=False),
    "its workflow runs": Orphan(owner="running"),
    "its workflow has ended": Orphan(owner="failed", words="workflow failed has ended: Failed"),
    "its workflow is gone": Orphan(owner="gone", words="workflow gone is gone"),
    "its workflow is another of that name": Orphan(owner="anew", words="workflow anew is gone"),
    "failed, kept for a look": Orphan(30, "Failed", owner="failed"),
    "failed, its ttl is over": Orphan(61, "Failed", words="ttl of 3600 s"),
    "succeeded, its ttl is over": Orphan(2, "Succeeded", ttl="60", words="ttl of 60 s"),
    "its run says that it is over": Orphan(run=RUN, words="left by its run"),
    "another run says that it is over": Orphan(run="other"),
    "failed, its run says that it is over": Orphan(condition="Failed", run=RUN),
}


@pytest.mark.parametrize("case", REAPED)
def test_reap_deletes_only_orphans(case: str, config: Path, kube: KubeServer) -> None:
    orphan = REAPED[case]
    body, jobs = manifest(spec(orphan.kind)), f"{orphan.kind}s"
    for name, phase in {"running": "Running", "failed": "Failed", "anew": "Running"}.items():
        kube.put("workflows", {"metadata": {"name": name}, "status": {"phase": phase}})
    marks = body["metadata"]
    marks["annotations"][names.TTL] = orphan.ttl
    if orphan.heartbeat is not None:
        marks["annotations"][names.HEARTBEAT] = ago(minutes=orphan.heartbeat)
    if orphan.owner:
        found = kube.get("workflows", orphan.owner)
        uid = found["metadata"]["uid"] if found and orphan.owner != "anew" else "another"
        marks["ownerReferences"] = [{"kind": "Workflow", "name": orphan.owner, "uid": uid}]
    if not orphan.ours:
        marks["labels"] = {names.APP: "omnicore"}
    kube.put(jobs, body)
    if orphan.condition:
        kube.condition(jobs, NAME, orphan.condition)
    cluster = connect(NAMESPACE)
    planned = reap.reap(cluster, run=orphan.run, dry_run=True)
    assert len(kube.all(jobs)) == 1
    deleted = reap.reap(cluster, run=orphan.run)
    assert [line.rstrip("0123456789 s") for line in deleted] == [
        line.rstrip("0123456789 s") for line in planned
    ]
    assert len(deleted) == bool(orphan.words) == (not kube.all(jobs))
    assert orphan.words in "".join(deleted)


def test_reap_keeps_a_job_with_a_new_heartbeat(config: Path, kube: KubeServer) -> None:
    body = manifest(spec())
    body["metadata"]["annotations"][names.HEARTBEAT] = ago(hours=1)
    kube.put("pytorchjobs", body)

    def beat(verb: str, resource: str, name: str, seen: int) -> None:
        if verb == "delete":
            kube.change(
                "pytorchjobs",
                NAME,
                lambda job: job["metadata"]["annotations"].update(
                    {names.HEARTBEAT: names.timestamp()}
                ),
            )

    kube.fault = beat
    assert reap.reap(connect(NAMESPACE)) == []
    assert kube.all("pytorchjobs")


def test_reap_deletes_services_without_other_kinds(config: Path, kube: KubeServer) -> None:
    marks = {
        "labels": names.labels(RUN, "evaluate", KEY),
        "annotations": {names.HEARTBEAT: ago(hours=1)},
    }
    kube.put("inferenceservices", {"metadata": {"name": "eval-x7", **marks}})
    kube.served = frozenset({"inferenceservices", "workflows"})
    assert main(["cluster", "reap", "--namespace", NAMESPACE]) == 0
    assert not kube.all("inferenceservices")


@pytest.mark.parametrize(
    ("mine", "other"),
    [("r" * 70 + "a", "r" * 70 + "b"), ("日本", "ä"), ("---", "日本"), ("a b", "a-b"), ("x.", "x")],
)
def test_reap_run_keeps_runs_of_a_similar_name(
    mine: str, other: str, config: Path, kube: KubeServer
) -> None:
    for number, run in enumerate((mine, other)):
        body = manifest(spec())
        body["metadata"]["name"] = f"job-{number}"
        body["metadata"]["labels"] |= names.labels(run, "sft", KEY)
        body["metadata"]["annotations"][names.HEARTBEAT] = names.timestamp()
        assert names.LABEL.fullmatch(names.label_value(run))
        kube.put("pytorchjobs", body)
    assert len(reap.reap(connect(NAMESPACE), run=mine)) == 1
    assert [job["metadata"]["name"] for job in kube.all("pytorchjobs")] == ["job-1"]


def test_reap_names_the_missing_right(
    config: Path, kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.forbidden.add(("list", "trainjobs"))
    assert main(["cluster", "reap", "--namespace", NAMESPACE]) == 2
    assert "list trainjobs.trainer.kubeflow.org in namespace team" in capsys.readouterr().err


def test_every_listed_right_is_used(config: Path, kube: KubeServer) -> None:
    reaped = [resource for resource, verb in reap.VERBS if verb == "delete"]
    for resource in reaped:
        metadata = {
            "name": "orphan",
            "labels": names.labels(RUN, "sft", KEY),
            "annotations": {names.HEARTBEAT: names.timestamp()},
            "ownerReferences": [{"kind": "Workflow", "name": "gone", "uid": "u-1"}],
        }
        kube.put(resource.plural, {"metadata": metadata})
    assert len(reap.reap(connect(NAMESPACE))) == len(reaped)
    assert kube.calls == RIGHTS
