"""Links to the UI that open where a person sits: outside the cluster, and in their own namespace.

`kfp` builds its links from the API's address, which inside a cluster is a service name that no browser can open
(kubeflow/pipelines#4297), and leaves the namespace out, without which a multi-user UI shows nothing (#7023).
"""

from urllib.parse import quote, urlsplit

_API_PORTS = {8887, 8888}
_INTERNAL_SUFFIXES = (".svc", ".cluster.local")


def run_link(host: str, run_id: str, *, ui: str = "", namespace: str = "") -> str:
    """The address of a run's page.

    Args:
        host: The API's address, which is also the UI's unless `ui` is given.
        run_id: The run.
        ui: The UI's address, where it differs.
        namespace: The profile namespace of a multi-user installation; empty for a standalone one.

    Example:
        >>> run_link("https://kfp.example.com", "ab-12")
        'https://kfp.example.com/#/runs/details/ab-12'
        >>> run_link("https://kubeflow.example.com/pipeline", "ab-12", namespace="team-a")
        'https://kubeflow.example.com/_/pipeline/?ns=team-a#/runs/details/ab-12'
    """
    return _page(host, f"runs/details/{quote(run_id, safe='')}", ui, namespace)


def schedule_link(host: str, recurring_run_id: str, *, ui: str = "", namespace: str = "") -> str:
    """The address of a recurring run's page; the arguments are those of `run_link`."""
    return _page(host, f"recurringrun/details/{quote(recurring_run_id, safe='')}", ui, namespace)


def link_problem(host: str, *, ui: str = "") -> str:
    """Why a link will not open in a browser, and what to do; empty when nothing speaks against it.

    Example:
        >>> print(link_problem("http://ml-pipeline.kubeflow.svc.cluster.local:8888"))
        The link will not open outside the cluster: ml-pipeline.kubeflow.svc.cluster.local is a name inside it.
        Fix: set kfp_ui (or KF_PIPELINES_UI_ENDPOINT) to the address you open in a browser
        >>> link_problem("https://kfp.example.com")
        ''
    """
    parts = urlsplit(with_scheme(ui or host))
    name = parts.hostname or ""
    fix = "Fix: set kfp_ui (or KF_PIPELINES_UI_ENDPOINT) to the address you open in a browser"
    if is_cluster_internal(ui or host):
        return f"The link will not open outside the cluster: {name} is a name inside it.\n{fix}"
    if not ui and parts.port in _API_PORTS:
        return f"The link may not open: port {parts.port} is the API's, the UI has another.\n{fix}"
    return ""


def is_cluster_internal(address: str) -> bool:
    """Whether an address is a Kubernetes service name, which only pods can resolve."""
    name = (urlsplit(with_scheme(address)).hostname or "").lower()
    return (
        name.endswith(_INTERNAL_SUFFIXES) or name == "ml-pipeline" or name.startswith(("ml-pipeline.", "ml-pipeline-"))
    )


def with_scheme(address: str) -> str:
    """An address with a scheme and without a trailing slash; a service name means http, anything else https."""
    address = address.strip().rstrip("/").removesuffix("/#").rstrip("/")
    if not address or "://" in address:
        return address
    name = urlsplit(f"//{address}").hostname or ""
    plain = is_cluster_internal(f"http://{address}") or name in ("localhost", "127.0.0.1")
    return f"{'http' if plain else 'https'}://{address}"


def _page(host: str, page: str, ui: str, namespace: str) -> str:
    prefix = with_scheme(ui or host)
    if not namespace:
        return f"{prefix}/#/{page}"
    # A multi-user UI shows the namespace of its outer frame only, which lives under /_/.
    prefix = prefix.removesuffix("/pipeline").removesuffix("/_")
    return f"{prefix}/_/pipeline/?ns={quote(namespace, safe='')}#/{page}"
