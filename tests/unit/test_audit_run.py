"""A whole audit in one run folder, on a table of one's own and stub servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnicore.errors import ConfigError, EngineError, OmniError
from omnicore.runtime import audit as audits
from omnicore.runtime.audit import Audit, Endpoint, Price
from omnicore.storage.files import read_json
from tests.e2e.test_audit_guide import reply
from tests.errors import refused
from tests.media_files import make_video
from tests.stub_server import Answer, Stub

COLUMNS = {"question": "q", "options": "choices", "answer": "gold", "video": "clip"}


def models(*names: str) -> Answer:
    data = [{"id": name} for name in names]
    return Answer(json.dumps({"object": "list", "data": data}).encode())


@pytest.fixture
def server() -> Iterator[Stub]:
    with Stub(reply, models=models("guesser")) as stub:
        yield stub


@pytest.fixture
def audit(tmp_path: Path, server: Stub) -> Audit:
    """Twelve questions about two clips, one probe, one evaluated model on the same server."""
    make_video(tmp_path / "a.mp4", 1, 4, (64, 48), 440)
    make_video(tmp_path / "b.mp4", 1, 4, (64, 48), 660)
    rows = [
        {
            "q": f"Which {i}?",
            "choices": ["x", "y", "z"],
            "gold": "ABC"[i % 3],
            "clip": f"{clip}.mp4",
        }
        for i in range(6)
        for clip in "ab"
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = json.dumps({"path": str(path), "columns": COLUMNS})
    endpoint = audits.parse_endpoint(server.url)
    overrides = [f"prepare.sources.mine={source}", "probe.draws.visual_only=3"]
    recipe = audits.audit_recipe("qwen3-vl-audit", overrides, endpoint, None)
    return Audit(recipe, tmp_path / "run", None, False, [endpoint])


def test_one_call_ends_in_a_page_and_scores(audit: Audit, server: Stub) -> None:
    page = audits.run_audit(audit)
    assert page == audit.run / "report" / "report.html"
    assert "<title>" in page.read_text()
    scores = audits.audit_scores(audit)["guesser"]
    (folder,) = [p for p in audit.run.glob("evaluate-guesser-127.0.0.1-*") if p.is_dir()]
    written = read_json(folder / "scores.json")
    assert scores["raw"] == written["raw"]["macro"]["value"]
    assert written["raw"]["macro"]["n"] == 12
    asked = server.asked
    assert audits.run_audit(audit) == page
    assert server.asked == asked  # a finished audit asks nobody


def test_the_price_counts_every_request(audit: Audit, server: Stub) -> None:
    costs = dict(audits.estimate_audit(audit))
    probe, evaluation = costs.values()
    assert next(iter(costs)) == "probe"
    assert probe.requests == 12 * (3 + 2)  # picture alone, text alone
    assert evaluation.requests == 12 * 2  # everything, and the sound withheld
    assert not (audit.run / "probe").exists()
    recipe = audit.recipe
    assert probe.reply == probe.requests * recipe.profile.max_new_tokens
    price = Price(prompt=2, reply=10)
    expected = (probe.prompt * 2 + probe.reply * 10) / 1e6
    assert price.of(probe) == pytest.approx(expected)


def test_a_second_probe_is_asked_and_reported(audit: Audit, server: Stub) -> None:
    endpoint = Endpoint(server.url, "guesser")
    overrides = [
        f"prepare.sources.mine={json.dumps(source_of(audit))}",
        "probe.draws.visual_only=2",
    ]
    recipe = audits.audit_recipe("qwen3-vl-audit", overrides, endpoint, endpoint)
    audits.run_audit(audit._replace(recipe=recipe, second=True, evaluate=[]))
    assert read_json(audit.run / "clean" / "audit.json")["second_probe"] == "guesser"


def source_of(audit: Audit) -> dict:
    return audit.recipe.model_dump(mode="json")["prepare"]["sources"]["mine"]


def test_an_interrupted_audit_asks_only_the_rest(audit: Audit, server: Stub) -> None:
    broken = audit._replace(evaluate=[Endpoint("http://127.0.0.1:9/v1", "gone")])
    quick = audit.recipe.engine.model_copy(update={"retries": 0})
    recipe = audit.recipe.model_copy(update={"engine": quick})
    with pytest.raises(OmniError):
        audits.run_audit(broken._replace(recipe=recipe))
    asked = server.asked
    audits.run_audit(audit)
    again = server.requests[asked:]
    assert len(again) < asked
    assert (audit.run / "report" / "report.html").is_file()


def test_a_prepared_set_is_used_as_it_is(audit: Audit, tmp_path: Path) -> None:
    audits.run_audit(audit._replace(evaluate=[]))
    prepared = audit.run / "prepare"
    assert audits.is_prepared(prepared)
    assert not audits.is_prepared(audit.run / "probe")
    other = audit._replace(run=tmp_path / "other", prepared=prepared, evaluate=[])
    audits.run_audit(other)
    assert not (tmp_path / "other" / "prepare").exists()


def test_servers_are_named_or_asked(server: Stub) -> None:
    assert audits.parse_endpoint(server.url) == Endpoint(server.url, "guesser")
    named = audits.parse_endpoint(f"Qwen/Qwen3@{server.url}/")
    assert named == Endpoint(server.url, "Qwen/Qwen3")
    assert audits.parse_endpoint(server.url, "given").model == "given"
    with refused(ConfigError, "endpoint-invalid", field="localhost:8000"):
        audits.parse_endpoint("localhost:8000")
    with refused(EngineError, "endpoint-unreachable", field="http://127.0.0.1:9/v1"):
        audits.parse_endpoint("http://127.0.0.1:9/v1")
    with Stub(reply, models=models("a", "b")) as two, refused(ConfigError, "endpoint-ambiguous"):
        audits.parse_endpoint(two.url)
