"""The server's README shows what the server does."""

import json
import re
from pathlib import Path

import pytest

from headway.serving.server.metrics import Metrics
from headway.serving.server.settings import ServerSettings
from tests.serving.server.conftest import Running

README = (Path(__file__).resolve().parents[3] / "serving" / "server" / "README.md").read_text(encoding="utf-8")
CALLS = re.findall(r"\$ curl -s http://127\.0\.0\.1:8081(\S+) -d '(.*)'\n(.*)", README)


@pytest.mark.parametrize("flights", ["onnx"], indirect=True)
def test_its_calls_are_answered_as_shown(flights: Running) -> None:
    assert len(CALLS) == 5
    with flights.client() as client:
        for path, body, shown in CALLS:
            answer = client.post(path, content=body)
            assert answer.status_code == (400 if shown.startswith('{"error"') else 200), answer.text
            assert list(answer.json()) == re.findall(r'[{,]"(\w+)":', re.sub(r"\[[^\[\]]*\]", "", shown)), path
            if answer.status_code == 400:
                assert answer.json()["error"] == json.loads(shown.replace("…", ""))["error"]


def test_it_names_every_flag_and_every_series() -> None:
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in README, name
    text = Metrics("v1").render().decode()
    for series in re.findall(r"# TYPE (headway_\w+) ", text):
        assert series in README, series
