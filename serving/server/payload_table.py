"""Answered requests as rows of the payload log (`headway.serving.payloads.SCHEMA`).

A request of one row is turned into a line of JSON at once: its features and its answer are at hand, and a thousand
lines wait for the writer without work for the garbage collector. A batch waits as it is, in arrays. Arrow reads the
lines and writes the features of batches many rows together, without the interpreter's lock: an answer that waits for
the lock is late.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from headway.serving.payloads import EVENT_TYPE, SCHEMA
from headway.serving.server.rows import Kept
from headway.serving.server.scoring import Scored

if TYPE_CHECKING:
    import pyarrow as pa

Head: TypeAlias = tuple[int, str, str | None, bool, int, float]
"""Time in microseconds since 1970, id, user, whether it was mirrored, HTTP status, milliseconds."""
Row: TypeAlias = bytes
"""A JSON object with a value for each of the columns below."""
_HEAD = ("time", "id", "user", "mirrored", "code", "latency_ms")
_COLUMNS = (*_HEAD, "prediction", "score", "probability", "features")
_LINE_TYPES = {"time": "int64"}
"""Types in a line that are not the log's own: microseconds since 1970."""
_BLOCK_BYTES = 1 << 26
"""A line must not be longer."""
_MICROSECONDS = 1_000_000
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who answers: the same in every row."""

    endpoint: str
    namespace: str
    variant: str
    version: int
    digest: str


@dataclass(slots=True)
class Batch:
    """An answered request of several rows."""

    head: Head
    scored: Scored
    kept: Kept


class PayloadTable:
    """Makes rows and tables of the log.

    Args:
        source: Who answers.
        names: The contract's features in order.
        mask: Those that become null.
    """

    def __init__(self, source: Source, names: Sequence[str], mask: Iterable[str] = ()) -> None:
        self._names = list(names)
        self._mask = dict.fromkeys(mask)
        keys = [orjson.dumps(name).decode() for name in names]
        self._before = [("," if place else "{") + key + ":" for place, key in enumerate(keys)]
        self._constant = {
            "type": EVENT_TYPE,
            "source": f"headway/{source.endpoint}/{source.variant}",
            "inferenceservicename": source.endpoint,
            "namespace": source.namespace,
            "component": "predictor",
            "endpoint": source.variant,
            "version": source.version,
            "digest": source.digest,
        }

    def entry(
        self,
        *,
        id: str,
        user: str | None,
        mirrored: bool,
        code: int,
        seconds: float,
        scored: Scored | None,
        kept: Kept | None,
    ) -> "Row | Batch":
        """One answered request.

        Args:
            id: The prediction's id.
            user: Whose request it was.
            mirrored: Whether nobody saw the answer.
            code: The HTTP status.
            seconds: From the request's first byte to the answer.
            scored: The prediction; None when there was none.
            kept: The checked features.
        """
        head = (int(time.time() * _MICROSECONDS), id, user, mirrored, code, seconds * 1_000)
        if scored is None or kept is None:
            return _line(head, None, None, None, None)
        labels, score, probability = scored.labels, scored.score, scored.probability
        if len(labels) > 1:
            return Batch(head, scored, kept)
        plain = type(kept) is dict and not self._mask
        return _line(
            head,
            orjson.dumps(labels[0], option=_NUMPY).decode(),
            None if score is None else float(score[0]),
            None if probability is None else float(probability[0]),
            orjson.dumps(kept).decode() if plain else self._texts(kept)[0],
        )

    def table(self, entries: Sequence["Row | Batch"]) -> "pa.Table":
        """Requests as a table; those of one row first, then the batches."""
        import pyarrow as pa

        rows = [entry for entry in entries if not isinstance(entry, Batch)]
        batches = [entry for entry in entries if isinstance(entry, Batch)]
        parts = [self._rows_table(rows)] if rows else []
        parts += [self._batches_table(batches)] if batches else []
        return pa.concat_tables(parts)

    def _rows_table(self, rows: Sequence[Row]) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.json as pj

        types = pa.schema([(name, _LINE_TYPES.get(name, SCHEMA.field(name).type)) for name in _COLUMNS])
        found = pj.read_json(
            pa.BufferReader(b"\n".join(rows)),
            read_options=pj.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pj.ParseOptions(explicit_schema=types),
        )
        return self._whole({name: found.column(name).cast(SCHEMA.field(name).type) for name in _COLUMNS}, len(rows))

    def _batches_table(self, batches: Sequence[Batch]) -> "pa.Table":
        import pyarrow as pa

        counts = [len(batch.scored) for batch in batches]
        request = pa.array(np.repeat(np.arange(len(batches)), counts))
        heads = dict(zip(_HEAD, zip(*(batch.head for batch in batches), strict=True), strict=True))
        columns: dict[str, Any] = {
            name: pa.array(values, SCHEMA.field(name).type).take(request) for name, values in heads.items()
        }
        columns["id"] = pa.array([f"{batch.head[1]}-{row}" for batch in batches for row in range(len(batch.scored))])
        columns["prediction"] = pa.array(
            [text for batch in batches for text in _predictions(batch.scored)], pa.string()
        )
        for name in ("score", "probability"):
            parts = [_values(batch.scored, name) for batch in batches]
            columns[name] = pa.array(np.concatenate(parts), pa.float64(), from_pandas=True)
        columns["features"] = self._features(batches)
        return self._whole(columns, len(request))

    def _whole(self, columns: "dict[str, pa.Array | pa.ChunkedArray]", rows: int) -> "pa.Table":
        import pyarrow as pa

        for name, value in self._constant.items():
            columns[name] = pa.repeat(pa.scalar(value, SCHEMA.field(name).type), rows)
        return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)

    def _features(self, batches: Sequence[Batch]) -> "pa.Array":
        """The features of all batches in order; neighbouring matrices are written together."""
        import pyarrow as pa

        parts: list[Any] = []
        matrices: list[NDArray[np.float64]] = []
        for batch in batches:
            if isinstance(batch.kept, np.ndarray):
                matrices.append(batch.kept)
                continue
            if matrices:
                parts.append(self._matrix_texts(np.concatenate(matrices)))
                matrices = []
            parts.append(pa.array(self._texts(batch.kept), pa.string()))
        if matrices:
            parts.append(self._matrix_texts(np.concatenate(matrices)))
        return pa.concat_arrays(parts)

    def _texts(self, kept: Kept) -> list[str]:
        """Checked features as JSON objects, one a row."""
        if isinstance(kept, np.ndarray):
            kept = dict(zip(self._names, kept.T.tolist(), strict=True))
        if isinstance(kept, list):
            records = kept
        elif isinstance(next(iter(kept.values())), list):
            names = list(kept)
            records = [dict(zip(names, row, strict=True)) for row in zip(*kept.values(), strict=True)]
        else:
            records = [kept]
        return [orjson.dumps(record | self._mask if self._mask else record).decode() for record in records]

    def _matrix_texts(self, matrix: NDArray[np.float64]) -> "pa.Array":
        """The same for a matrix, made by Arrow."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts: list[Any] = []
        for place, name in enumerate(self._names):
            masked = name in self._mask
            parts.append(pa.scalar(self._before[place]))
            parts.append(pa.scalar("null") if masked else pc.cast(pa.array(matrix[:, place]), pa.string()))
        return pc.binary_join_element_wise(*parts, pa.scalar("}"), pa.scalar(""))


def _line(
    head: Head, prediction: str | None, score: float | None, probability: float | None, features: str | None
) -> Row:
    time_, id_, user, mirrored, code, latency = head
    return orjson.dumps(
        {
            "time": time_,
            "id": id_,
            "user": user,
            "mirrored": mirrored,
            "code": code,
            "latency_ms": latency,
            "prediction": prediction,
            "score": score,
            "probability": probability,
            "features": features,
        }
    )


def _predictions(scored: Scored) -> list[str]:
    """Labels as JSON scalars."""
    if scored.labels.dtype == object:
        return [orjson.dumps(label).decode() for label in scored.labels.tolist()]
    return orjson.dumps(np.ascontiguousarray(scored.labels), option=_NUMPY).decode()[1:-1].split(",")


def _values(scored: Scored, name: str) -> NDArray[np.float64]:
    """Scores or probabilities, NaN where there are none."""
    found: NDArray[np.float64] | None = getattr(scored, name)
    return np.full(len(scored), np.nan) if found is None else found
