"""A release as it is stored: where it stands, what it has counted, and what it is about to do.

    preparing ─▶ checking ─▶ running (stage 0, 1, …) ─▶ settling ─▶ promoted
        │            │           │            │             │
        └────────────┴───────────┴────────────┴─────────────┴─────▶ rolled_back, aborted, or completed

`preparing` waits until the newcomer's model is ready; `checking` tries it at weight 0; `running` moves traffic stage by
stage; `settling` keeps the old variant for the rollback window after the newcomer has become the champion. `completed`
is the end of a shadow release, which changes nothing by itself.

The whole of it is one document. Actions stand in `pending` before they are carried out, and leave it afterwards.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from headway.components.config import Config
from headway.serving.platform import Counts, Name, Reading, Route, Variant
from headway.serving.release.plan import ReleaseSpec, Stage, Strategy, stages
from headway.serving.release.verdict import Verdict


class State(StrEnum):
    """Where a release stands."""

    PREPARING = "preparing"
    CHECKING = "checking"
    RUNNING = "running"
    SETTLING = "settling"
    PROMOTED = "promoted"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.PROMOTED, State.COMPLETED, State.ROLLED_BACK, State.ABORTED)


class EnsureVariant(Config):
    """Start a variant that gets no traffic yet."""

    do: Literal["ensure_variant"] = "ensure_variant"
    variant: Variant


class RunChecks(Config):
    """Try the newcomer at weight 0."""

    do: Literal["run_checks"] = "run_checks"
    variant: Variant


class SetRoute(Config):
    """Make traffic follow a route."""

    do: Literal["set_route"] = "set_route"
    route: Route
    reason: str


class MoveChampion(Config):
    """Make a version the champion in the registry; `back` takes the way of a rollback."""

    do: Literal["move_champion"] = "move_champion"
    version: int
    expected: int | None
    reason: str
    back: bool = False


class RemoveVariant(Config):
    """Stop a variant that gets no traffic any more."""

    do: Literal["remove_variant"] = "remove_variant"
    variant: Name


class MoveExperiment(Config):
    """A/B: start, pause, resume or end the experiment behind the release."""

    do: Literal["move_experiment"] = "move_experiment"
    move: Literal["start", "pause", "resume", "stop", "complete"]
    actor: str
    reason: str = ""


Action = Annotated[
    EnsureVariant | RunChecks | SetRoute | MoveChampion | RemoveVariant | MoveExperiment, Field(discriminator="do")
]


class Check(Config):
    """One check of the newcomer at weight 0."""

    name: str
    ok: bool
    text: str


class Tally(Config):
    """What one variant answered in the present stage, and where the next reading starts."""

    cursor: str = ""
    counts: Counts = Counts()

    def add(self, reading: Reading) -> "Tally":
        """The tally after one more reading."""
        return Tally(cursor=reading.cursor, counts=self.counts + reading.counts)


class Release(Config):
    """One release of one version at one endpoint."""

    document: ClassVar[str] = "release"

    id: str
    endpoint: Name
    model: str
    spec: ReleaseSpec
    variants: list[Variant] = Field(min_length=1)
    """The stable one first, the newcomer last."""
    salt: str
    before: Route | None
    """The route when it began: what a rollback restores. None where the endpoint did not exist."""
    champion: int | None
    """The registry's champion when it began."""
    actor: str
    reason: str
    created: datetime
    state: State = State.PREPARING
    stage: int = 0
    entered: datetime
    """When the present state, or the present stage, began."""
    clock: datetime
    """From when on times are measured: `entered`, or the last `resume`."""
    first_entered: datetime | None = None
    """When the first stage began."""
    paused: bool = False
    """Whether a person stopped it; guards keep watch meanwhile."""
    held: str = ""
    """Why it waits for a person: a test that stays undecided, traffic that is not split as asked."""
    promoted: bool = False
    """Whether its version became the champion."""
    forced: str = ""
    """The reason a person gave for skipping the rest of the stages."""
    tallies: dict[str, Tally] = {}
    """Counts of the present stage by variant."""
    reference: Counts | None = None
    """The stable variant's counts before the newcomer got all traffic."""
    checks: list[Check] = []
    verdict: Verdict | None = None
    """The latest verdict."""
    ended_why: str = ""
    pending: list[Action] = []
    """What is to be done next, in order; written down before it is done."""
    ending: State | None = None
    """The state that is reached once `pending` is done, when the release is on its way out."""
    trouble: str = ""
    """The error of the last action that could not be carried out; it is tried again."""
    revision: int = 0
    """Counts the times it was stored: whoever stores a release that has moved on meanwhile is refused."""

    @property
    def newcomer(self) -> Variant:
        """The variant that the release is about."""
        return self.variants[-1]

    @property
    def stable(self) -> Variant:
        """The variant that it is held against; the newcomer itself where it is the first."""
        return self.variants[0]

    @property
    def stages(self) -> list[Stage]:
        """All stages."""
        return stages(self.spec, len(self.variants))

    @property
    def current(self) -> Stage:
        """The present stage."""
        return self.stages[self.stage]

    @property
    def route(self) -> Route:
        """The present stage's route."""
        return self.current.route(self.variants, self.salt)

    @property
    def watched(self) -> bool:
        """Whether live numbers are read now."""
        compares = len(self.variants) > 1 and self.spec.strategy is not Strategy.ROLLBACK
        return compares and self.state in (State.RUNNING, State.SETTLING) and not self.pending

    @property
    def exit_code(self) -> int:
        """For CI: 0 promoted or completed, 1 rolled back or aborted, 3 not over yet."""
        if self.state in (State.PROMOTED, State.COMPLETED):
            return 0
        return 1 if self.state.over else 3

    @property
    def headline(self) -> str:
        """Where it stands, in a few words."""
        where = str(self.state)
        if self.state is State.RUNNING and self.spec.strategy not in (Strategy.FIRST, Strategy.ROLLBACK):
            where += f", stage {self.stage + 1} of {len(self.stages)}"
        if self.paused:
            where += ", paused"
        return where + (f", held: {self.held}" if self.held else "")


class Event(Config):
    """Something for the ledger."""

    kind: str
    body: dict[str, object] = {}
    actor: str = ""
    """Who did it; empty means the one who started the release."""
