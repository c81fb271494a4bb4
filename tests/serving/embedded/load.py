"""A client that never stops asking: keep-alive connections that send one request after the other and keep account."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, str], bytes]


class Load:
    """Requests without a pause from several connections, in a thread of its own, while the `with` block lasts.

    Args:
        url: The gateway's address.
        path: What is asked for, by POST.
        connections: How many at once.
        users: How many users take turns.
        headers: More headers of each request.
        body: What each request sends.
    """

    def __init__(
        self,
        url: str,
        path: str,
        *,
        connections: int = 8,
        users: int = 500,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"{}",
    ) -> None:
        self._url = url
        self._path = path
        self._connections = connections
        self._users = users
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._body = body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.statuses: Counter[int] = Counter()
        self.variants: Counter[str] = Counter()
        self.pids: set[int] = set()
        self.broken: list[str] = []
        """Requests that got no answer at all."""
        self.slowest = 0.0
        self.seen: dict[str, list[str]] = {}
        """The variants that each user saw, in order, without repetitions."""

    @property
    def total(self) -> int:
        """How many requests there were."""
        return sum(self.statuses.values()) + len(self.broken)

    @property
    def lost(self) -> list[str]:
        """What was not answered 200, in words."""
        return [*self.broken, *(f"{n} x {status}" for status, n in self.statuses.items() if status != 200)]

    def wait_for(self, requests: int, seconds: float = 30) -> None:
        """Wait until so many more requests were answered."""
        goal, deadline = self.total + requests, time.monotonic() + seconds
        while self.total < goal:
            assert time.monotonic() < deadline, f"only {self.total} of {goal} requests after {seconds} s"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(50)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._connections)))

    async def _client(self, number: int) -> None:
        connection: Connection | None = None
        turn = number
        while not self._stop.is_set():
            turn += self._connections
            user = f"user-{turn % self._users}"
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = await Connection.open(self._url)
                status, headers, body = await connection.ask(
                    self._path, {"x-user-id": user, **self._headers}, self._body
                )
            except (OSError, asyncio.IncompleteReadError) as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                connection = None
                await asyncio.sleep(0.02)
                continue
            self._count(user, status, headers, body, time.monotonic() - begun)
            if headers.get("connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _count(self, user: str, status: int, headers: dict[str, str], body: bytes, seconds: float) -> None:
        self.statuses[status] += 1
        variant = headers.get("x-variant", "")
        self.variants[variant] += 1
        self.slowest = max(self.slowest, seconds)
        seen = self.seen.setdefault(user, [])
        if not seen or seen[-1] != variant:
            seen.append(variant)
        if status == 200 and b'"pid"' in body:
            self.pids.add(json.loads(body)["pid"])


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect."""
        place = urlsplit(url)
        return cls(*await asyncio.open_connection(place.hostname, place.port))

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes = b"{}") -> Answer:
        """One request and its answer."""
        self.send(path, headers, body)
        return await self.receive()

    def send(self, path: str, headers: Mapping[str, str], body: bytes = b"{}") -> None:
        """A request whose answer is taken later, with `receive`, in the order of the requests."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)

    async def receive(self) -> Answer:
        """The next answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split(" ")[1]), headers, body

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def variants_of(url: str, path: str, users: Sequence[str], *, connections: int = 8, depth: int = 50) -> dict[str, str]:
    """Which variant answers each user, asked over several connections with many requests under way on each."""

    async def some(mine: Sequence[str]) -> Iterator[tuple[str, str]]:
        connection = await Connection.open(url)
        found: list[tuple[str, str]] = []
        for start in range(0, len(mine), depth):
            batch = mine[start : start + depth]
            for user in batch:
                connection.send(path, {"x-user-id": user})
            for user in batch:
                status, headers, _ = await connection.receive()
                assert status == 200, (user, status)
                found.append((user, headers["x-variant"]))
        connection.close()
        return iter(found)

    async def everybody() -> dict[str, str]:
        parts = await asyncio.gather(*(some(users[number::connections]) for number in range(connections)))
        return {user: variant for part in parts for user, variant in part}

    return asyncio.run(everybody())


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)
