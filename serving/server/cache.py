"""Predictions of one-row requests, kept for equal requests; the one that was asked for longest ago leaves first."""

from collections import OrderedDict
from collections.abc import Hashable

from headway.serving.server.rows import Rows
from headway.serving.server.scoring import Scored


class Cache:
    """A bounded memory of predictions, for the event loop only.

    The key is the checked request as the model sees it, so `17` and `17.0` for a number are one key. A model's answer
    to equal rows is equal, so nothing grows stale: another model is another server.

    Args:
        most: Predictions to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Scored] = OrderedDict()

    def get(self, rows: Rows) -> Scored | None:
        """The prediction for an equal request, if it is kept."""
        key = self._key(rows)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, rows: Rows, scored: Scored) -> None:
        """Keep a prediction."""
        self._kept[self._key(rows)] = scored
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _key(self, rows: Rows) -> Hashable:
        # The bytes tell -0.0 from 0.0, which some model might.
        return rows.numbers.tobytes(), tuple(rows.texts[0])
