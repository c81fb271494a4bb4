"""Any order of registering, promoting, rolling back and dying leaves the registry where a simple model says.

MLflow is replaced by a dictionary here, so that thousands of steps are cheap; test_registry.py uses the real one.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway.components.errors import PromotionConflictError, RegistryError
from headway.components.register.intents import Intent
from headway.components.register.registry import Registry
from headway.components.register.store import Store, Version
from headway.components.settings import Settings


class Killed(BaseException):
    """Stands for the end of the process."""


class DictionaryStore(Store):
    """Aliases and versions in memory; dies at the write that the test says."""

    def __init__(self, home: Settings) -> None:
        super().__init__(home)
        self.found: dict[str, int] = {}
        self.made: list[Version] = []
        self.writes_left: int | None = None

    def aliases(self, name: str) -> dict[str, int] | None:
        return dict(self.found) if self.made else None

    def versions(self, name: str) -> list[Version]:
        return list(self.made)

    def by_number(self, name: str, number: int) -> Version | None:
        return self.made[number - 1] if 0 < number <= len(self.made) else None

    def by_digest(self, name: str, digest: str) -> Version | None:
        return next((version for version in self.made if version.digest == digest), None)

    def create(self, name: str, *, source: str, run_id: str, tags: Mapping[str, str], card: str) -> int:
        self._write()
        facts = {"decision": "", "contract_digest": "", "data_digest": "", "code_revision": "", "created": ""}
        number = len(self.made) + 1
        digest = tags["headway.digest"]
        semver = f"1.0.{number - 1}"
        self.made.append(
            Version(
                name=name, version=number, semver=semver, digest=digest, aliases=(), run_id=run_id, source=source,
                card=card, **facts,
            )
        )  # fmt: skip
        return number

    def set_alias(self, name: str, alias: str, number: int) -> None:
        self._write()
        self.found[alias] = number

    def delete_alias(self, name: str, alias: str) -> None:
        self._write()
        self.found.pop(alias, None)

    def _write(self) -> None:
        if self.writes_left == 0:
            raise Killed
        if self.writes_left is not None:
            self.writes_left -= 1


class UncheckedRegistry(Registry):
    """The trust gate has tests of its own, and needs files."""

    @contextmanager
    def check(self, version: Version, **_: Any) -> Iterator[Any]:
        yield None

    def register_digest(self, digest: str) -> None:
        """`register` from where the bundle is uploaded."""

        def decide() -> Intent | None:
            if self.store.by_digest("flights", digest):
                return None
            champion = (self.store.aliases("flights") or {}).get("champion")
            version = {"source": "s3://x", "run_id": "r", "card": "", "tags": {"headway.digest": digest}}
            return Intent(
                kind="registered",
                model="flights",
                actor="ann",
                expected=champion,
                first=champion is None,
                version=version,
                facts={"digest": digest},
            )

        self._intents.transact("flights", decide)


class RegistryStates(RuleBasedStateMachine):
    """The registry beside a model of it: two numbers and a flag."""

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="headway-test-"))
        self.store = DictionaryStore(Settings(home=self.home))
        self.digests: list[str] = []
        self.champion: int | None = None
        self.previous: int | None = None
        self.challenger: int | None = None
        self.rolled_back = False
        self.moves = 0
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)

    def restart(self) -> None:
        """A new process: nothing in memory but what the store and the ledger hold."""
        self.registry = UncheckedRegistry(Settings(home=self.home))
        self.registry.store = self.store

    @contextmanager
    def perhaps_dying(self, writes: int | None) -> Iterator[None]:
        self.store.writes_left = writes
        try:
            yield
        except Killed:
            self.store.writes_left = None
            self.restart()
            self.registry.repair("flights")
        finally:
            self.store.writes_left = None

    @rule(again=st.booleans(), writes=st.none() | st.integers(0, 2))
    def register(self, again: bool, writes: int | None) -> None:
        digest = self.digests[-1] if again and self.digests else f"{len(self.digests) + 1:064x}"
        with self.perhaps_dying(writes):
            self.registry.register_digest(digest)
        if digest not in self.digests:
            self.digests.append(digest)
            number = len(self.digests)
            if self.champion is None:
                self.champion = number
                self.rolled_back = False
            else:
                self.challenger = number

    @precondition(lambda self: self.digests)
    @rule(data=st.data(), stale=st.booleans(), writes=st.none() | st.integers(0, 3))
    def promote(self, data: st.DataObject, stale: bool, writes: int | None) -> None:
        target = data.draw(st.integers(1, len(self.digests)))
        expected = data.draw(st.integers(1, 9)) if stale else self.champion
        conflict = self.champion not in {expected, target}
        try:
            with self.perhaps_dying(writes):
                self.registry.promote("flights", target, expected=expected, actor="ann", reason="better")
            assert not conflict
        except PromotionConflictError:
            assert conflict
            return
        if target != self.champion:
            self.previous, self.champion = self.champion, target
            self.rolled_back = False
            self._moved()

    @precondition(lambda self: self.digests)
    @rule(writes=st.none() | st.integers(0, 3))
    def roll_back(self, writes: int | None) -> None:
        refused = self.previous is None and not self.rolled_back
        try:
            with self.perhaps_dying(writes):
                self.registry.rollback("flights", actor="ann", reason="worse")
            assert not refused
        except RegistryError:
            assert refused
        if self.previous is not None:
            self.champion, self.previous = self.previous, None
            self.rolled_back = True
            self._moved()

    def _moved(self) -> None:
        self.moves += 1
        if self.challenger == self.champion:
            self.challenger = None

    @invariant()
    def aliases_are_where_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        wanted = {"champion": self.champion, "previous": self.previous, "challenger": self.challenger}
        assert self.store.found == {alias: number for alias, number in wanted.items() if number is not None}

    @invariant()
    def the_ledger_has_one_row_for_each_change(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.registry.ledger.verify().ok
        kinds = [row.kind for row in self.registry.ledger.rows()]
        assert kinds.count("registered") == len(self.digests) == len(self.store.made)
        assert kinds.count("promoted") + kinds.count("rolled_back") == self.moves == len(kinds) - len(self.digests)


TestRegistryStates = RegistryStates.TestCase
TestRegistryStates.settings = settings(
    max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
