"""What is trained and where: the training section of a model.yaml that trains a network.

training:
  trainer: distributed
  network: tabular_resnet               # a name of networks.py, or the dotted path of your own nn.Module
  parameters: {width: 128, blocks: 2}
  epochs: 20
  batch_size: 2048                      # rows of one step over all processes: adding processes changes no result
  placement: {nodes: 2, processes: 4, accelerator: gpu}
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.train.estimators import EarlyStopping, label_text

EMBEDDING_MLP, TABULAR_RESNET = "embedding_mlp", "tabular_resnet"
NETWORKS = (EMBEDDING_MLP, TABULAR_RESNET)
"""The networks by name; networks.py has their classes, which need torch."""

_PATIENT = EarlyStopping(patience=3, validation_share=0.1)


def _as_early_stopping(value: Any) -> Any:
    return {True: _PATIENT, False: None}[value] if isinstance(value, bool) else value


def _as_onnx(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


def _by_text(value: Any) -> Any:
    return {label_text(label): weight for label, weight in value.items()} if isinstance(value, dict) else value


class Placement(Config):
    """Where the processes of a training job run."""

    document: ClassVar[str] = "placement section"

    nodes: int = Field(default=1, ge=1, le=1_000)
    """Machines. One is this machine, or this pod, without a job of its own; more are a job on the cluster."""
    processes: int = Field(default=0, ge=0, le=64)
    """Processes on each machine; 0 means one for each GPU, or without one as many as there are cores, at most four."""
    threads: int = Field(default=0, ge=0, le=1_024)
    """OpenMP threads of each process; 0 shares the cores out. More threads than cores cost a factor of two, and five on
    a busy machine."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs where there are some; on a cluster, where nobody can look, it means `cpu`."""
    gpu_type: str = "nvidia.com/gpu"
    """The accelerator's resource name on a cluster."""
    cpu: str = "2"
    """Cores of each machine on a cluster, as Kubernetes writes them."""
    memory: str = "8Gi"
    """Memory of each machine on a cluster."""
    deadline: float = Field(default=86_400, gt=0)
    """Seconds after which the job is ended whatever its state; the time in a queue does not count."""


class CheckpointSpec(Config):
    """How often the state is written, and how much of it is kept."""

    document: ClassVar[str] = "checkpoint section"

    every: int = Field(default=500, ge=1)
    """Steps between two checkpoints; what a lost machine costs at most."""
    keep: int = Field(default=2, ge=1)
    """Complete checkpoints that stay; older ones are removed once a newer one is complete."""


class DistributedSpec(Config):
    """The training section of a model.yaml that trains a network on one or many processes."""

    document: ClassVar[str] = "training section"

    trainer: Literal["distributed"]
    """What tells this section from that of a scikit-learn estimator."""
    network: str = Field(default=EMBEDDING_MLP, min_length=1, max_length=300)
    """`embedding_mlp`, `tabular_resnet`, or the dotted path of an nn.Module; `networks.build` says what it takes."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The network's own parameters; what is not given keeps its default."""
    task: Task | Literal["auto"] = "auto"
    """`auto` reads it off the target: boolean, string and integer with allowed values are classes, a number is not."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds the initial weights, the order of the rows, the held-back rows and dropout."""
    class_weight: Annotated[
        Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None, BeforeValidator(_by_text)
    ] = None
    """`balanced` (inverse to a class's share), a weight by class label (others weigh 1), or none."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows, at most."""
    batch_size: int = Field(default=2_048, ge=1)
    """Rows of one optimiser step, over all processes together: the result does not depend on how many there are."""
    micro_batch: int = Field(default=0, ge=0)
    """Rows that a process computes at once; it accumulates gradients over the rest of its share of a step, and only the
    last piece is synchronised. 0 takes the whole share on a GPU, and 4,096 rows on a CPU, whose caches hold no more."""
    learning_rate: PositiveFloat = 1e-3
    """The peak of the schedule. AdamW hardly minds a factor of two; a much larger batch wants a larger one."""
    weight_decay: float = Field(default=1e-5, ge=0.0)
    """AdamW's decay of the weights; biases, normalisation and embeddings have none."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero along a cosine over all epochs, or constant."""
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of all steps over which the learning rate rises from zero: Adam's first steps have no averages yet."""
    clip: float = Field(default=1.0, ge=0.0)
    """Largest norm of the gradient; a larger one is scaled down: one odd batch cannot throw the weights. 0: off."""
    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_as_early_stopping)] = _PATIENT
    """Holds a share of the rows back, stops after `patience` epochs without improvement on them, and keeps the best
    epoch's weights; `false` trains on all rows to the last epoch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on GPUs that have it, else float32. `bfloat16` is refused where the hardware has none: there it
    is emulated, and ten times slower."""
    compile: bool = False
    """Compile the network (torch.compile): half a minute at the start, for networks that train for hours."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """`ddp` copies the network to each process, `fsdp` (FSDP2) divides it; `auto` divides only what does not fit."""
    shuffle_rows: int = Field(default=262_144, ge=1)
    """Rows in memory, over all processes, among which the order is shuffled; whole row groups are shuffled before."""
    cache: int = Field(default=128, ge=0)
    """MiB of decoded rows that a process keeps from epoch to epoch, so that a small table is read once."""
    max_categories: int = Field(default=10_000, ge=1)
    """How many categories of a column get an embedding of their own; the less frequent ones share one."""
    rare: int = Field(default=5, ge=1)
    """A category in fewer training rows shares the embedding of the unseen ones, which so learns what rare ones do."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """How often the state is written."""
    patience: float = Field(default=300.0, gt=0.0)
    """Seconds without any sign of progress after which a process counts as hanging, and the job ends."""
    onnx: Annotated[Literal["auto", "require", "off"], BeforeValidator(_as_onnx)] = "auto"
    """Write an ONNX file too: `auto` where it converts and agrees, `require` or fail, `off`."""
    parity_tolerance: float = Field(default=1e-4, gt=0.0)
    """Largest difference allowed between the two files: of a probability, or as a share of the target's standard
    deviation in regression."""
    placement: Placement = Placement()
    """Where the processes run; no result depends on it."""

    @property
    def estimator(self) -> str:
        """The network's name, under the word that every training section answers to."""
        return self.network

    def placed(self, nodes: int = 0, processes: int = 0, accelerator: str = "") -> "DistributedSpec":
        """The section at another place; what is 0 or empty stays.

        Raises:
            ConfigError: The place is none.
        """
        wanted = {"nodes": nodes, "processes": processes, "accelerator": accelerator}
        given = {key: value for key, value in wanted.items() if value}
        placement = Placement.parse(self.placement.model_dump() | given, where="placement")
        return self.model_copy(update={"placement": placement})

    def check(self) -> None:
        """Hold the section against what can be known without torch.

        Raises:
            UnknownNameError: The network does not exist; offers the near names.
        """
        if "." not in self.network and self.network not in NETWORKS:
            from headway.components.errors import UnknownNameError

            raise UnknownNameError("network", self.network, NETWORKS)
