"""Errors keep their code and place, and name a command that installs what is missing."""

import json
import pickle
from pathlib import Path

import pytest

from omnicore import errors
from omnicore.errors import DataError, install_command, missing_package


def test_an_error_survives_pickling() -> None:
    error = DataError("a.jsonl:3: no answer", code="x-y", path=Path("a.jsonl"), line=3, field="f")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DataError
    assert (str(copy), copy.details()) == (str(error), error.details())
    assert copy.path == "a.jsonl"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///src/omni%20core", "dir_info": {"editable": True}},
            "pip install -e '/src/omni core[train]'",
        ),
        ({"url": "file:///src/omnicore", "dir_info": {}}, "pip install '/src/omnicore[train]'"),
        (
            {"url": "file:///w/omnicore-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install '/w/omnicore-0.1.0-py3-none-any.whl[train]'",
        ),
        (
            {"url": "https://host.example/a.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "pip install 'omnicore[train] @ git+https://host.example/a.git@ab12'",
        ),
        (
            {"url": "https://host.example/omnicore.whl", "archive_info": {}},
            "pip install 'omnicore[train] @ https://host.example/omnicore.whl'",
        ),
        (None, "pip install 'omnicore[train]'"),
    ],
)
def test_the_command_installs_from_where_it_came(
    monkeypatch: pytest.MonkeyPatch, origin: dict | None, command: str
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return json.dumps(origin) if origin else None

    monkeypatch.setattr(errors, "distribution", lambda name: Installed())
    assert install_command("train") == command


def test_a_missing_package_is_named_with_its_purpose() -> None:
    error = missing_package("aiohttp", "audit", "an engine over HTTP")
    assert (error.code, error.field) == ("package-missing", "aiohttp")
    assert str(error).startswith("an engine over HTTP needs aiohttp, which is not installed: pip")
