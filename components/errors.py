"""Every error Headway raises on purpose.

    HeadwayError                    catch this one to catch them all
    ├── UsageError            HW1xx the call is wrong: an argument, a name, a document        exit code 2
    │   ├── UnknownNameError        a name that does not exist; offers the near ones
    │   ├── ConfigError             a document (model.yaml, contract.yaml, policy) is wrong
    │   └── RefusedNameError        a name or path outside the allow-list
    ├── SourceError           HW2xx data could not be read                                    exit code 1
    │   └── SplitError              a table could not be split as asked
    ├── DataError             HW3xx data was read, and must not be used
    │   ├── ContractViolation       a `block` rule of the contract failed
    │   ├── LeakageError            the target leaks into the features or across the split
    │   └── RequestError            one request breaks the contract (4xx, never 5xx)
    ├── TrainingError         HW4xx a model could not be fitted or written
    │   └── ParityError             two files of one model disagree on real rows
    ├── EvaluationError       HW5xx a model could not be judged
    │   ├── MetricMissingError      the gate names a metric that nobody computed
    │   ├── MetricUndefinedError    the metric is NaN
    │   └── MetricDirectionError    the threshold points the wrong way
    ├── RegistryError         HW6xx the registry refused
    │   ├── PromotionConflictError  another promotion got there first
    │   └── LedgerError             the chain of the ledger is broken
    ├── TrustError            HW7xx a bundle must not be loaded
    ├── PipelineError         HW8xx a pipeline could not be compiled, run or submitted
    │   ├── StepFailedError         a step of a run failed; carries the step's own traceback
    │   └── PlatformError           Kubeflow Pipelines or MLflow could not be reached, or said no
    └── ServingError          HW9xx serving, a release or an experiment was refused or failed
        ├── GatewayError            Envoy or the supervisor could not be started, reached, or refused a configuration
        ├── NotReadyError           a variant did not become ready in time
        ├── ReleaseError            a release cannot do that now
        │   └── ReleaseConflictError    another driver or another person got there first
        ├── ClusterError            the Kubernetes API said no
        ├── MeasurementError        live metrics could not be read: never "healthy", never "failed"
        └── ExperimentError         an experiment cannot do that now, or does not know that variant

An error says what was wrong, what was expected, and what to do; `str(error)` is those three as one text, and
`error.code` stays the same from release to release.
"""

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class HeadwayError(Exception):
    """The base of every error that Headway raises on purpose.

    Args:
        problem: What was wrong, with the name of the thing and the value that came.
        expected: What it must be.
        fix: What to do about it.
    """

    code: ClassVar[str] = "HW000"
    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, expected: str | None = None, fix: str | None = None) -> None:
        super().__init__(problem, expected, fix)
        self.problem = problem
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.problem]
        if self.expected:
            parts.append(f"Expected: {self.expected}")
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.problem, self.expected, self.fix, self.__dict__)


def _rebuild(
    kind: type[HeadwayError], problem: str, expected: str | None, fix: str | None, state: dict[str, Any]
) -> HeadwayError:
    """Make an error again in another process, whatever arguments its own constructor takes."""
    error = kind.__new__(kind)
    HeadwayError.__init__(error, problem, expected=expected, fix=fix)
    error.__dict__.update(state)
    return error


class UsageError(HeadwayError):
    """The call is wrong: an argument, a name, a document."""

    code = "HW100"
    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist.

    Args:
        kind: What the name names: "estimator", "column", "metric".
        name: The name that came.
        choices: The names that exist.
    """

    code = "HW101"

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        super().__init__(
            f"Unknown {kind} {name!r}{did_you_mean(name, known)}",
            expected=f"one of {', '.join(known)}" if known else f"a {kind}, but there are none",
        )
        self.name = name
        self.choices = known


class ConfigError(UsageError):
    """A document that a person writes (model.yaml, contract.yaml, a policy) is wrong."""

    code = "HW102"


class RefusedNameError(UsageError):
    """A name or a path outside the allow-list."""

    code = "HW103"


class SourceError(HeadwayError):
    """Data could not be read."""

    code = "HW200"


class SplitError(SourceError):
    """A table could not be split as asked."""

    code = "HW201"


class DataError(HeadwayError):
    """Data was read, and must not be used."""

    code = "HW300"


class ContractViolation(DataError):  # noqa: N818 - the word that people use for it
    """A `block` rule of the contract failed."""

    code = "HW301"


class LeakageError(DataError):
    """The target leaks into the features or across the split."""

    code = "HW302"


class RequestError(DataError):
    """One request breaks the contract: the client's mistake, never the server's.

    Args:
        failures: For each field that is wrong: its name, what was expected, what came.
    """

    code = "HW303"

    def __init__(self, failures: list[dict[str, Any]]) -> None:
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(
            f"Field {first['field']!r}: got {first['got']}{more}",
            expected=str(first["expected"]),
        )
        self.failures = failures


class TrainingError(HeadwayError):
    """A model could not be fitted or written."""

    code = "HW400"


class ParityError(TrainingError):
    """Two files of one model disagree on real rows."""

    code = "HW401"


class EvaluationError(HeadwayError):
    """A model could not be judged."""

    code = "HW500"


class MetricMissingError(EvaluationError):
    """The gate names a metric that nobody computed."""

    code = "HW501"


class MetricUndefinedError(EvaluationError):
    """The metric is NaN."""

    code = "HW502"


class MetricDirectionError(EvaluationError):
    """The threshold points the wrong way: a minimum for a loss, a maximum for a score."""

    code = "HW503"


class RegistryError(HeadwayError):
    """The registry refused."""

    code = "HW600"


class PromotionConflictError(RegistryError):
    """Another promotion got there first; nothing was changed."""

    code = "HW601"


class LedgerError(RegistryError):
    """The chain of the ledger is broken."""

    code = "HW602"


class TrustError(HeadwayError):
    """A bundle must not be loaded."""

    code = "HW700"


class PipelineError(HeadwayError):
    """A pipeline could not be compiled, run or submitted."""

    code = "HW800"


class StepFailedError(PipelineError):
    """A step of a run failed.

    Args:
        step: The step's name.
        problem: The step's own error, in one line.
        detail: The step's own traceback or message, as the step wrote it.
        log: Where the step's whole log lies.
    """

    code = "HW801"

    def __init__(self, step: str, problem: str, *, detail: str = "", log: str = "") -> None:
        super().__init__(f"Step {step!r} failed: {problem}", fix=f"read the step's log at {log}" if log else None)
        self.step = step
        self.detail = detail
        self.log = log


class PlatformError(PipelineError):
    """Kubeflow Pipelines or MLflow could not be reached, or said no."""

    code = "HW802"


class ServingError(HeadwayError):
    """Serving, a release or an experiment was refused or failed."""

    code = "HW900"


class GatewayError(ServingError):
    """Envoy or the supervisor could not be started, reached, or refused a configuration."""

    code = "HW901"


class NotReadyError(ServingError):
    """A variant did not become ready in time."""

    code = "HW902"


class ReleaseError(ServingError):
    """A release cannot do that now: an illegal transition, a plan that no platform can carry out."""

    code = "HW903"


class ReleaseConflictError(ReleaseError):
    """Another driver or another person got there first; nothing was changed."""

    code = "HW904"


class ClusterError(ServingError):
    """The Kubernetes API could not be reached, or said no."""

    code = "HW905"


class MeasurementError(ServingError):
    """Live metrics could not be read. It says nothing about the model: neither that it is healthy nor that it fails."""

    code = "HW906"


class ExperimentError(ServingError):
    """An experiment cannot do that now, or does not know that variant."""

    code = "HW907"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The near names as a question, or nothing when none is near.

    Example:
        >>> did_you_mean("acuracy", ["accuracy", "recall"])
        " - did you mean 'accuracy'?"
        >>> did_you_mean("xyz", ["accuracy"])
        ''
    """
    known = list(choices)
    folded = {choice.casefold(): choice for choice in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    if not near:
        return ""
    return f" - did you mean {' or '.join(repr(folded[match]) for match in near)}?"
