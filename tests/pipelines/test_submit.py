import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway.components.errors import PipelineError, PlatformError, StepFailedError, UsageError
from headway.components.settings import Settings
from headway.pipelines import api as api_module
from headway.pipelines import endpoint as endpoint_module
from headway.pipelines.arguments import MAX_ARGUMENT_BYTES, check_arguments, override
from headway.pipelines.compile import all_tasks, compile_text, load_spec
from headway.pipelines.cron import check_cron
from headway.pipelines.endpoint import IN_CLUSTER_HOST, Endpoint
from headway.pipelines.links import link_problem, run_link
from headway.pipelines.runs import get_run, list_runs, terminate, wait
from headway.pipelines.submit import schedule, submit
from tests.pipelines import samples
from tests.pipelines.fake_kfp import FakeKfp, Fault, fake_kfp

SECRET = "s3cr3t-t0ken"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint_module, "POD_NAMESPACE", tmp_path / "no-namespace")
    monkeypatch.setattr(endpoint_module, "PROJECTED_TOKEN", tmp_path / "no-token")
    monkeypatch.setattr(api_module, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def fake() -> Iterator[FakeKfp]:
    with fake_kfp() as running:
        yield running


@pytest.fixture(scope="module")
def sample() -> str:
    return compile_text(samples.sample)


@pytest.fixture(scope="module")
def plain() -> str:
    return compile_text(samples.plain)


class TestASubmission:
    def test_uploads_a_version_and_runs_it_by_its_id(self, fake: FakeKfp, sample: str) -> None:
        done = submit(sample, endpoint=Endpoint(host=fake.url), arguments={"rows": 5}, run_name="first")
        (upload,) = fake.sent("POST", "/pipelines/upload_version")
        assert load_spec(upload.upload) == load_spec(sample)
        (created,) = fake.sent("POST", "/runs")
        assert created.json == {
            "display_name": "first",
            "experiment_id": next(iter(fake.experiments)),
            "pipeline_version_reference": {"pipeline_id": done.pipeline_id, "pipeline_version_id": done.version_id},
            "runtime_config": {"parameters": {"rows": 5}},
        }
        assert done.url == f"{fake.url}/#/runs/details/{done.run_id}"
        assert fake.experiments[created.json["experiment_id"]]["display_name"] == "headway"

    def test_of_the_same_text_runs_the_version_that_is_there(self, fake: FakeKfp, sample: str) -> None:
        where = Endpoint(host=fake.url)
        first, second = submit(sample, endpoint=where), submit(sample, endpoint=where)
        assert (first.reused_version, second.reused_version) == (False, True)
        assert first.version_id == second.version_id
        assert first.run_id != second.run_id
        assert first.version_name.startswith("sample-")
        assert (len(fake.pipelines), len(fake.versions), len(fake.experiments), len(fake.runs)) == (1, 1, 1, 2)

    def test_of_a_changed_text_adds_a_version(self, fake: FakeKfp) -> None:
        where = Endpoint(host=fake.url)
        submit(compile_text(samples.plain, parameters={"name": "a"}), endpoint=where)
        submit(compile_text(samples.plain, parameters={"name": "b"}), endpoint=where)
        assert (len(fake.pipelines), len(fake.versions)) == (1, 2)

    def test_of_a_pipeline_that_was_uploaded_in_the_ui_adds_a_version(self, fake: FakeKfp, tmp_path: Path) -> None:
        package = tmp_path / "plain.yaml"
        package.write_text(compile_text(samples.plain))
        where = Endpoint(host=fake.url)
        by_hand = where.client().upload_pipeline(str(package), pipeline_name="plain")
        done = submit(package, endpoint=where, arguments={"name": "a"})
        assert done.pipeline_id == by_hand.pipeline_id
        assert len(fake.versions) == 2

    def test_with_caching_off_reaches_every_task_of_the_uploaded_text(self, fake: FakeKfp, sample: str) -> None:
        submit(sample, endpoint=Endpoint(host=fake.url), cache=False)
        spec, _ = load_spec(fake.sent("POST", "/pipelines/upload_version")[0].upload)
        switched = [task["cachingOptions"] for _, task in all_tasks(spec) if "cachingOptions" in task]
        assert switched == [{"enableCache": False}] * 8

    def test_with_an_image_uploads_that_image(self, fake: FakeKfp, plain: str) -> None:
        pinned = "registry.example.com/headway@sha256:" + "b" * 64
        submit(plain, endpoint=Endpoint(host=fake.url), arguments={"name": "a"}, image=pinned)
        assert fake.sent("POST", "/pipelines/upload_version")[0].upload.count(pinned) == 2

    def test_passes_what_the_run_needs(self, fake: FakeKfp, plain: str) -> None:
        submit(
            plain,
            endpoint=Endpoint(host=fake.url),
            arguments={"name": "a"},
            experiment="nightly",
            service_account="trainer",
            pipeline_root="s3://bucket/runs",
        )
        body = fake.sent("POST", "/runs")[0].json
        assert body["service_account"] == "trainer"
        assert body["runtime_config"]["pipeline_root"] == "s3://bucket/runs"
        assert [e["display_name"] for e in fake.experiments.values()] == ["nightly"]

    def test_under_a_version_name_that_has_another_content_is_refused(self, fake: FakeKfp, sample: str) -> None:
        where = Endpoint(host=fake.url)
        submit(sample, endpoint=where, version_name="v1")
        assert submit(sample, endpoint=where, version_name="v1").reused_version
        with pytest.raises(UsageError, match="Version 'v1' of pipeline 'sample' exists with another content"):
            submit(sample, endpoint=where, version_name="v1", cache=False)

    def test_that_loses_a_race_uses_what_the_winner_uploaded(self, fake: FakeKfp, sample: str) -> None:
        where = Endpoint(host=fake.url)
        # The upload is carried out and its answer lost, so that the second attempt meets its own version.
        fake.faults.append(Fault("status", path="upload_version", after=True))
        assert submit(sample, endpoint=where).reused_version
        assert len(fake.versions) == 1

    def test_of_too_much_sends_nothing(self, fake: FakeKfp, plain: str) -> None:
        spec, _ = load_spec(plain)
        spec["components"]["comp-fit"]["notes"] = "x" * 600_000
        with pytest.raises(PipelineError, match=r"compiled pipeline takes 6\d\d,\d{3} bytes"):
            submit(yaml.safe_dump(spec), endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        assert fake.requests == []


class TestArguments:
    def test_all_that_is_wrong_is_said_at_once_and_nothing_is_sent(self, fake: FakeKfp, plain: str) -> None:
        with pytest.raises(UsageError) as caught:
            submit(plain, endpoint=Endpoint(host=fake.url), arguments={"row": 1, "rows": "many"})
        assert str(caught.value) == (
            "Unknown parameter 'row' - did you mean 'rows'?\n"
            "Parameter 'rows': got 'many' (str), expected an integer\n"
            "Parameter 'name' has no default and was not given\n"
            "Expected: the pipeline's parameters: name, rows"
        )
        assert fake.requests == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rows": True}, r"Parameter 'rows': got True \(bool\), expected an integer"),
            ({"rows": 1.5}, r"got 1\.5 \(float\), expected an integer"),
            ({"rows": 2**60}, r"beyond 2\*\*53 and would arrive as another number"),
            ({"rate": "0.5"}, "expected a number"),
            ({"rate": float("nan")}, "expected a finite number"),
            ({"fast": "yes"}, "expected true or false"),
            ({"fast": 1}, "expected true or false"),
            ({"section": None}, "expected text"),
        ],
    )
    def test_of_a_wrong_type(self, sample: str, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            check_arguments(load_spec(sample)[0], arguments)

    def test_of_the_right_types_pass(self, sample: str) -> None:
        check_arguments(load_spec(sample)[0], {"rows": 1, "rate": 1, "fast": False, "section": ""})

    def test_that_are_too_large_name_the_largest(self, sample: str) -> None:
        with pytest.raises(UsageError, match=r"The arguments take 65,\d+ bytes, 'section' the most"):
            check_arguments(load_spec(sample)[0], {"section": "x" * MAX_ARGUMENT_BYTES, "rows": 1})

    def test_are_changed_one_key_at_a_time(self, sample: str) -> None:
        spec, _ = load_spec(sample)
        changed = override(spec, {}, ["section.tree.depth=3", "section.seed=7", "rows=10", "fast=false", "rate=1"])
        assert yaml.safe_load(changed.pop("section")) == {"estimator": "tree", "seed": 7, "tree": {"depth": 3}}
        assert changed == {"rows": 10, "fast": False, "rate": 1}
        check_arguments(spec, changed)

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("rows", "has no name or no value"),
            ("=3", "has no name or no value"),
            ("row=3", "Unknown parameter 'row' - did you mean 'rows'"),
            ("section.estimator.depth=3", "'estimator' holds one value"),
            ("rows.a=3", "Parameter 'rows' is one value"),
            ("rows=[", "not valid YAML"),
        ],
    )
    def test_a_change_that_is_none(self, sample: str, assignment: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            override(load_spec(sample)[0], {}, [assignment])


class TestTheAddress:
    def test_comes_from_the_flag_then_the_environment_then_the_settings(self) -> None:
        settings, environ = Settings(kfp_endpoint="https://c"), {"KF_PIPELINES_ENDPOINT": "https://b"}
        assert Endpoint.from_settings(host="https://a", settings=settings, environ=environ).host == "https://a"
        assert Endpoint.from_settings(settings=settings, environ=environ).host == "https://b"
        assert Endpoint.from_settings(settings=settings, environ={}).host == "https://c"

    def test_that_is_missing_names_the_three_ways(self) -> None:
        with pytest.raises(UsageError) as caught:
            Endpoint.from_settings(settings=Settings(), environ={})
        for way in ("--endpoint", "KF_PIPELINES_ENDPOINT", "kfp_endpoint in headway.yaml"):
            assert way in str(caught.value)

    def test_that_is_missing_beside_credentials_says_so(self) -> None:
        with pytest.raises(UsageError, match=r"\(kfp_token given, but not where to\)") as caught:
            Endpoint.from_settings(settings=Settings.parse({"kfp_token": SECRET}), environ={})
        assert SECRET not in str(caught.value)

    def test_in_a_pod_with_a_token_is_the_clusters_service(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("pod-token\n")
        environ = {"KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token")}
        found = Endpoint.from_settings(settings=Settings(), environ=environ)
        assert (found.host, found.auth) == (IN_CLUSTER_HOST, "kfp_service_account_token")

    def test_without_a_scheme_gets_the_likely_one(self) -> None:
        assert Endpoint(host="kfp.example.com/").host == "https://kfp.example.com"
        assert Endpoint(host="localhost:8080").host == "http://localhost:8080"
        assert Endpoint(host="ml-pipeline.kubeflow:8888").host == "http://ml-pipeline.kubeflow:8888"


class TestCredentials:
    def test_a_token_is_sent_and_never_shown(self, plain: str) -> None:
        with fake_kfp(token=SECRET) as fake:
            where = Endpoint(host=fake.url, token=SECRET)
            submit(plain, endpoint=where, arguments={"name": "a"})
            assert {request.headers["authorization"] for request in fake.requests} == {f"Bearer {SECRET}"}
        assert SECRET not in repr(where)

    def test_a_cookie_is_sent(self, plain: str) -> None:
        with fake_kfp(cookies="authservice_session=abc") as fake:
            where = Endpoint(host=fake.url, cookies="authservice_session=abc")
            assert submit(plain, endpoint=where, arguments={"name": "a"}).run_id in fake.runs

    def test_a_token_file_is_read_again_for_each_request(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("old\n")
        with fake_kfp(token="new") as fake:
            where = Endpoint(host=fake.url, service_account_token=path)
            path.write_text("new\n")
            assert list_runs(where) == []
            assert where.client().get_kfp_healthz() is not None

    def test_kfps_own_client_gets_the_same_ones(self) -> None:
        with fake_kfp(token=SECRET) as fake:
            assert Endpoint(host=fake.url, token=SECRET).client().get_pipeline_id("none") is None
            assert fake.requests[-1].headers["authorization"] == f"Bearer {SECRET}"

    def test_that_are_not_accepted(self) -> None:
        with fake_kfp(token=SECRET) as fake, pytest.raises(PlatformError) as caught:
            list_runs(Endpoint(host=fake.url, token="wrong-one"))
        assert str(caught.value) == (
            f"{fake.url} does not accept kfp_token (401): Request is unauthenticated\n"
            "Fix: renew kfp_token; a session or a token runs out"
        )

    def test_that_are_missing(self) -> None:
        with fake_kfp(token=SECRET) as fake, pytest.raises(PlatformError, match="wants to know who asks") as caught:
            list_runs(Endpoint(host=fake.url))
        assert "set one of kfp_token, kfp_cookies or kfp_service_account_token" in str(caught.value)

    def test_that_are_missing_before_a_login_page(self) -> None:
        with fake_kfp(cookies="a=b") as fake, pytest.raises(PlatformError, match=r"it redirects to .*/dex/login"):
            list_runs(Endpoint(host=fake.url))

    def test_of_two_kinds_are_refused_by_name(self) -> None:
        settings = Settings.parse({"kfp_endpoint": "https://a", "kfp_token": SECRET, "kfp_cookies": "a=b"})
        with pytest.raises(UsageError, match="Two ways to authenticate at once: kfp_token and kfp_cookies") as caught:
            Endpoint.from_settings(settings=settings, environ={})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("credentials", "message"),
        [
            ({"cookies": "abc"}, "kfp_cookies has no name"),
            ({"token": "Bearer abc"}, "kfp_token has white space in it"),
            ({"service_account_token": Path("missing")}, "cannot read missing: No such file"),
        ],
    )
    def test_that_cannot_work(self, credentials: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Endpoint(host="https://a", **credentials)

    def test_an_empty_token_file(self, tmp_path: Path) -> None:
        (tmp_path / "token").touch()
        with pytest.raises(UsageError, match="token is empty"):
            Endpoint(host="https://a", service_account_token=tmp_path / "token")

    def test_the_pods_own_token_goes_to_the_clusters_service_only(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("pod-token")
        monkeypatch.setattr(endpoint_module, "PROJECTED_TOKEN", tmp_path / "token")
        inside = Endpoint.from_settings(host="ml-pipeline.kubeflow.svc:8888", settings=Settings(), environ={})
        outside = Endpoint.from_settings(host="https://kfp.example.com", settings=Settings(), environ={})
        assert (inside.auth, outside.auth) == ("kfp_service_account_token", "")


class TestManyUsers:
    def test_need_a_namespace(self) -> None:
        with fake_kfp(multi_user=True) as fake, pytest.raises(UsageError, match="has many users and needs a namespace"):
            list_runs(Endpoint(host=fake.url))

    def test_get_everything_in_theirs(self, plain: str) -> None:
        with fake_kfp(multi_user=True) as fake:
            done = submit(plain, endpoint=Endpoint(host=fake.url, namespace="team-a"), arguments={"name": "a"})
            assert [p["namespace"] for p in fake.pipelines.values()] == ["team-a"]
            assert [e["namespace"] for e in fake.experiments.values()] == ["team-a"]
            assert done.url == f"{fake.url}/_/pipeline/?ns=team-a#/runs/details/{done.run_id}"

    def test_do_not_get_into_anothers(self) -> None:
        with fake_kfp(multi_user=True, forbidden_namespace="team-b") as fake:
            with pytest.raises(PlatformError, match=r"forbids this in the namespace 'team-b' \(403\)") as caught:
                list_runs(Endpoint(host=fake.url, namespace="team-b"))
            assert "User 'ann@example.com' is not authorized" in str(caught.value)

    def test_a_namespace_does_no_harm_where_there_is_one_user(self, fake: FakeKfp, plain: str) -> None:
        done = submit(plain, endpoint=Endpoint(host=fake.url, namespace="team-a"), arguments={"name": "a"})
        assert done.url == f"{fake.url}/#/runs/details/{done.run_id}"


class TestTrouble:
    def test_nobody_there(self) -> None:
        begun = time.monotonic()
        with pytest.raises(PlatformError, match=r"Nothing answers at http://127\.0\.0\.1:9: .*Connection refused"):
            list_runs(Endpoint(host="http://127.0.0.1:9"))
        assert time.monotonic() - begun < 10

    def test_somebody_who_never_answers(self, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> None:
        assert 2 * api_module.CONNECT_SECONDS + api_module.PAUSE_SECONDS < 10
        monkeypatch.setattr(api_module, "CONNECT_SECONDS", 0.2)
        fake.faults.append(Fault("slow", times=9, seconds=1.0))
        with pytest.raises(PlatformError, match=r"Nothing answers at .*Read timed out"):
            list_runs(Endpoint(host=fake.url))

    def test_no_tls_there(self, fake: FakeKfp) -> None:
        with pytest.raises(PlatformError, match=r"Nothing answers at https://127\.0\.0\.1:\d+: SSLError"):
            list_runs(Endpoint(host=fake.url.replace("http", "https")))

    def test_a_web_page_there(self, fake: FakeKfp) -> None:
        with pytest.raises(PlatformError, match="has no Kubeflow Pipelines API"):
            list_runs(Endpoint(host=f"{fake.url}/somewhere"))
        fake.faults.append(Fault("status", status=200, path="healthz"))
        with pytest.raises(PlatformError, match="answers with a page"):
            list_runs(Endpoint(host=fake.url))

    def test_that_passes_is_waited_out(self, fake: FakeKfp, plain: str) -> None:
        fake.faults += [
            Fault("status", path="healthz"),
            Fault("status", times=2, path="names/plain", status=502),
            Fault("reset", path="upload_version"),
            Fault("status", method="POST", path="/runs"),
        ]
        done = submit(plain, endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        assert done.run_id in fake.runs
        assert all(fault.times == 0 for fault in fake.faults)
        assert (len(fake.versions), len(fake.runs)) == (1, 1)

    def test_that_stays_ends_in_a_message(self, fake: FakeKfp) -> None:
        fake.faults.append(Fault("status", times=99, path="/runs"))
        with pytest.raises(PlatformError, match=r"refused \(503\)"):
            list_runs(Endpoint(host=fake.url))
        assert len(fake.sent("GET", "/runs")) == api_module.ATTEMPTS

    @pytest.mark.parametrize(("kind", "status"), [("reset", 0), ("status", 504), ("status", 502)])
    def test_while_a_run_is_made_does_not_make_two(self, fake: FakeKfp, plain: str, kind: str, status: int) -> None:
        fake.faults.append(Fault(kind, method="POST", path="/runs", status=status, after=True))
        with pytest.raises(PlatformError, match="may or may not have been done") as caught:
            submit(plain, endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        assert "headway runs list" in str(caught.value)
        assert len(fake.runs) == 1


class TestWaiting:
    def test_for_a_success(self, fake: FakeKfp) -> None:
        run_id = fake.add_run("a", "PENDING", "RUNNING", "SUCCEEDED")
        seen: list[str] = []
        run = wait(Endpoint(host=fake.url), run_id, poll=0.01, on_change=lambda run: seen.append(run.state))
        assert seen == ["PENDING", "RUNNING", "SUCCEEDED"]
        assert run.succeeded
        assert run.finished_at is not None
        run.require_success()

    def test_for_a_failure_names_the_task_that_says_why(self, fake: FakeKfp) -> None:
        fake.run_error = "workflow failed"
        fake.tasks = [
            {"task_id": "1", "display_name": "root", "state": "FAILED"},
            {"task_id": "2", "display_name": "promote", "state": "FAILED", "parent_task_id": "1"},
            {"task_id": "3", "display_name": "fit-driver", "state": "SUCCEEDED"},
            {
                "task_id": "4",
                "display_name": "fit",
                "state": "FAILED",
                "parent_task_id": "2",
                "start_time": "2025-06-15T15:06:41Z",
                "end_time": "2025-06-15T15:07:41Z",
                "error": {"code": 2, "message": "target column is empty\nTraceback…"},
            },
        ]
        run = wait(Endpoint(host=fake.url), fake.add_run("a", "RUNNING", "FAILED"), poll=0.01)
        assert (run.state, run.failed_task, run.error) == ("FAILED", "fit", "target column is empty")
        assert [task.name for task in run.tasks] == ["promote", "fit"]
        with pytest.raises(StepFailedError, match="Step 'fit' failed: target column is empty"):
            run.require_success()

    def test_for_a_failure_outside_the_tasks(self, fake: FakeKfp) -> None:
        fake.run_error = "quota exceeded"
        run = wait(Endpoint(host=fake.url), fake.add_run("a", "FAILED"), poll=0.01)
        with pytest.raises(PipelineError, match=f"Run {run.run_id} is FAILED: quota exceeded"):
            run.require_success()

    @pytest.mark.parametrize(("states", "good"), [(("CANCELING", "CANCELED"), False), (("SKIPPED",), True)])
    def test_for_another_end(self, fake: FakeKfp, states: tuple[str, ...], good: bool) -> None:
        run = wait(Endpoint(host=fake.url), fake.add_run("a", *states), poll=0.01, timeout=5)
        assert (run.state, run.succeeded) == (states[-1], good)

    def test_gives_up_and_leaves_the_run_alone(self, fake: FakeKfp) -> None:
        run_id = fake.add_run("a", "RUNNING")
        with pytest.raises(PipelineError, match=rf"Run {run_id} is still RUNNING after 0\.1 s; it goes on") as caught:
            wait(Endpoint(host=fake.url), run_id, poll=0.03, timeout=0.1)
        assert f"headway runs wait {run_id}" in str(caught.value)
        assert fake.sent("POST", f"/runs/{run_id}:terminate") == []

    def test_goes_on_through_a_restart_of_the_server(self, fake: FakeKfp) -> None:
        run_id = fake.add_run("a", "RUNNING", "RUNNING", "SUCCEEDED")
        fake.faults += [Fault("reset", path=run_id), Fault("status", path=run_id)]
        assert wait(Endpoint(host=fake.url), run_id, poll=0.01).succeeded

    def test_for_a_run_that_is_not_there(self, fake: FakeKfp) -> None:
        with pytest.raises(PlatformError, match=r"has no such thing \(404\): run nowhere not found"):
            wait(Endpoint(host=fake.url), "nowhere")


class TestRuns:
    def test_are_listed_newest_first_over_pages(self, fake: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "PAGE_SIZE", 2)
        for number in range(5):
            fake.add_run(f"run {number}", "SUCCEEDED")
        found = list_runs(Endpoint(host=fake.url), limit=5)
        assert [run.name for run in found] == ["run 4", "run 3", "run 2", "run 1", "run 0"]
        assert [run.name for run in list_runs(Endpoint(host=fake.url), limit=3)] == ["run 4", "run 3", "run 2"]

    def test_of_one_experiment(self, fake: FakeKfp, plain: str) -> None:
        where = Endpoint(host=fake.url)
        submit(plain, endpoint=where, arguments={"name": "a"}, experiment="one", run_name="mine")
        fake.add_run("another's", "RUNNING")
        assert [run.name for run in list_runs(where, experiment="one")] == ["mine"]
        assert list_runs(where, experiment="none") == []

    def test_are_stopped_once(self, fake: FakeKfp) -> None:
        where, run_id = Endpoint(host=fake.url), fake.add_run("a", "RUNNING")
        assert terminate(where, run_id).state == "CANCELING"
        assert terminate(where, run_id).state == "CANCELED"
        assert terminate(where, run_id).state == "CANCELED"
        assert len(fake.sent("POST", f"/runs/{run_id}:terminate")) == 1

    def test_one_says_which_version_it_ran(self, fake: FakeKfp, plain: str) -> None:
        done = submit(plain, endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        run = get_run(Endpoint(host=fake.url), done.run_id)
        assert (run.pipeline_id, run.version_id, run.url) == (done.pipeline_id, done.version_id, done.url)
        assert run.finished_at is None


class TestASchedule:
    def test_runs_one_version_without_catching_up(self, fake: FakeKfp, plain: str) -> None:
        set_up = schedule(plain, cron="0 0 3 * * *", endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        body = fake.sent("POST", "/recurringruns")[0].json
        assert body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
        assert body["pipeline_version_reference"]["pipeline_version_id"] == set_up.version_id
        assert (body["mode"], body["no_catchup"], body["max_concurrency"]) == ("ENABLE", True, "1")
        assert set_up.url == f"{fake.url}/#/recurringrun/details/{set_up.recurring_run_id}"

    def test_of_five_fields_is_refused_before_anything_is_sent(self, fake: FakeKfp, plain: str) -> None:
        with pytest.raises(UsageError, match=r"put the second first: '0 0 3 \* \* \*'"):
            schedule(plain, cron="0 3 * * *", endpoint=Endpoint(host=fake.url), arguments={"name": "a"})
        assert fake.requests == []

    @pytest.mark.parametrize(
        "cron", ["0 */5 * * * *", "0 0 9 ? * 1-5", "0 0 0 1,15 JAN-JUN *", "0 0 8-18/2 * * mon,FRI"]
    )
    def test_that_is_one(self, cron: str) -> None:
        check_cron(cron)

    @pytest.mark.parametrize(
        ("cron", "field"),
        [
            ("60 * * * * *", "second"),
            ("0 -1 * * * *", "minute"),
            ("0 0 24 * * *", "hour"),
            ("0 0 0 0 * *", "day of month"),
            ("0 0 0 1 13 *", "month"),
            ("0 0 0 * * 7", "day of week"),
            ("0 0 0 * * FRI-MON", "day of week"),
            ("0 */0 * * * *", "minute"),
            ("0 ? * * * *", "minute"),
            ("0 1-2-3 * * * *", "minute"),
        ],
    )
    def test_that_is_none(self, cron: str, field: str) -> None:
        with pytest.raises(UsageError, match=f"the field '{field}' is"):
            check_cron(cron)


class TestLinks:
    @pytest.mark.parametrize(
        ("host", "ui", "namespace", "link"),
        [
            ("https://kfp.example.com/", "", "", "https://kfp.example.com/#/runs/details/r"),
            ("http://ml-pipeline:8888", "kfp.example.com", "", "https://kfp.example.com/#/runs/details/r"),
            (
                "https://kf.example.com/pipeline",
                "",
                "a b",
                "https://kf.example.com/_/pipeline/?ns=a%20b#/runs/details/r",
            ),
            (
                "http://x",
                "https://kf.example.com/_/pipeline",
                "a",
                "https://kf.example.com/_/pipeline/?ns=a#/runs/details/r",
            ),
        ],
    )
    def test_open_where_a_person_sits(self, host: str, ui: str, namespace: str, link: str) -> None:
        assert run_link(host, "r", ui=ui, namespace=namespace) == link

    @pytest.mark.parametrize(
        "host", ["http://ml-pipeline.kubeflow:8888", "http://ml-pipeline.kubeflow.svc", "ml-pipeline:8888"]
    )
    def test_that_only_a_pod_can_open_say_so(self, host: str) -> None:
        assert "will not open outside the cluster" in link_problem(host)
        assert "set kfp_ui" in link_problem(host)
        assert link_problem(host, ui="https://kfp.example.com") == ""

    def test_to_the_apis_own_port_say_so(self) -> None:
        assert "port 8888 is the API's" in link_problem("http://localhost:8888")
        assert link_problem("http://localhost:8080") == ""
