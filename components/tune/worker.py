"""A worker: takes trials from a study until the budget is used up. `python -m headway.components.tune.worker JOB NAME`.

Started as a process it ends with its parent, however that ends: it watches its standard input, which the parent holds.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from headway.components.errors import HeadwayError
from headway.components.settings import Settings, load_settings
from headway.components.tune.objective import Job, load_objective
from headway.components.tune.study import StudySession, told

OnTrial = Callable[[StudySession, int], None]
"""Called with the session and the trial's number after each trial."""


def work(job: Job, name: str, settings: Settings, on_trial: OnTrial | None = None) -> int:
    """Run trials until the budget is used up, in this process.

    Args:
        job: The study's job.
        name: The worker's name, for logs and the report.
        settings: Where the study's storage is.
        on_trial: Told of each trial that ended.

    Returns:
        How many trials this worker ran.

    Raises:
        HeadwayError: The data or the section cannot be read, or the storage does not answer; a trial never raises.
    """
    kind = load_objective(job.spec.objective)
    base = kind.section.parse(job.training, where="training").model_dump(mode="json", exclude_defaults=True)
    session = StudySession(job, settings, name)
    with session.heartbeat():
        objective = kind(job)
        done = 0
        while (trial := session.claim()) is not None:
            session.run(trial, objective, base)
            done += 1
            if on_trial is not None:
                on_trial(session, trial.number)
    return done


def error_file(job_file: Path, name: str) -> Path:
    """Where a worker that cannot work leaves its error."""
    return job_file.parent / f"{name}.error.json"


def main(arguments: list[str]) -> int:
    """Work as a process of its own; the exit code."""
    job_file, name = Path(arguments[0]), arguments[1]
    _end_with_parent()
    try:
        work(Job.load(job_file), name, load_settings())
    except Exception as error:
        sys.stderr.write(f"{told(error)}\n")
        ours = isinstance(error, HeadwayError)
        document = {
            "type": type(error).__name__ if ours else "TrainingError",
            "problem": error.problem if isinstance(error, HeadwayError) else told(error),
            "expected": error.expected if isinstance(error, HeadwayError) else None,
            "fix": error.fix if isinstance(error, HeadwayError) else None,
        }
        error_file(job_file, name).write_text(json.dumps(document), encoding="utf-8")
        return 1
    return 0


def _end_with_parent() -> None:
    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            continue
        os._exit(1)  # a fit cannot be interrupted in any gentler way; its trial is given to another worker

    threading.Thread(target=watch, daemon=True, name="parent").start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
