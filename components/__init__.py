"""What happens to data and models before they serve: one folder a component, each importable from here by name.

from headway.components import ingest, data_validate, train, evaluate, register, record_outcome
"""

import importlib
import os
from typing import Any

# onnxruntime and MLflow report to their makers unless told otherwise, and onnxruntime leaves a device's id in the home
# folder. Whoever wants that sets these to 0.
for _variable in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

CATALOGUE = {
    "ingest": "headway.components.ingest.component",
    "data_validate": "headway.components.data_validate.component",
    "tune": "headway.components.tune.component",
    "tune_start": "headway.components.tune.component",
    "tune_worker": "headway.components.tune.component",
    "tune_best": "headway.components.tune.component",
    "train": "headway.components.train.component",
    "train_distributed": "headway.components.train_distributed.component",
    "optimise": "headway.components.optimise.component",
    "evaluate": "headway.components.evaluate.component",
    "register": "headway.components.register.component",
    "record_outcome": "headway.components.register.component",
}
"""Every component by name, in the order of a training pipeline, with the module that defines it."""


def load(name: str) -> Any:
    """A KFP component by name.

    Raises:
        UnknownNameError: There is no such component; offers the near ones.
    """
    if name not in CATALOGUE:
        from headway.components.errors import UnknownNameError

        raise UnknownNameError("component", name, CATALOGUE)
    return getattr(importlib.import_module(CATALOGUE[name]), name)
