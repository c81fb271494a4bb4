"""Tune a model on this machine: `headway tune`, and `tune("flights")` from a notebook.

Reading and checking the data are the steps of every pipeline and come from the same cache; the search then runs here,
so that it can be watched, and stopped with Ctrl-C.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import ConfigError
from headway.components.settings import Settings, load_settings
from headway.components.tune.objective import Job
from headway.components.tune.outcome import Outcome
from headway.components.tune.search import OnProgress, plan, search
from headway.components.tune.spec import TuningSpec
from headway.pipelines.embedded.workers import Workers
from headway.pipelines.project import SPEC_FILE, Project, resolve
from headway.pipelines.run import OnChange, run

VALIDATE_STEP = "data-validate"


@dataclass(frozen=True)
class DataProject(Project):
    """A project of which only the data steps run."""

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name."""
        return f"{self.spec.name}-data"

    def arguments(self) -> dict[str, str | bool]:
        """The pipeline's parameters."""
        wanted = ("contract", "source", "split")
        return {name: value for name, value in super().arguments().items() if name in wanted}

    def pipeline(self) -> Any:
        """The pipeline function."""
        from headway.pipelines.tuning import data

        return data


@dataclass(frozen=True, kw_only=True)
class TuningProject(Project):
    """A project whose pipeline is the search on a cluster."""

    tuning: TuningSpec

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name."""
        return f"{self.spec.name}-tuning"

    def arguments(self) -> dict[str, str | bool]:
        """The pipeline's parameters."""
        wanted = ("name", "contract", "source", "split", "training")
        given = {name: value for name, value in super().arguments().items() if name in wanted}
        return given | {"tuning": self.tuning.dump()}

    def pipeline(self) -> Any:
        """The pipeline function."""
        from headway.pipelines.tuning import tuning

        return tuning


def tuning_of(project: Project, changes: dict[str, Any] | None = None) -> TuningSpec:
    """The tuning section of a project, checked against its training section.

    Args:
        project: The project.
        changes: Keys of the section to set; None leaves one as it is.

    Raises:
        ConfigError: There is no tuning section, or it does not fit; names the key.
    """
    spec = project.spec.tuning
    if spec is None:
        raise ConfigError(
            f"{project.folder / SPEC_FILE}: there is no `tuning` section",
            expected="tuning: {space: {parameters.NAME: {type: float, low: …, high: …}}}",
        )
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    if given:
        spec = TuningSpec.parse(spec.model_dump(mode="json", exclude_defaults=True) | given, where="tuning")
    spec.check(project.spec.training, project.spec.task(project.contract))
    return spec.with_metric(project.spec.evaluation.primary)


def prepare(
    project: Project,
    spec: TuningSpec,
    *,
    cache: bool = True,
    settings: Settings | None = None,
    workers: Workers | None = None,
    on_change: OnChange | None = None,
) -> Job:
    """Read and check a project's data, and plan the study.

    Args:
        project: The project.
        spec: Its tuning section, from `tuning_of`.
        cache: Whether the data steps may come from earlier runs.
        settings: The settings in force, if not the usual ones.
        workers: What starts the data steps, already entered; made here by default.
        on_change: Called as the data steps start, speak and end.

    Raises:
        UsageError: The specification is wrong; nothing has run.
        StepFailedError: The data could not be read, or breaks its contract.
    """
    settings = settings or load_settings()
    data = DataProject(project.folder, project.overrides)
    done = run(data, cache=cache, settings=settings, workers=workers, on_change=on_change).raise_if_failed()
    step = next(each for each in done.steps if each.name == VALIDATE_STEP)
    parts = ("valid_train", "valid_validation")
    digests = [str(step.metadata.get(part, {}).get("digest", "")) for part in parts]
    return plan(
        project.name,
        project.contract,
        project.spec.training.dump(),
        spec,
        train=Path(step.outputs[parts[0]]),
        validation=Path(step.outputs[parts[1]]),
        data_digest="-".join(digests) if all(digests) else "",
        threads=settings.threads,
    )


def tune(
    pipeline: str | Project,
    *,
    set: list[str] | None = None,
    fresh: bool = False,
    cache: bool = True,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Search for the best training section of a project, on this machine.

    Args:
        pipeline: A shipped example's name, a project's folder, or a project.
        set: `section.key=value` changes to the specification, such as `tuning.trials=20`.
        fresh: Forget what an earlier search of the same study found.
        cache: Whether the data steps may come from earlier runs.
        settings: The settings in force, if not the usual ones.
        on_progress: Called as trials end.

    Returns:
        What was found; `outcome.training` is the section with the best values.

    Raises:
        UsageError: The specification is wrong; nothing has run.
        StepFailedError: The data could not be read, or breaks its contract.
        TrainingError: The workers cannot work.
    """
    project = pipeline if isinstance(pipeline, Project) else resolve(pipeline, set)
    job = prepare(project, tuning_of(project), cache=cache, settings=settings)
    return search(job, settings, fresh=fresh, on_progress=on_progress)
