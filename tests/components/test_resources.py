"""Resources of a step: the same on the task as kfp's own setters would leave."""

from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from headway.components.errors import UnknownNameError
from headway.components.images import component
from headway.components.resources import PRESETS, Resources, resources
from headway.pipelines.compile import compile_text, load_spec


@component
def nothing() -> None:
    """Do nothing."""


def container(configure: Callable[[Any], Any]) -> dict[str, Any]:
    """The compiled container of a task that was configured."""

    @dsl.pipeline(name="p")
    def pipeline() -> None:
        configure(nothing())

    spec, _ = load_spec(compile_text(pipeline))
    return dict(spec["deploymentSpec"]["executors"]["exec-nothing"]["container"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_task_gets_what_kfps_setters_would_give(preset: str) -> None:
    wanted = resources(preset)

    def theirs(task: Any) -> None:
        task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
        task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)

    assert container(wanted.apply) == container(theirs)


def test_gpus_need_both_a_type_and_a_count() -> None:
    found = container(Resources(cpu="2", memory="8Gi", gpus=4).apply)["resources"]["accelerator"]
    assert (found["resourceType"], found["resourceCount"]) == ("nvidia.com/gpu", "4")


def test_an_unknown_preset_offers_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'medium'"):
        resources("medum")
