"""Conversions to ONNX that skl2onnx lacks, or makes slow or inexact: medians, nearest neighbours, networks, constants.

skl2onnx 1.20 converts most of the catalogue well. Here is the rest, each under the same interface:

    SimpleImputer        its operator exists in 32 bits only
    KNeighbors…          compared with one training row after another: 29 ms with 20,000 of them, scikit-learn takes 5
    MLP…                 in the bits of its input: a network is 32 bits wide whatever was standardised before it
    Dummy…               no conversion
    GradientBoosting…    `init: zero` with several classes makes a graph that does not load
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from headway.components.errors import TrainingError

SPARE_NEIGHBOURS = 16
"""Candidates beyond k whose distances are computed exactly, so that rounding in the fast ranking loses no neighbour."""
LARGEST_STANDARDISED = 1e30
"""Numbers this many standard deviations away count as this far: a network in 32 bits would make NaN of larger ones."""

Converter = Callable[[Any, Any, Any], None]
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "softmax": "Softmax", "exp": "Exp"}


def converters() -> dict[type, Converter]:
    """What `skl2onnx.convert_sklearn` takes as `custom_conversion_functions`, by class."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    return {
        SimpleImputer: _impute,
        KNeighborsClassifier: _neighbours,
        KNeighborsRegressor: _neighbours,
        MLPClassifier: _network,
        MLPRegressor: _network,
        GradientBoostingClassifier: _boosted_classes,
    }


class _Nodes:
    """Nodes and constants of one operator, named as skl2onnx wants them."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def constant(self, values: Any) -> str:
        """An initializer with the values' own type and shape."""
        from onnx import helper

        array = np.asarray(values)
        name = self._name("constant")
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._container.add_initializer(name, kind, list(array.shape), array.ravel())
        return name

    def __call__(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """A node with one output; its name."""
        return self.several(kind, *inputs, outs=[out or self._name(kind)], **attributes)[0]

    def several(self, kind: str, *inputs: str, outs: list[str], **attributes: Any) -> list[str]:
        """A node with several outputs; their names."""
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, list(inputs), outs, name=name, **attributes)
        return outs

    def two(self, kind: str, *inputs: str, **attributes: Any) -> list[str]:
        """A node with two outputs."""
        return self.several(kind, *inputs, outs=[self._name(kind), self._name(kind)], **attributes)

    def _name(self, base: str) -> str:
        return str(self._scope.get_unique_variable_name(base.lower()))


def _source(nodes: _Nodes, operator: Any) -> str:
    names = [variable.full_name for variable in operator.inputs]
    return names[0] if len(names) == 1 else nodes("Concat", *names, axis=1)


def _number_type(operator: Any) -> Any:
    from skl2onnx.common.data_types import DoubleTensorType

    return np.float64 if isinstance(operator.inputs[0].type, DoubleTensorType) else np.float32


def _tensor(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _impute(scope: Any, operator: Any, container: Any) -> None:
    nodes, model = _Nodes(scope, container), operator.raw_operator
    if model.statistics_.dtype.kind != "f" or not np.isnan(model.missing_values):
        raise NotImplementedError("only missing numbers are imputed")
    source = _source(nodes, operator)
    medians = nodes.constant(model.statistics_[None, :].astype(_number_type(operator)))
    nodes("Where", nodes("IsNaN", source), medians, source, out=operator.outputs[0].full_name)


def _neighbours(scope: Any, operator: Any, container: Any) -> None:
    """Rank all training rows by one matrix product, then the best few by their exact distances.

    |x - y|² and |y|² - 2 x·y rank alike, and the second is one product for all y; it rounds differently, so the
    distances that decide are computed again as scikit-learn computes them.
    """
    model = operator.raw_operator
    if model.effective_metric_ != "euclidean" or callable(model.weights):
        raise TrainingError("only the Euclidean distance, weighted or not, makes a graph as fast as scikit-learn")
    nodes, dtype = _Nodes(scope, container), _number_type(operator)
    source = _source(nodes, operator)
    rows = np.asarray(model._fit_X, dtype=dtype)  # what the fit has learnt is private in scikit-learn
    stored = nodes.constant(rows)
    # Transposed once, when the graph is loaded; the file holds the rows once.
    doubled = nodes("Mul", source, nodes.constant(np.full(1, -2.0, dtype)))
    product = nodes("MatMul", doubled, nodes("Transpose", stored, perm=[1, 0]))
    ranks = nodes("Add", product, nodes.constant(np.square(rows).sum(axis=1)[None, :]))
    most = nodes.constant(np.array([min(model.n_neighbors + SPARE_NEIGHBOURS, len(rows))]))
    _, candidates = nodes.two("TopK", ranks, most, largest=0)
    there = nodes("Gather", stored, candidates, axis=0)
    apart = nodes("Sub", there, nodes("Unsqueeze", source, nodes.constant(np.array([1]))))
    squared = nodes("ReduceSum", nodes("Mul", apart, apart), nodes.constant(np.array([2])), keepdims=0)
    nearest, positions = nodes.two("TopK", squared, nodes.constant(np.array([model.n_neighbors])), largest=0)
    found = nodes("GatherElements", candidates, positions, axis=1)
    weights = _weights(nodes, nearest, model, dtype)
    labels = np.asarray(model._y)
    classes = getattr(model, "classes_", None)
    told = labels.reshape(len(rows), -1) if classes is None else np.eye(len(classes))[labels]
    votes = nodes("Mul", nodes("Gather", nodes.constant(told.astype(dtype)), found, axis=0), weights)
    axis = nodes.constant(np.array([1]))
    totals = nodes("ReduceSum", votes, axis, keepdims=0)
    outputs = operator.outputs
    nodes("Div", totals, nodes("ReduceSum", weights, axis, keepdims=0), out=outputs[-1].full_name)
    if classes is not None:
        nodes("ArgMax", outputs[-1].full_name, axis=1, keepdims=0, out=outputs[0].full_name)


def _weights(nodes: _Nodes, squared: str, model: Any, dtype: Any) -> str:
    """The votes' weights, shape (n, k, 1): 1, or the inverse distance; among rows at distance 0 only those count."""
    last = nodes.constant(np.array([2]))
    zero, one = nodes.constant(np.zeros(1, dtype)), nodes.constant(np.ones(1, dtype))
    if model.weights != "distance":
        return nodes("Unsqueeze", nodes("Add", nodes("Mul", squared, zero), one), last)
    same = nodes("Cast", nodes("Equal", squared, zero), to=_tensor(dtype))
    some = nodes("Greater", nodes("ReduceMax", same, nodes.constant(np.array([1])), keepdims=1), zero)
    return nodes("Unsqueeze", nodes("Where", some, same, nodes("Div", one, nodes("Sqrt", squared))), last)


def _network(scope: Any, operator: Any, container: Any) -> None:
    nodes, model = _Nodes(scope, container), operator.raw_operator
    largest = _number_type(operator)(LARGEST_STANDARDISED)
    # An exponential makes of a small relative error a large one.
    dtype = np.float64 if model.out_activation_ == "exp" else np.float32
    values = nodes("Clip", _source(nodes, operator), nodes.constant(-largest), nodes.constant(largest))
    values = nodes("Cast", values, to=_tensor(dtype))
    for number, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True), start=1):
        product = nodes("MatMul", values, nodes.constant(weights.astype(dtype)))
        values = nodes("Add", product, nodes.constant(bias.astype(dtype)))
        activation = model.out_activation_ if number == len(model.coefs_) else model.activation
        if activation != "identity":
            values = nodes(_ACTIVATIONS[activation], values)
    outputs = operator.outputs
    if not hasattr(model, "classes_"):
        nodes("Identity", values, out=outputs[0].full_name)
        return
    if len(model.classes_) == 2:
        values = nodes("Concat", nodes("Sub", nodes.constant(np.ones(1, np.float32)), values), values, axis=1)
    nodes("Identity", values, out=outputs[1].full_name)
    nodes("ArgMax", values, axis=1, keepdims=0, out=outputs[0].full_name)


def _boosted_classes(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common import _registration

    model = operator.raw_operator
    if model.init == "zero":
        # The conversion makes one base value of "zero", whatever the number of classes; from None it asks the model.
        operator.raw_operator = copy.copy(model)
        operator.raw_operator.init = None
    try:
        _registration.get_converter(operator.type)(scope, operator, container)
    finally:
        operator.raw_operator = model


def constant_graph(model: Any, features: int, texts: int) -> Any:
    """The graph of a dummy estimator: the same answer for every row.

    Args:
        model: The fitted dummy.
        features: Number columns.
        texts: Text columns.

    Raises:
        TrainingError: The strategy draws its answers at random.
    """
    from onnx import TensorProto, helper, numpy_helper

    if getattr(model, "strategy", "") in ("stratified", "uniform"):
        raise TrainingError(f"the strategy {model.strategy!r} draws its answers at random")
    row = np.zeros((1, features + texts))
    answer = model.predict_proba(row) if hasattr(model, "predict_proba") else model.predict(row).reshape(1, 1)
    name, kind, width = ("numbers", TensorProto.FLOAT, features) if features else ("texts", TensorProto.STRING, texts)
    constants = {"answer": answer, "width": np.array([answer.shape[1]])}
    nodes = [
        helper.make_node("Shape", [name], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "width"], ["shape"], axis=0),
        helper.make_node("Expand", ["answer", "shape"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, kind, [None, width])],
        [helper.make_tensor_value_info("output", TensorProto.DOUBLE, [None, answer.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), label) for label, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
