from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from headway.components.errors import TrainingError
from headway.components.model import onnx_session, open_onnx
from headway.components.optimise.quantise import quantise
from headway.components.trust import ONNX_DOMAINS

RANDOM = np.random.default_rng(0)


def layers(*widths: int, transposed: bool = True, wrong_shapes: bool = False) -> bytes:
    """A network as torch's exporter writes it: each layer one Gemm over a transposed weight, then Relu."""
    nodes, weights, name = [], [], "numbers"
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        weight = (RANDOM.normal(size=shape) / np.sqrt(inputs)).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"w{number}"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{number}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [f"g{number}"], transB=transposed))
        nodes.append(helper.make_node("Relu", [f"g{number}"], [f"r{number}"]))
        name = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, widths[0]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, widths[-1]])],
        weights,
        value_info=[helper.make_tensor_value_info("g1", TensorProto.FLOAT, [None, 20])] if wrong_shapes else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def some(columns: int, rows: int = 300) -> dict[str, Any]:
    return {"numbers": RANDOM.normal(size=(rows, columns)).astype(np.float32)}


def answers(graph: bytes, rows: dict[str, Any]) -> Any:
    return onnx_session(graph).run(None, rows)[0]


def kinds(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


class TestGraph:
    @pytest.mark.parametrize("transposed", [True, False])
    def test_only_wide_inner_layers_are_in_8_bits(self, transposed: bool) -> None:
        graph, rows = layers(100, 128, 128, 32, 96, 96, 1, transposed=transposed), some(100)
        small = quantise(graph, rows)
        assert kinds(small).count("MatMulInteger") == 2
        assert kinds(small).count("Clip") == 2
        assert len(small) < len(graph)
        np.testing.assert_allclose(answers(small, rows), answers(graph, rows), atol=0.1)

    def test_keeps_to_the_standard(self) -> None:
        model = onnx.load_from_string(quantise(layers(8, 64, 64, 1), some(8)))
        assert {node.domain for node in model.graph.node} <= ONNX_DOMAINS

    def test_same_bytes_each_time(self) -> None:
        graph, rows = layers(8, 64, 64, 1), some(8)
        assert quantise(graph, rows) == quantise(graph, rows)

    def test_shapes_that_contradict_the_layers(self) -> None:
        # What torch's exporter leaves behind, without the contradiction onnxruntime itself would refuse.
        graph, rows = layers(8, 64, 64, 1), some(8)
        model = onnx.load_from_string(graph)
        model.graph.value_info.append(helper.make_tensor_value_info("g1", TensorProto.FLOAT, ["rows", 64]))
        assert kinds(quantise(model.SerializeToString(), rows)).count("MatMulInteger") == 1

    @pytest.mark.parametrize("widths", [(100, 1), (100, 128, 1), (8, 63, 63, 1)])
    def test_nothing_wide(self, widths: tuple[int, ...]) -> None:
        with pytest.raises(TrainingError, match="no inner layer has 64 inputs and outputs"):
            quantise(layers(*widths), some(widths[0]))

    def test_trees(self, bundle_of: Any) -> None:
        graph = (bundle_of("binary", "random_forest") / "model.onnx").read_bytes()
        with pytest.raises(TrainingError, match="no inner layer"):
            quantise(graph, {})


def test_outlier_leaves_the_rows_beside_it_alone(wide: Path, validation: Path) -> None:
    """One scale serves all rows of a call: without a limit, a large value would take the others' digits."""
    predictor = open_onnx(wide / "model.onnx")
    numbers, texts = predictor.features.arrays(pq.read_table(validation))
    graph = quantise((wide / "model.onnx").read_bytes(), {"numbers": numbers, "texts": texts})
    alone = answers(graph, {"numbers": numbers[:64], "texts": texts[:64]})
    spoilt = numbers[:64].copy()
    spoilt[0] = 1e20
    together = answers(graph, {"numbers": spoilt, "texts": texts[:64]})
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[1:], alone[1:], atol=0.02)
