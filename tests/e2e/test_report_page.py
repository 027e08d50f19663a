"""The report in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnicore.steps import report
from tests.unit.report_fixture import RECIPE, make

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("background-networking", "component-update", "sync", "gpu")
ARGS = [
    "--no-sandbox",
    "--headless=new",
    "--no-first-run",
    *(f"--disable-{name}" for name in QUIET),
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no chromium at {CHROMIUM}"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.run(RECIPE, RECIPE.report, make(folder / "inputs"), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: sync_api.Browser, path: Path) -> Iterator[sync_api.Page]:
    """The open report; afterwards, that it said nothing on the console and asked for nothing but
    itself."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []
    context.close()


def shown(page: sync_api.Page) -> int:
    match = re.match(r"(\d+) of (\d+) queries", page.locator("#count").inner_text())
    assert match
    assert page.locator("#list [role=option]").count() == int(match[1])
    return int(match[1])


def test_pictures_and_sounds_are_real(page: sync_api.Page) -> None:
    picture = page.locator("#detail img")
    assert picture.evaluate(
        "async (e) => { await e.decode(); return [e.naturalWidth,"
        " getComputedStyle(e).imageRendering]; }"
    ) == [
        28,
        "pixelated",
    ]
    seconds = page.locator("#detail audio").evaluate(
        "(e) => new Promise((done, fail) => { const tell = () => done(e.duration); e.onerror ="
        " fail; if (e.readyState) tell(); else e.onloadedmetadata = tell; e.load(); })"
    )
    assert 0.1 < seconds < 0.7


def test_filters_narrow_the_list_and_the_search_reads_replies(page: sync_api.Page) -> None:
    total = shown(page)
    page.select_option("#f-benchmark", "elm")
    assert shown(page) == 18
    assert all(text.startswith("elm/") for text in page.locator("#list .id").all_inner_texts())
    page.select_option("#f-benchmark", "")
    page.select_option("#f-verdict", "kept_whole")
    assert shown(page) == 15
    page.select_option("#f-verdict", "")
    by_outcome = []
    for outcome in ("correct", "incorrect", "no_answer"):
        page.select_option("#f-outcome", outcome)
        by_outcome.append(shown(page))
    assert sum(by_outcome) == total
    page.select_option("#f-outcome", "")
    page.fill("#f-text", "and then")  # only replies without an answer say so
    assert 0 < shown(page) < total
    assert "and then" in page.locator("#detail").inner_text()
    page.fill("#f-text", "no such text")
    assert shown(page) == 0
    assert "No query fits" in page.locator("#detail").inner_text()


def test_fixed_by_rlvr_means_wrong_before_and_right_after(page: sync_api.Page) -> None:
    page.select_option("#f-change", "fixed-2")
    assert shown(page) > 0
    marks = page.locator("#list .marks").evaluate_all(
        "(all) => all.map((e) => e.getAttribute('aria-label'))"
    )
    assert all("RLVR right" in mark and "SFT right" not in mark for mark in marks)
    page.select_option("#f-change", "never")
    marks = page.locator("#list .marks").evaluate_all(
        "(all) => all.map((e) => e.getAttribute('aria-label'))"
    )
    assert not any(re.search(r"(Base|SFT|RLVR|Self-distilled) right", mark) for mark in marks)


def test_detail_shows_the_evidence_of_the_query(page: sync_api.Page) -> None:
    page.select_option("#f-verdict", "solvable")
    detail = page.locator("#detail").inner_text()
    assert "solvable, removed" in detail
    assert re.search(r"[678] of 8 draws hit", detail)
    assert "✓ answer" in detail
    draws = page.locator("#detail td.count").all_inner_texts()
    assert sum(map(int, draws)) == 8
    assert page.locator("#detail code").count() == 5
    assert page.locator("#detail code").first.inner_text()


def test_keyboard_alone_reaches_and_reads_a_query(page: sync_api.Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips to the queries
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "f-benchmark"
    page.locator("#f-text").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "list"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = page.locator('#list [aria-selected="true"]')
    assert chosen.locator(".id").inner_text() == "alder/alder-0002"
    assert page.get_attribute("#list", "aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    assert chosen.locator(".id").inner_text() == "yew/yew-0014"
    assert page.locator("#list").evaluate("(e) => e.scrollTop") > 0
    page.keyboard.press("ArrowDown")
    assert chosen.locator(".id").inner_text() == "yew/yew-0014"


def test_address_links_a_query(page: sync_api.Page, path: Path) -> None:
    page.locator("#list [role=option]").nth(5).click()
    assert page.url.endswith("#q=alder%2Falder-0005")
    page.select_option("#f-benchmark", "oak")
    page.goto(
        f"{path.as_uri()}#q=fir%2Ffir-0003"
    )  # the same document: a change of the hash, and the filter hides fir
    assert page.locator("#detail a").first.inner_text() == "fir/fir-0003"
    page.goto("about:blank")
    page.goto(f"{path.as_uri()}#q=fir%2Ffir-0004")
    assert page.locator('#list [aria-selected="true"] .id').inner_text() == "fir/fir-0004"
    assert page.locator("#queries").evaluate("(e) => e.getBoundingClientRect().top") < 200
    page.goto(f"{path.as_uri()}#q=%E0%A4%A")  # no such query, and no valid escape
    assert page.locator('#list [aria-selected="true"] .id').inner_text() == "fir/fir-0004"


def test_theme_follows_the_system_until_the_button_is_used(
    chromium: sync_api.Browser, page: sync_api.Page, path: Path
) -> None:
    def ground(p: sync_api.Page) -> int:
        colour = p.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert ground(page) > 600
    page.click("#theme")
    assert ground(page) < 150
    page.reload()
    assert ground(page) < 150
    dark = chromium.new_page(color_scheme="dark")
    dark.goto(path.as_uri())
    assert ground(dark) < 150
    dark.close()


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_is_wider_than_the_window(page: sync_api.Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 812})
    for details in page.locator("details").all():
        details.evaluate("(e) => { e.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    sizes = page.locator("svg text").evaluate_all(
        "(all) => all.map((e) => { const svg = e.ownerSVGElement; return"
        " parseFloat(getComputedStyle(e).fontSize) * svg.getBoundingClientRect().width /"
        " svg.viewBox.baseVal.width; })"
    )
    assert min(sizes) > 7, "text of a plot is too small to read"


def test_works_inside_an_artefact_viewer(chromium: sync_api.Browser, path: Path) -> None:
    """Kubeflow's UI shows an HTML artefact as the srcdoc of a sandboxed frame: no storage, no
    address of its own."""
    outer = chromium.new_page(reduced_motion="reduce")
    said: list[str] = []
    outer.on("pageerror", lambda error: said.append(str(error)))
    outer.set_content('<iframe sandbox="allow-scripts" width="1200" height="800"></iframe>')
    outer.locator("iframe").evaluate("(frame, html) => { frame.srcdoc = html; }", path.read_text())
    inside = outer.frame_locator("iframe")
    inside.locator("#theme").click()
    inside.locator("#list [role=option]").nth(3).click()
    assert inside.locator("#detail a").first.inner_text() == "alder/alder-0003"
    inside.get_by_role("link", name="Null").click()
    assert abs(inside.locator("#null").evaluate("(e) => e.getBoundingClientRect().top")) < 150
    assert said == []
    outer.close()
