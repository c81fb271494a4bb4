"""V2 tensors: from JSON, from the binary tensor extension and from gRPC's bytes to values, and back.

A tensor's values are a flat list or a flat NumPy array. Nothing that a client says is believed: lengths are compared
with shapes, sizes with what came, and numbers are looked at where they lie (`np.frombuffer`), not copied one by one.
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
SHOWN = 80
"""Characters of a client's name in a message."""

_NUMBERS = DATATYPES - {"BOOL", "BYTES"}
_FITTING: dict[ColumnType, frozenset[str]] = {
    ColumnType.NUMBER: _NUMBERS,
    ColumnType.INTEGER: _NUMBERS,
    ColumnType.BOOLEAN: frozenset({"BOOL"}),
    ColumnType.STRING: frozenset({"BYTES"}),
    ColumnType.TIMESTAMP: frozenset({"BYTES"}),
}
_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}
_MAX_DIMENSIONS = 8
_LENGTH = struct.Struct("<I")
"""What stands before each text in the binary form."""


@dataclass(slots=True)
class Tensor:
    """One tensor of a request."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any] | NDArray[Any]
    """Flat, row by row; as many as the shape says."""


def fits(kind: ColumnType, datatype: str) -> bool:
    """Whether a column takes tensors of a datatype; the contract checks the values besides."""
    return datatype in _FITTING[kind]


def check_head(name: Any, datatype: Any, shape: Any) -> int:
    """Check what stands before a tensor's values.

    Returns:
        How many values it must have.

    Raises:
        Refusal: There is no name, no such datatype, or no shape.
    """
    if type(name) is not str or not name:
        raise bad("A tensor has no name", field="inputs", expected="`name`, a text", got=kind_of(name))
    if type(datatype) is not str or datatype not in DATATYPES:
        raise _unknown_datatype(name, datatype)
    if type(shape) is not list or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise _wrong(name, "has no shape", f"a list of 1 to {_MAX_DIMENSIONS} sizes", kind_of(shape))
    size = 1
    for part in shape:
        if type(part) is not int or part < 0:
            raise _wrong(name, "has a wrong shape", "sizes that are integers of at least 0", _scalar(part))
        size *= part
    return size


def from_json(item: Any) -> Tensor:
    """A tensor with its values in `data`, flat or nested.

    Raises:
        Refusal: It is no tensor, or has more or fewer values than its shape says.
    """
    name, datatype, shape, _ = _head(item)
    data = item.get("data")
    if type(data) is not list:
        raise _wrong(name, "has no data", "`data`, a list of values", kind_of(data))
    if data and type(data[0]) is list:
        data = _flat(data, len(shape))
    return from_values(name, datatype, shape, data)


def from_values(name: str, datatype: str, shape: list[int], values: list[Any] | NDArray[Any]) -> Tensor:
    """A tensor with flat values.

    Raises:
        Refusal: There are more or fewer of them than its shape says.
    """
    if len(values) != math.prod(shape):
        raise _wrong_count(name, shape, len(values))
    return Tensor(name, datatype, shape, values)


def from_bytes(name: str, datatype: str, shape: list[int], raw: memoryview) -> Tensor:
    """A tensor with its values in the binary form.

    Raises:
        Refusal: There are more or fewer bytes than its shape says, or a text is no UTF-8.
    """
    if datatype == "BYTES":
        return from_values(name, datatype, shape, _texts(name, raw, math.prod(shape)))
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        expected = f"{size:,} bytes for {datatype} of shape {_shown(shape)}"
        raise _wrong(name, "has another number of bytes", expected, f"{len(raw):,} bytes")
    if datatype == "BOOL":
        # Any byte but 0 and 1 would be a boolean that is neither true nor false.
        return Tensor(name, datatype, shape, np.frombuffer(raw, np.uint8) != 0)
    return Tensor(name, datatype, shape, np.frombuffer(raw, dtype))


def from_json_and_bytes(items: Sequence[Any], raw: memoryview) -> list[Tensor]:
    """The tensors of a request in the binary extension.

    Args:
        items: The items of `inputs`; those without `binary_data_size` have their values in `data`.
        raw: What follows the JSON part: the tensors' bytes, one after the other.

    Raises:
        Refusal: A tensor is wrong, or the sizes do not add up to what came.
    """
    found: list[Tensor] = []
    at = 0
    for item in items:
        name, datatype, shape, parameters = _head(item)
        size = parameters.get("binary_data_size")
        if size is None:
            found.append(from_json(item))
            continue
        left = len(raw) - at
        if type(size) is not int or not 0 <= size <= left:
            raise _wrong(name, "has a wrong binary_data_size", f"an integer from 0 to the {left:,} left", _scalar(size))
        found.append(from_bytes(name, datatype, shape, raw[at : at + size]))
        at += size
    if at != len(raw):
        expected, got = "sizes that add up to the body", f"{at:,} of {len(raw):,} bytes"
        raise bad(f"{len(raw) - at:,} bytes follow the last tensor", field="inputs", expected=expected, got=got)
    return found


def to_bytes(values: Any, datatype: str) -> bytes:
    """Values in the binary form."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    return np.ascontiguousarray(values, DTYPES[datatype]).tobytes()


def texts_of(name: str, values: Sequence[bytes]) -> list[str]:
    """Bytes as texts.

    Raises:
        Refusal: One of them is no UTF-8.
    """
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise _wrong(name, "has a value that is no text", "UTF-8", "other bytes") from None


def kind_of(value: Any) -> str:
    """A JSON value's kind, in words."""
    words = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "nothing" if value is None else words.get(type(value), "something else")


def _head(item: Any) -> tuple[str, str, list[int], dict[str, Any]]:
    """Name, datatype, shape and parameters of an item of `inputs`."""
    if type(item) is not dict:
        raise bad("An item of `inputs` is no tensor", field="inputs", expected="objects", got=kind_of(item))
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    check_head(name, datatype, shape)
    parameters = item.get("parameters")
    if parameters is None:
        parameters = {}
    elif type(parameters) is not dict:
        raise _wrong(str(name), "has wrong parameters", "an object", kind_of(parameters))
    return str(name), str(datatype), list(shape or ()), parameters


def _flat(data: list[Any], dimensions: int) -> list[Any]:
    """Nested lists row by row, as deep as there are dimensions."""
    for _ in range(dimensions - 1):
        if not all(type(part) is list for part in data):
            break
        data = [value for part in data for value in part]
    return data


def _texts(name: str, raw: memoryview, count: int) -> list[str]:
    """Texts with their lengths before them; at most one more than there should be."""
    texts: list[bytes] = []
    at = 0
    while at < len(raw) and len(texts) <= count:
        start = at + _LENGTH.size
        length = _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else math.inf
        if length > len(raw) - start:
            raise _wrong(name, "ends within a text", "a length of 4 bytes before each text", "too few bytes")
        at = start + int(length)
        texts.append(bytes(raw[start:at]))
    return texts_of(name, texts)


def _unknown_datatype(name: str, datatype: Any) -> Refusal:
    text = datatype[:SHOWN] if isinstance(datatype, str) else ""
    near = did_you_mean(text, DATATYPES) if text else ""
    expected = f"one of {', '.join(sorted(DATATYPES))}{near}"
    return _wrong(name, "has no known datatype", expected, repr(text) if text else kind_of(datatype))


def _wrong_count(name: str, shape: list[int], count: int) -> Refusal:
    return _wrong(
        name, "has another number of values", f"as many as its shape {_shown(shape)} has", f"{count:,} values"
    )


def _wrong(name: str, what: str, expected: str, got: str) -> Refusal:
    return bad(f"The tensor {name[:SHOWN]!r} {what}", field=name[:SHOWN], expected=expected, got=got)


def _scalar(value: Any) -> str:
    return str(value)[:SHOWN] if type(value) in (int, float) else kind_of(value)


def _shown(shape: list[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
