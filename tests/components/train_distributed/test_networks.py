"""Networks and their files: what goes in and comes out, and that every file of a bundle says the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch", reason="networks need torch (headway[torch])")

import torch

from headway.components.bundle import read_info, write_manifest
from headway.components.errors import ConfigError, HeadwayError, TrustError, UnknownNameError
from headway.components.model import open_onnx, open_torch
from headway.components.train_distributed.job import Job
from headway.components.train_distributed.networks import Answers, build, decayed, loss_sum, size_of
from headway.components.train_distributed.preprocess import BOUND, Preprocess
from headway.components.trust import Policy, load_bundle
from tests.components.train_distributed import ranks

LEARNT = Preprocess(means=[2.0, 0.0], scales=[4.0, 1.0], categories=[["a", "b"]], task="binary", classes=[False, True])
USERS = "tests.components.train_distributed.user_networks.Linear"
UNSIGNED = Policy(require_signature=False, formats=["onnx", "skops"])


class TestInput:
    def test_numbers_are_standardised_bounded_and_filled(self) -> None:
        model = build("embedding_mlp", {"hidden": [4]}, LEARNT)
        numbers = torch.tensor([[6.0, 0.5], [float("nan"), float("nan")], [3.4e38, -3.4e38]])
        assert model.standardise(numbers).tolist() == [[1.0, 0.5], [0.0, 0.0], [BOUND, -BOUND]]

    def test_unseen_category_starts_from_nothing(self) -> None:
        model = build("embedding_mlp", {"hidden": [4]}, LEARNT)
        table = model.network.embeddings.tables[0].weight
        assert not table[0].any()
        assert table[1].any()

    @pytest.mark.parametrize("name", ["embedding_mlp", "tabular_resnet", USERS])
    def test_one_interface(self, name: str) -> None:
        for task, classes, width in (("binary", [0, 1], 2), ("multiclass", ["a", "b", "c"], 3), ("regression", [], 1)):
            learnt = LEARNT.model_copy(update={"task": task, "classes": classes})
            answers = Answers(build(name, {}, learnt), learnt).eval()
            found = answers(torch.zeros(5, 2), torch.zeros(5, 1, dtype=torch.int64))
            assert found.shape == (5, width)
            if task != "regression":
                np.testing.assert_allclose(found.sum(1).detach(), 1.0, rtol=1e-5)


class TestParameters:
    @pytest.mark.parametrize(
        ("name", "parameters", "error", "message"),
        [
            ("tabular_resnt", {}, UnknownNameError, "did you mean 'tabular_resnet'"),
            ("tabular_resnet", {"witdh": 3}, ConfigError, "no parameter 'witdh' - did you mean 'width'"),
            ("tabular_resnet", {"numbers": 3}, ConfigError, "no parameter 'numbers'"),
            ("embedding_mlp", {"hidden": ["wide"]}, ConfigError, "refuses its parameters"),
            ("no.such.module", {}, ConfigError, "No module named 'no'"),
            ("tests.components.train_distributed.user_networks.Liner", {}, ConfigError, "did you mean 'Linear'"),
            ("tests.components.train_distributed.user_networks.NoModule", {}, ConfigError, "no such nn.Module"),
        ],
    )
    def test_refused(self, name: str, parameters: Any, error: type[HeadwayError], message: str) -> None:
        with pytest.raises(error, match=message):
            build(name, parameters, LEARNT)

    def test_decay_is_for_matrices(self) -> None:
        model = build("tabular_resnet", {"width": 8, "blocks": 1}, LEARNT)
        matrices, others = decayed(model)
        assert {one.ndim for one in matrices} == {2}
        assert sum(one.numel() for one in [*matrices, *others]) == size_of(model)
        assert any(one is model.network.embeddings.tables[0].weight for one in others)


class TestLoss:
    def test_weights_and_tasks(self) -> None:
        two = torch.tensor([[0.0], [2.0]])
        even = loss_sum(two, torch.tensor([0, 1]), None, "binary")
        assert float(even) == pytest.approx(np.log(2) + np.log1p(np.exp(-2)), rel=1e-6)
        halved = loss_sum(two, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]), "binary")
        assert float(halved) == pytest.approx(np.log(2), rel=1e-6)
        squared = loss_sum(two, torch.tensor([1.0, 4.0]), None, "regression")
        assert float(squared) == 5.0
        many = loss_sum(torch.zeros(1, 4), torch.tensor([2]), None, "multiclass")
        assert float(many) == pytest.approx(np.log(4), rel=1e-6)


@pytest.fixture(scope="module")
def trained(table: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A trained bundle by task and network, with its ONNX file; made once."""
    from headway.components.bundle import Lineage
    from tests.components.train.conftest import make_contract

    made: dict[tuple[str, str], Path] = {}
    folder = tmp_path_factory.mktemp("trained")
    pq.write_table(table, folder / "data.parquet")

    def make(task: str, network: str = "embedding_mlp") -> Path:
        if (task, network) not in made:
            contract = make_contract(task)
            place = folder / f"{task}-{network.rpartition('.')[2]}"
            job = Job.parse(
                {
                    "name": "trips",
                    "contract": contract.dump(),
                    "training": {"trainer": "distributed", "network": network, "epochs": 1, "onnx": "require"},
                    "data": str(folder / "data.parquet"),
                    "output": str(place / "bundle"),
                    "folder": str(place / "work"),
                    "lineage": Lineage(data_digest="abc", contract_digest=contract.digest()).model_dump(mode="json"),
                }
            )
            ranks.run(job)
            made[task, network] = place / "bundle"
        return made[task, network]

    return make


class TestFiles:
    @pytest.mark.parametrize(
        ("task", "network"),
        [("binary", "embedding_mlp"), ("multiclass", "tabular_resnet"), ("regression", "embedding_mlp")],
    )
    def test_both_files_answer_alike(self, trained: Callable[..., Path], table: Any, task: str, network: str) -> None:
        bundle = trained(task, network)
        info = read_info(bundle)
        assert info.formats == ["onnx", "torch"]
        assert info.parity is not None
        assert info.parity < 1e-4 * (40 if task == "regression" else 1)
        one, two = open_onnx(bundle / "model.onnx"), open_torch(bundle / "model.npz")
        first, second = one.predict(table), two.predict(table)
        assert first.labels.dtype == second.labels.dtype
        if task == "regression":
            np.testing.assert_allclose(first.labels, second.labels, rtol=1e-4, atol=1e-3)
            return
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-5)
        assert first.probabilities is not None
        assert first.probabilities.shape == (table.num_rows, len(info.classes))

    def test_a_single_row_and_none(self, trained: Callable[..., Path], table: Any) -> None:
        bundle = trained("multiclass", "tabular_resnet")
        for model in (open_onnx(bundle / "model.onnx"), open_torch(bundle / "model.npz")):
            many = model.predict(table).probabilities
            assert many is not None
            np.testing.assert_allclose(model.predict(table.slice(3, 1)).probabilities, many[3:4], atol=1e-5)
            assert model.predict(table.slice(0, 0)).labels.shape == (0,)

    def test_graph_has_standard_operators_and_no_traces(self, trained: Callable[..., Path]) -> None:
        import onnx

        graph = (trained("binary") / "model.onnx").read_bytes()
        model = onnx.load_from_string(graph)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
        assert [value.name for value in model.graph.input] == ["numbers", "texts"]
        assert not model.graph.value_info
        assert b"/components/" not in graph
        assert b".py" not in graph

    def test_own_network(self, trained: Callable[..., Path], table: Any) -> None:
        bundle = trained("binary", USERS)
        assert read_info(bundle).estimator == USERS
        assert load_bundle(bundle, policy=UNSIGNED).format == "onnx"


class TestTrust:
    """The torch file is one more way in, and as narrow as the others."""

    @pytest.fixture
    def bundle(self, trained: Callable[..., Path], tmp_path: Path) -> Path:
        return Path(shutil.copytree(trained("binary"), tmp_path / "bundle"))

    def only_torch(self, bundle: Path) -> Path:
        (bundle / "model.onnx").unlink()
        text = (bundle / "bundle.json").read_text().replace('"onnx",\n', "")
        (bundle / "bundle.json").write_text(text)
        write_manifest(bundle)
        return bundle

    def test_default_policy_takes_the_graph(self, bundle: Path) -> None:
        assert load_bundle(bundle, policy=UNSIGNED).format == "onnx"
        with pytest.raises(TrustError, match="formats are torch"):
            load_bundle(self.only_torch(bundle), policy=UNSIGNED)

    def test_policy_may_allow_it(self, bundle: Path, table: Any) -> None:
        policy = Policy(require_signature=False, formats=["torch"])
        assert load_bundle(bundle, policy=policy).format == "torch"
        model = load_bundle(self.only_torch(bundle), policy=policy)
        assert len(model.predict(table.slice(0, 3).to_pandas()).labels) == 3

    def test_pickle_in_the_place_of_arrays(self, bundle: Path) -> None:
        policy = Policy(require_signature=False, formats=["torch"])
        np.savez(bundle / "model.npz", evil=np.array([{"run": "me"}], dtype=object))
        write_manifest(bundle)
        with pytest.raises(TrustError, match="not an archive of plain arrays"):
            load_bundle(bundle, policy=policy)
        (bundle / "model.npz").write_bytes(b"\x80\x04cposix\nsystem\n.")
        write_manifest(bundle)
        with pytest.raises(TrustError, match="not an archive of arrays"):
            load_bundle(bundle, policy=policy)

    def test_weights_of_another_network(self, bundle: Path) -> None:
        np.savez(bundle / "model.npz", weights=np.zeros(3))
        write_manifest(bundle)
        with pytest.raises(TrustError, match="do not belong together"):
            load_bundle(bundle, policy=Policy(require_signature=False, formats=["torch"]))

    def test_class_of_somebody_else(self, trained: Callable[..., Path], tmp_path: Path) -> None:
        bundle = self.only_torch(Path(shutil.copytree(trained("binary", USERS), tmp_path / "own")))
        with pytest.raises(TrustError, match="which is not trusted"):
            load_bundle(bundle, policy=Policy(require_signature=False, formats=["torch"]))
        policy = Policy(require_signature=False, formats=["torch"], types=[USERS])
        assert load_bundle(bundle, policy=policy).format == "torch"
