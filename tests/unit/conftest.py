"""Fixtures of several unit tests: the mock API server, media of a training source."""

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


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    """Media beside the rows of a training source, which a test writes."""
    from tests.media_files import make_picture, make_tone, make_video

    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "audios").mkdir()
    make_picture(folder / "images" / "a.png", "red", (32, 24))
    make_picture(folder / "images" / "b.png", "blue", (32, 24))
    make_tone(folder / "audios" / "a.wav", 300, 0.5)
    make_video(folder / "film.mp4", 1.0, 8, (64, 48), 400)
    return folder
