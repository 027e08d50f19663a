"""A checkpoint served for one step, against a mock API server and a real OpenAI server.

Whatever happens, no InferenceService stays behind, and only the deployed one is asked.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnicore.cluster import names, serve
from omnicore.cluster.fetch import main as fetch
from omnicore.cluster.inferenceservice import PublishedCheckpoint, publish_checkpoint
from omnicore.config import EngineConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.engines import kserve
from omnicore.errors import CheckpointError, ClusterError, ConfigError, DataError
from tests.errors import refused
from tests.kube_server import NAMESPACE, KubeServer, rights
from tests.seaweed import BUCKET, WEED, Seaweed, seaweed  # noqa: F401
from tests.stub_server import Stub
from tests.timeouts import shorten
from tests.unit.serve_cases import CASES, Case
from tests.unit.serve_scenarios import (
    PATIENT,
    PLURAL,
    SimulatedCluster,
    answered,
    asking,
    body_of,
    recipe,
)

MODEL = PublishedCheckpoint(
    "s3://b/inputs/ab", "s3://b/inputs/ab/cd/checkpoint", "c" * 64, 22 << 30, "checkpoint"
)
RIGHTS = rights(serve.VERBS)


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    with KubeServer() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(kserve, "publish_checkpoint", lambda model, root: MODEL)
        yield server
    assert server.calls <= RIGHTS


def check_end(case: Case, act: Callable[[], None]) -> None:
    if not (case.code or case.words) and case.error is ClusterError:
        act()
        return
    with pytest.raises(case.error) as caught:
        act()
    if case.code:
        assert caught.value.code in case.code.split("|")
    for words in case.words:
        assert words in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_no_service_stays_and_no_other_is_asked(
    name: str, kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    shorten(monkeypatch, **{**PATIENT, **case.timeouts})
    kube.fault = case.fault
    run = recipe(**case.engine)
    case.before(kube, body_of(run, tmp_path, monkeypatch))
    before = signal.getsignal(signal.SIGTERM)
    stub = Stub(case.reply)
    stub.start()
    cluster = SimulatedCluster(kube, stub)
    player = threading.Thread(target=case.act, args=[cluster], daemon=True)
    player.start()

    def act() -> None:
        replies, perceived = asking(run, tmp_path, picture=case.picture).run(
            run, tmp_path, "evaluate"
        )
        # The server is gone by now; the replies are all there.
        assert not kube.all(PLURAL)
        assert [bool(reply.text) for reply in replies] == [True] * 8
        assert ("canary_image" in perceived) is case.picture

    try:
        check_end(case, act)
        player.join(5)
        assert not player.is_alive(), "the scenario was not played to its end"
    finally:
        if stub.thread.is_alive():
            stub.stop()
    assert cluster.early == 0, "it was asked before it could answer"
    assert len(kube.created) == case.created
    assert len(kube.all(PLURAL)) == case.left
    assert signal.getsignal(signal.SIGTERM) is before


def test_heartbeat_never_reaches_the_pods(
    kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KServe copies annotations into the pod template, and a changed template restarts the server.

    The predictor's own annotation takes precedence, so it must exist and stay.
    """
    shorten(monkeypatch, **PATIENT)
    run = recipe()
    with Stub(answered) as stub:
        cluster = SimulatedCluster(kube, stub)
        threading.Thread(target=cluster.serves, daemon=True).start()
        with kserve.deployed_engine(run.engine, "model", run, tmp_path, "evaluate"):
            first = kube.all(PLURAL)[0]
            kube.wait_for(lambda: kube.count("patch", PLURAL) >= 3)
            now = kube.all(PLURAL)[0]
    assert names.HEARTBEAT in first["metadata"]["annotations"]
    assert first["spec"] == now["spec"]
    assert names.HEARTBEAT in now["spec"]["predictor"]["annotations"]
    assert now["metadata"]["annotations"][names.TTL] == "60"


def test_name_depends_on_run_step_output_and_model(
    kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(run: Recipe, folder: Path, label: str = "evaluate") -> str:
        made = body_of(run, folder, monkeypatch)
        assert len(f"{made['metadata']['name']}-predictor") <= 63
        return str(made["metadata"]["name"])

    same = {name(recipe(), tmp_path), name(recipe(timeout=9.0, memory="1Gi"), tmp_path)}
    assert len(same) == 1
    monkeypatch.setattr(
        kserve,
        "publish_checkpoint",
        lambda model, root: MODEL._replace(uri="s3://b/inputs/zz/checkpoint"),
    )
    other = {
        name(recipe(), tmp_path),
        name(recipe(), tmp_path / "b"),
        name(recipe(runtime="mine"), tmp_path),
    }
    assert len(other | same) == 4


def test_service_is_owned_by_the_workflow_of_its_pod(
    kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "omniboost-x7",
        "uid": "u-1",
        "controller": True,
    }
    kube.put("pods", {"metadata": {"name": "step-pod", "ownerReferences": [owner]}, "status": {}})
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    made = body_of(recipe(), tmp_path, monkeypatch)
    assert made["metadata"]["ownerReferences"] == [
        {**owner, "controller": False, "blockOwnerDeletion": False}
    ]
    assert made["metadata"]["labels"][names.RUN] == "omniboost-x7"
    assert made["metadata"]["namespace"] == NAMESPACE


def test_missing_image_deploys_nothing(kube: KubeServer, tmp_path: Path) -> None:
    run = load_recipe("tiny").model_copy(update={"engine": EngineConfig(kind="kserve")})
    with pytest.raises(ConfigError, match=r"launcher\.image"):
        asking(run, tmp_path).run(run, tmp_path, "evaluate")
    assert kube.calls == set()


def test_estimate_deploys_nothing(kube: KubeServer, tmp_path: Path) -> None:
    found = asking(recipe(), tmp_path).estimate_cost(recipe())
    assert (found.requests, found.seconds) == (8, None)
    assert "engine.kind=kserve" in found.unmeasured
    assert kube.calls == set()


@pytest.mark.skipif(WEED is None, reason="no SeaweedFS here")
def test_checkpoint_is_published_once_and_fetched_whole(
    seaweed: Seaweed,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in seaweed.env.items():
        monkeypatch.setenv(name, value)
    made = tmp_path / "sft"
    (made / "checkpoint").mkdir(parents=True)
    (made / "checkpoint" / "config.json").write_text("{}")
    (made / "checkpoint" / "model.safetensors").write_bytes(b"w" * 5000)
    (made / "curves.jsonl").write_text("")
    alone = publish_checkpoint(str(made / "checkpoint"), f"s3://{BUCKET}/runs")
    record = {
        "step": "sft",
        "section": "sft",
        "digest": "d" * 64,
        "key": "k",
        "seconds": 1.0,
        "summary": {},
    }
    (made / "step.json").write_text(json.dumps(record))
    found = publish_checkpoint(str(made / "checkpoint"), f"s3://{BUCKET}/runs/")
    # The whole output of a step lies where a job publishes it as an input.
    assert found.address == f"s3://{BUCKET}/runs/inputs/{'d' * 32}"
    assert found.uri == f"{found.address}/{found.digest[:32]}/checkpoint"
    assert (alone.inside, found.inside) == ("", "checkpoint")
    assert (
        found
        == publish_checkpoint(found.address, "")
        == publish_checkpoint(str(made / "checkpoint"), f"s3://{BUCKET}/runs")
    )
    assert found.size > 5000
    volume = tmp_path / "volume"
    volume.mkdir()
    assert fetch([found.address, found.digest, str(volume / "model")]) == 0
    assert (volume / "model" / "checkpoint" / "model.safetensors").read_bytes() == b"w" * 5000
    assert fetch([found.address, found.digest, str(volume / "model")]) == 0  # a restarted container
    assert fetch([found.address, "0" * 64, str(tmp_path / "other")]) == 2
    with refused(DataError, "s3-not-published"):
        publish_checkpoint(f"s3://{BUCKET}/nowhere", "")
    with refused(ConfigError, "launcher-storage-missing", field="launcher.storage"):
        publish_checkpoint(str(made / "checkpoint"), "")
    with refused(CheckpointError, "checkpoint-config-missing"):
        publish_checkpoint(str(tmp_path), f"s3://{BUCKET}/runs")


def test_every_listed_right_is_used(
    kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("serves, answers all, and is removed", "Ready while its only pod crashes"):
        folder = tmp_path / name
        folder.mkdir()
        kube.created.clear()
        test_no_service_stays_and_no_other_is_asked(name, kube, folder, monkeypatch)
    test_service_is_owned_by_the_workflow_of_its_pod(kube, tmp_path, monkeypatch)
    assert kube.calls == RIGHTS
