"""A world of files: a platform and a registry that outlive the driver's process, and note what was done to them."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headway.components.errors import NotReadyError, PromotionConflictError, ReleaseError, TrustError
from headway.components.register.ledger import Ledger
from headway.serving.platform import (
    TOTAL_WEIGHT,
    Address,
    Counts,
    Histogram,
    Phase,
    Reading,
    Route,
    Variant,
    VariantState,
)
from headway.serving.release.state import Check, Release

EDGES = [1.0, 2.0, 4.0, 8.0]


class Files:
    """One JSON document, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "world.json"
        self._journal = folder / "journal.jsonl"

    def read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {"variants": [], "route": None, "champion": None, "reads": 0, "bad": []}
        return dict(json.loads(self._path.read_text()))

    def write(self, **changes: Any) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**self.read(), **changes}))
        temporary.replace(self._path)

    def note(self, **entry: Any) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")

    def journal(self) -> list[dict[str, Any]]:
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text().splitlines()]


class FilePlatform:
    """Variants become ready at the second look; every reading brings eight thousand answers."""

    name = "files"

    def __init__(self, folder: Path, *, bad: Mapping[str, int] | None = None) -> None:
        self.files = Files(folder)
        self._bad = bad or {}
        """Server errors in each hundred answers, by variant."""

    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        if route.mirror and endpoint == "no-mirror":
            raise ReleaseError("this platform cannot mirror")

    def ensure_variant(self, endpoint: str, variant: Variant) -> None:
        if variant not in self.variants(endpoint):
            entry = {**variant.model_dump(mode="json"), "looks": 0}
            self.files.write(variants=[*self.files.read()["variants"], entry])

    def variant_state(self, endpoint: str, variant: Variant) -> VariantState:
        found = self.files.read()["variants"]
        for entry in found:
            if entry["name"] == variant.name:
                entry["looks"] += 1
                self.files.write(variants=found)
                return VariantState(phase=Phase.READY if entry["looks"] > 1 else Phase.STARTING)
        return VariantState(phase=Phase.ABSENT)

    def variants(self, endpoint: str) -> list[Variant]:
        found = self.files.read()["variants"]
        return [Variant.parse({k: v for k, v in entry.items() if k != "looks"}) for entry in found]

    def remove_variant(self, endpoint: str, variant: str) -> None:
        route = self.route(endpoint)
        if route and route.weights.get(variant):
            raise ReleaseError(f"{variant} has traffic")
        self.files.write(variants=[entry for entry in self.files.read()["variants"] if entry["name"] != variant])

    def set_route(self, endpoint: str, route: Route) -> None:
        looks = {entry["name"]: entry["looks"] for entry in self.files.read()["variants"]}
        unready = [name for name in route.needed if looks.get(name, 0) < 2]
        if unready:
            raise NotReadyError(f"{unready} not ready")
        self.files.write(route=route.model_dump(mode="json"))
        self.files.note(weights=route.weights, needed=route.needed, running=sorted(looks))

    def route(self, endpoint: str) -> Route | None:
        found = self.files.read()["route"]
        return None if found is None else Route.parse(found)

    def endpoints(self) -> list[str]:
        return ["m"] if self.files.read()["route"] else []

    def remove_endpoint(self, endpoint: str) -> None:
        self.files.write(route=None, variants=[])

    def address(self, endpoint: str, variant: str | None = None) -> Address:
        return Address(url="http://127.0.0.1:9")

    def read(self, endpoint: str, variant: str, cursor: str = "") -> Reading:
        number = int(cursor or "-1") + 1
        if not cursor:
            return Reading(counts=Counts(), cursor="0")
        route = self.route(endpoint)
        weight = route.weights.get(variant, 0) if route else 0
        if route and route.mirror == variant:
            weight += route.mirror_weight
        requests = weight * 8_000 // TOTAL_WEIGHT
        latency = Histogram(edges=EDGES, counts=[requests, 0, 0, 0, 0])
        errors = requests * self._bad.get(variant, 0) // 100
        return Reading(counts=Counts(requests=requests, server_errors=errors, latency_ms=latency), cursor=str(number))

    def users(self, endpoint: str, since: datetime) -> None:
        return None


class FileRegistry:
    """A registry of versions 1 to 9 of the model `m`, whose champion is in the file."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")

    def version(self, model: str, ref: str | int) -> Any:
        if ref in ("champion", "previous"):
            ref = self.files.read().get(ref, 1)
        number = int(ref)
        return SimpleNamespace(name=model, version=number, digest=f"{number:064x}", label=f"{model} {number}")

    @contextlib.contextmanager
    def check(self, version: Any) -> Iterator[Any]:
        if version.version in self.files.read()["bad"]:
            raise TrustError(f"{version.label}: its signature is wrong")
        yield SimpleNamespace(info=SimpleNamespace(task="binary"), folder=Path("absent"))

    def storage_uri(self, version: Any) -> str:
        return f"file:///m/{version.version}"

    def find_champion(self, model: str) -> Any:
        number = self.files.read()["champion"]
        return None if number is None else self.version(model, number)

    def promote(self, model: str, ref: int, *, expected: int | None, actor: str, reason: str) -> None:
        self._move(model, ref, expected, actor, "promoted")

    def rollback(self, model: str, *, to: int, expected: int | None, actor: str, reason: str) -> None:
        self._move(model, to, expected, actor, "rolled_back")

    def _move(self, model: str, to: int, expected: int | None, actor: str, kind: str) -> None:
        champion = self.files.read()["champion"]
        if champion == to:
            return
        if champion != expected:
            raise PromotionConflictError(f"the champion is {champion}")
        self.files.write(champion=to, previous=champion)
        self.files.note(champion=to)


def passing_checks(platform: Any, registry: Any, release: Release) -> list[Check]:
    """Checks that pass: what they check is tested elsewhere, against real servers."""
    return [Check(name="smoke", ok=True, text="")]
