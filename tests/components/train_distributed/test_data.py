"""Reading: units of real Parquet files, arrays that are those of `Features`, memory that does not grow."""

import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, SourceError, TrainingError
from headway.components.train.features import Features
from headway.components.train_distributed.data import Ahead, Reader, Table, batches
from headway.components.train_distributed.plan import Plan, held_back
from headway.components.train_distributed.preprocess import Encoder, Preprocess, Rows, learn, summarise
from headway.components.train_distributed.spec import DistributedSpec
from tests.components.train.conftest import make_contract, make_table

SPEC = DistributedSpec(trainer="distributed")
SMALL = {
    "name": "small",
    "target": "y",
    "columns": {
        "x": {"type": "number", "missing": {"max_share": 1.0}},
        "c": {"type": "string", "missing": {"max_share": 1.0}},
        "extra": {"type": "number", "required": False},
        "y": {"type": "boolean"},
    },
}


def spec(**settings: Any) -> DistributedSpec:
    return DistributedSpec.parse({"trainer": "distributed", **settings})


def learnt_from(table: Any, contract: Contract, **settings: Any) -> Preprocess:
    return learn([summarise(table, contract)], contract, spec(**settings))


def small_table(rows: int = 40) -> Any:
    return pa.table(
        {
            "x": pa.array([None if at % 7 == 0 else at / 3 for at in range(rows)], pa.float64()),
            "c": pa.array([None if at % 5 == 0 else "ab"[at % 2] for at in range(rows)]),
            "y": [at % 2 == 0 for at in range(rows)],
        }
    )


class TestTable:
    def test_units_of_a_folder_of_shards(self, tmp_path: Path) -> None:
        contract = Contract.parse(SMALL)
        for name, rows in (("b", 7), ("a", 0), ("c", 1)):
            pq.write_table(small_table(rows), tmp_path / f"{name}.parquet", row_group_size=3)
        (tmp_path / "notes.txt").write_text("not a shard")
        table = Table(str(tmp_path), contract)
        assert [(Path(unit.path).stem, unit.rows) for unit in table.units if unit.rows] == [
            ("b", 3),
            ("b", 3),
            ("b", 1),
            ("c", 1),
        ]
        rows = pa.concat_tables(map(table.read, range(len(table.units))), promote_options="permissive")
        assert rows.column("x").to_pylist() == [*small_table(7).column("x").to_pylist(), None]
        assert rows.column("extra").null_count == 8, "an optional column that is not there is missing everywhere"

    def test_address_of_another_storage(self, tmp_path: Path) -> None:
        path = tmp_path / "data.parquet"
        pq.write_table(small_table(), path)
        table = Table(f"file://{path}", Contract.parse(SMALL))
        assert table.read(0).num_rows == 40

    def test_dictionary_column_is_read_as_its_values(self, tmp_path: Path) -> None:
        contract = Contract.parse(SMALL)
        table = small_table()
        coded = table.set_column(1, "c", table.column("c").dictionary_encode())
        pq.write_table(coded, tmp_path / "data.parquet")
        read = Table(str(tmp_path / "data.parquet"), contract).read(0)
        assert read.column("c").to_pylist() == table.column("c").to_pylist()
        assert learnt_from(read, contract) == learnt_from(
            Table(str(tmp_path / "data.parquet"), contract).read(0), contract
        )

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: None, "no such file"),
            (lambda path: path.write_bytes(b"PAR1 not really"), "cannot be read as Parquet"),
            (lambda path: path.mkdir(), "no Parquet file in it"),
            (lambda path: pq.write_table(pa.table({"x": [1.0]}), path), "no column 'c', 'y'"),
        ],
    )
    def test_refused(self, tmp_path: Path, make: Any, message: str) -> None:
        path = tmp_path / "data.parquet"
        make(path)
        with pytest.raises(SourceError, match=message):
            Table(str(path), Contract.parse(SMALL))


class TestEncoder:
    @settings(max_examples=40)
    @given(
        numbers=st.lists(st.none() | st.floats(width=64), min_size=12, max_size=12),
        texts=st.lists(st.none() | st.text(max_size=4), min_size=12, max_size=12),
    )
    def test_is_what_serving_sees(self, numbers: Any, texts: Any) -> None:
        """The vectorised path of training gives what `Features.arrays` and a look-up give in serving."""
        contract = Contract.parse(SMALL)
        table = pa.table(
            {
                "x": pa.array(numbers, pa.float64()),
                "c": pa.array(texts, pa.string()),
                "extra": pa.nulls(12),
                "y": [at % 2 == 0 for at in range(12)],
            }
        )
        learnt = learnt_from(table, contract, rare=2)
        rows = Encoder(contract, learnt)(table)
        plain, words = Features.of(contract).arrays(table)
        np.testing.assert_array_equal(rows.numbers, plain)
        known = {name: code for code, name in enumerate(learnt.categories[0], start=1)}
        assert rows.codes[:, 0].tolist() == [known.get(word, 0) for word in words[:, 0]]
        assert rows.target.tolist() == [int(at % 2 == 0) for at in range(12)]

    def test_awkward_table(self) -> None:
        table, contract = make_table(300), make_contract("multiclass")
        learnt = learnt_from(table, contract)
        rows = Encoder(contract, learnt)(table)
        np.testing.assert_array_equal(rows.numbers, Features.of(contract).arrays(table)[0])
        assert [learnt.classes[code] for code in rows.target] == table.column("class").to_pylist()
        assert rows.weights is None

    def test_regression_target_is_standardised(self) -> None:
        table, contract = make_table(300), make_contract("regression")
        rows = Encoder(contract, learnt_from(table, contract))(table)
        assert abs(float(rows.target.mean())) < 1e-6
        assert float(rows.target.std()) == pytest.approx(1.0, rel=1e-5)

    def test_weights_have_mean_one(self) -> None:
        table = make_table(300)
        contract = make_contract("binary", weight={"type": "number", "role": "weight"})
        rows = Encoder(contract, learnt_from(table, contract, class_weight="balanced"))(table)
        assert rows.weights is not None
        assert float(rows.weights.mean()) == pytest.approx(1.0, rel=1e-5)
        share = float(rows.weights[rows.target == 1].sum() / rows.weights.sum())
        assert share == pytest.approx(0.5, rel=1e-5)


class TestLearning:
    @settings(max_examples=25)
    @given(cuts=st.lists(st.integers(0, 200), max_size=5))
    def test_pieces_give_what_the_whole_gives(self, cuts: list[int]) -> None:
        table, contract = make_table(200), make_contract("binary")
        ends = [0, *sorted(cuts), 200]
        parts = [table.slice(low, high - low) for low, high in pairwise(ends)]
        found = learn([summarise(part, contract) for part in parts], contract, SPEC)
        whole = learnt_from(table, contract)
        np.testing.assert_allclose(found.means, whole.means, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.scales, whole.scales, rtol=1e-9)
        assert found.categories == whole.categories
        assert found.classes == whole.classes

    def test_rare_and_late_categories_share_a_code(self) -> None:
        contract = Contract.parse(SMALL)
        texts = ["a"] * 20 + ["b"] * 10 + ["c"] * 4 + ["d"] * 6
        table = small_table().set_column(1, "c", pa.array(texts)).append_column("extra", pa.nulls(40))
        assert learnt_from(table, contract).categories == [["a", "b", "d"]]
        assert learnt_from(table, contract, max_categories=2).categories == [["a", "b"]]
        assert learnt_from(table, contract, rare=1).categories == [["a", "b", "d", "c"]]

    def test_round_trip_as_json(self) -> None:
        learnt = learnt_from(make_table(100), make_contract("multiclass"))
        assert Preprocess.model_validate_json(learnt.model_dump_json()) == learnt

    @pytest.mark.parametrize(
        ("target", "settings", "error", "message"),
        [
            ([True] * 40, {}, TrainingError, "one value, True"),
            ([True, None] * 20, {}, TrainingError, "missing or infinite in 20 rows"),
            ([True, False] * 3, {}, TrainingError, "6 rows to train on"),
            ([True, False] * 20, {"class_weight": {"maybe": 2.0}}, ConfigError, "names the class 'maybe'"),
            ([], {}, SourceError, "no rows"),
        ],
    )
    def test_refused(self, target: Any, settings: Any, error: Any, message: str) -> None:
        table = small_table(len(target)).append_column("extra", pa.nulls(len(target)))
        table = table.set_column(2, "y", pa.array(target, pa.bool_()))
        with pytest.raises(error, match=message):
            learnt_from(table, Contract.parse(SMALL), **settings)

    def test_weights_of_classes_are_for_classes(self) -> None:
        with pytest.raises(ConfigError, match="the task is regression"):
            learnt_from(make_table(50), make_contract("regression"), class_weight="balanced")

    def test_negative_weight_is_refused(self) -> None:
        contract = make_contract("binary", weight={"type": "number", "role": "weight"})
        table = make_table(50)
        table = table.set_column(table.column_names.index("weight"), "weight", pa.array([-1.0] * 50))
        with pytest.raises(TrainingError, match="negative"):
            learnt_from(table, contract)


class TestReader:
    @pytest.fixture
    def big(self, tmp_path: Path) -> Path:
        table = make_table(6_000)
        pq.write_table(table, tmp_path / "big.parquet", row_group_size=500)
        return tmp_path / "big.parquet"

    def reader(self, path: Path, cache: int, share: float = 0.2) -> Reader:
        contract = make_contract("binary")
        table = Table(str(path), contract)
        learnt = learn([summarise(table.read(at), contract) for at in range(len(table.units))], contract, SPEC)
        return Reader(table, Encoder(contract, learnt), seed=0, share=share, cache=cache)

    def test_held_back_rows_are_not_trained_on(self, big: Path) -> None:
        found = self.reader(big, 0).rows(3)
        assert len(found) == 500 - held_back(0, 3, 500, 0.2).sum()

    def test_cache_changes_nothing_and_stays_in_its_bounds(self, big: Path) -> None:
        plan = Plan(tuple(500 for _ in range(12)), 256, window=1_000)
        cold, warm = self.reader(big, 0, share=0.0), self.reader(big, 1 << 17, share=0.0)
        for _ in range(2):
            pairs = zip(
                batches(plan, cold, epoch=1, rank=0, ranks=2),
                batches(plan, warm, epoch=1, rank=0, ranks=2),
                strict=True,
            )
            assert all((one.numbers == two.numbers)[~np.isnan(one.numbers)].all() for (_, one), (_, two) in pairs)
        assert 0 < warm._bytes <= 1 << 17
        assert not cold._kept

    def test_memory_does_not_grow_with_the_table(self, tmp_path: Path) -> None:
        peaks = []
        for groups in (6, 24):
            table, contract = make_table(groups * 500), make_contract("binary")
            pq.write_table(table, tmp_path / f"{groups}.parquet", row_group_size=500)
            reader = self.reader(tmp_path / f"{groups}.parquet", 0, share=0.0)
            plan = Plan((500,) * groups, 128, lanes=2, window=1_000)
            tracemalloc.start()
            assert sum(len(rows) for _, rows in batches(plan, reader, epoch=0, rank=0, ranks=1)) == groups * 500
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            del table, contract
        assert peaks[1] < 1.2 * peaks[0]


class TestAhead:
    def test_hands_on_in_order(self) -> None:
        ahead = Ahead(iter(range(50)), lambda item: item * 2)
        assert list(ahead) == list(range(0, 100, 2))
        ahead.close()

    def test_error_comes_where_the_item_was_asked_for(self) -> None:
        def items() -> Any:
            yield 1
            raise SourceError("the disk is gone")

        found = []
        with pytest.raises(SourceError, match="the disk is gone"):
            found.extend(Ahead(items(), lambda item: item))
        ahead = iter(Ahead(items(), lambda item: item))
        assert next(ahead) == 1

    def test_closed_early_leaves_no_thread(self) -> None:
        ahead = Ahead(iter(range(10**9)), lambda item: item)
        next(iter(ahead))
        ahead.close()
        assert not ahead._thread.is_alive()


def test_rows_are_sliced_without_a_copy() -> None:
    rows = Rows(np.zeros((4, 1), np.float32), np.zeros((4, 0), np.int32), np.arange(4), None)
    assert rows.take(slice(1, 3)).numbers.base is rows.numbers
    assert Rows.concat([rows]) is rows
