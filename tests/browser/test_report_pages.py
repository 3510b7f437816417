"""The report and the comparison in a real browser: wide and narrow, light and dark, offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helper import Store, evonas

pytest_plugins = ("browser_helper",)
pytestmark = [pytest.mark.browser, pytest.mark.slow]

SCREENS = {
    "report": (1200, "light"),
    "report-dark": (1200, "dark"),
    "report-phone": (400, "light"),
    "report-phone-dark": (400, "dark"),
}


@pytest.fixture
def faults() -> list[str]:
    """What the page complains of, and what it asks of the network."""
    return []


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest, browser: Any, faults: list[str]) -> Iterator[Any]:
    width, scheme = SCREENS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, is_mobile=width < 500
    )
    page = context.new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: faults.append(request.url) if "http" in request.url else None
    )
    yield request.param, page
    context.close()


def opened(page: Any, path: Path, faults: list[str]) -> None:
    page.goto(path.as_uri())
    page.locator("svg").first.wait_for()
    page.wait_for_timeout(300)
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it runs over"
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) > 8, "too small to read"


def test_a_report(screen: Any, store: Store, pictures: Path, faults: list[str]) -> None:
    name, page = screen
    opened(page, store.folder / "two-workers" / "report.html", faults)
    headings = page.locator("h2").all_inner_texts()
    for heading in ("Final trainings", "The search", "Quality and size", "Who ran when"):
        assert heading in headings
    assert page.locator(".chart:not(:has(svg))").count() == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ("255, 255, 255" in background) == ("dark" not in name)
    page.screenshot(path=pictures / f"{name}.png")
    page.locator("[data-for=progress] button[data-x=seconds]").click()
    assert "seconds" in page.locator("[data-chart=progress]").text_content()
    head = page.locator("table.sortable th").filter(has_text="parameters").last
    head.click()
    assert faults == []


def test_a_comparison(screen: Any, store: Store, pictures: Path, faults: list[str]) -> None:
    name, page = screen
    evonas(store.folder, "compare", "random-0", "random-1", "evolution-0", "two-workers")
    opened(page, store.folder / "comparison.html", faults)
    assert page.locator(".chart:not(:has(svg))").count() == 0
    page.screenshot(path=pictures / f"{name.replace('report', 'compare')}.png")
