import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from headway.components.images import IMAGE
from headway.pipelines import api as api_module
from headway.pipelines import runs as runs_module
from headway.pipelines.cli import app
from headway.pipelines.compile import load_spec
from tests.pipelines.fake_kfp import FakeKfp, fake_kfp

PIPELINE = '''
from kfp import dsl

from headway.components.images import component
from headway.components.resources import resources


@component
def fit(training: str, model: dsl.Output[dsl.Model]) -> None:
    model.metadata["training"] = training


@dsl.pipeline(name="training")
def pipeline(
    name: str, contract: str, source: str, split: str, training: str, evaluation: str, promote_first: bool = True
) -> None:
    """Fit one model.

    Args:
        training: What is fitted.
    """
    resources("small").apply(fit(training=training))
'''
PINNED = "registry.example.com/headway@sha256:" + "c" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in its own folder, which is also the current one's child, and no settings of this machine."""
    for name in [name for name in os.environ if name.startswith(("HEADWAY_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api_module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(runs_module, "POLL_SECONDS", 0.02)
    folder = tmp_path / "demo"
    folder.mkdir()
    contract = {"name": "demo", "target": "y", "columns": {"x": {"type": "number"}, "y": {"type": "integer"}}}
    model = {"name": "demo", "source": {"uri": "data.csv"}, "training": {"seed": 3}}
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    (folder / "pipeline.py").write_text(PIPELINE)
    return folder


@pytest.fixture
def fake(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKfp]:
    with fake_kfp() as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.url)
        yield running


def headway(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


class TestCompile:
    def test_writes_the_file_that_check_then_accepts(self, project: Path) -> None:
        done = headway("compile", "demo", "--json")
        assert done.exit_code == 0, done.output
        (result,) = json.loads(done.stdout)
        assert (result["pipeline"], result["written"], result["findings"]) == ("demo-training", True, [])
        spec, _ = load_spec(project / "pipeline.yaml")
        defaults = spec["root"]["inputDefinitions"]["parameters"]
        assert yaml.safe_load(defaults["training"]["defaultValue"]) == {"seed": 3}
        assert headway("compile", "demo", "--check").stdout == (
            f"demo-training: {project / 'pipeline.yaml'} is up to date\n"
        )

    def test_check_says_what_is_out_of_date_and_writes_nothing(self, project: Path) -> None:
        assert headway("compile", "demo").exit_code == 0
        before = (project / "pipeline.yaml").read_text()
        (project / "pipeline.py").write_text(PIPELINE.replace('"small"', '"large"'))
        done = headway("compile", "demo", "--check")
        assert done.exit_code == 1
        assert "is not what the code compiles to" in done.stdout
        assert "+          resourceCpuLimit: '8'" in done.stdout
        assert (project / "pipeline.yaml").read_text() == before

    def test_check_of_a_file_that_was_never_written(self, project: Path) -> None:
        done = headway("compile", "demo", "--check")
        assert done.exit_code == 1
        assert "pipeline.yaml does not exist" in done.stdout

    def test_lint_errors_are_told_and_stop_it(self, project: Path) -> None:
        broken = PIPELINE.replace("    model.metadata", "    resources\n    model.metadata")
        (project / "pipeline.py").write_text(broken)
        done = headway("compile", "demo")
        assert done.exit_code == 1
        assert "error [unknown-name] 'resources' comes from the module" in done.stderr
        assert "not written, lint found errors" in done.stdout
        assert not (project / "pipeline.yaml").exists()

    def test_lint_warnings_are_told_and_let_it_pass(self, project: Path) -> None:
        (project / "pipeline.py").write_text(
            PIPELINE.replace('resources("small").apply(fit(training=training))', "fit(training=training)")
        )
        done = headway("compile", "demo")
        assert done.exit_code == 0
        assert "exec-fit: warning [no-resources] no CPU and no memory limit" in done.stderr

    def test_a_release_needs_a_digest(self, project: Path) -> None:
        refused = headway("compile", "demo", "--release")
        assert refused.exit_code == 1
        assert f"exec-fit: {IMAGE}" in refused.stderr
        assert headway("compile", "demo", "--release", "--image", PINNED, "--output", "out/release.yaml").exit_code == 0
        assert PINNED in Path("out/release.yaml").read_text()

    def test_of_an_unknown_name(self, project: Path) -> None:
        done = headway("compile", "dmeo")
        assert done.exit_code == 2
        assert "Unknown pipeline 'dmeo' - did you mean 'demo'?" in done.stderr

    def test_one_output_for_all_is_refused(self, project: Path) -> None:
        assert headway("compile", "--output", "x.yaml").exit_code == 2


class TestSubmit:
    def test_tells_the_run_and_its_page(self, fake: FakeKfp) -> None:
        done = headway("submit", "demo", "--run-name", "first")
        assert done.exit_code == 0, done.output
        assert "Submitted 'first', version demo-training-" in done.stdout
        assert f"{fake.url}/#/runs/details/" in done.stdout

    def test_a_changed_value_makes_another_run_of_the_same_version(self, fake: FakeKfp) -> None:
        first = json.loads(headway("submit", "demo", "--json").stdout)
        second = json.loads(headway("submit", "demo", "--set", "training.seed=7", "--json").stdout)
        assert second["version_id"] == first["version_id"]
        sent = fake.sent("POST", "/runs")[-1].json["runtime_config"]["parameters"]
        assert yaml.safe_load(sent["training"]) == {"seed": 7}

    def test_waits_for_a_success(self, fake: FakeKfp) -> None:
        done = headway("submit", "demo", "--wait", "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["state"] == "SUCCEEDED"
        assert [line for line in done.stderr.splitlines() if line.isupper()] == ["PENDING", "RUNNING", "SUCCEEDED"]

    def test_waits_for_a_failure(self, fake: FakeKfp) -> None:
        fake.script = ["RUNNING", "FAILED"]
        fake.tasks = [{"task_id": "1", "display_name": "fit", "state": "FAILED", "error": {"message": "no rows [x]"}}]
        done = headway("submit", "demo", "--wait")
        assert done.exit_code == 1
        assert "Step 'fit' failed: no rows [x]" in done.stderr
        assert "no rows [x]" in done.stdout

    def test_waits_for_a_cancellation(self, fake: FakeKfp) -> None:
        fake.script = ["CANCELING", "CANCELED"]
        assert headway("submit", "demo", "--wait").exit_code == 1

    def test_gives_up_in_time(self, fake: FakeKfp) -> None:
        fake.script = ["RUNNING"]
        done = headway("submit", "demo", "--wait", "--timeout", "0.1")
        assert done.exit_code == 1
        assert "is still RUNNING after 0.1 s; it goes on" in done.stderr

    def test_switches_caching_and_image(self, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HEADWAY_IMAGE", PINNED)
        assert headway("submit", "demo", "--no-cache").exit_code == 0
        upload = fake.sent("POST", "/pipelines/upload_version")[0].upload
        assert f"image: {PINNED}" in upload
        assert "enableCache: false" in upload

    def test_takes_a_compiled_file(self, fake: FakeKfp) -> None:
        headway("compile", "demo", "--output", "out.yaml")
        assert headway("submit", "out.yaml", "--set", "promote_first=false").exit_code == 0
        assert fake.sent("POST", "/runs")[0].json["runtime_config"]["parameters"] == {"promote_first": False}

    def test_sets_up_a_schedule(self, fake: FakeKfp) -> None:
        done = headway("submit", "demo", "--cron", "0 0 3 * * *", "--run-name", "nightly")
        assert done.exit_code == 0
        assert "Scheduled 'nightly': 0 0 3 * * * (UTC)" in done.stdout
        assert len(fake.recurring_runs) == 1

    def test_says_when_the_link_will_not_open(self, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "http://ml-pipeline-ui.kubeflow.svc")
        assert "will not open outside the cluster" in headway("submit", "demo").stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["demo", "--set", "training.sed=7"], "did you mean 'seed'?"),
            (["demo", "--cron", "0 3 * * *"], "has 5 fields"),
            (["demo", "--cron", "0 0 3 * * *", "--wait"], "leave one of them out"),
            (["dmeo"], "did you mean 'demo'?"),
        ],
    )
    def test_a_wrong_call_sends_nothing(self, fake: FakeKfp, arguments: list[str], message: str) -> None:
        done = headway("submit", *arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert fake.requests == []

    def test_without_an_address(self, project: Path) -> None:
        done = headway("submit", "demo")
        assert done.exit_code == 2
        assert "No address of Kubeflow Pipelines" in done.stderr
        assert "Traceback" not in done.stderr

    def test_to_nobody(self, project: Path) -> None:
        done = headway("submit", "demo", "--endpoint", "http://127.0.0.1:9")
        assert done.exit_code == 1
        assert "Nothing answers at http://127.0.0.1:9" in done.stderr

    def test_interrupted_leaves_the_run_alone_and_says_how_to_look(self, fake: FakeKfp) -> None:
        fake.script = ["RUNNING"]
        command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", "submit", "demo", "--wait"]
        waiting = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not any(request.path.startswith("/apis/v2beta1/runs/") for request in fake.requests):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=20)
        (run_id,) = fake.runs
        assert waiting.returncode == 130
        assert f"run {run_id} goes on" in err
        assert f"headway runs show {run_id}" in err
        assert fake.runs[run_id]["state"] == "RUNNING"


class TestRuns:
    def test_are_listed(self, fake: FakeKfp) -> None:
        assert headway("runs", "list").stdout == "no runs\n"
        fake.add_run("mine", "SUCCEEDED")
        assert "mine" in headway("runs", "list").stdout
        (run,) = json.loads(headway("runs", "list", "--json").stdout)
        assert (run["name"], run["state"], run["created_at"]) == ("mine", "SUCCEEDED", "2025-06-15T15:06:40+00:00")

    def test_one_is_shown(self, fake: FakeKfp) -> None:
        fake.tasks = [
            {
                "task_id": "1",
                "display_name": "fit",
                "state": "SUCCEEDED",
                "start_time": "2025-06-15T15:06:41Z",
                "end_time": "2025-06-15T15:07:11Z",
            }
        ]
        shown = headway("runs", "show", fake.add_run("mine", "SUCCEEDED")).stdout
        assert "mine  SUCCEEDED" in shown
        assert ["fit", "SUCCEEDED", "30"] in [line.split() for line in shown.splitlines()]

    def test_one_is_stopped_and_waited_for(self, fake: FakeKfp) -> None:
        run_id = fake.add_run("mine", "RUNNING")
        assert headway("runs", "stop", run_id).stdout == f"run {run_id} is CANCELING\n"
        waited = headway("runs", "wait", run_id)
        assert waited.exit_code == 1
        assert f"Run {run_id} is CANCELED" in waited.stderr

    def test_one_that_is_not_there(self, fake: FakeKfp) -> None:
        done = headway("runs", "show", "nowhere")
        assert done.exit_code == 1
        assert "run nowhere not found" in done.stderr


def test_help_imports_neither_kfp_nor_its_client() -> None:
    code = (
        "import sys; from headway.pipelines.cli import app; "
        "print([name for name in ('kfp', 'kfp_server_api', 'yaml', 'rich.table') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kfp" not in done.stdout
