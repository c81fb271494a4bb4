"""A network of torch, through its ONNX file: trained by a real job, so only where torch is installed."""

from pathlib import Path
from typing import Any

import pytest

from headway.components.optimise.optimise import optimise
from headway.components.optimise.spec import OptimiseSpec
from headway.components.trust import Policy, load_bundle

pytest.importorskip("torch", reason="torch is an extra of its own")
pytest.importorskip("onnxscript", reason="torch's export to ONNX needs it")


@pytest.mark.slow
def test_network_of_torch(bundle_of: Any, installation: Any, folder: Path, validation: Path, tmp_path: Path) -> None:
    from headway.components.bundle import read_contract
    from headway.components.train_distributed.spec import DistributedSpec
    from headway.components.train_distributed.train import train_distributed

    contract = read_contract(bundle_of("binary", "dummy"))
    section = {"trainer": "distributed", "parameters": {"hidden": [128, 128]}, "epochs": 2, "batch_size": 256}
    train_distributed(
        folder / "train.parquet",
        tmp_path / "bundle",
        name="trips",
        contract=contract,
        spec=DistributedSpec.parse(section),
        settings=installation,
    )
    policy = Policy(require_signature=False, formats=["onnx", "torch"])
    spec = OptimiseSpec(batches=[1], seconds=0.02, rows=300, int8="require", max_quality_loss=0.05)
    found = optimise(tmp_path / "bundle", validation, tmp_path / "new", spec, policy=policy)
    trained, graph, int8 = found.record.candidates
    assert (trained.name, found.record.chosen, found.info.formats) == ("torch", "onnx-int8", ["onnx", "torch"])
    assert graph.difference is not None
    assert graph.difference < 1e-5
    assert int8.difference is not None
    assert graph.difference < int8.difference < 0.05
    assert int8.size < graph.size
    assert load_bundle(tmp_path / "new", policy=policy).format == "onnx"
