"""Jobs on a cluster: started once, followed through everything that happens to them, ended when they have to be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headway.components.errors import ConfigError, PlatformError, TrainingError
from headway.components.train_distributed import cluster_logs, cluster_watch, launch_cluster
from headway.components.train_distributed.cluster_job import RUN_LABEL
from headway.components.train_distributed.cluster_spec import ClusterSpec
from headway.components.train_distributed.job import Heartbeat, Job
from tests.components.kubernetes.fake_kubernetes import TOKEN, FakeKubernetes
from tests.components.train_distributed.cluster_world import (
    ENGINES,
    NAMESPACE,
    RECORD,
    OlderTrainer,
    World,
    until,
    write_result,
)

WorldMaker = Callable[..., World]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_watch, "EVENT_SECONDS", 0.1)
    monkeypatch.setattr(cluster_watch, "POLL", 0.05)
    monkeypatch.setattr(cluster_logs, "_PAUSE", 0.05)
    monkeypatch.setattr(cluster_watch, "MARGIN", 0.0)
    monkeypatch.setattr(launch_cluster, "SHARED_SECONDS", 0.5)
    monkeypatch.setattr(launch_cluster, "_POLL", 0.05)
    for name in ("KFP_POD_NAME", "POD_NAME", "NAMESPACE", "POD_NAMESPACE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_world(make_job: Callable[..., Job], tmp_path: Path) -> Iterator[WorldMaker]:
    """A cluster: `make_world("TrainJob", older=True, placement={...}, queue="gpu", ...)`."""
    opened: list[Any] = []

    def make(
        kind: str = "TrainJob", *, older: bool = False, placement: dict[str, Any] | None = None, **spec: Any
    ) -> World:
        job = make_job(placement={"nodes": 2, "processes": 2, "accelerator": "gpu", **(placement or {})})
        job = job.model_copy(update={"data": "s3://bucket/data"})
        api = (OlderTrainer if older else FakeKubernetes)()
        volumes = [{"name": "shared", "mount": str(tmp_path), "claim": "shared"}]
        world = World(api, kind, job, ClusterSpec.parse({"volumes": volumes, **spec}))
        opened.extend([api, world])
        api.__enter__()
        return world.__enter__()

    yield make
    for each in reversed(opened):
        each.__exit__(None, None, None)


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest, make_world: WorldMaker) -> World:
    """A cluster of each kind."""
    return make_world(request.param)


class TestStart:
    def test_a_job_is_created_followed_and_its_result_brought_back(self, world: World) -> None:
        launched = world.launch()
        until(lambda: launched.states == ["pending"])
        names = world.start()
        world.api.write(names[0], "progress epoch=1/3 step=7/9 loss=0.5 rows_per_second=9 data_share=0 learning_rate=1")
        until(lambda: launched.steps == [7])
        world.complete(names)
        assert launched.end().error is None
        assert launched.result is not None
        assert launched.result.steps == 40
        assert launched.states == ["pending", "running", "ended"]
        assert launched.log[0].endswith("created")

    def test_the_ranks_find_their_job_in_the_shared_folder(self, world: World) -> None:
        world.launch()
        path = world.job_arguments(0)[-1]
        assert Job.load(path) == world.job

    def test_a_retried_step_adopts_the_job_that_runs(self, world: World) -> None:
        first = world.launch()
        names = world.start()
        until(lambda: "running" in first.states)
        second = world.launch()
        until(lambda: "running" in second.states)
        assert second.log[0].endswith("adopted")
        assert len(world.jobs) == 1
        world.complete(names)
        assert first.end().result == second.end().result is not None

    def test_a_retried_step_takes_the_result_of_a_job_that_is_complete(self, make_world: WorldMaker) -> None:
        world = make_world()
        launched = world.launch()
        names = world.start()
        world.api.put(world.job_object | {"metadata": world.job_object["metadata"]})
        write_result(world.job)
        until(lambda: "running" in launched.states)
        head = world.job_object
        world.complete(names)
        launched.end()
        world.api.put(head | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
        assert world.launch().end().result == launched.result

    def test_two_that_start_at_once_share_one_job(self, world: World) -> None:
        def another_was_faster(method: str, path: str) -> None:
            if method == "POST" and path.endswith("jobs"):
                world.api.before = lambda method, path: None
                world.launcher._cluster.create(world.launcher.render(world.job, world.launcher.engine()))

        world.api.before = another_was_faster
        launched = world.launch()
        world.complete(world.start())
        assert launched.end().error is None
        assert launched.log[0].endswith("adopted")

    def test_a_failed_job_is_replaced_under_its_name(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        world.die(names[0], RECORD % ("ValueError: bad shard", time.time()))
        world.condition("Failed")
        launched.failed(TrainingError)
        name, uid = world.name, world.job_object["metadata"]["uid"]
        again = world.launch()
        until(lambda: world.jobs and world.job_object["metadata"]["uid"] != uid)
        assert world.name == name
        world.complete(world.start())
        assert again.end().error is None
        assert again.log[0].endswith("replaced")

    def test_a_job_that_is_on_its_way_out_is_waited_for(self, world: World) -> None:
        first = world.launch()
        world.start()
        until(lambda: "running" in first.states)
        world.saves = True
        first.cancel.set()
        until(lambda: world.job_object["metadata"].get("deletionTimestamp"))
        second = world.launch()
        first.failed(TrainingError)
        until(lambda: second.log and second.log[0].endswith("replaced"))
        world.complete(world.start())
        assert second.end().error is None

    def test_an_old_result_is_no_result(self, world: World) -> None:
        write_result(world.job)
        launched = world.launch()
        names = world.start()
        for name in names:
            world.die(name, code=0)
        world.condition("Complete")
        assert "shared volume" in launched.failed(TrainingError)


class TestOwner:
    def step(self, world: World, *, run: str = "5f2c-77") -> None:
        owners = [
            {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u", "controller": True}
        ]
        head = {"name": "step", "namespace": NAMESPACE, "annotations": {}, "ownerReferences": owners}
        head |= {"labels": {RUN_LABEL: run}}
        world.api.put({"apiVersion": "v1", "kind": "Pod", "metadata": head})

    def test_a_job_belongs_to_the_workflow_and_names_its_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.step(world)
        monkeypatch.setenv("KFP_POD_NAME", "step")
        world.launch()
        head = world.job_object["metadata"]
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
        assert head["ownerReferences"] == [owner]
        assert head["labels"][RUN_LABEL] == "5f2c-77"
        assert "5f2c-77" in head["name"]

    def test_it_stays_with_its_workflow_and_goes_where_there_is_none(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launched = world.launch()
        world.complete(world.start())
        launched.end()
        until(lambda: not world.jobs)
        self.step(world)
        monkeypatch.setenv("KFP_POD_NAME", "step")
        launched = world.launch()
        world.complete(world.start())
        launched.end()
        assert "deletionTimestamp" not in world.job_object["metadata"]

    def test_another_run_is_another_job(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KFP_POD_NAME", "step")
        names = set()
        for run in ("a", "b"):
            self.step(world, run=run)
            names.add(world.launcher.render(world.job, world.launcher.engine())["metadata"]["name"])
        assert len(names) == 2


class TestEnd:
    def test_cancelling_deletes_and_says_that_the_state_is_saved(self, world: World) -> None:
        world.saves = True
        launched = world.launch()
        world.start()
        until(lambda: "running" in launched.states)
        launched.cancel.set()
        assert "it was cancelled; its state is saved" in launched.failed(TrainingError)
        assert world.jobs == []
        assert launched.states[-1] == "ended"

    @pytest.mark.parametrize("older", [False, True])
    def test_a_deadline_that_the_cluster_does_not_keep_is_kept_here(self, make_world: WorldMaker, older: bool) -> None:
        world = make_world(older=older, placement={"deadline": 1})
        launched = world.launch()
        world.start()
        assert "passed its deadline of 1 s" in launched.failed(TrainingError)
        assert world.jobs == []

    def test_a_deadline_that_the_cluster_keeps_is_said(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        until(lambda: "running" in launched.states)
        world.remove(*names)  # Trainer deletes the JobSet, pods and logs with it
        world.condition("Failed", reason="DeadlineExceeded")
        assert "passed its deadline" in launched.failed(TrainingError)

    def test_a_job_that_somebody_deletes_is_no_success(self, world: World) -> None:
        launched = world.launch()
        world.start()
        until(lambda: "running" in launched.states)
        world.cluster.delete(world.kind, world.name)
        assert "somebody deleted the job" in launched.failed(TrainingError)

    def test_what_interrupts_the_launcher_ends_the_job(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(self: Any, status: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cluster_watch.Following, "_look", interrupted)
        launched = world.launch()
        launched.failed(KeyboardInterrupt)
        until(lambda: not world.jobs)

    def test_ranks_that_hang_are_ended_and_the_slow_one_named(self, make_world: WorldMaker) -> None:
        world = make_world()
        training = world.job.training.model_copy(update={"patience": 1.5})
        world.job = world.job.model_copy(update={"training": training})
        launched = world.launch()
        world.start()
        for rank, step in ((0, 8), (1, 7)):
            Heartbeat(rank=rank, pid=1, beats=9, step=step, phase="backward").write(Path(world.job.folder))
        assert "wait for rank 1, in the phase 'backward' of step 8" in launched.failed(TrainingError)
        assert world.jobs == []

    def test_sigterm_deletes_within_a_second(self, world: World, tmp_path: Path) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": world.api.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        (tmp_path / "cluster.yaml").write_text(world.spec.model_copy(update={"namespace": NAMESPACE}).dump())
        (tmp_path / "given.json").write_text(world.job.model_dump_json())
        code = (
            "import sys; from headway.components.train_distributed.job import Job; "
            "from headway.components.train_distributed.launch import launch; "
            "from headway.components.settings import Settings; "
            "launch(Job.load(sys.argv[1]), settings=Settings(platform='kubeflow', training_cluster=sys.argv[2]))"
        )
        arguments = [str(tmp_path / "given.json"), str(tmp_path / "cluster.yaml")]
        environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig")}
        step = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            until(lambda: world.jobs, 60)
            world.start()
            time.sleep(0.5)
            began = time.monotonic()
            step.send_signal(signal.SIGTERM)
            until(lambda: any(method == "DELETE" for method, _, _ in world.api.requests), 5)
            assert time.monotonic() - began < 1.0
            _, said = step.communicate(timeout=60)
        finally:
            step.kill()
            step.wait()
        assert step.returncode == 1
        assert "it was cancelled" in said
        assert world.jobs == []


class TestTrouble:
    def test_a_lost_watch_and_a_forgotten_version_lose_nothing(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        until(lambda: "running" in launched.states)
        with world.api.changed:
            world.api.drop_watches()
            world.complete(names)
            world.api.forget()
        assert launched.end().error is None

    def test_an_api_server_that_is_away_is_waited_for(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        until(lambda: "running" in launched.states)
        world.api.down = True
        world.api.drop_watches()
        time.sleep(1.0)
        world.api.down = False
        world.complete(names)
        assert launched.end(40).error is None

    def test_an_evicted_pod_resumes_with_the_gang(self, make_world: WorldMaker) -> None:
        world = make_world()
        launched = world.launch()
        until(lambda: launched.states == ["pending"])
        names = world.start()
        world.api.write(names[0], "step 1")
        until(lambda: "step 1" in launched.log)
        world.set_pod(names[1], "Failed", None, reason="Evicted", message="The node was low on resource: memory.")
        until(lambda: "pending" in launched.states[1:])
        world.remove(*names)
        again = world.start(attempt=1)
        world.api.write(again[0], "resumed at 40")
        until(lambda: "resumed at 40" in launched.log)
        world.complete(again)
        assert launched.end().error is None
        assert launched.states == ["pending", "running", "pending", "running", "ended"]
        assert launched.log.count("step 1") == launched.log.count("resumed at 40") == 1

    def test_a_pytorch_job_that_lost_a_machine_starts_again(self, make_world: WorldMaker) -> None:
        world = make_world("PyTorchJob", restarts=1)
        launched = world.launch()
        names = world.start()
        uid = world.job_object["metadata"]["uid"]
        gone = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
        world.set_pod(names[1], "Failed", None, conditions=[gone], reason="Evicted")
        world.die(names[0], RECORD % ("RuntimeError: Connection closed by peer", time.time() + 2))
        world.condition("Failed")
        until(lambda: world.jobs and world.job_object["metadata"]["uid"] != uid)
        names = world.start()
        until(lambda: launched.states.count("running") >= 1)
        world.die(names[1], code=137, reason="Error")
        world.condition("Failed")
        assert "exit code 137" in launched.failed(TrainingError)
        assert any("a machine was lost" in line and "drained" in line for line in launched.log)

    def test_kueue_that_takes_the_machines_away_and_gives_them_back(self, make_world: WorldMaker) -> None:
        world = make_world(queue="gpu")
        launched = world.launch()
        assert world.job_object["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
        world.condition("Suspended")
        until(lambda: "queued" in launched.states)
        message = "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu in flavor h100, 4 more needed"
        world.warn("Pending", message, about=f"trainjob-{world.name}-af7", kind="Workload")
        until(lambda: any("insufficient unused quota" in line for line in launched.log))
        world.condition("Suspended", "False")
        names = world.start()
        until(lambda: launched.states[-1] == "running")
        world.condition("Suspended")
        world.remove(*names)
        until(lambda: launched.states[-1] == "queued")
        world.condition("Suspended", "False")
        world.complete(world.start())
        assert launched.end().error is None

    def test_time_in_the_queue_does_not_count_against_the_deadline(self, make_world: WorldMaker) -> None:
        world = make_world(placement={"deadline": 1.5})
        launched = world.launch()
        world.condition("Suspended")
        time.sleep(2.0)
        world.condition("Suspended", "False")
        names = world.start()
        until(lambda: launched.states[-1] == "running")
        world.complete(names)
        assert launched.end().error is None

    def test_a_queue_that_never_moves_is_left(self, make_world: WorldMaker) -> None:
        world = make_world(queue_limit=1)
        launched = world.launch()
        world.condition("Suspended")
        assert "it did not run within 1 s; queued" in launched.failed(TrainingError)

    def test_a_quota_is_passed_on_at_once_and_ends_the_job_in_time(self, world: World) -> None:
        world.spec = world.spec.model_copy(update={"stuck_after": 1.0})
        launched = world.launch()
        message = 'pods "t-node-0" is forbidden: exceeded quota: compute, requested: requests.nvidia.com/gpu=4, used: 8'
        world.warn("FailedCreate", message)
        until(lambda: any("exceeded quota: compute" in line for line in launched.log))
        assert "exceeded quota: compute" in launched.failed(TrainingError)
        assert world.jobs == []

    def test_a_quota_on_jobs_speaks_for_itself(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        from tests.components.kubernetes.fake_kubernetes import RefusalError

        def refuse(*_: object) -> None:
            raise RefusalError(403, "Forbidden", "is forbidden: exceeded quota: jobs, used: 3, limited: 3")

        monkeypatch.setattr(world.api, "_create", refuse)
        said = world.launch().failed(PlatformError)
        assert "exceeded quota: jobs" in said
        assert "role" not in said

    def test_warnings_about_another_job_are_not_passed_on(self, world: World) -> None:
        launched = world.launch()
        world.warn("FailedCreate", "exceeded quota: mine", about="another-job")
        world.warn("FailedCreate", "exceeded quota: of an earlier attempt", at="2020-01-01T00:00:00Z")
        time.sleep(0.6)
        world.complete(world.start())
        launched.end()
        assert not any("exceeded quota" in line for line in launched.log)

    def test_an_image_that_cannot_be_pulled_is_said_in_time(self, world: World) -> None:
        world.spec = world.spec.model_copy(update={"stuck_after": 1.0})
        launched = world.launch()
        name = world.pod(0)
        began = time.monotonic()
        for turn in range(200):  # the kubelet's two words for it take turns
            reason = ("ErrImagePull", "ImagePullBackOff")[turn % 2]
            world.set_pod(name, "Pending", {"waiting": {"reason": reason, "message": "not found: manifest unknown"}})
            if launched.error is not None or time.monotonic() - began > 15:
                break
            time.sleep(0.1)
        said = launched.failed(TrainingError)
        assert "cannot pull its image" in said
        assert "manifest unknown" in said
        assert time.monotonic() - began < 10
        assert world.jobs == []

    def test_what_no_machine_can_take_is_said_and_waited_for(self, world: World) -> None:
        world.spec = world.spec.model_copy(update={"stuck_after": 0.5})
        launched = world.launch()
        name = world.pod(0)
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        message = "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."
        world.set_pod(name, "Pending", None, conditions=[condition | {"message": message}])
        until(lambda: any("9 Insufficient nvidia.com/gpu" in line for line in launched.log))
        world.run(name)
        other = world.pod(1)
        world.run(other)
        world.complete([name, other])
        assert launched.end().error is None

    def test_an_elastic_job_runs_on_fewer_machines(self, make_world: WorldMaker) -> None:
        world = make_world("PyTorchJob", placement={"nodes": 4}, elastic={"least": 2})
        launched = world.launch()
        names = world.start(nodes=1)
        until(lambda: "pending" in launched.states)
        time.sleep(0.3)
        assert "running" not in launched.states
        names.append(world.pod(1))
        world.run(names[1])
        until(lambda: launched.states[-1] == "running")
        world.complete(names)
        assert launched.end().error is None

    def test_what_the_launcher_does_not_understand_is_no_endless_wait(self, world: World) -> None:
        launched = world.launch()
        name = world.pod(0)
        world.set_pod(name, "Failed", {"terminated": {"exitCode": 1}})  # without a time
        launched.failed(KeyError)
        until(lambda: not world.jobs)


class TestLogs:
    def test_each_line_comes_once_however_often_the_connection_breaks(self, world: World) -> None:
        launched = world.launch()
        first, second = world.start()
        for turn in range(30):
            world.api.write(first, f"line {turn}", at=f"2026-01-01T00:00:{turn // 10:02d}.{turn % 10 // 3}Z")
            if turn % 10 == 5:
                until(lambda turn=turn: f"line {turn}" in launched.log)  # type: ignore[misc]
                world.api.drop_watches()
        world.complete([first, second])
        launched.end()
        assert [line for line in launched.log if line.startswith("line")] == [f"line {turn}" for turn in range(30)]

    def test_what_the_others_write_is_not_followed(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        world.api.write(names[1], "of node 1")
        world.api.write(names[0], "of node 0")
        world.complete(names)
        launched.end()
        assert "of node 0" in launched.log
        assert "of node 1" not in launched.log


class TestCause:
    def test_the_first_failing_rank_is_what_the_user_sees(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        at = time.time()
        world.api.write(names[1], "reading shard part-007")
        # The peer's pod ends first, and within the same second: torchrun on the culprit's machine ends its ranks first.
        world.die(names[0], RECORD % ("RuntimeError: Connection closed by peer [10.0.0.7]:4021", at), at=at)
        world.die(names[1], RECORD % ("ValueError: bad row in shard part-007: label=nan", at), at=at + 3)
        world.condition("Failed", reason="FailedJobs", message="jobset failed")
        said = launched.failed(TrainingError)
        assert "failed: ValueError: bad row in shard part-007: label=nan" in said
        assert names[1] in said
        assert "reading shard part-007" in launched.log

    def test_our_own_errors_keep_what_to_do(self, world: World) -> None:
        launched = world.launch()
        names = world.start()
        world.die(names[0], RECORD % (r"TrainingError: the loss is NaN\nFix: lower learning_rate", time.time()))
        world.condition("Failed")
        launched.failed(TrainingError)
        assert isinstance(launched.error, TrainingError)
        assert launched.error.problem.endswith("failed: the loss is NaN")
        assert launched.error.fix == "lower learning_rate"

    def test_a_job_that_fails_without_pods_says_its_condition(self, world: World) -> None:
        launched = world.launch()
        world.condition("Failed", reason="TrainingRuntimeNotSupported", message="no torch policy")
        assert "TrainingRuntimeNotSupported: no torch policy" in launched.failed(TrainingError)


class TestBefore:
    def test_a_cluster_without_the_kind_is_told_apart(self, world: World) -> None:
        world.api.absent.add(world.kind)
        assert "TrainJob, nor PyTorchJob" in world.launch().failed(PlatformError)

    def test_what_is_asked_for_is_not_replaced_by_another(self, make_world: WorldMaker) -> None:
        world = make_world("TrainJob", engine="pytorchjob")
        assert "does not know the kind PyTorchJob" in world.launch().failed(PlatformError)

    def test_trainer_comes_first_where_both_are(self, make_world: WorldMaker) -> None:
        world = make_world()
        world.api.absent.clear()
        assert world.launcher.engine().kind == "TrainJob"
        world.spec = world.spec.model_copy(update={"engine": "pytorchjob"})
        assert world.launcher.engine().kind == "PyTorchJob"

    def test_elastic_jobs_are_pytorch_jobs(self, make_world: WorldMaker) -> None:
        world = make_world(elastic={"least": 1})
        world.api.absent.clear()
        assert world.launcher.engine().kind == "PyTorchJob"
        world.spec = world.spec.model_copy(update={"engine": "trainjob"})
        assert "no elastic jobs" in world.launch().failed(PlatformError)

    def test_every_missing_right_is_named_and_nothing_is_made(self, world: World) -> None:
        plural = world.kind.lower() + "s"
        world.api.denied |= {("create", plural), ("get", "pods/log"), ("list", "events")}
        said = world.launch().failed(PlatformError)
        assert f"create {world.kind}, list Event, get Pod/log" in said
        assert "manifests/training" in said
        assert not [path for method, path, _ in world.api.requests if method == "POST" and path.endswith(plural)]

    def test_a_runtime_that_is_missing_is_named(self, make_world: WorldMaker) -> None:
        world = make_world(runtime="mine")
        assert "no ClusterTrainingRuntime 'mine'" in world.launch().failed(PlatformError)

    def test_a_folder_that_is_not_shared_is_refused(self, make_world: WorldMaker) -> None:
        world = make_world(volumes=[])
        said = world.launch().failed(ConfigError)
        assert world.job.folder in said
        assert "shared volume" in said
        world = make_world()
        world.job = world.job.model_copy(update={"data": "/somewhere/else"})
        assert "/somewhere/else" in world.launch().failed(ConfigError)

    def test_gpus_have_to_be_counted(self, make_world: WorldMaker) -> None:
        world = make_world(placement={"processes": 0})
        assert "placement.processes" in world.launch().failed(ConfigError)

    def test_a_field_that_would_be_dropped_is_refused(self, make_world: WorldMaker, monkeypatch: Any) -> None:
        world = make_world()
        schema = world.api.schema("TrainJob")
        spec = schema["properties"]["spec"]
        trainer = spec["properties"]["trainer"]
        cut = {name: each for name, each in trainer["properties"].items() if name != "numProcPerNode"}
        spec = spec | {"properties": spec["properties"] | {"trainer": trainer | {"properties": cut}}}
        older = schema | {"properties": schema["properties"] | {"spec": spec}}
        monkeypatch.setattr(world.api, "schema", lambda kind: older)
        assert "has no spec.trainer.numProcPerNode" in world.launch().failed(PlatformError)

    def test_the_cluster_itself_refuses_unknown_fields(self, world: World) -> None:
        world.launch()
        until(lambda: world.jobs)
        (query,) = [query for method, path, query in world.api.requests if method == "POST" and "jobs" in path]
        assert query["fieldValidation"] == "Strict"
