"""The registry: versions of models in MLflow, and the guarded moves between them.

    champion      the version that serves; exactly one, once there is one
    challenger    the newest version that passed its gate and waits
    previous      the champion before, where a rollback goes

A version is made last: its bundle is checked, signed and uploaded first, so a killed run leaves nothing half
registered. Every move is a transaction over an intent (intents.py) and ends in a row of the ledger (ledger.py).
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.components.bundle import (
    CONTRACT,
    INFO,
    MANIFEST,
    SIGNATURE,
    BundleInfo,
    Manifest,
    Signature,
    sha256_file,
)
from headway.components.data_validate.contract import Contract
from headway.components.errors import PromotionConflictError, RegistryError, TrustError, UnknownNameError
from headway.components.register import names
from headway.components.register.card import model_card, require_metadata
from headway.components.register.intents import Intent, Intents
from headway.components.register.ledger import Ledger, LedgerRow
from headway.components.register.semver import Interface, SemVer, next_version
from headway.components.register.store import TAG, Store, Version
from headway.components.settings import Settings, load_settings
from headway.components.signing import sign_bundle
from headway.components.trust import CheckedBundle, Policy, TrustedModel, check_bundle, load_bundle, load_policy

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

ARTIFACT_FOLDER = "registered"
"""Where signed bundles lie among a run's artifacts: a folder for each attempt, named by the bundle's digest."""


class Registry:
    """Models and their versions.

    Args:
        settings: Where MLflow, the ledger, the policy and the keys are; the installation's by default.
        client: An MLflow client; one for the settings' tracking URI by default.
    """

    def __init__(self, settings: Settings | None = None, *, client: "MlflowClient | None" = None) -> None:
        self.settings = settings or load_settings()
        self.ledger = Ledger(self.settings.resolved_database_url)
        self.store = Store(self.settings, client=client)
        self._intents = Intents(self.ledger, self._carry_out)

    def names(self) -> list[str]:
        """All models' names."""
        return self.store.names()

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, the oldest first.

        Raises:
            UnknownNameError: There is no such model.
        """
        self.store.require_aliases(name)
        return self.store.versions(name)

    def version(self, name: str, ref: str | int) -> Version:
        """One version by number (`3`), semantic version (`1.2.0`) or alias (`champion`).

        Raises:
            UnknownNameError: There is no such model or version.
            RegistryError: The alias is not set.
        """
        text = names.version_ref(str(ref))
        aliases = self.store.require_aliases(name)
        if names.SEMANTIC_VERSION.fullmatch(text):
            found = next((each for each in self.store.versions(name) if each.semver == text), None)
        else:
            found = self.store.by_number(name, int(text) if text.isdecimal() else _aliased(name, text, aliases))
        if found is None:
            known = [known for each in self.store.versions(name) for known in (str(each.version), each.semver) if known]
            raise UnknownNameError(f"version of {name!r}", text, known)
        return found

    def champion(self, name: str) -> Version:
        """The version that serves.

        Raises:
            UnknownNameError: There is no such model.
            RegistryError: It has no champion.
        """
        return self.version(name, CHAMPION)

    def find_champion(self, name: str) -> Version | None:
        """The version that serves, or None while the model has none, or is not registered at all."""
        number = (self.store.aliases(names.model_name(name)) or {}).get(CHAMPION)
        return None if number is None else self.store.by_number(name, number)

    def champion_at(self, name: str, moment: datetime) -> LedgerRow | None:
        """The ledger's row that made the champion of a moment: what served then, and why.

        Args:
            name: The model's name.
            moment: The moment; without a zone it is UTC.

        Returns:
            The row, whose `body["champion"]` is the version's number; None when nothing served.
        """
        rows = self.ledger.rows(model=names.model_name(name), until=moment)
        return next((row for row in reversed(rows) if row.body.get("champion")), None)

    def storage_uri(self, version: Version) -> str:
        """Where a version's files lie, as KServe's storage initialiser or fsspec reads it."""
        return self.store.storage_uri(version)

    def download(self, version: Version, target: str | Path) -> Path:
        """Fetch a version's bundle into a new folder, through the trust gate; it appears whole or not at all.

        Args:
            version: The version.
            target: The folder to make; it may exist if it is empty.

        Raises:
            RegistryError: The folder is not empty, or the files are gone.
            TrustError: The files are not those that were registered.
        """
        target = Path(target)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RegistryError(f"{target}: already there", expected="a folder that does not exist yet, or is empty")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            fetched = self.store.fetch(version, Path(temporary))
            with (
                _named(version, fetched),
                check_bundle(fetched, policy=self._policy(), digest=version.digest) as checked,
            ):
                # The checked private copy becomes the result, not the folder beside it that could still change.
                whole = Path(temporary) / "checked"
                shutil.copytree(checked.folder, whole)
                whole.chmod(0o755)
            if target.exists():
                target.rmdir()
            whole.rename(target)
        return target

    @contextlib.contextmanager
    def check(self, version: Version, *, policy: Policy | None = None) -> Iterator[CheckedBundle]:
        """Fetch a version and put it through the trust gate, without opening its model.

        Raises:
            TrustError: It must not be opened; says why.
        """
        with tempfile.TemporaryDirectory(prefix="headway-version-") as temporary:
            fetched = self.store.fetch(version, Path(temporary))
            policy = policy or self._policy()
            with _named(version, fetched), check_bundle(fetched, policy=policy, digest=version.digest) as checked:
                yield checked

    def load(self, version: Version, *, policy: Policy | None = None, threads: int = 0) -> TrustedModel:
        """Fetch a version, put it through the trust gate and open its model.

        Args:
            version: The version.
            policy: What is allowed; the installation's policy by default.
            threads: Threads that the model may use; 0 means as many as there are cores.

        Raises:
            TrustError: It must not be opened; says why.
        """
        with tempfile.TemporaryDirectory(prefix="headway-version-") as temporary:
            fetched = self.store.fetch(version, Path(temporary))
            policy = policy or self._policy()
            with _named(version, fetched):
                return load_bundle(fetched, policy=policy, digest=version.digest, threads=threads)

    def register(
        self,
        name: str,
        bundle: str | Path,
        *,
        verdict: Mapping[str, Any],
        actor: str,
        run_id: str = "",
        promote_first: bool = True,
    ) -> Version:
        """Make a bundle that passed its gate a version of the model, with the alias `challenger`.

        A retry, or the same bundle from another run, gives the version that is already there.

        Args:
            name: The model's name.
            bundle: The bundle's folder; it is copied and not changed.
            verdict: What `evaluate` decided, with `decision` and `bundle_digest`.
            actor: Who registers: a person, or a pipeline's run.
            run_id: The MLflow run that trained it; a run is made when empty.
            promote_first: Whether the very first version becomes champion. A champion that exists always stays.

        Raises:
            RegistryError: There is no bundle, it is of another model, the run failed, or the verdict is not `promote`
                for exactly this bundle.
            TrustError: The bundle does not pass the trust gate.
        """
        folder = Path(bundle)
        if not folder.is_dir() or not any(folder.iterdir()):
            raise RegistryError(f"Nothing to register: no bundle in {folder}", expected="the folder that `train` wrote")
        names.model_name(name)
        with check_bundle(folder, policy=self._policy(), require_signature=False) as checked:
            new = Interface(info=checked.info, contract=checked.contract, signature=checked.signature)
            require_metadata(name, new)
            _require_promote(name, checked.digest, verdict)
            # What a crash left is finished first, so that it is found here and not made again.
            self._intents.finish(name)
            if self.store.by_digest(name, checked.digest) is None:
                run = self.store.usable_run(run_id, name)
                sign_bundle(checked.folder, self.settings.resolved_signing_key)
                # A folder for each attempt: two attempts at once never write into one another's files.
                place = f"{ARTIFACT_FOLDER}/{checked.digest[:16]}-{uuid.uuid4().hex[:8]}"
                source = self.store.upload(checked.folder, place, run)
                facts = {"digest": checked.digest, "run_id": run, "verdict": evidence(verdict)}
                self._intents.transact(
                    name, lambda: self._decide_register(name, new, source, actor, promote_first, facts)
                )
        registered = self.store.by_digest(name, checked.digest)
        if registered is None:
            raise RegistryError(
                f"Model {name!r}: the version was deleted while it was registered", fix="register again"
            )
        return registered

    def promote(
        self,
        name: str,
        ref: str | int,
        *,
        expected: int | None,
        actor: str,
        reason: str,
        verdict: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make a version the champion, if the champion is still the one that the decision was about.

        Args:
            name: The model's name.
            ref: The version to promote.
            expected: The champion's number when the decision was taken; None when there was none.
            actor: Who promotes.
            reason: Why, in words.
            verdict: The evidence, kept in the ledger; its decision, if it has one, must be `promote`.

        Returns:
            The champion. Promoting the champion again changes nothing.

        Raises:
            PromotionConflictError: Another promotion got there first; nothing was changed.
            TrustError: The version does not pass the trust gate; nothing was changed.
            RegistryError: There is no reason, or the verdict is another.
        """
        _require_reason(reason)
        decision = (verdict or {}).get("decision", "promote")
        if decision != "promote":
            raise RegistryError(f"{name} {ref}: the verdict is {decision!r}", expected="the verdict `promote`")
        self._intents.finish(names.model_name(name))
        version = self.version(name, ref)
        with self.check(version):
            facts = _facts(version, reason, verdict)

        def decide() -> Intent | None:
            champion = self.store.require_aliases(name).get(CHAMPION)
            if champion == version.version:
                return None
            _require_champion(name, expected, champion)
            return Intent(
                kind="promoted",
                model=name,
                actor=actor,
                expected=champion,
                champion=version.version,
                previous=champion,
                facts=facts,
            )

        return self._after(version, self._intents.transact(name, decide))

    def rollback(
        self,
        name: str,
        *,
        actor: str,
        reason: str,
        to: str | int | None = None,
        expected: int | None = None,
    ) -> Version:
        """Make the champion before the champion again, or any other version that is still there.

        It needs nothing of the present champion. Afterwards there is no `previous`: calling it again changes nothing,
        and going further back takes a version.

        Args:
            name: The model's name.
            actor: Who rolls back.
            reason: Why, in words.
            to: The version to go to; the alias `previous` by default.
            expected: The champion that shall be left; whichever is there now when None.

        Returns:
            The champion.

        Raises:
            RegistryError: There is no previous champion, and none was rolled back.
            PromotionConflictError: The champion is not the expected one.
            TrustError: The version to go to does not pass the trust gate; nothing was changed.
        """
        _require_reason(reason)
        self._intents.finish(names.model_name(name))
        aliases = self.store.require_aliases(name)
        if to is None and PREVIOUS not in aliases:
            return self._already_rolled_back(name)
        leaving = aliases.get(CHAMPION) if expected is None else expected
        version = self.version(name, PREVIOUS if to is None else to)
        with self.check(version):
            facts = _facts(version, reason, None)

        def decide() -> Intent | None:
            champion = self.store.require_aliases(name).get(CHAMPION)
            if champion == version.version:
                return None
            _require_champion(name, leaving, champion)
            return Intent(
                kind="rolled_back", model=name, actor=actor, expected=champion, champion=version.version, facts=facts
            )

        return self._after(version, self._intents.transact(name, decide))

    def repair(self, name: str) -> LedgerRow | None:
        """Finish what a crash left half done; every change of the model does so by itself first.

        Returns:
            The ledger's row of what was finished, or None when nothing was left.
        """
        return self._intents.finish(names.model_name(name))

    # ---- deciding, under the lock

    def _decide_register(
        self, name: str, new: Interface, source: str, actor: str, promote_first: bool, facts: dict[str, Any]
    ) -> Intent | None:
        if self.store.by_digest(name, facts["digest"]) is not None:
            return None
        champion = (self.store.aliases(name) or {}).get(CHAMPION)
        semver, changes = next_version(self._newest(name), new)
        lineage = new.info.lineage
        tags = {
            "version": str(semver),
            "digest": facts["digest"],
            "contract_digest": lineage.contract_digest,
            "data_digest": lineage.data_digest,
            "code_revision": lineage.code_revision,
            "decision": facts["verdict"]["decision"],
        }
        card = model_card(name, str(semver), new, changes=changes, **facts)
        first = promote_first and champion is None
        return Intent(
            kind="registered",
            model=name,
            actor=actor,
            expected=champion,
            first=first,
            version={
                "source": source,
                "run_id": facts["run_id"],
                "tags": {TAG + key: value for key, value in tags.items()},
                "card": card,
            },
            facts={
                **facts,
                "semver": str(semver),
                "changes": changes,
                **({"reason": "first version"} if first else {}),
            },
        )

    def _newest(self, name: str) -> tuple[SemVer, Interface] | None:
        """The highest semantic version and what its callers see; None before the first."""
        versions = [version for version in self.store.versions(name) if version.semver]
        if not versions:
            return None
        newest = max(versions, key=lambda version: SemVer.parse(version.semver))
        return SemVer.parse(newest.semver), self._interface(newest)

    def _interface(self, version: Version) -> Interface:
        with tempfile.TemporaryDirectory(prefix="headway-version-") as temporary:
            fetched = {file: self.store.fetch(version, Path(temporary), file) for file in _INTERFACE_FILES}
            listed = Manifest.load(fetched[MANIFEST]).files
            wanted = {file: version.digest if file == MANIFEST else listed[file].sha256 for file in fetched}
            if changed := [file for file, path in fetched.items() if sha256_file(path) != wanted[file]]:
                raise TrustError(f"{version.label}: {', '.join(changed)} was changed in the registry")
            return Interface(
                info=BundleInfo.load(fetched[INFO]),
                contract=Contract.load(fetched[CONTRACT]),
                signature=Signature.load(fetched[SIGNATURE]),
            )

    # ---- carrying out, once or again

    def _carry_out(self, intent: Intent) -> tuple[str, int, dict[str, Any]]:
        return self._carry_out_version(intent) if intent.kind == "registered" else self._carry_out_move(intent)

    def _carry_out_version(self, intent: Intent) -> tuple[str, int, dict[str, Any]]:
        name = intent.model
        made = self.store.by_digest(name, intent.facts["digest"])
        number = made.version if made else self.store.create(name, **intent.version)
        first = intent.first and (self.store.aliases(name) or {}).get(CHAMPION, number) == number
        self.store.set_alias(name, CHAMPION if first else CHALLENGER, number)
        return "registered", number, {**intent.facts, **({"champion": number} if first else {})}

    def _carry_out_move(self, intent: Intent) -> tuple[str, int, dict[str, Any]]:
        name, target = intent.model, int(intent.champion or 0)
        aliases = self.store.require_aliases(name)
        facts = {**intent.facts, "from": intent.expected}
        if aliases.get(CHAMPION) not in (intent.expected, target):
            reason = f"the champion was moved to {aliases.get(CHAMPION)} outside of Headway before this was carried out"
            return "abandoned", target, {**facts, "abandoned": reason}
        # `previous` first: from the moment in which the champion moves, the way back is known.
        if intent.previous is not None:
            self.store.set_alias(name, PREVIOUS, intent.previous)
        self.store.set_alias(name, CHAMPION, target)
        if intent.previous is None and PREVIOUS in aliases:
            self.store.delete_alias(name, PREVIOUS)
        if aliases.get(CHALLENGER) == target:
            self.store.delete_alias(name, CHALLENGER)
        return intent.kind, target, {**facts, "champion": target}

    def _after(self, version: Version, row: LedgerRow | None) -> Version:
        if row is not None and row.kind == "abandoned":
            raise PromotionConflictError(
                f"{version.label}: {row.body['abandoned']}", fix="look at the champion, then decide again"
            )
        return self.version(version.name, version.version)

    def _already_rolled_back(self, name: str) -> Version:
        moves = [row for row in self.ledger.rows(model=name) if row.body.get("champion")]
        champion = self.find_champion(name)
        if champion and moves and moves[-1].kind == "rolled_back" and moves[-1].body["champion"] == champion.version:
            return champion
        raise RegistryError(
            f"Model {name!r} has no previous champion to go back to",
            fix=f"name the version: headway model rollback {name} --to VERSION",
        )

    def _policy(self) -> Policy:
        return load_policy(self.settings)


_MAX_REASONS = 10
_INTERFACE_FILES = (MANIFEST, INFO, CONTRACT, SIGNATURE)


def _aliased(name: str, alias: str, aliases: Mapping[str, int]) -> int:
    if alias in aliases:
        return aliases[alias]
    fix = f"headway model promote {name} VERSION" if alias == CHAMPION else None
    known = ", ".join(sorted(aliases)) or "but none is set"
    raise RegistryError(f"Model {name!r} has no {alias}", expected=f"an alias that is set: {known}", fix=fix)


def _require_promote(name: str, digest: str, verdict: Mapping[str, Any]) -> None:
    decision, judged = verdict.get("decision"), verdict.get("bundle_digest")
    if decision != "promote":
        raise RegistryError(
            f"Model {name!r}: the gate's decision is {decision!r}",
            expected="'promote'",
            fix="read the evaluation's report; a candidate that did not pass is not registered",
        )
    if judged != digest:
        raise RegistryError(
            f"Model {name!r}: the verdict is about the bundle {str(judged)[:16]}…",
            expected=f"a verdict about this bundle, {digest[:16]}…",
            fix="evaluate this bundle",
        )


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise RegistryError("There is no reason", expected="why, in words: it goes into the ledger")


def _require_champion(name: str, expected: int | None, champion: int | None) -> None:
    if champion != expected:
        raise PromotionConflictError(
            f"Model {name!r}: the champion is {_number(champion)}; nothing was changed",
            expected=f"{_number(expected)}, as it was when this was decided",
            fix="look at the champion, then decide again",
        )


def _number(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _facts(version: Version, reason: str, verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"digest": version.digest, "semver": version.semver, "reason": reason}
    return {**facts, "verdict": evidence(verdict)} if verdict else facts


def evidence(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a verdict: its short facts, and the digest of all of it.

    Example:
        >>> evidence({"decision": "promote", "slices": [1, 2]})["decision"]
        'promote'
    """
    text = json.dumps(verdict, sort_keys=True, ensure_ascii=False, default=str)
    short = {key: value for key, value in verdict.items() if isinstance(value, (str, int, bool)) or value is None}
    reasons = verdict.get("reasons") or []
    told = [str(each.get("text", "")) if isinstance(each, Mapping) else str(each) for each in reasons[:_MAX_REASONS]]
    return {**short, **({"reasons": told} if told else {}), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@contextlib.contextmanager
def _named(version: Version, folder: Path) -> Iterator[None]:
    """Let the trust gate's messages name the version instead of a temporary folder."""
    try:
        yield
    except TrustError as error:
        raise TrustError(
            error.problem.replace(str(folder), version.label), expected=error.expected, fix=error.fix
        ) from error
