"""A network as files of a bundle, and the way back: weights as plain arrays, architecture and preprocessing as JSON.

    model.npz       one array for each tensor of the network's state, without pickle
    network.json    the network's name and all its parameters, and the preprocessing

`torch.save` writes a pickle, and even `weights_only` has had holes (CVE-2025-32434); arrays have no code in them. An
.npz is opened with `allow_pickle=False` and needs no package beside numpy, and equal weights give equal bytes.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from headway.components import bundle as layout
from headway.components.bundle import BundleInfo
from headway.components.config import Config
from headway.components.errors import TrustError
from headway.components.model import Prediction, class_labels, classified, nothing
from headway.components.train.features import Data, Features
from headway.components.train_distributed.preprocess import Preprocess
from headway.components.train_distributed.spec import NETWORKS

_EPOCH = (1980, 1, 1, 0, 0, 0)


class NetworkDescription(Config):
    """What a network is, beside its weights."""

    document: ClassVar[str] = "network description"

    format_version: Literal[1] = 1
    network: str
    """Its name, or the dotted path of its class."""
    parameters: dict[str, Any] = {}
    """The network's own parameters as the training section gave them."""
    preprocess: Preprocess


class NetworkPredictor:
    """A network in torch.

    Args:
        model: The trained `Model`.
        learnt: Its preprocessing.
        info: The bundle's description.
        features: The columns that it takes.
    """

    def __init__(self, model: Any, learnt: Preprocess, info: BundleInfo, features: Features) -> None:
        from headway.components.train_distributed.networks import Answers

        self.info, self.features = info, features
        self.answers = Answers(model, learnt).eval()
        self._labels = class_labels(info)
        self._codes = [{name: code for code, name in enumerate(column, start=1)} for column in learnt.categories]

    def predict(self, data: Data) -> Prediction:
        """Predict for rows given as raw columns."""
        return self.predict_arrays(*self.features.arrays(data))

    def predict_arrays(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> Prediction:
        """Predict for rows that `Features.arrays` has made."""
        if not len(numbers):
            return nothing(self.info)
        found = self.raw(numbers, texts)
        if self.info.task == "regression":
            return Prediction(found.reshape(-1), None)
        return classified(self._labels, found)

    def raw(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> NDArray[np.float64]:
        """Probabilities (n, k), or values (n, 1)."""
        import torch

        codes = np.zeros(texts.shape, dtype=np.int64)
        for at, known in enumerate(self._codes):
            codes[:, at] = [known.get(text, 0) for text in texts[:, at]]
        with torch.inference_mode():
            found = self.answers(torch.from_numpy(np.ascontiguousarray(numbers)), torch.from_numpy(codes))
        wide: NDArray[np.float64] = found.numpy().astype(np.float64)
        return wide


def write_network(folder: Path, description: NetworkDescription, weights: dict[str, Any]) -> None:
    """Write both files into a bundle's folder.

    Args:
        folder: The bundle's folder.
        description: What the network is.
        weights: Tensors on the CPU, by name.
    """
    (folder / layout.NETWORK).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
    # By hand, for numpy puts the time of day into the archive.
    with zipfile.ZipFile(folder / layout.TORCH_MODEL, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(weights):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, weights[name].numpy(), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), buffer.getvalue())


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a weights file, by name.

    Raises:
        TrustError: It is no archive of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrustError(f"{path}: not an archive of plain arrays: {error}", fix="fetch the bundle again") from error


def open_network(folder: Path, trusted: list[str]) -> NetworkPredictor:
    """Open the network of a bundle.

    Args:
        folder: The bundle's folder.
        trusted: Dotted paths of network classes that may be imported besides our own.

    Raises:
        TrustError: torch is missing, the network's class is not trusted, or the files do not belong together.
    """
    description = NetworkDescription.load(folder / layout.NETWORK)
    if description.network not in NETWORKS and description.network not in trusted:
        raise TrustError(
            f"{folder}: its network is the class {description.network}, which is not trusted",
            expected=f"one of {', '.join(NETWORKS)}, or a class that the policy names",
            fix="read its code, then add it to `types` in the trust policy",
        )
    try:
        import torch
    except ImportError:
        raise TrustError(
            f"{folder}: its {layout.TORCH_MODEL} needs torch, which is not installed",
            fix="install headway[torch], or open the ONNX file",
        ) from None
    from headway.components.train_distributed.networks import build

    model = build(description.network, description.parameters, description.preprocess)
    arrays = read_weights(folder / layout.TORCH_MODEL)
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except (RuntimeError, TypeError) as error:
        raise TrustError(f"{folder}: weights and network do not belong together: {error}") from error
    info = layout.read_info(folder)
    return NetworkPredictor(model, description.preprocess, info, Features.of(layout.read_contract(folder)))
