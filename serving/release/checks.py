"""What a newcomer must pass at weight 0, before it sees a client: the infrastructure check of a release.

    identity    it reports exactly the digest that is released
    smoke       it answers the bundle's own example rows
    parity      with what the bundle's model says of them when it is opened here
    contract    it refuses a row with an unknown field, and names the field
    latency     its 95th percentile over fifty requests stays within the plan

A check that cannot be carried out has failed: nothing that nobody could try gets traffic.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from headway.components.bundle import INPUT_EXAMPLE
from headway.components.errors import HeadwayError
from headway.serving.platform import Address, Platform
from headway.serving.release.state import Check, Release

if TYPE_CHECKING:
    import requests

    from headway.components.register.registry import Registry

LATENCY_REQUESTS = 50
_TIMEOUT_SECONDS = 10.0
_TOLERANCE = 1e-4
"""Relative difference of two numbers that count as equal: 32-bit models, and JSON in between."""
_NO_FIELD = "no_such_field"

Rows = list[dict[str, Any]]


def run_checks(platform: Platform, registry: "Registry", release: Release) -> list[Check]:
    """Try the newcomer of a release.

    Args:
        platform: Where it runs.
        registry: Where its bundle lies.
        release: The release.

    Returns:
        All checks, those that failed with the reason.
    """
    variant = release.newcomer
    with _Client(platform.address(release.endpoint, variant.name), release.endpoint) as client:
        version = registry.version(variant.model, variant.version)
        with registry.check(version) as checked:
            rows: Rows = json.loads((checked.folder / INPUT_EXAMPLE).read_text(encoding="utf-8"))
        model = registry.load(version, threads=1)
        tries: dict[str, Callable[[], str]] = {
            "identity": lambda: _identity(client, variant.digest),
            "smoke": lambda: _smoke(client, rows),
            "parity": lambda: _parity(client, rows, model),
            "contract": lambda: _contract(client, rows[0]),
            "latency": lambda: _latency(client, rows[0], release.spec.max_p95_ms),
        }
        return [_try(name, call) for name, call in tries.items()]


class _FailedError(Exception):
    """A check's reason to fail."""


class _Client:
    """The newcomer's own address."""

    def __init__(self, address: Address, endpoint: str) -> None:
        import requests

        self._session = requests.Session()
        # The way to the newcomer is ours: no proxy of the environment stands in it.
        self._session.trust_env = False
        self._session.headers.update(address.headers)
        self._url = address.url
        self._endpoint = endpoint

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def metadata(self) -> dict[str, Any]:
        """What it says it is."""
        path = f"/v2/models/{self._endpoint}"
        return dict(_ok(self._session.get(self._url + path, timeout=_TIMEOUT_SECONDS)))

    def predict(self, rows: Rows) -> "requests.Response":
        """Its answer to rows."""
        document = {"instances": rows, "id": f"check-{time.time_ns()}"}
        path = f"/v1/models/{self._endpoint}:predict"
        return self._session.post(self._url + path, json=document, timeout=_TIMEOUT_SECONDS)


def _try(name: str, call: Callable[[], str]) -> Check:
    import requests

    try:
        return Check(name=name, ok=True, text=call())
    except _FailedError as error:
        return Check(name=name, ok=False, text=str(error))
    except (requests.RequestException, ValueError, KeyError, HeadwayError) as error:
        return Check(name=name, ok=False, text=f"cannot be carried out: {type(error).__name__}: {error}"[:500])


def _identity(client: _Client, digest: str) -> str:
    found = str(client.metadata().get("properties", {}).get("digest", ""))
    if found != digest:
        raise _FailedError(f"it serves the bundle {found[:16] or 'without a digest'}, not {digest[:16]}")
    return f"digest {digest[:16]}"


def _smoke(client: _Client, rows: Rows) -> str:
    found = _ok(client.predict(rows)).get("predictions", [])
    if len(found) != len(rows):
        raise _FailedError(f"{len(found)} predictions for {len(rows)} rows")
    return f"{len(rows)} example rows answered"


def _parity(client: _Client, rows: Rows, model: Any) -> str:
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    wanted = model.predict(columns).labels.tolist()
    found = _ok(client.predict(rows))["predictions"]
    wrong = [pair for pair in zip(found, wanted, strict=True) if not _equal(*pair)]
    if wrong:
        served, opened = wrong[0]
        raise _FailedError(
            f"{len(wrong)} of {len(rows)} example rows differ: {served!r} served, {opened!r} opened here"
        )
    return f"{len(rows)} example rows as the bundle's model says"


def _contract(client: _Client, row: dict[str, Any]) -> str:
    answer = client.predict([{**row, _NO_FIELD: 1}])
    named = [field.get("field") for field in _document(answer).get("fields", [])]
    if answer.status_code != 400 or _NO_FIELD not in named:
        raise _FailedError(f"a row with an unknown field was answered {answer.status_code}, expected 400 with its name")
    return "an unknown field is refused by name"


def _latency(client: _Client, row: dict[str, Any], most_ms: float) -> str:
    p95 = statistics.quantiles(_durations(client, row), n=20)[-1]
    if p95 > most_ms:
        raise _FailedError(f"p95 {p95:.1f} ms over {LATENCY_REQUESTS} requests, allowed {most_ms:g} ms")
    return f"p95 {p95:.1f} ms over {LATENCY_REQUESTS} requests"


def _durations(client: _Client, row: dict[str, Any]) -> Iterator[float]:
    """Milliseconds of each request."""
    for _ in range(LATENCY_REQUESTS):
        began = time.perf_counter()
        _ok(client.predict([row]))
        yield (time.perf_counter() - began) * 1_000


def _ok(answer: "requests.Response") -> dict[str, Any]:
    document = _document(answer)
    if answer.status_code != 200:
        raise _FailedError(f"answered {answer.status_code}: {str(document.get('error', ''))[:300]}")
    return document


def _document(answer: "requests.Response") -> dict[str, Any]:
    found = answer.json()
    if not isinstance(found, dict):
        raise _FailedError(f"answered a {type(found).__name__}, expected an object")
    return found


def _equal(served: Any, opened: Any) -> bool:
    if isinstance(served, float) or isinstance(opened, float):
        return math.isclose(served, opened, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(served == opened)
