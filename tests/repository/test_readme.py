"""Every command and every snippet of the README works."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from headway.pipelines.spec import ModelSpec
from tests.pipelines.fake_kfp import fake_kfp

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
TESTED_BY_CI = {"make run", "make test"}


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    random = np.random.default_rng(0)
    age = random.integers(18, 90, 500)
    churned = random.random(500) < age / 100
    pd.DataFrame({"age": age, "plan": random.choice(["a", "b"], 500), "churned": churned}).to_csv(
        folder / "customers.csv", index=False
    )
    with fake_kfp() as kfp:
        environment = {**os.environ, "HEADWAY_HOME": str(folder / "home"), "HEADWAY_KFP_ENDPOINT": kfp.url}
        environment["HEADWAY_GATEWAY_PORT"] = "0"
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for name in ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT"):
            environment.pop(name, None)
        yield folder, environment
        subprocess.run(["headway", "down"], env=environment, cwd=folder, check=False)


@pytest.mark.slow
def test_every_command_does_what_it_says(workplace: tuple[Path, dict[str, str]]) -> None:
    folder, environment = workplace
    assert len(commands()) > 10
    for command in ["headway run flights", *commands()]:
        if command in TESTED_BY_CI or ("trainer: distributed" in command and not find_spec("torch")):
            continue
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [text for kind, text in BLOCKS if kind == "python"])
def test_every_snippet_runs(snippet: str, workplace: tuple[Path, dict[str, str]]) -> None:
    folder, environment = workplace
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("snippet", [text for kind, text in BLOCKS if kind == "yaml"])
def test_every_section_is_one_that_model_yaml_takes(snippet: str) -> None:
    toy = {"name": "toy", "source": {"uri": "data.csv"}}
    assert ModelSpec.parse({**toy, **yaml.safe_load(snippet)}).dump()


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_is_in_the_help() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in told
