"""The notebook on releases runs from top to bottom: served, released under traffic, rehearsed, and taken back."""

from pathlib import Path

import pytest

from headway.components.settings import load_settings
from headway.serving.embedded.lifecycle import down
from headway.serving.embedded.platform import EmbeddedPlatform
from tests.notebooks import execute, shown


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_GATEWAY_PORT", "0")
    try:
        notebook = execute("02_release", tmp_path, monkeypatch)
    finally:  # a cell that fails leaves what the ones before it have started
        down(EmbeddedPlatform(load_settings()))
    html, plain = shown(notebook, "text/html"), shown(notebook, "text/plain")
    assert html.count("<iframe sandbox srcdoc=") == 2
    assert "('promoted', 'nothing failed in the rollback window of 3 s')" in plain
    assert "distance" in plain, "the field that a request has wrong is named"
    assert "('none', 'promoted', '')" in plain
    assert "('errors', 'rolled_back', 'server_errors')" in plain
    state, version, sent, lost, whole = plain.splitlines()[-1].strip("()").split(", ")
    assert (state, version, lost, whole) == ("'promoted'", "1", "0", "True")
    assert int(sent) > 500
