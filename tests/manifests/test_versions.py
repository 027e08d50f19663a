"""Every object of another project's kinds against the schemas of each version that docs/cluster.md
names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.strict import CRDS, validate
from tests.manifests.test_serving import with_candidate

ROOT = Path(__file__).parents[2]
VERSIONS = CRDS / "versions"
NEEDS_CRDS = pytest.mark.skipif(
    not VERSIONS.is_dir(), reason="the upstream schemas are not beside this checkout"
)
FILES = {
    "TrainJob": ("trainjobs", ["v2.2.0", "v2.3.0", "HEAD"]),
    "TrainingRuntime": ("trainingruntimes", ["v2.2.0", "v2.3.0", "HEAD"]),
    "ClusterQueue": ("kueue-clusterqueues", ["v0.18.6", "v0.19.2", "HEAD"]),
    "LocalQueue": ("kueue-localqueues", ["v0.18.6", "v0.19.2", "HEAD"]),
    "ResourceFlavor": ("kueue-resourceflavors", ["v0.18.6", "v0.19.2", "HEAD"]),
    "WorkloadPriorityClass": ("kueue-workloadpriorityclasses", ["v0.18.6", "v0.19.2", "HEAD"]),
    "InferenceService": ("isvc", ["v0.18.1", "v0.19.0", "v0.20.0"]),
    "ServingRuntime": ("sr", ["v0.18.1", "v0.19.0", "v0.20.0"]),
}


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects of these kinds: shipped, rendered and golden, by where they stand."""
    for folder in ("k8s", "tests/manifests/golden"):
        for path in sorted((ROOT / folder).rglob("*.yaml")):
            for document in yaml.safe_load_all(path.read_text()):
                # A patch has no whole spec of its own.
                if (
                    isinstance(document, dict)
                    and document.get("kind") in FILES
                    and path.name != "candidate.yaml"
                ):
                    yield f"{path.relative_to(ROOT)}-{document['kind']}", document


OBJECTS = list(objects())
CASES = [(place, made, version) for place, made in OBJECTS for version in FILES[made["kind"]][1]]


def test_every_kind_is_shipped() -> None:
    assert {made["kind"] for _, made in OBJECTS} == set(FILES)


@NEEDS_CRDS
@pytest.mark.parametrize(
    ("place", "made", "version"), CASES, ids=[f"{place}-{version}" for place, _, version in CASES]
)
def test_object_fits_each_version(place: str, made: dict[str, Any], version: str) -> None:
    crd = VERSIONS / f"{FILES[made['kind']][0]}-{version}.yaml"
    assert validate(made, crd) == []
    assert validate({**made, "nonsense": 1}, crd)


@NEEDS_CRDS
@pytest.mark.parametrize(
    ("version", "takes"), [("v0.18.1", False), ("v0.19.0", False), ("v0.20.0", True)]
)
def test_candidate_needs_a_supporting_version(version: str, takes: bool) -> None:
    """docs/cluster.md says so: v0.18 and v0.19 do not know the field."""
    assert (validate(with_candidate(), VERSIONS / f"isvc-{version}.yaml") == []) is takes
