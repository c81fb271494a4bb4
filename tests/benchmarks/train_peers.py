"""Ways of training the benchmark's network that people would take instead of ours, and the table that all of them read.

    python tests/benchmarks/train_peers.py loop|reader NAME --data TABLE [--quick]

Each runs in a process of its own, with one thread, and prints its rows per second of wall time and of CPU time.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.train_distributed.job import Job

COLUMNS = 20
HIDDEN = [256, 256]
BATCH = 2_048
GROUP = 16_384
"""Rows in a row group of the table."""


def contract() -> Contract:
    """Twenty numbers and a label."""
    columns: dict[str, Any] = {f"x{at}": {"type": "number"} for at in range(COLUMNS)}
    return Contract.parse({"name": "bench", "target": "label", "columns": {**columns, "label": {"type": "boolean"}}})


def pieces(rows: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The table in row groups: standard normal numbers (n, 20), and a label that a network can learn (n,)."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(COLUMNS, 8))
    for start in range(0, rows, GROUP):
        x = random.normal(size=(min(GROUP, rows - start), COLUMNS)).astype(np.float32)
        signal = np.sin(x @ weights).sum(axis=1) + random.normal(size=len(x))
        yield x, signal > 0


def write(path: Path, rows: int) -> Path:
    """The table as one Parquet file, without ever being whole in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.exists():
        return path
    names = [f"x{at}" for at in range(COLUMNS)]
    schema = pa.schema([*((name, pa.float32()) for name in names), ("label", pa.bool_())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for x, y in pieces(rows):
            writer.write_table(pa.table([*x.T, y], schema=schema))
    return path


def job(data: Path, folder: Path, **training: Any) -> Job:
    """A training job on the table, with the network of every path here."""
    section = {
        "trainer": "distributed",
        "parameters": {"hidden": HIDDEN},
        "batch_size": BATCH,
        "epochs": 1,
        "early_stopping": False,
        "onnx": "off",
        "checkpoint": {"every": 1_000_000},
        **training,
    }
    document = contract()
    return Job.parse(
        {
            "name": "bench",
            "contract": document.dump(),
            "training": section,
            "data": str(data),
            "output": str(folder / "bundle"),
            "folder": str(folder / "work"),
            "lineage": Lineage(data_digest="bench", contract_digest=document.digest()).model_dump(mode="json"),
        }
    )


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Keep what this process starts on so many cores: the thread that reads would take a second one for itself."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def network() -> Any:
    """The network of every path."""
    from torch import nn

    widths = [COLUMNS, *HIDDEN]
    layers: list[Any] = []
    for first, second in pairwise(widths):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


Timed = tuple[float, float]
"""Rows per second of wall time, and of CPU time."""
Use = Callable[[Any, int], Timed]
"""What is done with a loader's batches until so many rows have come."""


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rate(self, rows: int) -> Timed:
        """Rows per second of each."""
        return rows / (time.perf_counter() - self._wall), rows / (time.process_time() - self._cpu)


def read_only(loader: Any, rows: int) -> Timed:
    """Take batches from a loader, and do nothing with them."""
    done, clock = 0, Clock()
    for x, _ in loader:
        done += len(x)
        if done >= rows:
            break
    return clock.rate(done)


def loop(loader: Any, rows: int) -> Timed:
    """The loop that tutorials show."""
    import torch

    torch.set_num_threads(1)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    done, clock = 0, Clock()
    for x, y in loader:
        optimizer.zero_grad()
        loss_of(model(x)[:, 0], y).backward()
        optimizer.step()
        done += len(x)
        if done >= rows:
            break
    return clock.rate(done)


def load(data: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The whole table in memory, as the other paths need it."""
    import pyarrow.parquet as pq

    table = pq.read_table(data)
    x = np.column_stack([table.column(f"x{at}").to_numpy() for at in range(COLUMNS)])
    return x, table.column("label").to_numpy().astype(np.float32)


def pandas_loader(data: Path, quick: bool, use: Use = loop) -> Timed:
    """A Dataset that takes a row of a pandas frame at a time."""
    import pandas as pd
    import torch
    from torch.utils.data import DataLoader, Dataset

    frame = pd.read_parquet(data)
    names = [f"x{at}" for at in range(COLUMNS)]

    class Frame(Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(frame)

        def __getitem__(self, at: int) -> Any:
            row = frame.iloc[at]
            return torch.tensor(row[names].to_numpy(np.float32)), torch.tensor(float(row["label"]))

    return use(DataLoader(Frame(), BATCH, shuffle=True), 3 * BATCH if quick else 10 * BATCH)


def tensor_loader(data: Path, quick: bool, use: Use = loop) -> Timed:
    """DataLoader(TensorDataset)."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = load(data)
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), BATCH, shuffle=True)
    return use(loader, len(x) if quick else 600_000)


def sklearn_mlp(data: Path, quick: bool) -> Timed:
    """scikit-learn's MLPClassifier, one pass, the same layers and batch."""
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    x, y = load(data)
    x, y = (x, y) if quick else (x[:600_000], y[:600_000])
    model = MLPClassifier(tuple(HIDDEN), batch_size=BATCH, max_iter=1, random_state=0)
    clock = Clock()
    with threadpool_limits(limits=1):
        import warnings

        warnings.simplefilter("ignore")
        model.fit(x, y)
    return clock.rate(len(x))


def lightning(data: Path, quick: bool) -> Timed:
    """Lightning's Trainer over DataLoader(TensorDataset), no logger, no checkpoints."""
    import logging
    import warnings

    import lightning as pl  # type: ignore[import-not-found]
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    x, y = load(data)

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, at: int) -> Any:
            return torch.nn.functional.binary_cross_entropy_with_logits(self.network(batch[0])[:, 0], batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    rows = len(x) if quick else 600_000
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), BATCH, shuffle=True)
    trainer = pl.Trainer(
        max_steps=rows // BATCH,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    clock = Clock()
    trainer.fit(Module(), loader)
    return clock.rate(rows)


def streamed(data: Path, quick: bool) -> Timed:
    """One epoch of our own batches, from Parquet to tensors, in the thread that makes them ahead of the network."""
    from headway.components.train_distributed.data import Ahead, Reader, Table, batches
    from headway.components.train_distributed.plan import Plan
    from headway.components.train_distributed.preprocess import Encoder
    from headway.components.train_distributed.pulse import Pulse
    from headway.components.train_distributed.scan import prepare
    from headway.components.train_distributed.tensors import to_batch
    from headway.components.train_distributed.world import join

    with tempfile.TemporaryDirectory() as folder:
        work = job(data, Path(folder))
        spec = work.training
        (Path(folder) / "work").mkdir()
        with join(spec) as world, Pulse(0, Path(folder) / "work") as pulse:
            table = Table(work.data, contract())
            scan = prepare(work, table, contract(), world, pulse)
            plan = Plan(scan.rows, spec.batch_size, lanes=scan.lanes, seed=spec.seed, window=spec.shuffle_rows)
            encoder = Encoder(contract(), scan.learnt)
            reader = Reader(table, encoder, seed=spec.seed, share=scan.share, cache=spec.cache << 20)
            items = batches(plan, reader, epoch=0, rank=0, ranks=1, first=0)
            done, clock = 0, Clock()
            for size, _ in Ahead(items, lambda item: (item[0], to_batch(item[1], pin=False)), rows=spec.batch_size):
                done += size
            return clock.rate(done)


READERS: dict[str, Callable[[Path, bool], Timed]] = {
    "headway, streamed from Parquet": streamed,
    "DataLoader over a pandas frame": lambda data, quick: pandas_loader(data, quick, read_only),
    "DataLoader(TensorDataset)": lambda data, quick: tensor_loader(data, quick, read_only),
}
"""The way to the network alone."""
PEERS: dict[str, Callable[[Path, bool], Timed]] = {
    "DataLoader over a pandas frame": pandas_loader,
    "DataLoader(TensorDataset)": tensor_loader,
    "scikit-learn MLPClassifier": sklearn_mlp,
    "Lightning over TensorDataset": lightning,
}


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["loop", "reader"])
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    run = (PEERS if arguments.kind == "loop" else READERS)[arguments.name]
    wall, cpu = run(arguments.data, arguments.quick)
    sys.stdout.write(f"{wall} {cpu}\n")


if __name__ == "__main__":
    main()
