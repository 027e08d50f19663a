"""The compiled manifests against the upstream schemas, unknown fields refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.manifests.strict import CRDS, validate

MANIFESTS = sorted((Path(__file__).parents[2] / "pipelines" / "compiled").glob("*.k8s.yaml"))


@pytest.mark.skipif(not CRDS.is_dir(), reason="the upstream schemas are not beside this checkout")
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_objects_are_valid(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    assert [o["kind"] for o in objects] == ["Pipeline", "PipelineVersion"]
    for found in objects:
        assert validate(found) == []
        assert validate({**found, "spec": {**found["spec"], "nonsense": 1}})


def test_all_pipelines_are_compiled() -> None:
    assert [p.name for p in MANIFESTS] == [
        "omniboost.k8s.yaml",
        "omniclean.k8s.yaml",
        "retrain.k8s.yaml",
    ]
