"""`headway up`, `status` and `down`, as a person calls them, with the real model server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.components.bundle import bundle_digest
from headway.components.register.registry import Registry
from headway.components.settings import Settings
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.platform import TOTAL_WEIGHT, Variant
from tests.serving.embedded.conftest import serve, server_pids, split, take_down
from tests.serving.embedded.load import Load, wait_until

GOOD = {"features": {"distance": 1200.0, "carrier": "AA"}}


@pytest.fixture(scope="module")
def home(
    mlflow_database: Path, make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A home with two registered versions of a model, and whatever runs of it taken down."""
    home = tmp_path_factory.mktemp("commands") / "home"
    home.mkdir()
    shutil.copyfile(mlflow_database, home / "mlflow.db")
    settings = Settings(home=home, gateway_port=0)
    registry = Registry(settings)
    for seed in (1, 2):
        bundle = make_bundle(seed=seed)
        verdict = {"decision": "promote", "bundle_digest": bundle_digest(bundle)}
        registry.register("flights", bundle, verdict=verdict, actor="tests")
    yield home
    take_down(EmbeddedPlatform(settings))


@pytest.fixture(scope="module")
def platform(home: Path) -> EmbeddedPlatform:
    return EmbeddedPlatform(Settings(home=home, gateway_port=0))


def headway(home: Path, *arguments: str, code: int = 0, typed: str = "") -> str:
    """Run a command; give back what it printed on standard output."""
    environment = {**os.environ, "HEADWAY_HOME": str(home), "HEADWAY_GATEWAY_PORT": "0"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, input=typed, check=False, timeout=180
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


def shown(home: Path, code: int = 0) -> dict[str, Any]:
    text = headway(home, "status", "--json", code=code)
    found: dict[str, Any] = json.loads(text.split("\nError")[0])
    return found


@pytest.mark.slow
def test_a_day_with_the_commands(home: Path, platform: EmbeddedPlatform) -> None:
    assert "nothing is up: headway up" in headway(home, "status", code=1)
    assert "Unknown model 'flihgts' - did you mean 'flights'?" in headway(home, "up", "flihgts", code=2)
    assert not platform.installation.layout.state.exists()

    first = headway(home, "up", "flights")
    assert "serving flights version 1" in first
    assert headway(home, "up", "flights").startswith("Everything was up already: nothing changed.")

    found = shown(home)
    assert found["problems"] == []
    (endpoint,) = found["endpoints"]
    (variant,) = endpoint["variants"]
    assert (variant["name"], variant["weight"], variant["live_weight"], variant["phase"]) == (
        "v1",
        10_000,
        10_000,
        "ready",
    )
    assert all(process["pid"] and process["memory_bytes"] for process in variant["processes"])
    table = headway(home, "status")
    assert "100 %" in table
    assert endpoint["url"] in table

    url = found["url"]
    answer = httpx.post(f"{url}/flights/predict", json=GOOD, headers={"x-user-id": "ada", "x-request-id": "r-1"})
    assert answer.status_code == 200
    assert answer.headers["x-variant"] == "v1"
    assert answer.headers["x-request-id"] == "r-1"
    assert httpx.post(f"{url}/flights/predict", json={"features": {"distance": "far"}}).status_code == 400
    assert (
        httpx.get(f"{url}/v2/models/flights").json()["properties"]["digest"] == platform.variants("flights")[0].digest
    )
    wait_until(
        lambda: platform.users("flights", datetime.now(UTC) - timedelta(hours=1)) == {"v1": 1}, 20, "ada is logged"
    )

    os.kill(variant["processes"][0]["pid"], signal.SIGKILL)
    wait_until(
        lambda: server_pids(platform, "flights", "v1") not in ([0], [variant["processes"][0]["pid"]]), 20, "it is back"
    )
    assert shown(home, code=1)["problems"]
    wait_until(
        lambda: platform.variant_state("flights", platform.variants("flights")[0]).ready, 60, "it is ready again"
    )

    assert headway(home, "down") == "stopped gateway, driver and servers\n"
    assert headway(home, "down") == "Nothing was up.\n"
    assert shown(home, code=1)["up"] is False
    headway(home, "up")
    assert httpx.post(f"{url}/flights/predict", json=GOOD).headers["x-variant"] == "v1"

    assert "Go on?" in headway(home, "down", "--purge", code=1, typed="n\n")
    assert shown(home)["up"] is True
    headway(home, "down", "--purge", "--yes")
    assert not (home / "payloads").exists()
    assert [version.version for version in Registry(platform.settings).versions("flights")] == [1, 2]


@pytest.mark.slow
def test_real_servers_lose_nothing(home: Path, platform: EmbeddedPlatform) -> None:
    headway(home, "up", "flights")
    versions = Registry(platform.settings).versions("flights")
    first, second = (
        Variant(name=f"v{v.version}", model="flights", version=v.version, digest=v.digest, storage_uri=v.source)
        for v in versions
    )
    body = json.dumps(GOOD).encode()
    with Load(platform.address("flights").url, "/flights/predict", connections=4, body=body) as traffic:
        serve(platform, "flights", second)
        cursor = platform.read("flights", "v2").cursor
        for weight in (500, 5_000, TOTAL_WEIGHT):
            platform.set_route("flights", split(TOTAL_WEIGHT - weight, weight))
            traffic.wait_for(300)
        platform.restart_variant("flights", "v2")
        traffic.wait_for(300)
        platform.set_route("flights", split(TOTAL_WEIGHT, 0))
        traffic.wait_for(300)
    assert traffic.lost == []
    assert set(traffic.variants) == {"v1", "v2"}
    time.sleep(0.5)
    counts = platform.read("flights", "v2", cursor).counts
    assert counts.requests == traffic.variants["v2"] == counts.latency_ms.total
    assert counts.scores.total > 0
    assert platform.variant_state("flights", first).ready
