"""A network as an ONNX graph that takes what every other model file takes: raw numbers and texts.

torch exports the network from codes on; the codes are looked up in the graph too, by one LabelEncoder of the ONNX-ML
operators for each text column. Standardising, gaps, outliers and the last sigmoid are part of the network already.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from headway.components.errors import TrainingError
from headway.components.train.fit import Fitted
from headway.components.train_distributed.preprocess import Preprocess

OPSET = 18
_ML_OPSET = 3
_EXAMPLE_ROWS = 3


def convert(fitted: Fitted, answers: Any, learnt: Preprocess) -> bytes:
    """The serialised graph with the inputs `numbers` (n, p) and `texts` (n, q), and one output.

    Args:
        fitted: The fit, for the widths of both inputs.
        answers: The trained `Answers`.
        learnt: Its preprocessing.

    Raises:
        TrainingError: The network does not export; says why.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it, and says so in a traceback
    except ImportError:
        raise TrainingError("torch's export needs the package onnxscript, which is not installed") from None
    try:
        with _quiet():
            model = _exported(answers, len(learnt.means), len(learnt.categories))
    except Exception as error:  # an exporter may raise anything; why it did is the result
        lines = str(error).strip().splitlines() or [""]
        raise TrainingError(f"no export: {type(error).__name__}: {lines[0]}") from error
    _encode_texts(model, learnt)
    _strip(model)
    return bytes(model.SerializeToString(deterministic=True))


def _exported(answers: Any, numbers: int, texts: int) -> Any:
    import torch

    rows = torch.export.Dim("rows", min=1)
    example = (torch.zeros(_EXAMPLE_ROWS, numbers), torch.zeros(_EXAMPLE_ROWS, texts, dtype=torch.int64))
    program = torch.onnx.export(
        answers.eval(),
        example,
        dynamo=True,
        input_names=["numbers", "codes"],
        output_names=["output"],
        dynamic_shapes=({0: rows}, {0: rows}),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    return program.model_proto


def _encode_texts(model: Any, learnt: Preprocess) -> None:
    """Put the look-up of categories before the network, and take the inputs out that hold nothing."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    codes = next((value for value in graph.input if value.name == "codes"), None)
    if codes is not None:
        graph.input.remove(codes)
    if not learnt.means:
        graph.input.remove(next(value for value in graph.input if value.name == "numbers"))
    if not learnt.categories:
        return
    nodes, columns = [], []
    for at, known in enumerate(learnt.categories):
        graph.initializer.append(numpy_helper.from_array(_positions(at), f"column_{at}"))
        nodes.append(helper.make_node("Gather", ["texts", f"column_{at}"], [f"texts_{at}"], axis=1))
        nodes.append(
            helper.make_node(
                "LabelEncoder",
                [f"texts_{at}"],
                [f"codes_{at}"],
                domain="ai.onnx.ml",
                # The operator wants at least one key; no category is the empty text and rare at once.
                keys_strings=known or ["<none>"],
                values_int64s=list(range(1, len(known) + 1)) or [0],
                default_int64=0,
            )
        )
        columns.append(f"codes_{at}")
    nodes.append(helper.make_node("Concat", columns, ["codes"], axis=1))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    graph.input.append(helper.make_tensor_value_info("texts", TensorProto.STRING, ["rows", len(learnt.categories)]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", _ML_OPSET))


def _positions(at: int) -> Any:
    import numpy as np

    return np.array([at], dtype=np.int64)


def _strip(model: Any) -> None:
    """Take out what says where and how the graph was made, and shapes that a quantiser would stumble over."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own progress off the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
