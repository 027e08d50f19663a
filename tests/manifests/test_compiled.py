"""The compiled manifests against the upstream schemas, unknown fields refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "crds"
MANIFESTS = sorted((ROOT / "pipelines" / "compiled").glob("*.k8s.yaml"))


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it lists its fields and does not keep unknown ones itself."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner


def schema_of(kind: str, version: str) -> Any:
    crd = yaml.safe_load((SCHEMAS / f"pipelines.kubeflow.org_{kind.lower()}s.yaml").read_text())
    found = next(v for v in crd["spec"]["versions"] if v["name"] == version)["schema"]["openAPIV3Schema"]
    schema = closed(found)
    schema["properties"]["metadata"] = {"type": "object"}  # a CRD leaves it to the API server
    return schema


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the upstream schemas are not beside this checkout")
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_objects_are_valid(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    assert [o["kind"] for o in objects] == ["Pipeline", "PipelineVersion"]
    for found in objects:
        schema = schema_of(found["kind"], found["apiVersion"].partition("/")[2])
        jsonschema.validate(found, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, "spec": {**found["spec"], "nonsense": 1}}, schema)


def test_both_pipelines_are_compiled() -> None:
    assert [p.name for p in MANIFESTS] == ["omniboost.k8s.yaml", "omniclean.k8s.yaml"]
