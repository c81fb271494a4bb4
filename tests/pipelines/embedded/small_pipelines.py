"""Small pipelines that use what kfp.local can do; compiled by the tests."""

from kfp import dsl

from headway.components.images import component


@component
def make(text: str, table: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]) -> None:
    """Write a text."""
    from pathlib import Path

    print("making", len(text))
    Path(table.path).write_text(text)
    table.metadata["rows"] = len(text)
    metrics.log_metric("length", len(text))


@component
def read(table: dsl.Input[dsl.Dataset]) -> str:
    """Say whether the text is long."""
    from pathlib import Path

    return "long" if len(Path(table.path).read_text()) > 3 else "short"


@component
def praise(word: str) -> str:
    """Say something."""
    return f"so {word}"


@component
def fail(kind: str) -> None:
    """Fail in the way asked for."""
    import os
    import signal
    import subprocess
    import sys
    import time

    from headway.components.errors import SourceError

    if kind == "error":
        raise SourceError("data.csv: no such file", fix="check the path")
    if kind == "bug":
        _ = {}["missing key"]
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(7)
    if kind == "slow":
        print("child", subprocess.Popen(["sleep", "60"]).pid, flush=True)
        time.sleep(60)


@component
def last_words(status: dsl.PipelineTaskFinalStatus) -> None:
    """Say how it ended."""
    print("ended", status.state)


@dsl.pipeline(name="conditions")
def conditions(text: str) -> None:
    """A gate and its two branches."""
    made = make(text=text)
    gate = read(table=made.outputs["table"])
    with dsl.If(gate.output == "long"):
        praise(word="long").set_display_name("long")
    with dsl.Else():
        praise(word=gate.output)


@dsl.pipeline(name="failing")
def failing(kind: str) -> None:
    """Fails, and says so at the end."""
    with dsl.ExitHandler(last_words()):
        first = make(text="x")
        fail(kind=kind).after(first)


@dsl.pipeline(name="loop")
def loop() -> None:
    """The same step three times."""
    with dsl.ParallelFor(["a", "bb", "ccc"]) as text:
        make(text=text)
