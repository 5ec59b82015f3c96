"""The page about a run in a real browser: it opens offline, says nothing in the console, and can be read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from escalade.cli.main import main

# Elements that show text, whose boxes must not lie on each other within one chart.
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2
  ).map(([b]) => `${svg.getAttribute('aria-label')}: ${a} on ${b}`));
})
"""
OUTSIDE = """
[...document.querySelectorAll('svg text')].filter(one => {
  const text = one.getBoundingClientRect(), svg = one.ownerSVGElement.getBoundingClientRect();
  const within = text.left >= svg.left - 1 && text.right <= svg.right + 1;
  return !within || text.top < svg.top - 1 || text.bottom > svg.bottom + 1;
}).map(one => one.textContent)
"""
DRAWN = "[...document.querySelectorAll('figure svg')].map(one => one.querySelectorAll('.line, .band, .node').length)"


def load_devtools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("devtools", Path(__file__).with_name("devtools.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of a run with faults and of one with batteries, and of a sweep."""
    folder = tmp_path_factory.mktemp("pages")
    small = ["--set", "endpoints.client.count=1000", "--set", "edge_nodes.count=10", "--set", "edge_servers.workers=1"]
    assert main(["simulate", "run", "server-brownout", *small, "--out", str(folder / "faults")]) == 0
    few = ["--set", "endpoints.band.count=90", "--set", "endpoints.worn.count=90", "--set", "edge_nodes.count=6"]
    assert main(["simulate", "run", "wearables-on-battery", *few, "--out", str(folder / "battery")]) == 0
    seen = ["--set", "duration_s=60", "--set", "events.faults.0.at_s=30", "--set", "events.faults.1.at_s=30"]
    assert main(["simulate", "run", "multi-view-line", *seen, "--out", str(folder / "events")]) == 0
    grid = ["--grid", "endpoints.station.policy.threshold=0.5,0.7,0.9", "--set", "duration_s=5"]
    assert main(["simulate", "sweep", "factory-line", *grid, "--out", str(folder / "sweep")]) == 0
    return {
        "faults": folder / "faults" / "report.html",
        "battery": folder / "battery" / "report.html",
        "events": folder / "events" / "report.html",
        "sweep": folder / "sweep" / "sweep.html",
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    devtools = load_devtools()
    binary = devtools.find_browser()
    if binary is None:
        pytest.skip(f"needs a browser: CHROMIUM, or {', '.join(devtools.NAMES)} on the PATH")
    with devtools.Browser(binary, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.parametrize("width", [1120, 420])
@pytest.mark.parametrize("name", ["faults", "battery", "events", "sweep"])
def test_the_page_opens_offline_and_can_be_read(browser, pages: dict[str, Path], name: str, width: int) -> None:  # type: ignore[no-untyped-def]
    """No console message, no request but the file itself, every chart drawn, no text on another or cut off."""
    browser.open(pages[name], width=width)
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    drawn = browser.value(DRAWN)
    assert len(drawn) >= (3 if name == "sweep" else 9)
    assert name == "sweep" or all(drawn)
    assert browser.value(OVERLAPS) == []
    assert browser.value(OUTSIDE) == []
    methods = [event["method"] for event in browser.events]
    assert not {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"} & set(methods)
    sent = [event["params"]["request"]["url"] for event in browser.events if event["method"].endswith("WillBeSent")]
    assert sent == [pages[name].as_uri()]


def test_the_page_follows_light_and_dark(browser, pages: dict[str, Path]) -> None:  # type: ignore[no-untyped-def]
    """Its ground is light or dark as the system says, and its text stands out."""
    grounds = []
    for dark in (False, True):
        browser.open(pages["faults"], dark=dark)
        colours = browser.value("['backgroundColor', 'color'].map(one => getComputedStyle(document.body)[one])")
        ground, ink = (sum(int(part) for part in one[4:-1].split(",")) for one in colours)
        assert abs(ground - ink) > 400
        grounds.append(ground)
    assert grounds[0] > 600 > 200 > grounds[1]


def test_an_error_in_a_page_would_be_seen(browser, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The check itself: a page that logs and loads something is found out."""
    (tmp_path / "bad.html").write_text("<script>console.error('x')</script><img src='missing.png'>")
    browser.open(tmp_path / "bad.html")
    methods = [event["method"] for event in browser.events]
    assert "Runtime.consoleAPICalled" in methods
    assert methods.count("Network.requestWillBeSent") == 2
