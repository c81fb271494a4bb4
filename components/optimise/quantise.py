"""Wide layers of an ONNX graph in 8 bits, within the operators of the ONNX standard.

Weights become signed 8-bit numbers with a scale for each column, inputs unsigned ones with a scale for each call
(dynamic quantisation: Wu et al. 2020, "Integer Quantization for Deep Learning Inference", section 4.1). The weights use
7 of their bits: processors without VNNI instructions add pairs of products in 16 bits, which 8 would overflow, and the
bundle does not know where it will be served.

An input's scale spans the largest value of the call, so without more an outlier in one row would take the digits of the
rows that happen to be answered with it. Inputs are therefore cut to the range that real rows have at that layer.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headway.components.errors import TrainingError

NARROW = 64
"""A layer with fewer inputs or outputs gains nothing: to scale its input takes as long as the product itself."""


def quantise(graph: bytes, rows: Mapping[str, Any]) -> bytes:
    """The graph with its wide inner layers in 8 bits.

    The first layer stays: it sees the features themselves, whose range nothing bounds. The last stays too: its output
    is the answer.

    Args:
        graph: A serialised ONNX graph in 32-bit numbers.
        rows: Real rows as the graph's inputs, by name; they show the range of each layer's input.

    Raises:
        TrainingError: No layer is wide enough, or the graph cannot be quantised; says why.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(graph)
    wide = _wide(model)
    if not wide:
        raise TrainingError(f"no inner layer has {NARROW} inputs and outputs")
    _limit(model, wide, rows)
    # Shapes that torch's exporter writes contradict those of the layers once they are products of integers.
    del model.graph.value_info[:]
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(prefix="headway-int8-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                # The quantiser makes a MatMul of each Gemm first.
                nodes_to_quantize=[f"{n.name}_MatMul" if n.op_type == "Gemm" else n.name for n in wide],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # the library raises anything; why it did is the result
            raise TrainingError(f"cannot be quantised: {type(error).__name__}: {error}") from error
        return bytes(onnx.load(str(path)).SerializeToString(deterministic=True))


def _wide(model: Any) -> list[Any]:
    """The wide inner layers; one without a name gets one."""
    from onnx import TensorProto

    weights = {
        tensor.name: list(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT
    }
    layers = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and node.input[1] in weights
    ]
    for number, node in enumerate(layers):
        node.name = node.name or f"layer_{number}"
    return [node for node in layers[1:-1] if min(weights[node.input[1]], default=0) >= NARROW]


def _limit(model: Any, layers: list[Any], rows: Mapping[str, Any]) -> None:
    """Put a Clip before each layer, to the range that its input has on the rows."""
    from onnx import helper, numpy_helper

    names = list(dict.fromkeys(node.input[0] for node in layers))
    ranges = _ranges(model, names, rows)
    for node in layers:
        node.input[0] = f"{node.input[0]}_limited"
    made_by = {output: place for place, node in enumerate(model.graph.node) for output in node.output}
    # From the back, so that the places before stay what they were.
    for name in sorted(names, key=lambda name: made_by[name], reverse=True):
        ends = [f"{name}_{end}" for end in ("least", "most")]
        model.graph.node.insert(made_by[name] + 1, helper.make_node("Clip", [name, *ends], [f"{name}_limited"]))
        model.graph.initializer.extend(
            numpy_helper.from_array(np.float32(value), end) for value, end in zip(ranges[name], ends, strict=True)
        )


def _ranges(model: Any, names: list[str], rows: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Least and most of each tensor on the rows, to two digits away from zero: the same on every processor."""
    import onnx
    from onnx import TensorProto, helper

    from headway.components.model import onnx_session

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnx_session(probe.SerializeToString())
    found = session.run(names, {node.name: rows[node.name] for node in session.get_inputs()})
    return {
        name: (_outward(float(values.min())), _outward(float(values.max())))
        for name, values in zip(names, found, strict=True)
    }


def _outward(value: float) -> float:
    return float(f"{value * 1.05:.2g}")
