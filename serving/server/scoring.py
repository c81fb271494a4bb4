"""One opened bundle as a thing that predicts: arrays in, and what is told of a prediction out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.model import Prediction
from headway.components.trust import TrustedModel
from headway.serving.server.rows import Rows


@dataclass(slots=True)
class Scored:
    """What the model says of n rows."""

    labels: NDArray[Any]
    """Shape (n,): labels in the target's own type, or values in regression."""
    probability: NDArray[np.float64] | None
    """Shape (n,): of the second class (binary) or of the predicted one (multiclass); None where there is none."""
    score: NDArray[np.float64] | None
    """Shape (n,): what the monitors bin: the second class's probability, the class's number, or the value."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> "Scored":
        """Some of the rows."""
        return Scored(
            self.labels[start:stop],
            None if self.probability is None else self.probability[start:stop],
            None if self.score is None else self.score[start:stop],
        )


class Scorer:
    """The model of one bundle. Threads may share it.

    Args:
        model: An open bundle.
    """

    def __init__(self, model: TrustedModel) -> None:
        self.task: Task = model.info.task
        self.classes = model.info.classes
        self._predict = model.predictor.predict_arrays
        self._numbers = {label: number for number, label in enumerate(self.classes)}

    def score(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> Scored:
        """Predict for rows as arrays.

        Args:
            numbers: Shape (n, numbers of the contract's `Features`).
            texts: Shape (n, texts of them).
        """
        found = self._predict(numbers, texts)
        if self.task == "regression":
            return Scored(found.labels, None, found.labels)
        if found.probabilities is None:
            return Scored(found.labels, None, self._class_numbers(found))
        if self.task == "binary":
            second = np.ascontiguousarray(found.probabilities[:, 1])
            return Scored(found.labels, second, second)
        return Scored(
            found.labels, found.probabilities.max(axis=1), found.probabilities.argmax(axis=1).astype(np.float64)
        )

    def _class_numbers(self, found: Prediction) -> NDArray[np.float64]:
        return np.array([self._numbers[label] for label in found.labels.tolist()], dtype=np.float64)


def joined(several: Iterable[Rows]) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """The arrays of several requests as one, in their order."""
    parts = list(several)
    return np.concatenate([rows.numbers for rows in parts]), np.concatenate([rows.texts for rows in parts])


def default_edges(task: Task, classes: int) -> list[float]:
    """The inner edges of a score's bins: twenty of a probability, one bin a class, or none in regression.

    Example:
        >>> default_edges("multiclass", 3)
        [0.0, 1.0]
    """
    if task == "binary":
        return [round(step / 20, 2) for step in range(1, 20)]
    return [float(number) for number in range(classes - 1)] if task == "multiclass" else []
