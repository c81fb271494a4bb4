# mypy: disable-error-code="misc"
# torch is optional, and without its types nn.Module is a base that mypy knows nothing of.
"""The networks, and what makes any of them a model: the input layer before it and the answer behind it.

EmbeddingMlp     a multi-layer perceptron over the numbers and an embedding of each category
TabularResNet    Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", section 3.2
your own         an nn.Module by its dotted path, see `build`
"""

import importlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from headway.components.errors import ConfigError, UnknownNameError, did_you_mean
from headway.components.train_distributed.preprocess import BOUND, Preprocess
from headway.components.train_distributed.spec import EMBEDDING_MLP, NETWORKS, TABULAR_RESNET


class Embeddings(nn.Module):
    """One vector for each category of each column, side by side.

    Args:
        sizes: Codes of each column; code 0 stands for every category without a code of its own.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, embedding_width(size)) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)
            # Nothing is known of a category that nobody has seen, and a vector of zeros says nothing.
            with torch.no_grad():
                table.weight[0].zero_()

    @property
    def width(self) -> int:
        """Numbers of one row."""
        return sum(embedding_width(table.num_embeddings) for table in self.tables)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Numbers (n, p) and the vectors of the codes (n, q) as one matrix (n, p + width)."""
        return torch.cat([numbers, *(table(codes[:, at]) for at, table in enumerate(self.tables))], dim=1)


def embedding_width(size: int) -> int:
    """Width of a column's embedding by its number of codes, as fastai's tabular models choose it.

    Example:
        >>> [embedding_width(size) for size in (3, 17, 1_000)]
        [3, 8, 50]
    """
    return min(50, round(1.6 * float(size**0.56)))


class EmbeddingMlp(nn.Module):
    """A multi-layer perceptron over numbers and embeddings of categories.

    Args:
        numbers: Standardised numbers of a row, p.
        categories: Codes of each category column.
        outputs: Numbers to give for a row, k.
        hidden: Widths of the hidden layers.
        dropout: Share of the activations of each hidden layer that training drops, 0 to 1.
    """

    def __init__(
        self,
        numbers: int,
        categories: list[int],
        outputs: int,
        *,
        hidden: list[int] | tuple[int, ...] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(categories)
        layers: list[nn.Module] = []
        width = numbers + self.embeddings.width
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Outputs (n, k) for standardised numbers (n, p) and codes (n, q)."""
        found: Tensor = self.layers(self.embeddings(numbers, codes))
        return found


class ResidualBlock(nn.Module):
    """x + Dropout(Linear(Dropout(ReLU(Linear(Norm(x))))))."""

    def __init__(self, width: int, factor: float, dropout: float, residual_dropout: float) -> None:
        super().__init__()
        inner = max(1, int(width * factor))
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(inner, width),
            nn.Dropout(residual_dropout),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape (n, width)."""
        found: Tensor = values + self.layers(values)
        return found


class TabularResNet(nn.Module):
    """The ResNet of Gorishniy et al. 2021 for tables, with LayerNorm in the place of BatchNorm.

    BatchNorm's statistics depend on how a batch is dealt to processes, and would make the result do so too.

    Args:
        numbers: Standardised numbers of a row, p.
        categories: Codes of each category column.
        outputs: Numbers to give for a row, k.
        width: Numbers between the blocks.
        blocks: Residual blocks.
        factor: Width inside a block over the width between them.
        dropout: Share that training drops inside a block, 0 to 1.
        residual_dropout: Share of a block's answer that training drops, 0 to 1.
    """

    def __init__(
        self,
        numbers: int,
        categories: list[int],
        outputs: int,
        *,
        width: int = 192,
        blocks: int = 3,
        factor: float = 2.0,
        dropout: float = 0.2,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(categories)
        self.first = nn.Linear(numbers + self.embeddings.width, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, factor, dropout, residual_dropout) for _ in range(blocks)))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Outputs (n, k) for standardised numbers (n, p) and codes (n, q)."""
        found: Tensor = self.last(self.blocks(self.first(self.embeddings(numbers, codes))))
        return found


CLASSES: dict[str, type[nn.Module]] = {EMBEDDING_MLP: EmbeddingMlp, TABULAR_RESNET: TabularResNet}
"""The networks by name."""


class Model(nn.Module):
    """A network with its input layer: raw numbers, NaN where missing, and category codes go in.

    Args:
        learnt: The preprocessing.
        network: What takes standardised numbers (n, p) and codes (n, q) and gives outputs (n, k).
    """

    def __init__(self, learnt: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("means", torch.tensor(learnt.means, dtype=torch.float32))
        self.register_buffer("factors", 1.0 / torch.tensor(learnt.scales, dtype=torch.float32))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Outputs (n, k) for raw numbers (n, p) and codes (n, q)."""
        found: Tensor = self.network(self.standardise(numbers), codes)
        return found

    def standardise(self, numbers: Tensor) -> Tensor:
        """Numbers in standard deviations from the mean, within ±10; 0 where missing."""
        found = ((numbers - self.means) * self.factors).clamp(-BOUND, BOUND)
        return torch.where(torch.isnan(numbers), torch.zeros_like(found), found)


class Answers(nn.Module):
    """A model that answers as a bundle does: probabilities of shape (n, k), or values of shape (n, 1)."""

    def __init__(self, model: Model, learnt: Preprocess) -> None:
        super().__init__()
        self.model = model
        self.task = learnt.task
        self.mean, self.scale = learnt.target_mean, learnt.target_scale

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """What the model says about raw numbers (n, p) and codes (n, q)."""
        outputs = self.model(numbers, codes)
        if self.task == "regression":
            return outputs * self.scale + self.mean
        if self.task == "binary":
            second = torch.sigmoid(outputs)
            return torch.cat([1.0 - second, second], dim=1)
        return torch.softmax(outputs, dim=1)


def build(name: str, parameters: dict[str, Any], learnt: Preprocess) -> Model:
    """The untrained model of a training section.

    Args:
        name: A network's name, or the dotted path of an nn.Module whose constructor takes `numbers: int`,
            `categories: list[int]` (codes of each column) and `outputs: int`, then its own parameters, and whose
            `forward(numbers, codes)` maps standardised float32 (n, numbers) and int64 (n, len(categories)) to
            float (n, outputs): logits, one for two classes, or a standardised value.
        parameters: The network's own parameters.
        learnt: The preprocessing.

    Raises:
        ConfigError: The path leads to no nn.Module, or the network refuses its parameters.
        UnknownNameError: There is no such network; offers the near names.
    """
    kind = find(name)
    accepted = inspect.signature(kind).parameters
    fixed = ("numbers", "categories", "outputs")
    own = [key for key, one in accepted.items() if key not in fixed and one.kind not in _VARIADIC]
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
    unknown = [key for key in parameters if key not in own and (key in fixed or not open_ended)]
    if unknown:
        raise ConfigError(
            f"Network {name!r} has no parameter {unknown[0]!r}{did_you_mean(unknown[0], own)}",
            expected=f"one of {', '.join(own)}" if own else "no parameters",
        )
    try:
        network = kind(len(learnt.means), learnt.sizes, learnt.outputs, **parameters)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Network {name!r} refuses its parameters: {error}") from error
    return Model(learnt, network)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def find(name: str) -> type[nn.Module]:
    """A network's class by name or dotted path.

    Raises:
        ConfigError: The path leads to no nn.Module.
        UnknownNameError: There is no such network.
    """
    if name in CLASSES:
        return CLASSES[name]
    if "." not in name:
        raise UnknownNameError("network", name, NETWORKS)
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Network {name!r}: {error}",
            expected="a name, or the dotted path of an nn.Module that can be imported",
            fix="install the package in the image and here, or correct the path",
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"Network {name!r}: {module_name} has no such nn.Module{did_you_mean(class_name, classes)}")
    return found


def loss_sum(outputs: Tensor, target: Tensor, weights: Tensor | None, task: str) -> Tensor:
    """The loss summed over rows: log loss in nats, or squared error.

    Args:
        outputs: Shape (n, k).
        target: Class numbers or standardised values, shape (n,).
        weights: Shape (n,), or None where all rows weigh 1.
        task: What is predicted.
    """
    outputs = outputs.float()
    if task == "multiclass":
        losses = nn.functional.cross_entropy(outputs, target, reduction="none")
    elif task == "binary":
        losses = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], target.float(), reduction="none")
    else:
        losses = nn.functional.mse_loss(outputs[:, 0], target, reduction="none")
    return losses.sum() if weights is None else (losses * weights).sum()


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with and without weight decay: matrices have it; biases, norms and embeddings have none."""
    rows = {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding)}
    every = [one for one in model.parameters() if one.requires_grad]
    plain = [one for one in every if one.ndim < 2 or id(one) in rows]
    bare = {id(one) for one in plain}
    return [one for one in every if id(one) not in bare], plain


def size_of(model: nn.Module) -> int:
    """Trainable numbers."""
    return sum(math.prod(one.shape) for one in model.parameters() if one.requires_grad)
