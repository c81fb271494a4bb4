"""`headway config`: each setting, its value and where it came from."""

from headway.pipelines.cli.output import JsonOption, emit


def config(as_json: JsonOption = False) -> None:
    """Print the settings in force and their sources."""
    from headway.components.settings import settings_sources

    found = settings_sources()
    data = {name: {"value": value, "source": source} for name, (value, source) in found.items()}
    width = max(map(len, found))
    lines = [f"{name:<{width}}  {value or '(empty)'}  ({source})" for name, (value, source) in found.items()]
    emit(data, as_json=as_json, render=lambda out: out.print("\n".join(lines), markup=False, soft_wrap=True))
