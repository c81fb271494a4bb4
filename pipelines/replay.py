"""Replay a table's rows as live traffic: `headway replay`.

Each row becomes one request, in the table's order, at a steady rate. Its user decides which variant it meets; its
label, where the table has one, is recorded as an outcome a moment later, as labels come in life. What is lost is
counted: a request that got no answer, or an answer 5xx.
"""

import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.components.errors import UnknownNameError, UsageError
from headway.components.settings import Settings
from headway.serving.platform import USER_HEADER, VARIANT_HEADER, Address

if TYPE_CHECKING:
    import aiohttp

    from headway.components.data_validate.contract import Contract

CONNECTIONS = 16
LABEL_SECONDS = 1.0
"""How often labels of answered requests are recorded."""
_TIMEOUT_SECONDS = 30.0
_SHOWN_EVERY = 5.0
_BATCH_ROWS = 1_000


@dataclass(frozen=True)
class Row:
    """One request to be."""

    body: dict[str, Any]
    """The features by name."""
    user: str
    label: Any
    """What turned out to be true; None where it is not known."""


@dataclass
class Replayed:
    """What became of the requests so far."""

    endpoint: str
    sent: int = 0
    lost: int = 0
    """Requests without an answer, or with an answer 5xx."""
    labels: int = 0
    """Labels that were recorded."""
    seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    first_loss: str = ""

    def quantile_ms(self, level: float) -> float:
        """A quantile of the latency, in milliseconds; 0 before the first answer."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, math.ceil(level * len(ordered)) - 1)] if ordered else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "endpoint": self.endpoint,
            "sent": self.sent,
            "lost": self.lost,
            "labels": self.labels,
            "seconds": round(self.seconds, 2),
            "requests_per_second": round(self.sent / self.seconds, 1) if self.seconds else 0.0,
            "codes": dict(self.codes),
            "variants": dict(self.variants),
            "p50_ms": round(self.quantile_ms(0.5), 2),
            "p99_ms": round(self.quantile_ms(0.99), 2),
            "first_loss": self.first_loss,
        }


def unseen_rows(settings: Settings, model: str) -> Path:
    """The rows of a model's newest run that its training has not seen: the holdout, else the validation part.

    Raises:
        UsageError: The model has no run here that got so far.
    """
    import pyarrow.parquet as pq

    runs = settings.home.expanduser().resolve() / "runs"
    for told in sorted(runs.glob(f"{model}-training-*/run.json"), reverse=True):
        steps = {step["name"]: step["outputs"] for step in json.loads(told.read_text(encoding="utf-8"))["steps"]}
        for part in ("valid_holdout", "valid_validation"):
            path = Path(steps.get("data-validate", {}).get(part, ""))
            if path.is_file() and pq.read_metadata(path).num_rows:
                return path
    raise UsageError(
        f"There is no run of {model!r} in {runs} whose rows could be replayed",
        fix=f"name a file with --data, or run the pipeline: headway run {model}",
    )


@contextmanager
def _with_suffix(path: Path) -> Iterator[Path]:
    """The file under a name that says what it is: KFP's artifacts are Parquet files without a suffix."""
    if path.suffix or not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="headway-replay-") as folder:
        link = Path(folder) / f"{path.name}.parquet"
        link.symlink_to(path.resolve())
        yield link


class Rows:
    """The rows of a table as requests that meet the contract, made as they are asked for.

    Args:
        data: A CSV or Parquet file.
        contract: What a request must be.
        users: Columns that together name the user; without any, requests have none.
        label: The column with the truth; the contract's target by default, where the table has it.

    Raises:
        UnknownNameError: The table has no such column.
        SourceError: The file cannot be read.
    """

    def __init__(
        self, data: Path, contract: "Contract", *, users: Sequence[str] = (), label: str | None = None
    ) -> None:
        import pyarrow as pa

        from headway.components.data_validate.request import compile_request
        from headway.components.ingest.sources import read_table

        with _with_suffix(data) as named_file:
            frame = read_table(named_file, contract)
        label = label or (contract.target if contract.target in frame.columns else None)
        named = [*users, *([label] if label else [])]
        for name in named:
            if name not in frame.columns:
                raise UnknownNameError("column", name, [str(column) for column in frame.columns])
        self._features = [name for name in contract.features if name in frame.columns]
        columns = list(dict.fromkeys([*self._features, *named]))
        self._table = pa.Table.from_pandas(frame[columns], preserve_index=False)
        self._check = compile_request(contract)
        self._users = users
        self._label = label
        self.left_out = 0
        """Rows so far that break the contract."""

    def __iter__(self) -> Iterator[Row]:
        from headway.components.errors import RequestError

        for batch in self._table.to_batches(max_chunksize=_BATCH_ROWS):
            for record in batch.to_pylist():
                body = {name: _plain(record[name]) for name in self._features}
                try:
                    self._check.check(body)
                except RequestError:
                    self.left_out += 1
                    continue
                user = "-".join(str(record[name]) for name in self._users)
                yield Row(body, user, _plain(record[self._label]) if self._label else None)

    def forever(self) -> Iterator[Row]:
        """The rows again and again; ends only where there is none."""
        while True:
            empty = True
            for row in self:
                empty = False
                yield row
            if empty:
                return


def replay(
    address: Address,
    endpoint: str,
    rows: Iterable[Row],
    *,
    rate: float,
    settings: Settings,
    seconds: float = math.inf,
    stopped: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Replayed], None] = lambda found: None,
) -> Replayed:
    """Send rows to an endpoint.

    Args:
        address: The gateway.
        endpoint: The endpoint.
        rows: The requests.
        rate: Requests a second.
        settings: Whose outcomes get the labels.
        seconds: Stop after so long.
        stopped: Asked before each request; true ends it.
        on_progress: Called every five seconds.

    Raises:
        UsageError: There is no row.
    """
    session = _Session(address, endpoint, settings, Replayed(endpoint))
    asyncio.run(session.run(enumerate(rows), rate, seconds, stopped, on_progress))
    if not session.found.sent:
        raise UsageError("There is no row to send", expected="rows that meet the contract")
    return session.found


class _Session:
    """One replay."""

    def __init__(self, address: Address, endpoint: str, settings: Settings, found: Replayed) -> None:
        from headway.serving.experiment.outcome_store import Outcomes

        self._url = f"{address.url}/{endpoint}/predict"
        self._headers = address.headers
        self._endpoint = endpoint
        self._outcomes = Outcomes(settings)
        self._labels: list[tuple[str, Any]] = []
        self._begin = time.perf_counter()
        # Two replays of one table at once must not share prediction ids.
        self._prefix = f"{time.time_ns():x}"
        self.found = found

    async def run(
        self,
        numbered: Iterator[tuple[int, Row]],
        rate: float,
        seconds: float,
        stopped: Callable[[], bool],
        on_progress: Callable[[Replayed], None],
    ) -> None:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=20)
        self._begin = time.perf_counter()
        helpers = [asyncio.create_task(self._record_labels()), asyncio.create_task(self._show(on_progress))]
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=limits, headers=self._headers) as client:

                async def work() -> None:
                    for number, row in numbered:
                        due = self._begin + number / rate
                        await asyncio.sleep(max(0.0, due - time.perf_counter()))
                        if stopped() or time.perf_counter() - self._begin > seconds:
                            return
                        await self._send(client, f"{self._prefix}-{number}", row)

                await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        finally:
            for helper in helpers:
                helper.cancel()
        self._flush()
        self.found.seconds = time.perf_counter() - self._begin

    async def _send(self, client: "aiohttp.ClientSession", prediction: str, row: Row) -> None:
        import aiohttp

        headers = {USER_HEADER: row.user} if row.user else {}
        began = time.perf_counter()
        self.found.sent += 1
        try:
            document = {"features": row.body, "id": prediction}
            async with client.post(self._url, json=document, headers=headers) as answer:
                text = await answer.text()
                self._note(answer.status, answer.headers.get(VARIANT_HEADER, ""), text)
                if answer.status == 200 and row.label is not None:
                    self._labels.append((prediction, row.label))
        except (aiohttp.ClientError, TimeoutError) as error:
            self._lose(f"{type(error).__name__}: {error}")
        self.found.latencies_ms.append((time.perf_counter() - began) * 1_000)

    def _note(self, code: int, variant: str, text: str) -> None:
        self.found.codes[str(code)] += 1
        if variant:
            self.found.variants[variant] += 1
        if code >= 500:
            self._lose(f"{code}: {text[:200]}")

    def _lose(self, why: str) -> None:
        self.found.lost += 1
        self.found.first_loss = self.found.first_loss or why

    async def _record_labels(self) -> None:
        while True:
            await asyncio.sleep(LABEL_SECONDS)
            await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        from headway.serving.experiment.outcome import LABEL, Outcome

        labels, self._labels = self._labels, []
        if labels:
            outcomes = [Outcome(metric=LABEL, value=label, prediction=prediction) for prediction, label in labels]
            self.found.labels += self._outcomes.record_many(self._endpoint, outcomes).new

    async def _show(self, on_progress: Callable[[Replayed], None]) -> None:
        while True:
            await asyncio.sleep(_SHOWN_EVERY)
            self.found.seconds = time.perf_counter() - self._begin
            on_progress(self.found)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601."""
    return value.isoformat() if hasattr(value, "isoformat") else value
