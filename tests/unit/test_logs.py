"""Log records on stderr: text and JSON, levels by rank, errors with code and place."""

import json
import logging

import pytest

from omnicore import logs
from omnicore.errors import DataError
from tests.errors import refused


@pytest.fixture
def logger():
    return logging.getLogger("omnicore.some.room")


def error():
    return DataError("a.jsonl:3: no answer", code="jsonl-invalid", path="a.jsonl", line=3)


def test_text_is_the_plain_message(logger, capsys):
    logs.set_up("text")
    logger.info("%d rows are left out", 2)
    logger.debug("noise")
    assert capsys.readouterr() == ("", "2 rows are left out\n")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (error(), "omnicore: a.jsonl:3: no answer [jsonl-invalid]\n"),
        (DataError("no code"), "omnicore: no code\n"),
    ],
)
def test_error_is_one_line_with_its_code(given, line, capsys):
    logs.set_up("text")
    logs.log_error(given)
    assert capsys.readouterr().err == line


def test_unexpected_error_keeps_its_traceback(logger, capsys):
    logs.set_up("text")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as bug:
        logger.error("failed", exc_info=bug)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "failed"
    assert lines[-1] == "ZeroDivisionError: a bug"


def test_json_is_one_object_a_line(logger, capsys):
    logs.set_up("json")
    logger.warning("2 rows\nare left out")
    logs.log_error(error())
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "omnicore.some.room",
        "message": "2 rows\nare left out",
    }
    assert second["level"] == "error"
    assert second["code"] == "jsonl-invalid"
    assert (second["path"], second["line"]) == ("a.jsonl", 3)
    assert "field" not in second


def test_other_ranks_log_warnings_only(logger, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    logs.set_up("text")
    logger.info("said by the first process only")
    logger.warning("disk is full")
    logs.set_up("json")
    logger.warning("disk is full")
    text, line = capsys.readouterr().err.splitlines()
    assert text == "process 3: disk is full"
    assert json.loads(line)["rank"] == 3


def test_environment_chooses_the_format(logger, capsys, monkeypatch):
    monkeypatch.setenv("OMNI_LOG_FORMAT", "json")
    logs.set_up()
    logger.info("ready")
    assert json.loads(capsys.readouterr().err)["message"] == "ready"
    with refused(logs.ConfigError, "log-format-unknown", field="--log-format"):
        logs.set_up("xml")


def test_second_set_up_replaces_the_first(logger, capsys):
    logs.set_up("text")
    logs.set_up("text")
    logger.info("once")
    assert capsys.readouterr().err == "once\n"
