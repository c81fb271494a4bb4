"""The content digest: the same for the same rows, another for any change."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import SourceError
from headway.components.ingest.digest import file_digest, table_digest

Row = tuple[int | None, float | None, str | None, bool | None]
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=True),
        st.none() | st.text(max_size=5),
        st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=20,
)
SCHEMA = pa.schema([("i", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("b", pa.bool_())])


def table(rows: list[Row]) -> pa.Table:
    columns = [
        pa.array(values, field.type, from_pandas=False)
        for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
    ]
    return pa.table(columns, schema=SCHEMA)


class TestSame:
    @given(rows=ROWS, seed=st.integers(0, 99))
    def test_row_order_column_order_and_cuts_do_not_matter(self, rows: list[Row], seed: int) -> None:
        rng = np.random.default_rng(seed)
        shuffled = table(rows).take(rng.permutation(len(rows))).select(rng.permutation(SCHEMA.names).tolist())
        assert table_digest(shuffled).hex == table_digest(table(rows)).hex
        cut = int(rng.integers(0, len(rows) + 1))
        whole = table(rows)
        assert table_digest(whole.slice(0, cut)) + table_digest(whole.slice(cut)) == table_digest(whole)

    def test_files_and_row_groups(self, tmp_path: Path) -> None:
        rows = table([(i, i / 3, f"t{i % 7}", i % 2 == 0) for i in range(1_000)])
        pq.write_table(rows, tmp_path / "a.parquet", row_group_size=7)
        pq.write_table(rows, tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
        assert file_digest(tmp_path / "a.parquet") == file_digest(tmp_path / "b.parquet") == table_digest(rows)

    def test_width_and_encoding_of_a_type(self) -> None:
        wide = pa.table({"i": pa.array([1, 2], pa.int64()), "x": [0.5, 1.5], "s": ["a", "b"]})
        narrow = pa.table(
            {
                "i": pa.array([1, 2], pa.uint8()),
                "x": pa.array([0.5, 1.5], pa.float32()),
                "s": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
            }
        )
        assert table_digest(wide) == table_digest(narrow)

    def test_one_zero_and_one_nan(self) -> None:
        assert table_digest(pa.table({"x": [0.0]})) == table_digest(pa.table({"x": [-0.0]}))
        odd = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)
        assert table_digest(pa.table({"x": [math.nan]})) == table_digest(pa.table({"x": odd}))

    def test_every_format_gives_one_digest(self, tmp_path: Path, read: Any) -> None:
        rows = pa.table({"i": [1, 2], "x": [0.1, None], "s": ["a", ""], "t": pa.array([0, 10**15], pa.timestamp("us"))})
        pq.write_table(rows, tmp_path / "a.parquet")
        (tmp_path / "a.csv").write_text('t,s,x,i\n2001-09-09 01:46:40,"",,2\n1970-01-01 00:00:00,a,0.1,1\n')
        assert table_digest(read(uri="a.csv")).hex == table_digest(read(uri="a.parquet")).hex == table_digest(rows).hex

    def test_it_never_changes(self) -> None:
        """Digests are kept with models for years; a new one here breaks every comparison with an old run."""
        rows = table([(1, 0.5, "a", True), (None, None, None, None), (-7, math.nan, "", False)])
        assert table_digest(rows).hex == "76065e5decf50b0215543c276a3d5c922d017e722da7397e9007fa9801db62e4"


class TestDifferent:
    @given(rows=ROWS, data=st.data())
    def test_any_changed_cell(self, rows: list[Row], data: st.DataObject) -> None:
        row = data.draw(st.integers(0, len(rows) - 1))
        other = data.draw(ROWS)[0]
        column = data.draw(st.integers(0, 3))
        new = [*rows[row]]
        new[column] = other[column]
        changed = [*rows]
        changed[row] = tuple(new)  # type: ignore[assignment]
        same = repr(rows[row][column]) == repr(other[column]) or rows[row][column] == other[column]
        assert (table_digest(table(changed)) == table_digest(table(rows))) is same

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": [1], "b": [2]}, {"a": [2], "b": [1]}),
            ({"a": [1, 2], "b": [3, 4]}, {"a": [2, 1], "b": [3, 4]}),
            ({"a": [None, "x"]}, {"a": ["", "x"]}),
            ({"a": [1]}, {"a": [1, 1]}),
            ({"a": [1, 1]}, {"a": [1, 1, 1, 1]}),
            ({"a": [1]}, {"b": [1]}),
            ({"a": [1]}, {"a": [1.0]}),
            ({"a": [1]}, {"a": [True]}),
            ({"a": [0]}, {"a": pa.array([0], pa.timestamp("us"))}),
            ({"a": [None, 1.0]}, {"a": [math.nan, 1.0]}),
            ({"a": ["1", "2"], "b": ["2", "1"]}, {"a": ["2", "1"], "b": ["2", "1"]}),
        ],
    )
    def test_changes_that_sums_could_miss(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert table_digest(pa.table(one)).hex != table_digest(pa.table(other)).hex

    def test_no_row_still_has_columns(self) -> None:
        empty = pa.table({"a": pa.array([], pa.int64())})
        assert table_digest(empty).hex != table_digest(empty.rename_columns(["b"])).hex
        assert table_digest(empty).rows == 0

    def test_other_columns_do_not_add_up(self) -> None:
        with pytest.raises(ValueError, match="different columns"):
            table_digest(pa.table({"a": [1]})) + table_digest(pa.table({"b": [1]}))

    def test_nested_columns_have_none(self) -> None:
        with pytest.raises(SourceError, match="Column 'a' is of type list"):
            table_digest(pa.table({"a": [[1]]}))
