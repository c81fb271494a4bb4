"""A Prometheus on 127.0.0.1 that knows the four queries that are sent to it, over samples that tests write.

Its clock never stands still: each look at it is a millisecond later, so that no two samples share a moment.
"""

import json
import re
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

Labels = frozenset[tuple[str, str]]
_MATCHER = re.compile(r'(\w+)(=~|=)"((?:[^"\\]|\\.)*)"')
_UNITS = {"ms": 1, "d": 86_400_000}


class FakePrometheus:
    """One server."""

    def __init__(self) -> None:
        self.samples: defaultdict[Labels, list[tuple[int, float]]] = defaultdict(list)
        self.failure = ""
        """Why every query fails; empty answers."""
        self.garbage = False
        """Whether something that is no Prometheus answers."""
        self.queries: list[str] = []
        self._now = 0
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def now(self) -> int:
        with self._lock:
            self._now = max(self._now + 1, round(1000 * time.time()))
            return self._now

    def add(self, name: str, rise: float, *, at: int | None = None, **labels: str) -> None:
        """Let a counter rise: a new sample."""
        with self._lock:
            samples = self.samples[frozenset({"__name__": name, **labels}.items())]
            samples.append((self.now() if at is None else at, (samples[-1][1] if samples else 0.0) + rise))

    def write(self, name: str, value: float, *, at: int | None = None, **labels: str) -> None:
        """A sample as it is: a counter that started again, or NaN."""
        with self._lock:
            self.samples[frozenset({"__name__": name, **labels}.items())].append((at or self.now(), value))

    def observe(self, name: str, edges: list[float], value: float, count: int, **labels: str) -> None:
        """Let a histogram's buckets rise by so many equal values."""
        for edge in [*edges, float("inf")]:
            rise = count if value <= edge else 0
            self.add(name, rise, **labels, le="+Inf" if edge == float("inf") else f"{edge:g}")

    def answer(self, query: str, at: str | None) -> dict[str, Any]:
        with self._lock:
            self.queries.append(query)
            moment = round(1000 * float(at)) if at else self.now()
            if query == "time()":
                return {"resultType": "scalar", "result": [moment / 1000, str(moment / 1000)]}
            if query.startswith("count("):
                found = self._select(query)
                return {
                    "resultType": "vector",
                    "result": [{"metric": {}, "value": [0, str(len(found))]}] if found else [],
                }
            amount, unit = re.search(r"\[(\d+)(ms|d)\]", query).groups()  # type: ignore[union-attr]
            low = moment - int(amount) * _UNITS[unit]
            # Both ends belong to the window, as in Prometheus 2.
            windows = {
                labels: [(time_ms, value) for time_ms, value in samples if low <= time_ms <= moment]
                for labels, samples in self._select(query).items()
            }
            series = [
                {"metric": dict(labels), "values": [[time_ms / 1000, str(value)] for time_ms, value in window]}
                for labels, window in windows.items()
                if window
            ]
            if query.startswith("last_over_time("):
                return {"result": [{"metric": each["metric"], "value": each["values"][-1]} for each in series]}
            return {"result": series}

    def _select(self, query: str) -> dict[Labels, list[tuple[int, float]]]:
        matchers = _MATCHER.findall(query)
        assert matchers, query
        return {labels: samples for labels, samples in self.samples.items() if _matches(dict(labels), matchers)}


def _matches(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    return all(
        labels.get(name, "") == value if sign == "=" else re.fullmatch(value, labels.get(name, ""))
        for name, sign, value in matchers
    )


def _handler(fake: FakePrometheus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            assert self.path == "/api/v1/query"
            if fake.garbage:
                self._send(200, b"<html>a login page</html>")
            elif fake.failure:
                self._send(422, json.dumps({"status": "error", "error": fake.failure}).encode())
            else:
                data = fake.answer(form["query"][0], form.get("time", [None])[0])
                self._send(200, json.dumps({"status": "success", "data": data}).encode())

        def _send(self, code: int, text: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler
