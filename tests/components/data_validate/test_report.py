"""The report: the verdict first, the evidence next, and no text of the data taken for HTML."""

import datetime as dt
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headway.components.data_validate.checks import check_table
from headway.components.data_validate.contract import Contract
from headway.components.data_validate.profile import Profile, profile_table
from headway.components.data_validate.report import markdown_summary, validation_report


class Text(HTMLParser):
    """The visible text and the elements of a page; checks that they are nested."""

    VOID = frozenset(["meta", "br", "line", "rect", "circle", "polyline", "polygon", "link", "path"])

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def reported(tmp_path: Path, columns: dict[str, Any], table: dict[str, Any], **rest: Any) -> tuple[str, str]:
    declared = Contract.parse({"name": "trips", "columns": columns, **rest})
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    report = check_table(declared, tmp_path / "train.parquet")
    page = validation_report(declared, report, profile_table(declared, tmp_path / "train.parquet"))
    return page, markdown_summary(report)


def test_the_verdict_stands_first_and_each_kind_of_column_has_its_chart(tmp_path: Path) -> None:
    start = dt.datetime(2024, 1, 1)
    columns = {
        "distance": {"type": "number", "unit": "miles", "range": {"min": 0}, "missing": {"max_share": 0.5}},
        "carrier": {"type": "string", "values": {"allowed": ["AA"], "level": "warn"}},
        "late": {"type": "boolean", "role": "target"},
        "at": {"type": "timestamp", "role": "info"},
        "note": {"type": "string", "role": "info", "pattern": {"regex": "n.*"}},
        "year": {"type": "integer"},
        "delay": {"type": "number", "known": "outcome", "missing": {"max_share": 1}},
    }
    data = {
        "distance": [1.0, -2.0, None, 4.0],
        "carrier": ["AA", "B6", "B6", "AA"],
        "late": [True, False, True, True],
        "at": [start + dt.timedelta(days=i) for i in range(4)],
        "note": ["n" * 300] * 4,
        "year": [2013] * 4,
        "delay": pa.array([None] * 4, pa.float64()),
    }
    html, _ = reported(tmp_path, columns, data, key="at", rules=[{"name": "far", "expression": "distance < 3"}])
    page = Text(html)
    assert not page.open
    headline = "Blocked: 4 rows of 'trips' must not be used, because of range of distance and 2 more"
    assert page.text.index(headline) < page.text.index("What is wrong") < page.text.index("What came, and what goes on")
    assert "row 1 of train: -2.0 (at 2024-01-02 00:00:00)" in page.text
    assert "unseen: B6 (2 rows)" in page.text
    assert "number · miles · 25% missing" in page.text
    assert "number · info · known with the outcome · 100% missing no number" in page.text
    assert "75% true" in page.text
    assert "days after 2024-01-01" in page.text
    assert page.elements.count("svg") == 6


def test_a_clean_table_says_so(tmp_path: Path) -> None:
    html, summary = reported(tmp_path, {"x": {"type": "number"}}, {"x": [1.0]})
    text = Text(html).text
    assert "Passed: 1 rows of 'trips' meet all 3 rules" in text
    assert "What is wrong" not in text
    assert summary.endswith("| train | 1 | 0 | 1 |\n")


def test_no_text_of_the_data_becomes_html_or_breaks_a_table(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    name = f"{nasty}|\n`x`"
    columns = {name: {"type": "string", "values": {"allowed": ["a"]}}}
    rules = [{"name": nasty, "expression": "false OR 1 > 2 -- <b>"}]
    html, summary = reported(tmp_path, columns, {name: [nasty, f"{nasty}|"]}, rules=rules, key=[name])
    assert "script" not in Text(html).elements
    assert html.count("alert(1)") > 3
    assert nasty not in html
    assert "<script" not in summary
    assert all(line.count("|") - line.count("\\|") in (0, 5, 7) for line in summary.splitlines())


def test_five_hundred_columns_stay_below_two_megabytes(tmp_path: Path) -> None:
    columns = {f"column {i}": {"type": "number", "range": {"max": 3.0 if i % 50 == 7 else 9.0}} for i in range(500)}
    declared = Contract.parse({"name": "trips", "columns": columns})
    values = np.random.default_rng(0).normal(size=2_000)
    pq.write_table(pa.table(dict.fromkeys(columns, values)), tmp_path / "train.parquet")
    report = check_table(declared, tmp_path / "train.parquet")
    one = profile_table(
        Contract(name="trips", columns={"column 0": declared.columns["column 0"]}), tmp_path / "train.parquet"
    )
    profile = Profile(contract="trips", rows=2_000, columns=dict.fromkeys(columns, one.columns["column 0"]))
    html = validation_report(declared, report, profile)
    assert len(html) < 2_000_000
    assert html.count('class="card"') == 500
    # The broken ones come first.
    assert html.index("<h3>column 7 ") < html.index("<h3>column 0<")
