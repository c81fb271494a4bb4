"""Nothing that Headway brings along reports to anybody, unless its user wants that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import headway.components.model
import onnx
from mlflow.telemetry.utils import is_telemetry_disabled
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
headway.components.model.onnx_session(model.SerializeToString())
print(is_telemetry_disabled())
"""
CI = ("CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "MLFLOW_TESTING")
"""Where one of these is set, MLflow reports nothing anyway."""


@pytest.mark.parametrize(("wanted", "disabled"), [({}, True), ({"MLFLOW_DISABLE_TELEMETRY": "0"}, False)])
def test_what_a_model_s_loading_leaves_behind(wanted: dict[str, str], disabled: bool, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in CI and "TELEMETRY" not in name}
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**variables, "HOME": str(tmp_path), **wanted},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(disabled)]
    assert not list(tmp_path.rglob("*onnxruntime*"))
