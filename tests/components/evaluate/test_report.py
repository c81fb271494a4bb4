"""The report: the decision in the first line, every text escaped, nothing loaded from elsewhere."""

import html.parser
import re

import numpy as np
import pytest

from headway.components.evaluate.bootstrap import Bootstrap, paired_intervals, with_intervals
from headway.components.evaluate.gate import ChampionResult, ChampionRule, EvaluationSpec, Threshold, decide
from headway.components.evaluate.importance import Importance
from headway.components.evaluate.metrics import classified, metrics_for, regressed
from headway.components.evaluate.report import confusion, render, roc, summary
from headway.components.evaluate.slices import SliceResult

QUICK = Bootstrap(resamples=100)


class Page(html.parser.HTMLParser):
    """Headings, badges and addresses of a page; every tag that is opened must be closed."""

    empty = ("meta", "br", "line", "circle", "rect", "polyline", "polygon")

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.addresses = [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in self.empty:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag not in self.empty:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def binary(seed=0, n=400, classes=("no", "<yes>")):
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.3
    score = np.clip(0.3 * truth + random.random(n) * 0.7, 0, 1)
    names = np.array(classes, dtype=object)
    both = np.column_stack([1 - score, score])
    return classified("binary", names[truth * 1], names[(score > 0.5) * 1], both, classes)


def judged(sample, name, champion=None, slices=(), **bound):
    names = metrics_for(sample.task)
    spec = EvaluationSpec(
        thresholds=[Threshold(metric=name, **bound)], champion=ChampionRule(metric=name, max_regression=0.5)
    )
    result, metrics = None, None
    if champion is not None:
        paired = paired_intervals(sample, champion, names, QUICK)
        result = ChampionResult(version="7", metrics=paired.champion, differences=paired.difference)
        metrics = paired.candidate
    metrics = metrics or with_intervals(sample, names, QUICK)
    return decide(spec, metrics, rows=sample.rows, champion=result, slices=slices), result


class TestPage:
    def test_binary_with_a_champion_and_slices(self):
        sample, champion = binary(0), binary(0)
        slices = [
            SliceResult(slice="a", label="a = <b>", rows=200, metrics=with_intervals(sample, ["roc_auc"], QUICK)),
            SliceResult(slice="a", label="a = rare", rows=3, unjudged="3 rows, fewer than 100"),
        ]
        verdict, result = judged(sample, "roc_auc", champion, slices, min=0.1)
        text = render(
            verdict,
            sample,
            "roc_auc",
            champion=champion,
            champion_metrics=result.metrics,
            importances=[Importance("x", 0.1)],
        )
        page = Page(text)
        assert page.texts["h1"] == ["Hold: slice a = rare is not judged: 3 rows, fewer than 100"]
        assert page.texts["summary"] == [
            "Why",
            "Metrics, with 95% intervals",
            "Slices, by roc_auc",
            "Predictions",
            "What the model leans on",
            "What was judged",
        ]
        for title in ("ROC", "Precision and recall", "Calibration"):
            assert title in page.texts["h3"]
        assert "a = <b>" in page.texts["td"]
        assert page.addresses == []
        assert "<b>" not in text
        assert "<yes>" not in text

    def test_regression(self):
        random = np.random.default_rng(1)
        truth = random.normal(size=300)
        sample = regressed(truth, truth + random.normal(size=300))
        verdict, _ = judged(sample, "rmse", max=0.1)
        page = Page(render(verdict, sample, "rmse"))
        assert page.texts["h1"][0].startswith("Reject: rmse is ")
        assert page.texts["h3"] == [
            "Predicted against actual",
            "Residuals against predicted",
            "Residuals, the middle 99 %",
        ]

    def test_one_class_only_draws_no_curve(self):
        sample = binary()
        sample = sample.subset(sample.truth == 0)
        verdict, _ = judged(sample, "accuracy", min=0.0)
        page = Page(render(verdict, sample, "accuracy"))
        assert "ROC" not in page.texts["h3"]
        assert "Calibration" in page.texts["h3"]
        assert "the target holds one class only" in page.texts["td"]

    def test_no_probabilities(self):
        sample = classified("binary", [0, 1, 1], [0, 1, 0], None, [0, 1])
        verdict, _ = judged(sample, "accuracy", min=0.0)
        page = Page(render(verdict, sample, "accuracy"))
        assert all("Confusion" in title for title in page.texts["h3"] if title != "Between 0 and 1")

    @pytest.mark.parametrize(("minimum", "colour"), [(0.0, "good"), (0.8, "bad")])
    def test_the_headline_has_the_colour_of_the_decision(self, minimum, colour):
        sample = binary()
        verdict, _ = judged(sample, "f1", min=minimum)
        assert f'<h1 class="{colour}">' in render(verdict, sample, "f1")

    def test_it_stays_small(self):
        random = np.random.default_rng(2)
        score = random.random(30_000)
        sample = classified("binary", score > 0.4, score > 0.5, np.column_stack([1 - score, score]), [False, True])
        verdict = decide(EvaluationSpec(), {}, rows=30_000)
        assert len(render(verdict, sample, "roc_auc")) < 100_000


class TestCurves:
    def test_roc_runs_from_nothing_to_everything(self):
        found = roc(binary())
        assert (found.fpr[0], found.tpr[0], found.fpr[-1], found.tpr[-1]) == (0, 0, 1, 1)
        area = np.trapezoid(found.tpr, found.fpr)
        assert area == pytest.approx(with_intervals(binary(), ["roc_auc"], QUICK)["roc_auc"].value)

    def test_confusion_counts_every_row(self):
        labels, matrix = confusion(binary())
        assert labels == ["no", "<yes>"]
        assert np.sum(matrix) == 400

    def test_confusion_of_many_classes_keeps_the_frequent_ones(self):
        truth = np.concatenate([np.arange(50), np.repeat(np.arange(10, 40), 5)])
        labels, matrix = confusion(classified("multiclass", truth, truth, None, list(range(50))))
        assert labels == [str(code) for code in range(10, 40)]
        assert np.array_equal(matrix, np.diag([6] * 30))

    def test_regression_has_neither(self):
        sample = regressed([1.0, 2.0], [1.0, 2.0])
        assert roc(sample) is None
        assert confusion(sample) is None


class TestSummary:
    def test_decision_metrics_and_findings(self):
        sample = binary()
        verdict, _ = judged(sample, "roc_auc", min=0.1)
        lines = summary(verdict, "roc_auc").splitlines()
        assert lines[0] == "# Promote: the one rule is met"
        assert lines[4].startswith("| roc_auc | 0.")
        assert "- **note**: there is no champion to compare with" in lines

    def test_markdown_shows_text_as_it_stands(self):
        verdict = decide(EvaluationSpec(), {}, rows=1, unseen={"*odd* [label](x)": 1})
        assert r"\*odd\* \[label\](x)" in summary(verdict, "roc_auc")
        assert not re.search(r"(?<!\\)\[label", summary(verdict, "roc_auc"))
