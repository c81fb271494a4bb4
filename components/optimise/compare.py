"""One model file's answers held against those of the file that training wrote, on real rows."""

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Candidate
from headway.components.errors import TrainingError
from headway.components.optimise.choose import limits
from headway.components.optimise.files import INT8, ONNX, ModelFile
from headway.components.optimise.quality import Rows, loss, value_of
from headway.components.optimise.spec import OptimiseSpec

SHOWN_ROWS = 1_000
"""Rows whose answers the report draws."""


def compared(
    file: ModelFile, first: ModelFile, rows: Rows, spec: OptimiseSpec
) -> tuple[Candidate, NDArray[np.float64] | None]:
    """How good one file's answers are, and what it says of some rows.

    Args:
        file: The file; the first one is what the others are held against.
        first: The file that training wrote.
        rows: Real rows.
        spec: What may be lost.

    Returns:
        The record, with the reason where the file is refused, and answers of shape (m,) to draw.
    """
    if file.predictor is None:
        return Candidate(name=file.name, size=0, refused=file.missing), None
    if file is first:
        return _of_first(file, rows)
    expected = first.answers(rows.numbers, rows.texts)
    found = _worst(file, rows, expected, spec.batches) if file.name == INT8 else file.answers(rows.numbers, rows.texts)
    apart = np.abs(found - expected)
    difference = float(apart.max()) / rows.scale
    flips = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if file.name == ONNX:
        difference = _strictly(file, first, rows) / rows.scale
    value, lost = loss(rows, expected, found)
    record = Candidate(
        name=file.name,
        size=file.size,
        difference=_rounded(difference),
        flips=flips,
        quality=_rounded(value, 6),
        loss=_rounded(lost),
    )
    why = limits(record.model_copy(update={"difference": difference, "loss": lost}), spec)
    return record.model_copy(update={"refused": why}), _shown(found)


def _of_first(file: ModelFile, rows: Rows) -> tuple[Candidate, NDArray[np.float64] | None]:
    record = Candidate(name=file.name, size=file.size)
    try:
        answers = file.answers(rows.numbers, rows.texts)
    except TrainingError:
        # Labels only: there is no graph of such a model, so nothing is compared with it.
        return record, None
    return record.model_copy(update={"quality": _rounded(value_of(rows, answers), 6)}), _shown(answers)


def _strictly(file: ModelFile, first: ModelFile, rows: Rows) -> float:
    """The largest difference on real rows, gaps, unseen categories and outliers, in units of the output."""
    from headway.components.train.onnx_file import parity

    scale = rows.scale if rows.task == "regression" else None
    found = parity(first.answers, file.answers, rows.features, rows.numbers, rows.texts, scale=scale)
    return found.difference


def _worst(file: ModelFile, rows: Rows, expected: NDArray[np.float64], batches: list[int]) -> NDArray[np.float64]:
    """For each row, the answer that is farthest from the expected one over all batch sizes, shape (n, k).

    An answer in 8 bits depends on the rows it is given with, so one size of a call says nothing about another.
    """
    worst = expected
    for batch in sorted({*batches, len(rows.numbers)}):
        starts = range(0, len(rows.numbers), batch)
        pieces = [file.answers(rows.numbers[at : at + batch], rows.texts[at : at + batch]) for at in starts]
        found = np.concatenate(pieces)
        farther = np.abs(found - expected).max(axis=1) > np.abs(worst - expected).max(axis=1)
        worst = np.where(farther[:, None], found, worst)
    return worst


def _shown(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.linspace(0, len(answers) - 1, min(SHOWN_ROWS, len(answers))).astype(np.int64)
    found: NDArray[np.float64] = answers[places, -1]
    return found


def _rounded(value: float | None, digits: int = 3) -> float | None:
    """A number to some digits, which are the same on every processor; None where it is no number."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.{digits}g}") + 0.0  # never -0
