"""A small stand-in for the model server: the same command line, paths and metrics, up in a tenth of a second.

What it answers depends on the request, so that a test decides it: the header `x-answer` holds a status, `x-delay`
seconds to wait first. Version 9 never becomes ready, version 8 ends at once, and version 7 loads for a second while it
listens. It counts as the real one does.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from typing import Any

STARTED = time.time()
JSON = "content-type: application/json"


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.requests: dict[int, int] = {}
        self.rejected = 0
        self.scores = [0, 0]
        self.mirrored = 0
        self.seen: list[dict[str, str]] = []

    @property
    def ready(self) -> bool:
        return self.options.version != 9 and (self.options.version != 7 or time.time() > STARTED + 1)

    async def answer(self, path: str, headers: dict[str, str]) -> tuple[int, bytes, str]:
        about = self.about_itself(path)
        if about is not None:
            return about
        if "x-delay" in headers:
            await asyncio.sleep(float(headers["x-delay"]))
        status = int(headers.get("x-answer", 200))
        self.count(status, headers)
        result = {"variant": self.options.variant, "pid": os.getpid(), "path": path, "id": headers.get("x-request-id")}
        return status, json.dumps(result).encode(), JSON

    def about_itself(self, path: str) -> tuple[int, bytes, str] | None:
        name, status = self.options.name, 200 if self.ready else 503
        if path == "/metrics":
            return 200, self.metrics().encode(), "content-type: text/plain"
        if path == "/seen":
            return 200, json.dumps(self.seen).encode(), JSON
        if path == "/health":
            said = {"status": "ok" if self.ready else "loading", "reason": "" if self.ready else "it loads"}
            return status, json.dumps(said).encode(), JSON
        if not self.ready:
            return 503, b'{"error": "Not ready: it loads"}', JSON + "\r\nx-not-ready: loading"
        if path == f"/v2/models/{name}/ready":
            return 200, b'{"ready": true}', JSON
        return (200, json.dumps(self.metadata()).encode(), JSON) if path == f"/v2/models/{name}" else None

    def count(self, status: int, headers: dict[str, str]) -> None:
        self.requests[status] = self.requests.get(status, 0) + 1
        self.rejected += status == 400
        if headers.get("host", "").endswith("-shadow"):
            self.mirrored += 1
        if status == 200:
            self.scores[float(headers.get("x-score", 0.2)) > 0.5] += 1
        self.seen.append(headers)
        del self.seen[:-20]

    def metadata(self) -> dict[str, Any]:
        options = self.options
        properties = {"digest": options.digest, "version": str(options.version), "variant": options.variant}
        return {"name": options.name, "properties": properties}

    def metrics(self) -> str:
        labels = f'model="{self.options.name}",variant="{self.options.variant}"'
        lines = [f"process_start_time_seconds {STARTED}", "# TYPE headway_requests counter"]
        lines += [
            f'headway_requests_total{{{labels},code="{code}"}} {count}.0' for code, count in self.requests.items()
        ]
        low, total = self.scores[0], sum(self.scores)
        lines += [
            "# TYPE headway_rejected_requests counter",
            f"headway_rejected_requests_total{{{labels}}} {self.rejected}.0",
            "# TYPE headway_prediction_score histogram",
            f'headway_prediction_score_bucket{{{labels},le="0.5"}} {low}.0',
            f'headway_prediction_score_bucket{{{labels},le="+Inf"}} {total}.0',
            f"headway_prediction_score_count{{{labels}}} {total}.0",
        ]
        return "\n".join(lines) + "\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                _, path, _ = first.split(" ")
                headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
                await reader.readexactly(int(headers.get("content-length", 0)))
                status, content, more = await self.answer(path, headers)
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{more}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for option in ("--bundle", "--name", "--variant", "--semver", "--digest", "--host", "--payload-log"):
        parser.add_argument(option, default="")
    for option in ("--port", "--version"):
        parser.add_argument(option, type=int, default=0)
    return parser.parse_known_args()[0]


async def main() -> None:
    options = parse()
    if options.version == 8:
        sys.exit("this version cannot start: its model is broken")
    served = await asyncio.start_server(Server(options).serve, options.host, options.port, backlog=1024)
    loop = asyncio.get_running_loop()
    import signal

    # As the real one: no new connections, but what was asked is answered.
    loop.add_signal_handler(signal.SIGTERM, served.close)
    try:
        await served.serve_forever()
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main())
