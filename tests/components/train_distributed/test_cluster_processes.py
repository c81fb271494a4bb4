"""A job's own command, arguments and environment, run as real processes: what a kubelet would do with its pods."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from headway.components.errors import TrainingError
from headway.components.train_distributed.cluster_spec import ClusterSpec
from tests.components.kubernetes.fake_kubernetes import FakeKubernetes
from tests.components.train_distributed.cluster_world import World, until
from tests.components.train_distributed.conftest import JobMaker

pytest.importorskip("torch", reason="ranks need torch (headway[torch])")
pytestmark = pytest.mark.slow


class Kubelet:
    """Runs the pods of a TrainJob or PyTorchJob on this machine, a process group each."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.processes: list[subprocess.Popen[str]] = []
        self.threads: list[threading.Thread] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    def start(self) -> None:
        """Start both machines' pods."""
        for node in range(2):
            name = self.world.pod(node)
            thread = threading.Thread(target=self._run, args=(name, node), daemon=True)
            self.threads.append(thread)
            thread.start()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for thread in self.threads:
            thread.join(30)

    def _container(self, node: int) -> dict[str, Any]:
        spec = self.world.job_object["spec"]
        if self.world.kind == "TrainJob":
            found: dict[str, Any] = spec["trainer"]
        else:
            replica = spec["pytorchReplicaSpecs"]["Worker" if node else "Master"]
            found = replica["template"]["spec"]["containers"][0]
        return found

    def _environment(self, node: int, message: Path) -> dict[str, str]:
        """What the container's document says, and what Trainer or the operator adds."""
        spec = self._container(node)
        given = {each["name"]: each["value"] for each in spec["env"] if "value" in each}
        given["TORCHELASTIC_ERROR_FILE"] = str(message)
        given["GLOO_SOCKET_IFNAME"] = "lo"
        if self.world.kind == "TrainJob":
            given |= {"PET_NNODES": str(spec["numNodes"]), "PET_NPROC_PER_NODE": str(spec["numProcPerNode"])}
            given |= {"PET_NODE_RANK": str(node), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": self.port}
        else:
            given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port, "WORLD_SIZE": "2", "RANK": str(node)}
        return os.environ | given

    def _run(self, name: str, node: int) -> None:
        spec, message = self._container(node), self.folder / f"{name}.message"
        environment = self._environment(node, message)
        arguments = [self._expanded(each, environment) for each in spec["args"]]
        command = [sys.executable, *spec["command"][1:], *arguments]
        self.world.run(name)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.world.api.write(name, line.rstrip("\n"))
        code = process.wait()
        said = message.read_text(encoding="utf-8")[-4096:] if message.is_file() else ""
        self.world.die(name, said, code=code, reason="Error" if code else "Completed")

    def _expanded(self, argument: str, environment: dict[str, str]) -> str:
        return environment[argument[2:-1]] if argument.startswith("$(") else argument

    def settle(self, *, failed: bool) -> None:
        """Report the job's end once its pods have ended, as the controllers do."""
        until(lambda: len(self.processes) == 2 and any(each.poll() is not None for each in self.processes), 120)
        if not failed:
            until(lambda: all(each.poll() == 0 for each in self.processes), 60)
        time.sleep(0.5)
        self.world.condition("Failed" if failed else "Complete")


def test_two_machines_train_together_and_the_result_comes_back(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job(epochs=2, placement={"nodes": 2, "processes": 1, "accelerator": "cpu"})
    spec = ClusterSpec.parse({"volumes": [{"name": "root", "mount": str(tmp_path.parents[-2]), "claim": "all"}]})
    with FakeKubernetes() as api, World(api, "TrainJob", job, spec) as world:
        launched = world.launch()
        kubelet = Kubelet(world, tmp_path)
        try:
            until(lambda: world.jobs)
            kubelet.start()
            kubelet.settle(failed=False)
            launched.end(60)
        finally:
            kubelet.end()
    assert launched.error is None, launched.error
    assert launched.result is not None
    assert launched.result.processes == 2
    assert (Path(job.output)).is_dir()
    assert launched.steps


def test_the_failing_ranks_own_exception_comes_back_through_the_pods_status(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job(placement={"nodes": 2, "processes": 1, "accelerator": "cpu"}, parameters={"hiden": [3]})
    spec = ClusterSpec.parse({"volumes": [{"name": "root", "mount": str(tmp_path.parents[-2]), "claim": "all"}]})
    with FakeKubernetes() as api, World(api, "PyTorchJob", job, spec) as world:
        launched = world.launch()
        kubelet = Kubelet(world, tmp_path)
        try:
            until(lambda: world.jobs)
            kubelet.start()
            kubelet.settle(failed=True)
            said = launched.failed(TrainingError)
        finally:
            kubelet.end()
    assert "hiden" in said, said
    assert "exitcode" not in said
