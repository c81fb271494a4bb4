"""What training a network costs: rows per second against what people would take instead, and what more processes give.

    python tests/benchmarks/train.py [--quick] [--json] [--only SECTION ...] [--peers]

On 2 million rows of 20 number columns (`--quick`: 200,000), binary, in Parquet; every path trains the same MLP of
20-256-256-1 with AdamW on batches of 2,048 rows, on one core. Sections:

    reading      rows/s of the way to the network alone, against a DataLoader over a pandas frame and over tensors
    paths        rows/s of one process, against loops over a DataLoader, scikit-learn and (`--peers`) Lightning
    memory       peak memory of a training process on the table and on one ten times as long (2 and 20 million rows)
    scaling      rows/s of two processes on two cores over one on one core, each with one thread and the same rows a
                 step; beside it two that know nothing of each other, which is what the machine itself allows
    checkpoints  wall time with one checkpoint every 100 steps over that without

`--peers` installs Lightning into .bench/lightning once, beside the torch that is here. Takes about a quarter of an hour
on two quiet cores, and prints what it measured with the least that is wanted of it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_peers import BATCH, COLUMNS, HIDDEN, PEERS, READERS, Timed, cores, job, write

from headway.components.train_distributed.job import Result
from headway.components.train_distributed.launch import launch, rank_environment

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

OPERATIONS = 6 * (COLUMNS * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1])
"""Floating-point operations that the network takes for a row, forward and backward."""

Row = dict[str, Any]


def train(data: Path, processes: int = 1, **training: Any) -> Result:
    """Run a job under torchrun, with one thread and one core for each process."""
    with tempfile.TemporaryDirectory() as folder, cores(processes):
        placement = {"processes": processes, "threads": 1, "accelerator": "cpu"}
        return launch(job(data, Path(folder), placement=placement, **training))


# Reading, paths ------------------------------------------------------------------------------------------------------


def in_process_of_its_own(
    kind: str, name: str, data: Path, quick: bool, environment: dict[str, str] | None = None
) -> Timed:
    """One peer in a fresh process with one thread, as each of our ranks has."""
    script = Path(__file__).with_name("train_peers.py")
    command = [sys.executable, str(script), kind, name, "--data", str(data), *(["--quick"] if quick else [])]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    wall, cpu = done.stdout.splitlines()[-1].split()
    return float(wall), float(cpu)


def reading(data: Path, quick: bool) -> list[Row]:
    """Rows per second of the way to the network alone, on one core each."""
    found: list[Row] = []
    for name in READERS:
        with cores(1):
            wall, cpu = in_process_of_its_own("reader", name, data, quick)
        ours = found[0]["value"] if found else wall
        found.append({"what": name, "value": wall, "unit": "rows/s", "cpu": cpu, "ratio": ours / wall})
    return found


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
        wall, cpu = in_process_of_its_own("loop", name, data, quick, environment)
        found.append({"what": name, "value": wall, "unit": "rows/s", "cpu": cpu, "ratio": ours[-1][1] / cpu})
    wall, cpu = (statistics.median(column) for column in zip(*ours, strict=True))
    middle = {"what": "headway, streamed from Parquet", "value": wall, "unit": "rows/s", "cpu": cpu, "ratio": 1.0}
    arithmetic = OPERATIONS * middle["value"] / 1e9
    for row in found:
        row["wanted"] = FLOOR.get(row["what"])
        row["blocks"] = f"the network's own arithmetic: {arithmetic:.0f} GFLOP/s in float32 on one core"
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
    parser.add_argument("--only", nargs="+", choices=["reading", "paths", "memory", "scaling", "checkpoints"])
    arguments = parser.parse_args()
    # So many epochs that there are steps enough to time.
    rows, rounds, epochs = (200_000, 1, 10) if arguments.quick else (2_000_000, 3, 2)
    folder = REPOSITORY / ".bench" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    data = write(folder / f"{rows}.parquet", rows)
    measured: dict[str, Callable[[], list[Row]]] = {
        "reading": lambda: reading(data, arguments.quick),
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
