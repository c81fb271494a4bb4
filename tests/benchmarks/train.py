"""What training a network costs: rows per second against what people would take instead, and what more processes give.

    python tests/benchmarks/train.py [--quick] [--json] [--only SECTION ...] [--peers]

On 2 million rows of 20 number columns (`--quick`: 200,000), binary, in Parquet; every path trains the same MLP of
20-256-256-1 with AdamW on batches of 2,048 rows, on one core. Sections:

    paths        rows/s of one process, against loops over a DataLoader, scikit-learn and (`--peers`) Lightning
    memory       peak memory of a training process on the table and on one ten times as long (2 and 20 million rows)
    scaling      rows/s of two processes on two cores over one on one core, each with one thread and the same rows a
                 step; beside it two that know nothing of each other, which is what the machine itself allows
    checkpoints  wall time with one checkpoint every 100 steps over that without

`--peers` installs Lightning into .bench/lightning once, beside the torch that is here. Takes about ten minutes on two
quiet cores, and prints what it measured with the least that is wanted of it.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
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
from headway.components.train_distributed.job import Job, Result
from headway.components.train_distributed.launch import launch, rank_environment

COLUMNS = 20
HIDDEN = [256, 256]
BATCH = 2_048
GROUP = 16_384
"""Rows in a row group of the table."""
FLOOR = {
    "DataLoader over a pandas frame": 50.0,
    "DataLoader(TensorDataset)": 1.3,
    "batch 2,048": 0.85,
    "batch 16,384": 0.90,
}
MOST_CHECKPOINTING = 0.03
MOST_GROWTH = 1.2
BUSY = 0.9
"""Cores that a process of one thread keeps busy where nothing takes them away."""
REPOSITORY = Path(__file__).resolve().parents[2]

Row = dict[str, Any]


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


def train(data: Path, processes: int = 1, **training: Any) -> Result:
    """Run a job under torchrun, with one thread and one core for each process."""
    with tempfile.TemporaryDirectory() as folder, cores(processes):
        placement = {"processes": processes, "threads": 1, "accelerator": "cpu"}
        return launch(job(data, Path(folder), placement=placement, **training))


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


# Paths ---------------------------------------------------------------------------------------------------------------


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


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rate(self, rows: int) -> Timed:
        """Rows per second of each."""
        return rows / (time.perf_counter() - self._wall), rows / (time.process_time() - self._cpu)


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


def pandas_loader(data: Path, quick: bool) -> Timed:
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

    return loop(DataLoader(Frame(), BATCH, shuffle=True), 3 * BATCH if quick else 10 * BATCH)


def tensor_loader(data: Path, quick: bool) -> Timed:
    """DataLoader(TensorDataset)."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = load(data)
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), BATCH, shuffle=True)
    return loop(loader, len(x) if quick else 600_000)


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


PEERS: dict[str, Callable[[Path, bool], Timed]] = {
    "DataLoader over a pandas frame": pandas_loader,
    "DataLoader(TensorDataset)": tensor_loader,
    "scikit-learn MLPClassifier": sklearn_mlp,
    "Lightning over TensorDataset": lightning,
}


def in_process_of_its_own(name: str, data: Path, quick: bool, environment: dict[str, str] | None = None) -> Timed:
    """One peer in a fresh process with one thread, as each of our ranks has."""
    command = [sys.executable, __file__, "--peer", name, "--data", str(data), *(["--quick"] if quick else [])]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    wall, cpu = done.stdout.splitlines()[-1].split()
    return float(wall), float(cpu)


def paths(data: Path, quick: bool, peers: bool) -> list[Row]:
    """Rows per second of one process and one thread, ours before each other path.

    The ratio is that of rows per second of CPU time: on a machine that others use too, wall time compares the others.
    """
    found: list[Row] = []
    ours = []
    for name in PEERS:
        if name.startswith("Lightning") and not peers:
            continue
        environment = {"PYTHONPATH": str(install_lightning())} if name.startswith("Lightning") else None
        speed = _speed(train(data))
        ours.append((speed.rows_per_second, speed.rows_per_second / speed.cores))
        wall, cpu = in_process_of_its_own(name, data, quick, environment)
        found.append({"what": name, "value": wall, "unit": "rows/s", "cpu": cpu, "ratio": ours[-1][1] / cpu})
    wall, cpu = (statistics.median(column) for column in zip(*ours, strict=True))
    middle = {"what": "headway, streamed from Parquet", "value": wall, "unit": "rows/s", "cpu": cpu, "ratio": 1.0}
    for row in found:
        row["wanted"] = FLOOR.get(row["what"])
    if has_bfloat16():
        half = _speed(train(data, precision="bfloat16"))
        rate = half.rows_per_second / half.cores
        row = {"what": "headway, bfloat16", "value": half.rows_per_second, "unit": "rows/s", "cpu": rate}
        found.insert(0, row | {"ratio": middle["cpu"] / rate})
    return [middle, *found]


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 itself."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def install_lightning() -> Path:
    """Lightning in a folder of its own, on top of the torch that is installed here."""
    folder = REPOSITORY / ".bench" / "lightning"
    if not (folder / "lightning").is_dir():
        needs = ["torchmetrics", "lightning-utilities", "pytorch-lightning", "aiohttp", "tqdm"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, "lightning", *needs], check=True)
    return folder


# Memory, scaling, checkpoints ----------------------------------------------------------------------------------------


def memory(data: Path, rows: int, folder: Path, quick: bool) -> list[Row]:
    """Peak resident memory of one training process, on the table and on ten times as many rows."""
    found: list[Row] = []
    for count, path in ((rows, data), (10 * rows, folder / f"{10 * rows}.parquet")):
        write(path, count)
        with tempfile.TemporaryDirectory() as place:
            # A small network: what is measured is the data's way through the process.
            work = job(path, Path(place), early_stopping=True, parameters={"hidden": [32]}, batch_size=8_192).write()
            code = (
                "import resource, sys; sys.argv = ['trainer', sys.argv[1]]\n"
                "from headway.components.train_distributed.trainer import main\n"
                "main(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            environment = os.environ | rank_environment(1)
            done = subprocess.run(
                [sys.executable, "-c", code, str(work)], env=environment, capture_output=True, text=True, check=True
            )
        found.append({"what": f"{count:,} rows", "value": int(done.stdout.splitlines()[-1]) / 1024, "unit": "MiB"})
    found[1] |= {"ratio": found[1]["value"] / found[0]["value"], "at_most": True}
    if not quick:  # 200,000 rows do not fill the shuffle window, the cache and the held-back rows, which bound it
        found[1]["wanted"] = MOST_GROWTH
    return found


def scaling(data: Path, rounds: int, epochs: int) -> list[Row]:
    """Two processes over twice one, at the same rows for each in a step; the median of rounds that alternate."""
    found: list[Row] = []
    for batch in (2_048, 16_384):
        ones, twos, apart = [], [], []
        one = two = _speed(train(data, 1, batch_size=batch))  # one round to warm the file cache
        for _ in range(rounds):
            one = _speed(train(data, 1, batch_size=batch, epochs=epochs))
            two = _speed(train(data, 2, batch_size=2 * batch, epochs=epochs))
            ones.append(one.rows_per_second)
            twos.append(two.rows_per_second)
            apart.append(unconnected(data, batch, epochs))
        name = f"batch {batch:,}"
        middle = statistics.median
        found += [
            {"what": f"{name}, 1 process", "value": middle(ones), "unit": "rows/s"},
            {
                "what": f"{name}, 2 processes",
                "value": middle(twos),
                "unit": "rows/s",
                "ratio": middle(two / 2 / one for one, two in zip(ones, twos, strict=True)),
                "wanted": FLOOR[name],
            },
            {
                "what": f"{name}, 2 unconnected",
                "value": middle(apart),
                "unit": "rows/s",
                "ratio": middle(two / 2 / one for one, two in zip(ones, apart, strict=True)),
            },
        ]
        found[-3]["cpu"], found[-2]["cpu"] = (
            each.rows_per_second / each.cores / count for each, count in ((one, 1), (two, 2))
        )
        found[-2]["blocks"] = blocking(found[-2]["ratio"], found[-1]["ratio"], two)
    return found


def blocking(together: float, apart: float, speed: Any) -> str:
    """What keeps two processes from twice the speed of one."""
    lost, machine = 1.0 - together, 1.0 - apart
    if speed.cores < BUSY:
        return f"other programs: each process had {speed.cores:.2f} of a core"
    if speed.data_share > max(0.05, lost / 2):
        return f"waiting for rows: {speed.data_share:.0%} of the time"
    if machine > lost / 2:
        return f"the machine: two processes without any connection lose {machine:.0%} themselves"
    return f"the exchange of gradients: {lost - machine:.0%} of the time"


def unconnected(data: Path, batch: int, epochs: int) -> float:
    """Rows per second of two jobs of one process each at the same time."""
    import threading

    speeds: list[float] = []

    def one(core: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.sched_setaffinity(0, {core})  # of this thread, and of what it starts
            placement = {"processes": 1, "threads": 1, "accelerator": "cpu"}
            alone = job(data, Path(folder), placement=placement, batch_size=batch, epochs=epochs)
            speeds.append(_speed(launch(alone)).rows_per_second)

    threads = [threading.Thread(target=one, args=(core,)) for core in sorted(os.sched_getaffinity(0))[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(speeds)


def checkpoints(data: Path, rounds: int, epochs: int) -> list[Row]:
    """The share of a step's time that one checkpoint every 100 steps takes."""
    shares, speeds = [], []
    for _ in range(rounds):
        plain = _speed(train(data, 2, batch_size=2 * BATCH, epochs=epochs))
        saved = _speed(train(data, 2, batch_size=2 * BATCH, epochs=epochs, checkpoint={"every": 100}))
        shares.append(saved.checkpoint_share)
        speeds.append(1.0 - saved.rows_per_second / plain.rows_per_second)
    return [
        {
            "what": "training waits for checkpoints",
            "value": 100 * statistics.median(shares),
            "unit": "% of the time",
            "ratio": statistics.median(shares),
            "wanted": MOST_CHECKPOINTING,
            "at_most": True,
        },
        {"what": "rows/s lost against none", "value": 100 * statistics.median(speeds), "unit": "%"},
    ]


def _speed(result: Result) -> Any:
    if result.speed is None:
        raise SystemExit("nothing was trained")
    return result.speed


# Printing ------------------------------------------------------------------------------------------------------------


def held(row: Row) -> bool | None:
    """Whether a row is as wanted; None where nothing is wanted of it."""
    if row.get("wanted") is None:
        return None
    good = row["ratio"] <= row["wanted"] if row.get("at_most") else row["ratio"] >= row["wanted"]
    return bool(good)


def show(sections: dict[str, list[Row]], machine: str) -> None:
    """Print the sections as tables."""
    from rich.console import Console
    from rich.table import Table

    for name, rows in sections.items():
        table = Table("", "measured", "", "a CPU second", "ratio", "wanted", "", title=f"{name}, {machine}")
        for row in rows:
            good = held(row)
            wanted = f"{'≤' if row.get('at_most') else '≥'} {row['wanted']:g}" if good is not None else ""
            value = f"{row['value']:,.3f}" if abs(row["value"]) < 10 else f"{row['value']:,.0f}"
            ratio = f"{row['ratio']:.3g}" if "ratio" in row else ""
            mark = "" if good is None else "yes" if good else "no"
            cpu = f"{row['cpu']:,.0f}" if "cpu" in row else ""
            table.add_row(row["what"], value, row["unit"], cpu, ratio, wanted, mark)
            if good is False and "blocks" in row:
                table.add_row(f"  blocked by {row['blocks']}")
        Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--peers", action="store_true", help="also install and measure Lightning")
    parser.add_argument("--only", nargs="+", choices=["paths", "memory", "scaling", "checkpoints"])
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        wall, cpu = PEERS[arguments.peer](arguments.data, arguments.quick)
        sys.stdout.write(f"{wall} {cpu}\n")
        return
    # So many epochs that there are steps enough to time.
    rows, rounds, epochs = (200_000, 1, 10) if arguments.quick else (2_000_000, 3, 2)
    folder = REPOSITORY / ".bench" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    data = write(folder / f"{rows}.parquet", rows)
    measured: dict[str, Callable[[], list[Row]]] = {
        "paths": lambda: paths(data, arguments.quick, arguments.peers),
        "memory": lambda: memory(data, rows, folder, arguments.quick),
        "scaling": lambda: scaling(data, rounds, epochs),
        "checkpoints": lambda: checkpoints(data, rounds, epochs),
    }
    wanted = arguments.only or list(measured)
    sections = {name: measured[name]() for name in measured if name in wanted}
    import torch

    machine = f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine, "rows": rows, "sections": sections}, indent=2) + "\n")
        return
    show(sections, machine)


if __name__ == "__main__":
    main()
