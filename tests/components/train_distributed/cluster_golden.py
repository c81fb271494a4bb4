"""The documents of one job, 2 machines with 4 GPUs each; `python -m tests.components.train_distributed.cluster_golden`
writes them anew, and the one on the page CLUSTER.md too.
"""

import json
import re
from pathlib import Path
from typing import Any

from headway.components.bundle import Lineage
from headway.components.config import dump_yaml
from headway.components.kubernetes.client import Document
from headway.components.settings import Settings
from headway.components.train_distributed import cluster_job
from headway.components.train_distributed.cluster_job import Engine, Step
from headway.components.train_distributed.cluster_spec import ClusterSpec
from headway.components.train_distributed.job import Job
from headway.components.train_distributed.pytorchjob import PyTorchJobEngine
from headway.components.train_distributed.trainjob import TrainJobEngine
from tests.components.train.conftest import make_contract

FOLDER = Path(__file__).parent / "golden"
PAGE = Path(cluster_job.__file__).parent / "CLUSTER.md"
NEWER = {"runtimePatches", "activeDeadlineSeconds"}
OLDER = {"podTemplateOverrides"}
SPEC: dict[str, Any] = {
    "image": "registry.example.com/headway-torch@sha256:" + "5" * 64,
    "queue": "gpu",
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "volumes": [{"name": "shared", "mount": "/shared", "claim": "headway-shared"}],
    "shm": "32Gi",
}
PLACEMENT = {"nodes": 2, "processes": 4, "accelerator": "gpu", "cpu": "32", "memory": "256Gi"}
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "training-x7k2p", "uid": "0b1c"}
STEP = Step(run="5f2c77aa-41d0-4f6e-9d53-2f8a1be0c111", namespace="team-a", owner=OWNER)


def job(**placement: Any) -> Job:
    contract = make_contract("binary")
    return Job.parse(
        {
            "name": "flights",
            "contract": contract.dump(),
            "training": {"trainer": "distributed", "placement": PLACEMENT | placement},
            "data": "s3://bucket/flights/train",
            "output": "s3://bucket/runs/5f2c77aa/bundle",
            "folder": "/shared/runs/5f2c77aa/train",
            "lineage": Lineage(data_digest="abc", contract_digest=contract.digest()).model_dump(mode="json"),
        }
    )


def rendered(engine: Engine, placement: dict[str, Any] | None = None, **spec: Any) -> Document:
    """What a cluster would get."""
    order = cluster_job.order(job(**(placement or {})), ClusterSpec.parse(SPEC | spec), Settings(), STEP)
    return engine.document(order)


def documents() -> dict[str, Document]:
    """All golden files by name."""
    rich = {
        "service_account": "trainer",
        "pull_secrets": ["registry"],
        "env": {"NCCL_SOCKET_IFNAME": "eth0"},
        "env_from_secrets": {"AWS_SECRET_ACCESS_KEY": {"name": "bucket", "key": "secret"}},
        "labels": {"kueue.x-k8s.io/priority-class": "high"},
    }
    return {
        "trainjob": rendered(TrainJobEngine(NEWER)),
        "trainjob-rich": rendered(TrainJobEngine(NEWER), **rich),
        "trainjob-2.1": rendered(TrainJobEngine(OLDER), **rich),
        "trainjob-cpu": rendered(TrainJobEngine(NEWER), {"accelerator": "cpu", "processes": 0}, queue=""),
        "pytorchjob": rendered(PyTorchJobEngine(), **rich, gang=True),
        "pytorchjob-elastic": rendered(PyTorchJobEngine(), {"nodes": 4}, elastic={"least": 2}),
    }


def as_yaml(document: Document) -> str:
    """Without the aliases that parts used twice would become."""
    return dump_yaml(json.loads(json.dumps(document)))


BLOCK = re.compile(r"(<!-- the job -->\n```yaml\n)(.*?)(```\n)", re.DOTALL)
"""The manifest on the page."""

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, document in documents().items():
        (FOLDER / f"{name}.yaml").write_text(as_yaml(document), encoding="utf-8")
    if PAGE.is_file():
        text = PAGE.read_text(encoding="utf-8")
        shown = as_yaml(documents()["trainjob"])
        PAGE.write_text(BLOCK.sub(lambda found: found[1] + shown + found[3], text), encoding="utf-8")
