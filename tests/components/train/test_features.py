from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, DataError
from headway.components.train.features import MISSING, Features, model_frame


def contract(**columns: Any) -> Any:
    return Contract.parse({"name": "c", "columns": columns})


NULLABLE = {"max_share": 1.0}


class TestSameInTrainingAndPrediction:
    """One row gives the same numbers as an Arrow table, a pandas frame, and the values of a JSON request."""

    def test_table_frame_and_request_agree(self, table: Any, contracts: Any) -> None:
        features = Features.of(contracts["binary"])
        numbers, texts = features.arrays(table)
        for other in (
            table.to_pandas(),
            table.to_pydict(),
            {k: v.to_numpy(zero_copy_only=False) for k, v in columns(table)},
        ):
            other_numbers, other_texts = features.arrays(other)
            np.testing.assert_array_equal(numbers, other_numbers)
            np.testing.assert_array_equal(texts, other_texts)

    def test_one_row_is_the_row_of_the_whole(self, table: Any, contracts: Any) -> None:
        features = Features.of(contracts["binary"])
        numbers, texts = features.arrays(table)
        for row in (0, 7, 399):
            record = table.slice(row, 1).to_pylist()[0]
            request = {
                name: [value.isoformat() if isinstance(value, datetime) else value] for name, value in record.items()
            }
            one_numbers, one_texts = features.arrays(request)
            np.testing.assert_array_equal(numbers[row], one_numbers[0])
            assert list(texts[row]) == list(one_texts[0])

    @settings(max_examples=50, deadline=None)
    @given(
        number=st.none() | st.floats(width=64),
        text=st.none() | st.text(),
        flag=st.none() | st.booleans(),
        moment=st.none() | st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)),
    )
    def test_any_value(self, number: Any, text: Any, flag: Any, moment: Any) -> None:
        columns = {
            "n": {"type": "number", "missing": NULLABLE},
            "s": {"type": "string", "missing": NULLABLE},
            "b": {"type": "boolean", "missing": NULLABLE},
            "t": {"type": "timestamp", "missing": NULLABLE},
        }
        features = Features.of(contract(**columns))
        request = {"n": [number], "s": [text], "b": [flag], "t": [moment]}
        types = {"n": pa.float64(), "s": pa.string(), "b": pa.bool_(), "t": pa.timestamp("us")}
        stored = pa.table({name: pa.array(values, types[name]) for name, values in request.items()})
        asked, kept = features.arrays(request), features.arrays(stored)
        np.testing.assert_array_equal(asked[0], kept[0])
        np.testing.assert_array_equal(asked[1], kept[1])
        assert not np.isinf(asked[0]).any()


def columns(table: Any) -> Any:
    return zip(table.column_names, table.columns, strict=True)


class TestTyping:
    def test_order_and_flags(self, contracts: Any) -> None:
        features = Features.of(contracts["binary"])
        assert features.names[:6] == [
            "heure de départ",
            "heure de départ[missing]",
            "distance km",
            "seats",
            "seats[missing]",
            "is holiday",
        ]
        assert features.texts == ["carrier", "n° de queue"]
        assert [features.numbers[flag] for flag in features.flags] == [
            "heure de départ[missing]",
            "seats[missing]",
            "is holiday[missing]",
            "signed up[missing]",
        ]

    def test_missing_infinite_and_too_large_are_one(self) -> None:
        frame = model_frame(
            contract(x={"type": "number", "missing": NULLABLE}), {"x": [1.5, None, np.nan, np.inf, 1e300]}
        )
        assert frame["x"].isna().tolist() == [False, True, True, True, True]
        assert frame["x[missing]"].tolist() == [0, 1, 1, 1, 1]

    def test_numbers_are_rounded_to_32_bits(self) -> None:
        assert model_frame(contract(x={"type": "number"}), {"x": [0.1]})["x"].item() == float(np.float32(0.1))

    def test_missing_text_is_a_category(self) -> None:
        frame = model_frame(contract(s={"type": "string"}), pd.DataFrame({"s": ["a", None, np.nan, pd.NA]}))
        assert frame["s"].tolist() == ["a", MISSING, MISSING, MISSING]

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2024, 12, 31, 18, 45),
            datetime(2024, 12, 31, 18, 45, tzinfo=UTC),
            datetime(2024, 12, 31, 20, 45, tzinfo=timezone(timedelta(hours=2))),
            "2024-12-31T18:45:00Z",
            "2024-12-31 18:45:00",
            np.datetime64("2024-12-31T18:45"),
        ],
    )
    def test_calendar(self, moment: Any) -> None:
        (row,) = model_frame(contract(t={"type": "timestamp"}), {"t": [moment]}).to_dict("records")
        assert row == {
            "t[hour]": 18.75,
            "t[weekday]": 1.0,
            "t[month]": 12.0,
            "t[day of year]": 366.0,
            "t[days since 1970]": 20088.0,
        }

    def test_time_zone_of_pandas_and_arrow(self) -> None:
        series = pd.Series(pd.to_datetime(["2024-06-01T12:00:00"])).dt.tz_localize("America/New_York")
        by_hour = [
            model_frame(contract(t={"type": "timestamp"}), data)["t[hour]"].item()
            for data in (pd.DataFrame({"t": series}), pa.table({"t": pa.array(series)}))
        ]
        assert by_hour == [16.0, 16.0]

    def test_moments_before_1970(self) -> None:
        (row,) = model_frame(contract(t={"type": "timestamp"}), {"t": ["1969-12-31T23:00:00"]}).to_dict("records")
        assert (row["t[hour]"], row["t[weekday]"], row["t[days since 1970]"]) == (23.0, 2.0, -1.0)

    def test_the_rows_own_time_has_no_trend(self, contracts: Any) -> None:
        names = Features.of(contracts["binary"]).names
        assert "when[hour]" in names
        assert "when[days since 1970]" not in names
        assert "signed up[days since 1970]" in names


class TestWrongData:
    def test_missing_column(self) -> None:
        with pytest.raises(DataError, match="Column 'x' is missing"):
            model_frame(contract(x={"type": "number"}), {"y": [1.0]})

    def test_optional_column_may_be_absent(self) -> None:
        frame = model_frame(contract(x={"type": "number", "required": False}, y={"type": "number"}), {"y": [1.0]})
        assert frame["x[missing]"].tolist() == [1.0]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [("number", "1.5"), ("integer", "abc"), ("timestamp", "yesterday"), ("timestamp", 5), ("number", [1])],
    )
    def test_value_of_another_type(self, kind: Any, value: Any) -> None:
        with pytest.raises(DataError, match=f"Column 'x' has a value that is no {kind}"):
            model_frame(contract(x={"type": kind}), {"x": [value]})

    def test_columns_of_unequal_length(self) -> None:
        with pytest.raises(DataError, match="Column 'y' has 1 values"):
            model_frame(contract(x={"type": "number"}, y={"type": "number"}), {"x": [1.0, 2.0], "y": [1.0]})

    def test_no_feature(self) -> None:
        with pytest.raises(ConfigError, match="has no feature"):
            Features.of(Contract.parse({"name": "c", "target": "y", "columns": {"y": {"type": "number"}}}))
