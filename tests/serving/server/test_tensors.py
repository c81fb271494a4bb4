"""Tensors in their three spellings; sizes that lie are refused, whatever they say."""

import contextlib
import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.serving.server.refusal import Refusal
from headway.serving.server.tensors import (
    DTYPES,
    check_head,
    from_bytes,
    from_json,
    from_json_and_bytes,
    texts_of,
    to_bytes,
)


class TestBinary:
    @given(st.sampled_from(sorted(DTYPES)), st.integers(0, 5), st.randoms(use_true_random=False))
    def test_what_is_written_is_read(self, datatype: str, count: int, chance: random.Random) -> None:
        dtype = DTYPES[datatype]
        values = np.array([chance.randrange(2) for _ in range(count)]).astype(dtype)
        found = from_bytes("x", datatype, [count], memoryview(to_bytes(values, datatype)))
        np.testing.assert_array_equal(found.values, values)

    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    def test_texts(self, texts: list[str]) -> None:
        assert from_bytes("x", "BYTES", [len(texts)], memoryview(to_bytes(texts, "BYTES"))).values == texts

    @given(
        st.sampled_from(["BYTES", *sorted(DTYPES)]),
        st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
        st.binary(max_size=64),
    )
    def test_any_bytes_are_read_or_refused(self, datatype: str, shape: list[int], raw: bytes) -> None:
        with contextlib.suppress(Refusal):
            found = from_bytes("x", datatype, shape, memoryview(raw))
            assert len(found.values) == math.prod(shape)

    def test_a_length_beyond_the_end(self) -> None:
        with pytest.raises(Refusal, match="ends within a text"):
            from_bytes("x", "BYTES", [1], memoryview(b"\xff\xff\xff\xffabc"))

    @pytest.mark.parametrize("size", [-1, 9, 1.0, True, "8", 2**70])
    def test_a_size_that_lies(self, size: Any) -> None:
        item = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": size}}
        with pytest.raises(Refusal) as caught:
            from_json_and_bytes([item], memoryview(b"12345678"))
        assert caught.value.status == 400

    def test_bytes_that_nobody_claims(self) -> None:
        item = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
        with pytest.raises(Refusal, match="4 bytes follow"):
            from_json_and_bytes([item], memoryview(b"123456789012"))

    def test_a_boolean_is_true_or_false(self) -> None:
        found = from_bytes("x", "BOOL", [3], memoryview(b"\x00\x01\x02"))
        assert np.asarray(found.values).tolist() == [False, True, True]


class TestJson:
    def test_nested_data(self) -> None:
        found = from_json({"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1, 2], [3, 4]]})
        assert found.values == [1, 2, 3, 4]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), inner)
            ),
            max_leaves=20,
        )
    )
    def test_anything_is_read_or_refused(self, item: Any) -> None:
        for read in (from_json, lambda item: from_json_and_bytes([item], memoryview(b""))):
            with pytest.raises(Refusal) as caught:
                read(item)
            assert caught.value.status == 400
            json.dumps(caught.value.document, allow_nan=False)

    def test_an_unknown_datatype_offers_the_near_one(self) -> None:
        with pytest.raises(Refusal) as caught:
            check_head("x", "FP63", [1])
        assert "did you mean" in caught.value.fields[0]["expected"]

    def test_bytes_that_are_no_text(self) -> None:
        with pytest.raises(Refusal, match="no text"):
            texts_of("x", [b"\xff"])
