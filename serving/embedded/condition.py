"""How far a variant has come: what its processes say, and what the supervisor says of them."""

from headway.components.errors import GatewayError
from headway.serving.embedded.installation import Installation
from headway.serving.embedded.probe import ask_ready
from headway.serving.embedded.state import State
from headway.serving.embedded.supervisor import ProgramInfo
from headway.serving.platform import Phase, Variant, VariantState


def variant_state(installation: Installation, state: State, endpoint: str, variant: Variant) -> VariantState:
    """Look at a variant.

    Returns:
        READY when at least one of its processes answers with exactly this digest. FAILED when none will by itself:
        given up by the supervisor, or by its own word. While the supervisor does not answer nothing of that is known,
        and it is STARTING.
    """
    served = state.endpoint(endpoint).served(variant.name)
    if served is None:
        return VariantState(phase=Phase.ABSENT, reason=f"{endpoint} has no variant {variant.name}")
    if served.variant.digest != variant.digest:
        other = served.variant.digest[:16]
        return VariantState(phase=Phase.FAILED, reason=f"{endpoint}/{variant.name} serves the digest {other}…")
    processes = [process for process in served.processes if process.in_service]
    probes = [ask_ready(process.port, endpoint, variant.digest) for process in processes]
    if any(probe.ready for probe in probes):
        return VariantState(phase=Phase.READY)
    try:
        infos = installation.supervisor(state).programs()
    except GatewayError as error:
        return VariantState(phase=Phase.STARTING, reason=error.problem)
    found = [infos[process.program] for process in processes if process.program in infos]
    ended = next((info for info in found if info.given_up or info.state == "BACKOFF"), None)
    hopeless = all(info.given_up for info in found) or all(probe.failed for probe in probes)
    return VariantState(
        phase=Phase.FAILED if hopeless else Phase.STARTING,
        reason=_last_words(installation, ended) if ended else probes[0].reason,
        conditions={info.name: info.state for info in found},
    )


def _last_words(installation: Installation, info: ProgramInfo) -> str:
    """Why a program ended: the last line that it wrote."""
    log = installation.layout.log(info.name)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), info.problem or "it said nothing")
    return f"its server ended: {last[:300]}"
