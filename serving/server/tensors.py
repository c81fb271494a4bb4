"""V2 tensors: from JSON, the binary tensor extension and gRPC to values, and back.

A decoded tensor's values are a flat list or a flat NumPy array. Nothing that a client says is believed: lengths are
compared with shapes, shapes with limits, and bytes are looked at in place (`np.frombuffer`), never copied value by
value.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components.data_validate.contract import ColumnType
from headway.components.errors import did_you_mean
from headway.serving.server.refusal import Refusal, bad

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in (
        ("BOOL", "?"),
        ("UINT8", "<u1"),
        ("UINT16", "<u2"),
        ("UINT32", "<u4"),
        ("UINT64", "<u8"),
        ("INT8", "<i1"),
        ("INT16", "<i2"),
        ("INT32", "<i4"),
        ("INT64", "<i8"),
        ("FP16", "<f2"),
        ("FP32", "<f4"),
        ("FP64", "<f8"),
    )
}
"""How the binary form spells each datatype but BYTES."""
DATATYPES = frozenset({*DTYPES, "BYTES"})
COLUMN_DATATYPES: dict[ColumnType, str] = {
    ColumnType.NUMBER: "FP64",
    ColumnType.INTEGER: "INT64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.STRING: "BYTES",
    ColumnType.TIMESTAMP: "BYTES",
}
"""What the metadata says of a column, and what an answer uses."""

_NUMBERS = DATATYPES - {"BOOL", "BYTES"}
_FITTING: dict[ColumnType, frozenset[str]] = {
    ColumnType.NUMBER: _NUMBERS,
    ColumnType.INTEGER: _NUMBERS,
    ColumnType.BOOLEAN: frozenset({"BOOL"}),
    ColumnType.STRING: frozenset({"BYTES"}),
    ColumnType.TIMESTAMP: frozenset({"BYTES"}),
}
_MAX_DIMENSIONS = 8
_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Tensor:
    """One decoded tensor."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any] | NDArray[Any]
    """Flat, row by row; as many as the shape says."""


def of_json(given: Any) -> tuple[Tensor, Any]:
    """A tensor of a JSON request, and its parameters; its values are the empty list when they are not in `data`.

    Raises:
        Refusal: It is no tensor.
    """
    if not isinstance(given, dict):
        raise bad("An item of `inputs` is no object", field="inputs", expected="tensors", got=_kind(given))
    name, datatype, shape = given.get("name"), given.get("datatype"), given.get("shape")
    if not isinstance(name, str) or not name:
        raise bad("A tensor has no name", field="inputs", expected="`name`, a text", got=_kind(name))
    size = _size(name, datatype, shape)
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad(
            f"The parameters of {name[:80]!r} are no object", field=name[:80], expected="an object", got="no object"
        )
    data = given.get("data")
    if data is None:
        return Tensor(name, datatype, shape, []), parameters
    if not isinstance(data, list):
        raise bad(
            f"The data of {name[:80]!r} is no list", field=name[:80], expected="a list of values", got=_kind(data)
        )
    values = _flat(data, len(shape)) if data and isinstance(data[0], list) else data
    if len(values) != size:
        raise _wrong_count(name, shape, len(values))
    return Tensor(name, datatype, shape, values), parameters


def of_bytes(tensor: Tensor, raw: memoryview) -> Tensor:
    """A tensor whose values came as bytes.

    Raises:
        Refusal: There are too few or too many bytes for its shape.
    """
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return Tensor(tensor.name, "BYTES", tensor.shape, _texts(tensor, raw, count))
    dtype = DTYPES[tensor.datatype]
    if len(raw) != count * dtype.itemsize:
        raise bad(
            f"The tensor {tensor.name[:80]!r} has {len(raw):,} bytes",
            field=tensor.name[:80],
            expected=f"{count * dtype.itemsize:,} bytes for {tensor.datatype} of shape {_shown(tensor.shape)}",
            got=f"{len(raw):,} bytes",
        )
    if tensor.datatype == "BOOL":
        # Any byte but 0 and 1 would be a boolean that is neither true nor false.
        return Tensor(tensor.name, "BOOL", tensor.shape, np.frombuffer(raw, np.uint8) != 0)
    return Tensor(tensor.name, tensor.datatype, tensor.shape, np.frombuffer(raw, dtype))


def binary_tensors(given: Sequence[Any], raw: memoryview) -> list[Tensor]:
    """The tensors of a request in the binary extension.

    Args:
        given: The items of `inputs`.
        raw: What follows the JSON part: the tensors' bytes, one after the other.

    Raises:
        Refusal: A size is missing or wrong.
    """
    tensors: list[Tensor] = []
    at = 0
    for item in given:
        tensor, parameters = of_json(item)
        size = (parameters or {}).get("binary_data_size")
        if size is None:
            tensors.append(_with_data(tensor, item))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(raw) - at:
            raise bad(
                f"binary_data_size of {tensor.name[:80]!r} is wrong",
                field=tensor.name[:80],
                expected=f"an integer from 0 to the {len(raw) - at:,} bytes that are left",
                got=str(size)[:40] if isinstance(size, (int, float)) else _kind(size),
            )
        tensors.append(of_bytes(tensor, raw[at : at + size]))
        at += size
    if at != len(raw):
        raise bad(
            f"{len(raw) - at:,} bytes follow the last tensor",
            field="inputs",
            expected="sizes that add up to the body",
            got=f"{at:,} of {len(raw):,} bytes",
        )
    return tensors


def json_tensors(given: Sequence[Any]) -> list[Tensor]:
    """The tensors of a JSON request.

    Raises:
        Refusal: An item is no tensor, or has no data.
    """
    return [_with_data(of_json(item)[0], item) for item in given]


def fits(kind: ColumnType, datatype: str) -> bool:
    """Whether a column takes tensors of a datatype; the values are checked by the contract besides."""
    return datatype in _FITTING[kind]


def column_values(tensor: Tensor) -> list[Any]:
    """A tensor's values as the contract's check takes them."""
    values = tensor.values
    return values.tolist() if isinstance(values, np.ndarray) else values


def encode_binary(values: Any, datatype: str) -> bytes:
    """Values in the binary form."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    return np.ascontiguousarray(values, DTYPES[datatype]).tobytes()


def shape_size(name: str, datatype: Any, shape: Any) -> int:
    """How many values a tensor has.

    Raises:
        Refusal: The datatype or the shape is none.
    """
    return _size(name, datatype, shape)


def _with_data(tensor: Tensor, item: Any) -> Tensor:
    if item.get("data") is None:
        raise bad(
            f"The tensor {tensor.name[:80]!r} has no data", field=tensor.name[:80], expected="`data`", got="nothing"
        )
    return tensor


def _size(name: str, datatype: Any, shape: Any) -> int:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        shown = repr(datatype[:20]) if isinstance(datatype, str) else _kind(datatype)
        near = did_you_mean(datatype[:20], DATATYPES) if isinstance(datatype, str) else ""
        raise bad(
            f"Unknown datatype of the tensor {name[:80]!r}{near}",
            field=name[:80],
            expected=f"one of {', '.join(sorted(DATATYPES))}",
            got=shown,
        )
    if not isinstance(shape, list) or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise bad(
            f"The tensor {name[:80]!r} has no shape", field=name[:80], expected="a list of sizes", got=_kind(shape)
        )
    for size in shape:
        if type(size) is not int or size < 0:
            raise bad(
                f"The shape of {name[:80]!r} is wrong",
                field=name[:80],
                expected="sizes that are integers of at least 0",
                got=str(size)[:40] if isinstance(size, (int, float)) else _kind(size),
            )
    return math.prod(shape)


def _flat(data: list[Any], dimensions: int) -> list[Any]:
    """Nested lists row by row, as deep as there are dimensions."""
    for _ in range(dimensions - 1):
        if not all(isinstance(part, list) for part in data):
            break
        data = [value for part in data for value in part]
    return data


def _texts(tensor: Tensor, raw: memoryview, count: int) -> list[str]:
    texts: list[str] = []
    at = 0
    try:
        while at < len(raw) and len(texts) <= count:
            (length,) = _LENGTH.unpack_from(raw, at)
            at += _LENGTH.size
            if length > len(raw) - at:
                raise _wrong_count(tensor.name, tensor.shape, len(texts))
            texts.append(str(raw[at : at + length], "utf-8"))
            at += length
    except struct.error:
        raise _wrong_count(tensor.name, tensor.shape, len(texts)) from None
    except UnicodeDecodeError:
        raise not_text(tensor.name) from None
    if len(texts) != count:
        raise _wrong_count(tensor.name, tensor.shape, len(texts))
    return texts


def not_text(name: str) -> Refusal:
    """Bytes that are no text."""
    return bad(f"A value of {name[:80]!r} is no text", field=name[:80], expected="UTF-8", got="other bytes")


def _wrong_count(name: str, shape: list[int], count: int) -> Refusal:
    return bad(
        f"The tensor {name[:80]!r} has {count:,} values",
        field=name[:80],
        expected=f"as many as its shape {_shown(shape)} has",
        got=f"{count:,} values",
    )


def wrong_count(name: str, shape: list[int], count: int) -> Refusal:
    """Not as many values as the shape says."""
    return _wrong_count(name, shape, count)


def _shown(shape: list[int]) -> str:
    return "[" + ", ".join(str(size)[:20] for size in shape) + "]"


def _kind(value: Any) -> str:
    words = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "nothing" if value is None else words.get(type(value), "something else")
