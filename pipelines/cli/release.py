"""`headway release`: move traffic to a version, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.actor import user
from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.serving.release.forecast import Forecast
    from headway.serving.release.plan import ReleaseSpec
    from headway.serving.release.rehearsal import Rehearsed
    from headway.serving.release.releases import Releases
    from headway.serving.release.state import Release

app = typer.Typer(no_args_is_help=True, help="Releases: traffic moves to a version, and back when the numbers say so.")

ModelArgument = Annotated[str, typer.Argument(help="The model's name.")]
RefArgument = Annotated[str, typer.Argument(help="A number (3), a semantic version (1.2.0) or an alias.")]
EndpointArgument = Annotated[str, typer.Argument(help="The endpoint; by default it has its model's name.")]
ReasonOption = Annotated[str, typer.Option(help="Why, in words; it goes into the ledger.")]
ActorOption = Annotated[str | None, typer.Option(help="Who does it; the user of this machine by default.")]
EndpointOption = Annotated[str | None, typer.Option(help="The endpoint; the model's name by default.")]
StrategyOption = Annotated[str | None, typer.Option(help="canary, blue_green, ab or shadow; else as model.yaml says.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the release section for this release; may be repeated."),
]
AndOption = Annotated[
    list[str] | None, typer.Option("--and", metavar="VERSION", help="A/B: one more version; may be repeated.")
]
RateOption = Annotated[float | None, typer.Option(help="Requests an hour; what the payload log shows by default.")]
ReportOption = Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")]


@app.command()
def plan(
    model: ModelArgument,
    ref: RefArgument = "challenger",
    strategy: StrategyOption = None,
    set_: SetOption = None,
    requests_per_hour: RateOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a release would need and risk, and start nothing."""
    from headway.serving.release.estimate import estimate

    releases = _releases()
    spec = _spec(model, strategy, set_)
    release = releases.prepare(model, ref, spec=spec, endpoint=endpoint, actor=user(), reason="plan")
    found = estimate(releases.settings, release, requests_per_hour=requests_per_hour)
    emit(
        {"release": _document(release), "forecast": found.model_dump(mode="json")},
        as_json=as_json,
        render=lambda console: _render_plan(console, release, found),
    )


@app.command()
def start(
    model: ModelArgument,
    reason: ReasonOption,
    ref: RefArgument = "challenger",
    strategy: StrategyOption = None,
    set_: SetOption = None,
    others: AndOption = None,
    endpoint: EndpointOption = None,
    actor: ActorOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is over, or held for a person.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Release a version; the gateway's driver carries it on, or this command with --wait.

    Exit codes with --wait: 0 promoted; 1 rolled back; 3 held for a person.
    """
    releases = _releases()
    release = releases.start(
        model,
        ref,
        spec=_spec(model, strategy, set_),
        others=others or (),
        endpoint=endpoint,
        actor=actor or user(),
        reason=reason,
    )
    _told_or_watched(releases, release, wait=wait, as_json=as_json)


@app.command()
def status(endpoint: EndpointArgument, as_json: JsonOption = False) -> None:
    """Show where the endpoint's release stands: the active one, else the last one."""
    release = _releases().status(endpoint)
    emit(_document(release), as_json=as_json, render=lambda console: _render(console, release))


@app.command()
def watch(endpoint: EndpointArgument, as_json: JsonOption = False) -> None:
    """Follow the active release to its end, and drive it where no other driver does.

    Exit codes: 0 promoted or completed; 1 rolled back or aborted; 3 held for a person.
    """
    releases = _releases()
    _told_or_watched(releases, releases.status(endpoint), wait=True, as_json=as_json)


@app.command()
def explain(
    endpoint: EndpointArgument,
    release_id: Annotated[str | None, typer.Option("--id", help="A release's id; the latest by default.")] = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a release saw and why it did what it did: each verdict with its numbers."""
    from headway.serving.release.report import release_page, release_rows

    releases = _releases()
    release = releases.store.get(release_id) if release_id else releases.status(endpoint)
    seen = releases.verdicts(release.id)
    rows = release_rows(release, releases.registry.ledger.rows(model=release.model))
    if report:
        report.write_text(release_page(release, seen, rows), encoding="utf-8")
    document = {
        **_document(release),
        "verdicts": [{"time": one.time, "stage": one.stage + 1, **one.verdict.model_dump(mode="json")} for one in seen],
        "ledger": [
            {"seq": row.seq, "time": row.time, "kind": row.kind, "actor": row.actor, **row.body} for row in rows
        ],
    }
    emit(document, as_json=as_json, render=lambda console: _render_explained(console, release, document, report))


@app.command()
def pause(endpoint: EndpointArgument, actor: ActorOption = None, as_json: JsonOption = False) -> None:
    """Stop moving traffic; a failing newcomer is taken back all the same."""
    _told(_releases().pause(endpoint, actor=actor or user()), as_json=as_json)


@app.command()
def resume(endpoint: EndpointArgument, actor: ActorOption = None, as_json: JsonOption = False) -> None:
    """Go on after a pause or a hold."""
    _told(_releases().resume(endpoint, actor=actor or user()), as_json=as_json)


@app.command()
def promote(
    endpoint: EndpointArgument, reason: ReasonOption, actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Skip the rest of the stages; your word and your reason go into the ledger."""
    _told(_releases().promote(endpoint, actor=actor or user(), reason=reason), as_json=as_json)


@app.command()
def abort(
    endpoint: EndpointArgument, reason: ReasonOption, actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """End the active release and restore the route from before it."""
    _told(_releases().abort(endpoint, actor=actor or user(), reason=reason), as_json=as_json)


@app.command()
def rollback(
    endpoint: EndpointArgument,
    reason: ReasonOption,
    to: Annotated[str | None, typer.Option(help="The version to go to; what served before by default.")] = None,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to what served before, in gateway and registry, and wait until it is so; a second call changes nothing.

    Exit codes: 0 it serves; 1 it could not be done, traffic is unchanged.
    """
    from headway.serving.release.state import State

    release = _releases().rollback(endpoint, to=to, actor=actor or user(), reason=reason)
    if release is None:
        emit({"changed": False}, as_json=as_json, render=lambda console: console.print("It serves already."))
        return
    _told(release, as_json=as_json)
    if release.state not in (State.PROMOTED, State.ROLLED_BACK):
        raise typer.Exit(1)


@app.command()
def history(
    endpoint: Annotated[str | None, typer.Argument(help="Only this endpoint's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List releases, the newest first."""
    releases = _releases().history(endpoint, limit=limit)
    emit([_document(one) for one in releases], as_json=as_json, render=lambda out: _render_history(out, releases))


@app.command()
def rehearse(
    model: ModelArgument,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=SIZE", help="errors, latency, labels or schema, such as errors=0.03; all by default."
        ),
    ] = None,
    strategy: StrategyOption = None,
    set_: SetOption = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Replay the last so many hours of the payload log.")] = 24,
    seed: Annotated[int, typer.Option(help="Draws the newcomer's answers.")] = 0,
    endpoint: EndpointOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay recorded traffic with injected faults through the release's gates, in compressed time.

    Exit codes: 0 every fault was caught and the good version went out; 1 not so.
    """
    from dataclasses import asdict

    from headway.serving.release.recording import record
    from headway.serving.release.rehearsal import DEFAULT_FAULTS, Fault
    from headway.serving.release.rehearsal import rehearse as rehearse_release
    from headway.serving.release.report import rehearsal_page

    faults = [Fault.parse_text(text) for text in fault or []] or DEFAULT_FAULTS
    spec = _spec(model, strategy, set_)
    metric = spec.decision.metric if spec.decision else None
    recording = record(_settings(), endpoint or model, hours=hours, metric=metric)
    found = rehearse_release(recording, spec, faults=faults, seed=seed, on_result=_progress)
    about = f"{len(recording.seconds):,} recorded requests, {recording.rate * 3600:,.0f} an hour"
    if metric and not recording.has_outcomes:
        about += f"; nothing is known of {metric} yet, so the guards alone were rehearsed"
    if report:
        report.write_text(rehearsal_page(found, about), encoding="utf-8")
    emit(
        {"recording": about, "scenarios": [{**asdict(one), "right": one.right} for one in found]},
        as_json=as_json,
        render=lambda console: _render_rehearsed(console, found, about, report),
    )
    if not all(one.right for one in found):
        raise typer.Exit(1)


def _settings() -> Any:
    from headway.components.settings import load_settings

    return load_settings()


def _releases() -> "Releases":
    from headway.serving.release.releases import Releases

    return Releases(_settings())


def _spec(model: str, strategy: str | None, assignments: list[str] | None) -> "ReleaseSpec":
    """The release section of the model's project, if there is one here, changed as the command line says."""
    from headway.components.errors import UnknownNameError
    from headway.pipelines.project import resolve
    from headway.pipelines.spec import change
    from headway.serving.release.plan import ReleaseSpec

    try:
        spec = resolve(model).spec.release
    except UnknownNameError:
        spec = ReleaseSpec()
    changes = [*([f"strategy={strategy}"] if strategy else []), *(assignments or [])]
    return change(spec, changes) if changes else spec


def _document(release: "Release") -> dict[str, Any]:
    from headway.serving.release.report import to_document

    return to_document(release)


def _told(release: "Release", *, as_json: bool) -> None:
    emit(_document(release), as_json=as_json, render=lambda console: _render(console, release))


def _told_or_watched(releases: "Releases", release: "Release", *, wait: bool, as_json: bool) -> None:
    if wait and not release.state.over:
        release = releases.wait(release.id, on_change=_Watch().show)
    _told(release, as_json=as_json)
    if wait and release.exit_code:
        raise typer.Exit(release.exit_code)


class _Watch:
    """A line on standard error for each change of a release."""

    def __init__(self) -> None:
        self._console = error_console()
        self._before: tuple[Any, ...] = ()

    def show(self, release: "Release") -> None:
        from headway.serving.release.report import line

        outcome = release.verdict.outcome if release.verdict else None
        now = (release.headline, release.ending, outcome, release.trouble, bool(release.pending))
        if now != self._before and not release.pending:
            self._console.print(f"{release.endpoint}: {line(release)}", markup=False)
        self._before = now


def _progress(one: "Rehearsed") -> None:
    from headway.serving.release.report import fault_name

    error_console().print(f"{fault_name(one)}: {one.end} {one.text}", markup=False)


def _render(console: "Console", release: "Release") -> None:
    from headway.serving.release.report import line

    over = f"version {release.stable.version} → {release.newcomer.version}"
    console.print(f"{release.endpoint}: {over if len(release.variants) > 1 else release.newcomer.name} ({release.id})")
    console.print(line(release), markup=False)
    if release.verdict:
        _render_findings(console, [finding.model_dump(mode="json") for finding in release.verdict.findings])


def _render_findings(console: "Console", findings: list[dict[str, Any]]) -> None:
    from headway.pipelines.cli.tables import print_table

    if findings:
        rows = [[finding["name"], finding["outcome"], finding["text"]] for finding in findings]
        print_table(console, ["what", "outcome", "what it says"], rows)


def _render_plan(console: "Console", release: "Release", found: "Forecast") -> None:
    from headway.pipelines.cli.tables import print_table

    over = f"version {release.stable.version} → {release.newcomer.version}"
    console.print(f"{release.endpoint}: {over}, {release.spec.strategy}; nothing was started")
    print_table(console, found.headings, found.rows)
    for sentence in found.sentences:
        console.print(sentence, markup=False)


def _render_explained(console: "Console", release: "Release", document: dict[str, Any], report: Path | None) -> None:
    from headway.pipelines.cli.tables import print_table

    _render(console, release)
    changes = [
        [str(one["time"])[:19].replace("T", " "), str(one["stage"]), one["outcome"], one["text"]]
        for one in document["verdicts"]
    ]
    if changes:
        print_table(console, ["time (UTC)", "stage", "verdict", "why"], changes)
    print_table(
        console,
        ["seq", "time (UTC)", "what", "who", "why"],
        [
            [str(row["seq"]), row["time"][:19].replace("T", " "), row["kind"], row["actor"], str(row.get("reason", ""))]
            for row in document["ledger"]
        ],
    )
    if report:
        console.print(f"report: {report}", soft_wrap=True)


def _render_history(console: "Console", releases: "list[Release]") -> None:
    from headway.pipelines.cli.tables import print_table

    if not releases:
        console.print("There was no release yet.")
        return
    print_table(
        console,
        ["started (UTC)", "endpoint", "strategy", "version", "state", "who", "why", "id"],
        [
            [
                f"{one.created:%Y-%m-%d %H:%M:%S}",
                one.endpoint,
                str(one.spec.strategy),
                str(one.newcomer.version),
                one.headline,
                one.actor,
                one.ended_why or one.reason,
                one.id,
            ]
            for one in releases
        ],
    )


def _render_rehearsed(console: "Console", found: "list[Rehearsed]", about: str, report: Path | None) -> None:
    from headway.pipelines.cli.tables import print_table
    from headway.serving.release.report import duration, fault_name

    console.print(about)
    print_table(
        console,
        ["", "fault", "ends", "caught by", "after", "stage", "newcomer's requests", "users exposed"],
        [
            [
                "✓" if one.right else "✗",
                fault_name(one),
                one.end,
                one.caught_by or "-",
                duration(one.hours),
                str(one.stage),
                f"{one.newcomer_requests:,}",
                f"{one.users_exposed:,}",
            ]
            for one in found
        ],
    )
    if report:
        console.print(f"report: {report}", soft_wrap=True)
