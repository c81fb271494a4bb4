"""Gradients through shared memory: the mean of all ranks, the same bits on each, and no waiting for the dead."""

import os
import platform
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="gradients are torch's (headway[torch])")

import torch

from headway.components.errors import TrainingError
from headway.components.train_distributed.shared_memory import MOST_BYTES, SharedGradients
from tests.components.train_distributed import ranks

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is used on x86-64 Linux"
)
LARGEST = 5_000


def exchange(world: Any) -> None:
    shared = SharedGradients.between(world, 4 * LARGEST, patience=30)
    assert shared is not None
    sizes = torch.Generator().manual_seed(0)
    for number in range(400):
        size = int(torch.randint(1, LARGEST, (1,), generator=sizes))
        every = [torch.randn(size, generator=torch.Generator().manual_seed(97 * number + rank)) for rank in range(3)]
        if number % 50 == world.rank:
            time.sleep(0.003)  # each is late now and then
        shared.wants_to_stop = number % 7 == 0 and world.rank == number % 3
        mine = every[world.rank].clone()
        shared.average(mine)
        wanted = torch.stack(every).sum(0) / 3
        assert torch.equal(mine, wanted)
        assert shared.stops == (number % 7 == 0)


def lose_one(world: Any) -> None:
    shared = SharedGradients.between(world, 64, patience=30)
    assert shared is not None
    values = torch.ones(4)
    shared.average(values)
    if world.rank == 1:
        os._exit(7)
    started = time.monotonic()
    with pytest.raises(TrainingError, match="Rank 1 is gone"):
        shared.average(values)
    assert time.monotonic() - started < 15
    os._exit(0)


def wait_in_vain(world: Any) -> None:
    shared = SharedGradients.between(world, 64, patience=1)
    assert shared is not None
    if world.rank == 1:
        time.sleep(6)
        os._exit(0)
    with pytest.raises(TrainingError, match=r"has waited \d s for the gradients of rank 1"):
        shared.average(torch.ones(4))
    os._exit(0)


def test_mean_of_all_ranks() -> None:
    assert ranks.call(exchange, 3) == [0, 0, 0]


def test_rank_that_dies() -> None:
    assert ranks.call(lose_one, 2) == [0, 7]


def test_rank_that_does_not_come() -> None:
    assert ranks.call(wait_in_vain, 2) == [0, 0]


@pytest.mark.parametrize(
    ("world", "size"),
    [
        ({"size": 1}, 64),
        ({"one_machine": False}, 64),
        ({"device": torch.device("cuda")}, 64),
        ({}, MOST_BYTES + 1),
    ],
)
def test_left_to_torch_elsewhere(world: dict[str, Any], size: int) -> None:
    told: dict[str, Any] = {"first": True, "rank": 0, "size": 2, "one_machine": True, "device": torch.device("cpu")}
    fake: Any = SimpleNamespace(**told | world, gather=lambda thing: [thing, thing])
    assert SharedGradients.between(fake, size, patience=1) is None
