"""Objectives without a model: what a trial does is said by its values, so that the search itself can be watched."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from headway.components.config import Config
from headway.components.tune.objective import Objective


class Section(Config):
    """A training section of one number."""

    x: float = 0.5
    seconds: float = 0.0
    kind: str = "plain"
    log: str = ""
    epochs: int = 3


class Parabola(Objective):
    """The best x is 0.3; `kind` and `seconds` make a trial fail, hang, or kill its worker."""

    section = Section

    def __init__(self, job: Any) -> None:
        self.made = time.time()
        if job.model == "broken":
            from headway.components.errors import SourceError

            raise SourceError("no such table", expected="a table", fix="make one")

    def __call__(self, section: Any, report: Any) -> float:
        spec = Section.parse(section)
        note(spec, "began")
        if spec.kind == "fails":
            raise ValueError("this value is not good")
        if spec.kind == "nan":
            return float("nan")
        if spec.kind == "kills" or (spec.kind == "kills once" and count(spec, "began") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        value = 1 - (spec.x - 0.3) ** 2
        for epoch in range(1, spec.epochs + 1):
            time.sleep(spec.seconds / spec.epochs)
            if report(epoch, value * epoch / spec.epochs):
                break
        note(spec, "ended")
        return value

    @classmethod
    def task_of(cls, train: Path, contract: Any, section: Any) -> Any:
        return "binary"


def note(spec: Section, what: str) -> None:
    if spec.log:
        with Path(spec.log).open("a") as file:
            file.write(json.dumps({"what": what, "x": spec.x, "pid": os.getpid()}) + "\n")


def count(spec: Section, what: str) -> int:
    lines = [json.loads(line) for line in Path(spec.log).read_text().splitlines()]
    return sum(line["what"] == what and line["x"] == spec.x for line in lines)


class Network(Objective):
    """A torch network on random numbers, trained epoch by epoch: the interface as a trainer of networks uses it."""

    section = Section

    def __init__(self, job: Any) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(max(job.threads, 1))
        self.rows = torch.randn(256, 4)
        self.target = (self.rows.sum(dim=1) > 0).float()

    def __call__(self, section: Any, report: Any) -> float:
        import torch

        spec = Section.parse(section)
        torch.manual_seed(1)
        model = torch.nn.Linear(4, 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=spec.x)
        accuracy = 0.0
        for epoch in range(1, spec.epochs + 1):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(self.rows)[:, 0], self.target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            accuracy = float(((model(self.rows)[:, 0] > 0) == self.target.bool()).float().mean())
            if report(epoch, accuracy):
                break
        return accuracy

    @classmethod
    def task_of(cls, train: Path, contract: Any, section: Any) -> Any:
        return "binary"
