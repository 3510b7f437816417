"""What somebody sees who follows the links of ``evonas ui`` with a fresh browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from browser_helper import RUNS, TRIALS, Store

pytest_plugins = ("browser_helper",)
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Of a browser that was never here."""
    context = browser.new_context(viewport={"width": 1700, "height": 900})
    yield context.new_page()
    context.close()


def opened(page: Any, link: str, text: str) -> Any:
    """The page of a link, once it shows a text."""
    page.goto(link)
    page.get_by_text(text).first.wait_for(timeout=60_000)
    assistant = page.get_by_text("MLflow Assistant")
    if assistant.count():  # a panel over a third of the page
        page.get_by_role("button", name="Close").last.click()
    return page


def matching(page: Any, runs: int) -> None:
    """Wait until the page says that it found so many."""
    page.wait_for_function(
        f"() => /(^|\\D){runs}\\s+matching runs/.test(document.body.innerText)", timeout=60_000
    )


def run_id(store: Store, name: str) -> str:
    return str(json.loads((store.folder / name / "mlflow.json").read_text())["run_id"])


def chart(page: Any, title: str) -> list[tuple[str, str, list[float], list[float]]]:
    """Type, name, steps and values of a chart's lines, as the page's own library holds them."""
    page.get_by_placeholder("Search metric charts").fill(title)
    card = page.locator("[data-testid='experiment-view-compare-runs-card']").filter(has_text=title)
    card.first.scroll_into_view_if_needed()
    plot = card.first.locator(".js-plotly-plot").first
    plot.wait_for(timeout=60_000)
    read = "p => p.data.map(d => [d.type, d.name, Array.from(d.x), Array.from(d.y)])"
    return [tuple(line) for line in plot.evaluate(read)]


def test_the_first_click_lands_on_a_leaderboard(page: Any, store: Store, pictures: Path) -> None:
    opened(page, store.links[0], "matching runs")
    page.locator("[role=columnheader]").filter(has_text="best_val_accuracy").first.wait_for()
    matching(page, len(RUNS))
    header = page.locator("[role=columnheader]").all_inner_texts()
    shown = " ".join(header)
    for column in ("best_val_accuracy", "test_accuracy", "strategy.name", "seed", "dataset.name"):
        assert column in shown, header
    cells = page.locator("[role=gridcell][col-id*='test_accuracy']").all_inner_texts()
    accuracies = [float(cell) for cell in cells if cell.strip()]
    assert len(accuracies) == len(RUNS)
    assert accuracies == sorted(accuracies, reverse=True)
    page.screenshot(path=pictures / "leaderboard.png")


def test_the_second_link_shows_the_trials_of_a_run(page: Any, store: Store) -> None:
    opened(page, store.links[1], "matching runs")
    matching(page, TRIALS + 1)  # and a final training
    for cross in ("Failed", "Killed"):
        assert page.get_by_label(cross).count() == 0
    page.get_by_text("trial-0000 · aging_evolution · seed 1").first.wait_for()


def test_best_so_far_never_falls_and_has_a_point_after_every_trial(
    page: Any, store: Store, pictures: Path
) -> None:
    link = store.links[0].replace("/runs?", "/runs?compareRunsMode=CHART&")
    opened(page, link, "best_val_accuracy")
    lines = chart(page, "best_val_accuracy")
    assert len({name for _, name, *_ in lines}) == len(RUNS)
    for _, name, steps, values in lines:
        assert steps == sorted(set(steps)), name
        assert steps[-1] == TRIALS
        assert all(a <= b for a, b in pairwise(values)), name
    page.screenshot(path=pictures / "comparison.png")


def test_effort_is_an_axis(page: Any, store: Store) -> None:
    """By the gear above the charts; an axis in the settings of one chart leaves it empty."""
    link = store.links[0].replace("/runs?", "/runs?compareRunsMode=CHART&")
    opened(page, link, "best_val_accuracy")
    chart(page, "best_val_accuracy")
    page.get_by_role("button", name="Configure charts").click()
    page.get_by_role("menuitem", name="Metric").hover()
    page.keyboard.press("ArrowRight")
    items = page.locator("[role^=menuitem]").filter(has_text="effort")
    items.last.dispatch_event("click")  # the menu closes before a mouse is there
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('.js-plotly-plot')?.data?.[0].x[0] < 1")
    for _, name, effort, values in chart(page, "best_val_accuracy"):
        assert len(effort) == TRIALS
        assert effort == sorted(effort), name
        assert 1 < effort[-1] <= TRIALS * 5 / 15 + 0.01  # of 15 epochs each; some were pruned
        assert all(a <= b for a, b in pairwise(values)), name


def test_results_are_bars(page: Any, store: Store) -> None:
    link = store.links[0].replace("/runs?", "/runs?compareRunsMode=CHART&")
    opened(page, link, "test_accuracy")
    assert {kind for kind, *_ in chart(page, "test_accuracy")} == {"bar"}


def test_the_page_of_a_run(page: Any, store: Store) -> None:
    link = f"{store.server}/#/experiments/1/runs/{run_id(store, 'evolution-0')}"
    opened(page, link, "measured once, after the search")
    assert page.get_by_text("digits_evo · aging_evolution · seed 0").count() > 0
    assert page.get_by_text("evonas run digits_evo").count() > 0  # the command
    page.get_by_text("final-0001").first.wait_for()
    page.get_by_text("network").first.wait_for()  # its model


def test_the_report_opens_among_the_artifacts(page: Any, store: Store) -> None:
    run = run_id(store, "random-0")
    link = f"{store.server}/#/experiments/1/runs/{run}/artifacts/report.html"
    opened(page, link, "report.html")
    frame = page.frame_locator("iframe").first
    frame.locator("h1").wait_for(timeout=60_000)
    assert "digits_evo" in frame.locator("h1").inner_text()


def test_mlflow_compares_runs_side_by_side(page: Any, store: Store) -> None:
    """Its own page of comparison: runs are told apart by their names."""
    runs = json.dumps([run_id(store, name) for name in ("random-0", "evolution-0")])
    query = urlencode({"runs": runs, "experiments": json.dumps(["1"])}, quote_via=quote)
    opened(page, f"{store.server}/#/compare-runs?{query}", "Comparing 2 Runs")
    shown = page.locator("body").inner_text()
    assert "digits_evo · random · seed 0" in shown
    assert "digits_evo · aging_evolution · seed 0" in shown
    assert "strategy.name" in shown
    assert "architecture" not in shown  # a hash is no axis
