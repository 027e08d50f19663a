"""What tests of the cluster's side share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube_server import KubeServer


@pytest.fixture
def kube(request: pytest.FixtureRequest) -> Iterator[KubeServer]:
    """The mock API server; a test file's `RIGHTS` are all that may be asked of it."""
    with KubeServer() as server:
        yield server
    if rights := getattr(request.module, "RIGHTS", None):
        assert server.calls <= rights


@pytest.fixture
def config(kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path
