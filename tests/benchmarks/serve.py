"""Requests to one served model: Headway against kserve's default server, MLServer, FastAPI, BentoML and MLflow.

    python tests/benchmarks/serve.py [--quick] [--seconds 1.5] [--rounds 6] [--servers headway,kserve] [--json]

Two models with 20 features, a logistic regression and a gradient boosting of 200 trees; requests of 1 row and of 64
rows in V2 JSON (MLflow takes only its own form). Every server is one process on this machine with one thread for the
model, started once and warm; all are measured in turn, `--rounds` times, with one client: requests a second with 16
connections, then p50 and p99 with one. A figure is the best round's, for every server alike, because other work on the
machine can only make one worse; CPU, which it disturbs least, is the median round's: the server's, children included,
for a request. The client's share of one core shows that it was not the limit.
FastAPI checks nothing and predicts with scikit-learn, or (`fastapi_onnx`) with the graph that Headway uses.

Then Headway through Envoy, with the contract's check and the payload log, and without both.

Peers that are not here are installed into virtual environments under .bench/, on first use. Takes about ten minutes on
two cores, `--quick` about three.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
FOLDER = BENCH / "serve"
PEERS_FILE = Path(__file__).with_name("serve_peers.py")
FEATURES = 20
ROWS = (1, 64)
MODELS = {"lr": "logistic regression", "gb": "gradient boosting, 200 trees"}
CONNECTIONS = 16
READY_SECONDS = 180

INSTALLED: dict[str, list[str]] = {
    "mlserver": ["mlserver==1.7.1", "mlserver-sklearn==1.7.1"],
    "bentoml": ["bentoml", "scikit-learn"],
}
"""What the peers that need an environment of their own need in it."""
PACKAGE = {"fastapi_onnx": "fastapi", "unchecked": "headway"}
SERVERS = ("headway", "kserve", "mlserver", "fastapi", "fastapi_onnx", "bentoml", "mlflow")
MOST_BELOW = 0.15
"""How far check and payload log may bring us down, through Envoy."""
TARGETS = (("kserve", 4.0), ("mlserver", 3.0), ("fastapi", 1.0))
"""How many times a peer's requests a second ours shall be at least."""


@dataclass
class Served:
    """One running server."""

    name: str
    version: str
    port: int
    process: "subprocess.Popen[bytes]"
    path: str = "/v2/models/m/infer"
    results: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def request(self, rows: int) -> bytes:
        """The request as it goes over the wire."""
        values = np.random.default_rng(rows).normal(size=(rows, FEATURES)).round(6)
        tensor = {"name": "input-0", "datatype": "FP64", "shape": [rows, FEATURES], "data": values.ravel().tolist()}
        body = json.dumps({"inputs": values.tolist() if self.name == "mlflow" else [tensor]}).encode()
        head = [f"POST {self.path} HTTP/1.1", "Host: a", "Content-Type: application/json"]
        head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body

    def cpu(self) -> float:
        """CPU seconds of the process and its children so far."""
        root = psutil.Process(self.process.pid)
        spent = 0.0
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    prepare()
    names = [name for name in SERVERS if name in arguments.servers.split(",")]
    report: dict[str, Any] = {"machine": machine(), "models": {}, "missing": {}}
    for model in arguments.models.split(","):
        report["models"][model] = measure_model(model, names, arguments, report["missing"])
    if arguments.envoy:
        report["envoy"] = measure_envoy(arguments)
    print(json.dumps(report, indent=2) if arguments.json else text(report))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds of one measurement")
    parser.add_argument("--rounds", type=int, default=6, help="how often each server is measured")
    parser.add_argument("--servers", default=",".join(SERVERS), help="which servers, comma-separated")
    parser.add_argument("--models", default=",".join(MODELS), help="which models, comma-separated")
    parser.add_argument("--no-envoy", dest="envoy", action="store_false", help="leave the part with Envoy out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 2
    return arguments


def prepare() -> None:
    """The rows that all models are fitted on, and our own bundles, signed by a key of the benchmark's own."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ["HEADWAY_HOME"] = str(FOLDER / "home")
    random = np.random.default_rng(0)
    x = random.normal(size=(2_000, FEATURES))
    y = x[:, 0] + 0.5 * x[:, 1] + 0.5 * random.normal(size=len(x)) > 0
    np.savez(FOLDER / "rows.npz", x=x, y=y)
    for model, estimator in (("lr", "logistic_regression"), ("gb", "gradient_boosting")):
        if not (FOLDER / f"{model}-bundle" / "bundle.sig").exists():
            write_bundle(FOLDER / f"{model}-bundle", estimator, x, y)


def write_bundle(folder: Path, estimator: str, x: Any, y: Any) -> None:
    """Train and sign one bundle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headway.components.bundle import Lineage
    from headway.components.data_validate.contract import Contract
    from headway.components.settings import load_settings
    from headway.components.signing import sign_bundle
    from headway.components.train import files
    from headway.components.train.estimators import TrainSpec
    from headway.components.train.fit import fit
    from headway.components.trust import load_policy

    names = [f"f{number}" for number in range(FEATURES)]
    columns: dict[str, Any] = {name: {"type": "number", "range": {"min": -10, "max": 10}} for name in names}
    contract = Contract.parse({"name": "m", "target": "y", "columns": columns | {"y": {"type": "boolean"}}})
    parameters = {"n_estimators": 200} if estimator == "gradient_boosting" else {}
    spec = TrainSpec.parse({"estimator": estimator, "parameters": parameters, "threads": 1, "onnx": "require"})
    data = folder.with_suffix(".parquet")
    pq.write_table(pa.table({**dict(zip(names, x.T, strict=True)), "y": y}), data)
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = fit(data, contract, spec, threads=1)
    lineage = Lineage(data_digest="0" * 64, contract_digest=contract.digest())
    files.write_bundle(fitted, folder, name="m", contract=contract, spec=spec, lineage=lineage)
    load_policy()
    sign_bundle(folder, load_settings().resolved_signing_key)


def measure_model(
    model: str, names: list[str], arguments: argparse.Namespace, missing: dict[str, str]
) -> list[dict[str, Any]]:
    """All servers of one model, in turn, round by round."""
    with contextlib.ExitStack() as stack:
        running: list[Served] = []
        for name in names:
            if name in missing:
                continue
            try:
                running.append(stack.enter_context(started(name, model)))
            except RuntimeError as error:
                missing[name] = str(error)
        agree(running)
        for _ in range(arguments.rounds):
            for server in running:
                for rows in ROWS:
                    server.results.setdefault(rows, []).append(measure(server, rows, arguments.seconds))
        return [summary(server, rows) for rows in ROWS for server in running]


@contextlib.contextmanager
def started(name: str, model: str, *flags: str) -> Iterator[Served]:
    """A server, ready and warm, for as long as the `with` block lasts.

    Raises:
        RuntimeError: It cannot be installed or started; says why.
    """
    python = environment(name)
    port = free_ports(3)
    if name == "headway":
        bundle = str(FOLDER / f"{model}-bundle")
        command = [
            python,
            "-m",
            "headway.serving.server",
            "--bundle",
            bundle,
            "--name",
            "m",
            "--port",
            str(port),
            *flags,
        ]
    else:
        command = [python, str(PEERS_FILE), name, model, str(port), str(FOLDER)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = FOLDER / f"{name}-{model}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **one_thread})
    server = Served(name, version_of(name, python), port, process)
    if name == "mlflow":
        server.path = "/invocations"
    try:
        wait_until_ready(server, log)
        yield server
    finally:
        end(process)


def environment(name: str) -> str:
    """The interpreter that a server runs in; its virtual environment is made on first use.

    Raises:
        RuntimeError: The package index has no such packages for this Python, or cannot be reached.
    """
    if name not in INSTALLED:
        return sys.executable
    folder = BENCH / f"venv-{name}"
    python = folder / "bin" / "python"
    made = folder / "installed"
    if not made.exists():
        print(f"installing {name} into {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *INSTALLED[name]]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        made.touch()
    return str(python)


def version_of(name: str, python: str) -> str:
    """The version of a server's package in its own environment."""
    package = PACKAGE.get(name, name)
    if python == sys.executable:
        return version(package)
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def free_ports(count: int) -> int:
    """The first of some free ports in a row, for servers that take more than one."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            for number in range(1, count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            return port


def wait_until_ready(server: Served, log: Path) -> None:
    """Until it gives predictions."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
            if len(labels(server, 1)) == 1:
                uvloop.run(load(server.port, server.request(1), connections=2, seconds=0.5))
                uvloop.run(load(server.port, server.request(64), connections=2, seconds=0.5))
                return
        time.sleep(0.2)
    last = log.read_text(errors="replace").strip().splitlines()
    raise RuntimeError(f"did not start: {last[-1] if last else 'it said nothing'}")


def labels(server: Served, rows: int) -> list[bool]:
    """What a server predicts for the benchmark's request."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = server.request(rows).split(b"\r\n\r\n", 1)[1]
    connection.request("POST", server.path, body, {"Content-Type": "application/json"})
    document = json.loads(connection.getresponse().read())
    connection.close()
    found = document["predictions"] if server.name == "mlflow" else document["outputs"][0]["data"]
    return [bool(label) for label in found]


def agree(running: list[Served]) -> None:
    """Stop when a server predicts something else: it would not be the same work."""
    given = {server.name: labels(server, 64) for server in running}
    wanted = next(iter(given.values()))
    for name, found in given.items():
        same = sum(a == b for a, b in zip(found, wanted, strict=True))
        # The estimators are fitted once with scaled features and once without: rows on the border may differ.
        if same < 60:
            raise SystemExit(f"{name} agrees with {running[0].name} in only {same} of 64 predictions")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server and its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, alive = psutil.wait_procs(children, timeout=10)
        for child in alive:
            child.kill()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Connection(asyncio.Protocol):
    """One connection that sends the next request as soon as it has the answer to the last."""

    def __init__(self, request: bytes, seconds: list[float], failures: list[bytes]) -> None:
        self._request = request
        self._seconds = seconds
        self._failures = failures
        self._received = b""
        self.stopped = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        if at < 0:
            chunked = b"transfer-encoding: chunked" in head.lower()
            if not chunked or not body.endswith(b"0\r\n\r\n"):
                return
        elif len(body) < int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._failures.append(self._received[:300])
        self._seconds.append(time.perf_counter() - self._started)
        self._received = b""
        if self.stopped:
            self._transport.close()
        else:
            self._send()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)


async def load(port: int, request: bytes, *, connections: int, seconds: float) -> tuple[list[float], float]:
    """Send one request again and again.

    Returns:
        The seconds of each answer, and the client's CPU seconds.
    """
    found: list[float] = []
    failures: list[bytes] = []
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Connection(request, found, failures), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(min(0.5, seconds / 4))
    found.clear()
    cpu = time.process_time()
    await asyncio.sleep(seconds)
    cpu = time.process_time() - cpu
    answered = list(found)
    for connection in made:
        connection.stopped = True
    await asyncio.sleep(0.2)
    if failures:
        raise SystemExit(f"a server refused the benchmark's request: {failures[0].decode(errors='replace')}")
    return answered, cpu


def measure(server: Served, rows: int, seconds: float) -> dict[str, float]:
    """One round of one server with one kind of request."""
    request = server.request(rows)
    cpu = server.cpu()
    many, client = uvloop.run(load(server.port, request, connections=CONNECTIONS, seconds=seconds))
    cpu = server.cpu() - cpu
    # The CPU was counted over the time before and after the measurement, too.
    share = seconds / (seconds + min(0.5, seconds / 4) + 0.2)
    one, _ = uvloop.run(load(server.port, request, connections=1, seconds=seconds))
    return {
        "requests_per_second": len(many) / seconds,
        "p50_ms": float(np.quantile(one, 0.5)) * 1e3,
        "p99_ms": float(np.quantile(one, 0.99)) * 1e3,
        "server_cpu_ms": cpu * share / len(many) * 1e3,
        "client_cpu": client / seconds,
    }


def summary(server: Served, rows: int) -> dict[str, Any]:
    """What all rounds say together."""
    rounds = server.results[rows]
    several = {key: [result[key] for result in rounds] for key in rounds[0]}
    return {
        "server": server.name,
        "version": server.version,
        "rows": rows,
        "requests_per_second": max(several["requests_per_second"]),
        "p50_ms": min(several["p50_ms"]),
        "p99_ms": min(several["p99_ms"]),
        "server_cpu_ms": statistics.median(several["server_cpu_ms"]),
        "client_cpu": statistics.median(several["client_cpu"]),
    }


def measure_envoy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our server through Envoy, with check and payload log, and without both."""
    log = FOLDER / "payloads"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(started("headway", "lr", "--payload-log", str(log)))
        bare = stack.enter_context(started("unchecked", "lr"))
        ports = stack.enter_context(envoy([ours.port, bare.port]))
        direct = ours.port
        ours.port, bare.port = ports
        for _ in range(arguments.rounds):
            for server in (ours, bare):
                for rows in ROWS:
                    server.results.setdefault(rows, []).append(measure(server, rows, arguments.seconds))
        found = [summary(server, rows) for rows in ROWS for server in (ours, bare)]
        written = payload_rows(direct)
    shutil.rmtree(log, ignore_errors=True)
    return {"results": found, "payload_rows": written}


def payload_rows(port: int) -> dict[str, int]:
    """What became of the payload log's rows, by the server's own count."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("headway_payload_rows_total{")]
    return {
        outcome: int(float(count)) for name, count in found for outcome in ("written", "dropped") if outcome in name
    }


@contextlib.contextmanager
def envoy(ports: list[int]) -> Iterator[list[int]]:
    """Envoy in front of some servers: a port of its own for each."""
    own = [free_ports(1) for _ in ports]
    listeners = [envoy_listener(port, f"server{number}") for number, port in enumerate(own)]
    clusters = [envoy_cluster(port, f"server{number}") for number, port in enumerate(ports)]
    config = FOLDER / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}))
    binary = str(Path(sys.executable).parent / "envoy")
    command = [binary, "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", own[-1]), timeout=1):
                break
            time.sleep(0.1)
        yield own
    finally:
        end(process)


def envoy_listener(port: int, name: str) -> dict[str, Any]:
    """A listener that sends everything to one cluster."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": envoy_address(port), "filter_chains": [{"filters": filters}]}


def envoy_cluster(port: int, name: str) -> dict[str, Any]:
    """A cluster of one server."""
    endpoint = {"endpoint": {"address": envoy_address(port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}


def envoy_address(port: int) -> dict[str, Any]:
    """A port of this machine."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def machine() -> str:
    """Where this was measured."""
    return f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"


def text(report: dict[str, Any]) -> str:
    """The report as tables, each server with its ratio to ours."""
    lines = [report["machine"]]
    for model, results in report["models"].items():
        lines += ["", MODELS[model], *table(results)]
        lines += [line for rows in ROWS for line in verdicts(results, rows)]
    for name, why in report["missing"].items():
        lines += ["", f"{name}: not measured, {why}"]
    if "envoy" in report:
        lines += envoy_lines(report["envoy"])
    return "\n".join(lines)


def envoy_lines(found: dict[str, Any]) -> list[str]:
    """The part with Envoy."""
    results = found["results"]
    lines = ["", "through Envoy, logistic regression: with check and payload log, and without both", *table(results)]
    for rows in ROWS:
        ours, bare = (of(results, name, rows)["requests_per_second"] for name in ("headway", "unchecked"))
        met = "met" if ours / bare >= 1 - MOST_BELOW else "MISSED"
        lines.append(
            f"{rows} rows: {ours / bare - 1:+.1%} requests a second (target: at most {MOST_BELOW:.0%} below): {met}"
        )
    written, dropped = found["payload_rows"]["written"], found["payload_rows"]["dropped"]
    lines.append(f"payload log: {written:,} rows written, {dropped:,} dropped for its share of one core")
    return lines


def table(results: list[dict[str, Any]]) -> list[str]:
    """The figures of one model."""
    lines = [
        f"{'server':<24}{'rows':>5}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'CPU ms':>9}{'client':>8}{'ours is':>10}{'by CPU':>9}"
    ]
    for result in results:
        ours = of(results, "headway", result["rows"])
        ratio = ""
        if ours and result is not ours:
            ratio = f"{times(ours, result):>8.1f} x{result['server_cpu_ms'] / ours['server_cpu_ms']:>7.1f} x"
        name = f"{result['server']} {result['version']}"
        lines.append(
            f"{name:<24}{result['rows']:>5}{result['requests_per_second']:>12,.0f}{result['p50_ms']:>9.2f}"
            f"{result['p99_ms']:>9.2f}{result['server_cpu_ms']:>9.3f}{result['client_cpu']:>8.0%}{ratio}"
        )
    return lines


def verdicts(results: list[dict[str, Any]], rows: int) -> Iterator[str]:
    """The targets, and whether this run met them."""
    ours = of(results, "headway", rows)
    for name, wanted in TARGETS if ours else ():
        if peer := of(results, name, rows):
            met = "met" if times(ours, peer) >= wanted else "MISSED"
            yield f"{rows} rows: {times(ours, peer):.1f} times {name}'s requests (target {wanted:g}): {met}"
    if ours and (peer := of(results, "fastapi", rows)):
        met = "met" if ours["p99_ms"] <= peer["p99_ms"] else "MISSED"
        yield f"{rows} rows: p99 {ours['p99_ms']:.2f} ms, fastapi's {peer['p99_ms']:.2f} ms (target: no more): {met}"


def times(ours: dict[str, Any], peer: dict[str, Any]) -> float:
    """How many times a peer's requests ours are."""
    return float(ours["requests_per_second"] / peer["requests_per_second"])


def of(results: list[dict[str, Any]], name: str, rows: int) -> dict[str, Any]:
    """One server's figures, or an empty mapping."""
    return next((result for result in results if (result["server"], result["rows"]) == (name, rows)), {})


if __name__ == "__main__":
    main()
