"""Networks as users bring them, and as users break them."""

import os
import signal
import time

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """The least that a network of one's own needs."""

    def __init__(self, numbers: int, categories: list[int], outputs: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.numbers = nn.Linear(numbers, outputs)
        self.tables = nn.ModuleList(nn.Embedding(size, outputs) for size in categories)
        self.scale = scale

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        found = self.numbers(numbers)
        for at, table in enumerate(self.tables):
            found = found + table(codes[:, at])
        return found * self.scale


class Breaking(Linear):
    """Does something bad on rank 1 once training has come so far."""

    def __init__(
        self, numbers: int, categories: list[int], outputs: int, *, how: str = "raise", after: int = 20
    ) -> None:
        super().__init__(numbers, categories, outputs)
        self.how, self.after, self.calls = how, after, 0

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        found = super().forward(numbers, codes)
        self.calls += self.training
        if self.calls <= self.after or os.environ.get("RANK") != "1":
            return found
        if self.how == "raise":
            raise ValueError("bad row in shard part-007")
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang":
            time.sleep(3_600)
        return found * torch.tensor(float("nan"))


class NoModule:
    """Not a network at all."""
