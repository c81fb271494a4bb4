"""A model's life on one machine, as commands: served, released under traffic, explained, taken back, and put away."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

QUICK = ["steps=[20, 100]", "min_seconds=1", "min_requests=100", "rollback_window_seconds=1", "guards.latency=null"]
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]


@dataclass
class Headway:
    """The command line in a folder, with a home of its own."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command to its end; its standard output."""
        done = self.process(*words)
        out, err = done.communicate(timeout=240)
        assert done.returncode == code, f"headway {' '.join(words)}\n{out}\n{err}"
        return out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))

    def process(self, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "headway.pipelines.cli", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def headway(toy: Path) -> Iterator[Headway]:
    environment = {**os.environ, "HEADWAY_HOME": str(toy.parent / "home"), "HEADWAY_GATEWAY_PORT": "0"}
    command = Headway(toy.parent, environment)
    yield command
    command("down", "--purge", "--yes")


@pytest.fixture
def traffic(headway: Headway) -> Iterator[list[str]]:
    """Requests for as long as the test goes on; not one of them may be lost."""
    words = ["replay", "toy", "--data", "toy/data.csv", "--repeat", "--rate", "60", "--user", "x", "--label", "y"]
    headway("run", "toy")
    headway("up", "toy")
    process = headway.process(*words, "--json")
    yield words
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    told = json.loads(out)
    assert (process.returncode, told["lost"]) == (0, 0), err
    assert told["sent"] > 500
    assert told["labels"] == told["codes"]["200"]


@pytest.mark.slow
def test_a_version_is_released_under_traffic_and_taken_back(headway: Headway, traffic: list[str]) -> None:
    assert headway.json("status")["problems"] == []
    headway("run", "toy", "--set", "training.parameters.C=0.5")

    planned = headway.json("release", "plan", "toy", *SETTINGS, "--requests-per-hour", "200000")
    assert planned["release"]["state"] == "preparing"
    assert [stage["percent"] for stage in planned["forecast"]["stages"]] == [20, 100]

    before = datetime.now(UTC)
    released = headway.json("release", "start", "toy", "--reason", "less regularised", *SETTINGS, "--wait")
    assert released["state"] == "promoted", released
    assert all(check["ok"] for check in released["checks"])
    assert {check["name"] for check in released["checks"]} == {"identity", "smoke", "parity", "contract", "latency"}

    told = headway.json("release", "explain", "toy", "--report", "release.html")
    kinds = [row["kind"] for row in told["ledger"]]
    assert kinds[0] == "release_started"
    assert kinds[-1] == "release_promoted"
    weights = [row["weights"] for row in told["ledger"] if row["kind"] == "weights"]
    assert weights == [{"v1": 8_000, "v2": 2_000}, {"v1": 0, "v2": 10_000}, {"v2": 10_000}]
    assert "less regularised" in (headway.folder / "release.html").read_text(encoding="utf-8")

    assert served(headway, before) == [1]
    assert served(headway, datetime.now(UTC)) == [2]
    assert champion(headway) == "2"

    rehearsed = headway.json("release", "rehearse", "toy", "--fault", "none", "--fault", "errors=0.2", *SETTINGS)
    assert [one["right"] for one in rehearsed["scenarios"]] == [True, True]

    back = headway.json("release", "rollback", "toy", "--reason", "a person said so")
    assert back["state"] == "promoted"
    assert champion(headway) == "1"
    assert headway.json("release", "rollback", "toy", "--reason", "again") == {"changed": False}
    history = headway.json("release", "history", "toy")
    assert [(one["strategy"], one["state"]) for one in history[:2]] == [
        ("rollback", "promoted"),
        ("canary", "promoted"),
    ]
    assert headway.json("ledger", "verify")["ok"]


@pytest.mark.slow
def test_what_a_user_types_wrongly_is_answered_with_a_sentence(headway: Headway) -> None:
    cases = [
        (["release", "status", "toy"], 2, "endpoint with a release"),
        (["release", "start", "toy", "--reason", "x"], 2, "model 'toy'"),
        (["release", "start", "toy", "--reason", "x", "--set", "stepps=[1]"], 2, "did you mean 'steps'"),
        (["release", "start", "toy", "--reason", "x", "--set", "steps=[50, 20, 100]"], 2, "must rise"),
        (["release", "start", "toy", "--reason", "x", "--strategy", "canari"], 2, "canary"),
        (["release", "rehearse", "toy"], 1, "holds 0 requests"),
        (["release", "rehearse", "toy", "--fault", "gremlins=1"], 2, "gremlins"),
        (["ledger", "at", "yesterday"], 2, "ISO 8601"),
        (["replay", "toy", "--data", "toy/data.csv"], 2, "model 'toy'"),
    ]
    for words, code, sentence in cases:
        done = headway.process(*words)
        _, err = done.communicate(timeout=120)
        assert (done.returncode, "Traceback" in err) == (code, False), f"{words}: {err}"
        assert sentence in err, f"{words}: {err}"


def served(headway: Headway, moment: datetime) -> list[int]:
    """The versions that served at a moment."""
    found = headway.json("ledger", "at", moment.isoformat(), "--endpoint", "toy")
    return [part["version"] for one in found for part in one["parts"]]


def champion(headway: Headway) -> str:
    (model,) = headway.json("model", "list")
    return str(model["champion"])
