"""The command line is the settings, with what each is for; a wrong one is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from headway.components.errors import ConfigError
from headway.serving.server.settings import ServerSettings, parse_flags


def test_flags_become_settings() -> None:
    given = ["--bundle", "b", "--payload-log", "p", "--mask", "x", "--mask", "y", "--score-edges", "[0.1, 0.5]"]
    settings = parse_flags([*given, "--port", "9", "--timeout", "0.5", "--exit-on-failure", "--no-access-log"])
    assert settings == ServerSettings(
        bundle=Path("b"),
        payload_log=Path("p"),
        mask=["x", "y"],
        score_edges=[0.1, 0.5],
        port=9,
        timeout=0.5,
        exit_on_failure=True,
    )


def test_the_variant_has_a_name() -> None:
    assert ServerSettings(bundle=Path("b")).variant_name == "default"
    assert ServerSettings(bundle=Path("b"), version=3).variant_name == "v3"
    assert ServerSettings(bundle=Path("b"), version=3, variant="blue").variant_name == "blue"


def test_it_listens_to_this_machine_only_unless_told() -> None:
    assert ServerSettings(bundle=Path("b")).host == "127.0.0.1"
    assert ServerSettings(bundle=Path("b")).grpc_port == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "port"),
        (["--grpc-port", "9", "--port", "9"], "port and grpc_port are both 9"),
        (["--workers", "2"], "start more servers instead"),
        (["--score-edges", "[0.5, 0.5]"], "do not ascend"),
        (["--score-edges", "0.5"], "a JSON list"),
        (["--score-edges", "[NaN]"], "score_edges"),
        (["--digest", "abc"], "digest"),
        (["--variant", "../up"], "variant"),
        (["--name", "a/b"], "name"),
        (["--timeout", "0"], "timeout"),
        (["--max-batch", "many"], "max_batch"),
    ],
)
def test_a_wrong_value_is_named(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_flags(["--bundle", "b", *flags])


@pytest.mark.parametrize("flags", [[], ["--bundle", "b", "--prot", "9"], ["--bundle", "b", "--por", "9"]])
def test_an_unknown_flag_or_none_is_a_wrong_call(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(flags)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in ServerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description


def test_help_needs_no_heavy_library() -> None:
    program = (
        "import sys, json\nfrom headway.serving.server import __main__, settings\n"
        "print(json.dumps([name for name in ('kserve', 'numpy', 'onnxruntime', 'fastapi') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
