"""A small project on small data: the whole pipeline in seconds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SPEC = """\
name: toy
source: {uri: data.csv}
split: {method: stratified, validation: 0.3}
training: {task: binary, estimator: logistic_regression, seed: 3}
evaluation:
  primary: roc_auc
  metrics: [roc_auc, log_loss]
  thresholds: [{metric: roc_auc, min: 0.6}]
  bootstrap: {resamples: 100}
"""
CONTRACT = """\
name: toy
target: y
columns:
  x: {type: number, range: {min: -10, max: 10, level: quarantine}}
  group: {type: string, values: {allowed: [a, b, c], level: warn}}
  y: {type: boolean}
"""


def toy_table(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Two features that say something about y."""
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    group = random.choice(["a", "b", "c"], size=rows)
    y = random.random(rows) < 1 / (1 + np.exp(-2 * x - (group == "a")))
    return pd.DataFrame({"x": x, "group": group, "y": y})


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder in an empty working folder with an empty home."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "model.yaml").write_text(SPEC)
    (folder / "contract.yaml").write_text(CONTRACT)
    toy_table().to_csv(folder / "data.csv", index=False)
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "HEADWAY_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return folder
