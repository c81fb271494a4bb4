"""Reports: self-contained, escaped, and drawn from any numbers."""

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway.components import page
from headway.components.page import Interval, Section, Series

EVIL = "<script>alert('x')</script>"
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30)


def svgs(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_a_page_needs_nothing_from_outside() -> None:
    html = page.page(title="t", headline="h", sections=[Section("a", page.histogram([0, 1, 2], [3, 4]))])
    assert html.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=|@import|url\(", html)


def test_the_headline_comes_first_and_wears_its_status() -> None:
    html = page.page(title="t", headline="Rejected", status="bad", sections=[Section("a", "<p>b</p>", open=False)])
    assert html.index('<h1 class="bad">Rejected</h1>') < html.index("<details>")


@pytest.mark.parametrize(
    "html",
    [
        page.page(title=EVIL, headline=EVIL, lead=EVIL, sections=[Section(EVIL, "")]),
        page.table([EVIL], [[EVIL]]),
        page.fact_list([(EVIL, EVIL)]),
        page.badge(EVIL, "bad"),
        page.bars([EVIL], [1.0]),
        page.heat_map([EVIL], [EVIL], [[1]]),
        page.histogram([0, 1], [1], x_label=EVIL),
        page.line_chart([Series(EVIL, [0], [1]), Series("b", [0], [1])], x_label=EVIL, y_label=EVIL),
        page.scatter([0], [1], x_label=EVIL, y_label=EVIL),
        page.intervals([Interval(EVIL, 0, 1, 2)]),
    ],
)
def test_no_text_becomes_markup(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@given(NUMBERS)
@example([0.0, 5e-324])
@example([1e-310, 2e-310])
@example([1.0, 1.0 + 2**-52])
@example([-1.7e308, 1.7e308])
def test_any_numbers_make_a_chart_inside_its_frame(values: list[float]) -> None:
    html = page.line_chart([Series("a", list(range(len(values))), values)], diagonal=True)
    html += page.scatter(values, values) + page.histogram(
        [float(i) for i in range(len(values) + 1)], [abs(v) for v in values]
    )
    html += page.intervals([Interval("x", min(values), values[0], max(values))], reference=0.0)
    found = svgs(html)
    assert len(found) == 4
    for points in re.findall(r'points="([^"]*)"', html):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert -1 <= x <= page.WIDTH + 1
            assert -1 <= y <= page.HEIGHT + 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_real_browser_draws_it_without_asking_anybody(tmp_path: Path) -> None:
    charts = page.histogram([0, 1, 2], [3, 4], other=[1, 2]) + page.bars(["a"], [1.0]) + page.scatter([1, 2], [3, 4])
    path = tmp_path / "page.html"
    path.write_text(
        page.page(title="Näme", headline="It is drawn", status="good", sections=[Section("Charts", charts)])
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = ["chromium", *flags, "--window-size=800,900", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={shot}", path.as_uri()], check=True, capture_output=True, timeout=60)
    dom = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "<title>Näme</title>" in dom
    assert dom.count("<svg") == 3
    # A blank page of this size is some hundred bytes of PNG.
    assert shot.stat().st_size > 5_000


def test_ticks_are_round_numbers() -> None:
    assert page._ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert page._ticks(-3, 12) == [0, 5, 10]


def test_a_row_of_the_wrong_length_is_our_mistake_and_raises() -> None:
    with pytest.raises(ValueError, match="zip"):
        page.line_chart([Series("a", [1, 2], [1])])
