"""Rows as torch tensors."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from headway.components.train_distributed.preprocess import Rows


@dataclass
class Batch:
    """Rows as tensors of equal length n."""

    numbers: Tensor
    """float32 (n, p), NaN where missing."""
    codes: Tensor
    """int64 (n, q)."""
    target: Tensor
    """int64 class numbers or float32 standardised values (n,)."""
    weights: Tensor | None
    """float32 (n,), or None where all weigh 1."""

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device) -> "Batch":
        """On a device; the copy runs beside what the device does."""
        if device.type == "cpu":
            return self
        return Batch(*(one if one is None else one.to(device, non_blocking=True) for one in self._tensors()))

    def split(self, pieces: int) -> "list[Batch]":
        """As many pieces, whose lengths differ by one at most; an empty batch gives empty ones."""
        if pieces <= 1:
            return [self]
        ends = [len(self) * number // pieces for number in range(pieces + 1)]
        return [
            Batch(*(one if one is None else one[low:high] for one in self._tensors())) for low, high in pairwise(ends)
        ]

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.numbers, self.codes, self.target, self.weights


def to_batch(rows: Rows, *, pin: bool = False) -> Batch:
    """Rows as tensors.

    Args:
        rows: The rows; numbers and target are shared, not copied.
        pin: Whether to put them where a GPU copies from without the CPU's help.
    """
    found = Batch(
        torch.from_numpy(rows.numbers),
        torch.from_numpy(rows.codes).long(),
        torch.from_numpy(rows.target),
        None if rows.weights is None else torch.from_numpy(rows.weights),
    )
    if not pin:
        return found
    return Batch(*(one if one is None else one.pin_memory() for one in found._tensors()))
