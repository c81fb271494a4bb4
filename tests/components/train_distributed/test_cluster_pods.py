"""Which pod died first, of what, and what pods wait for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.kubernetes.follow import moment
from headway.components.train_distributed.cluster_pods import Death, deaths, first, running, told, troubles

PEER = "RuntimeError: [/pytorch/third_party/gloo/pair.cc:534] Connection closed by peer [10.1.0.7]:40211"
OWN = "ValueError: bad row in shard part-007: label=nan"


def record(said: str, at: float | None = None, *, trace: str = "...") -> str:
    """What torchrun's @record writes."""
    stamp = {} if at is None else {"timestamp": str(int(at))}
    return json.dumps({"message": {"message": said, "extraInfo": {"py_callstack": trace, **stamp}}})


def death(node: int, second: int, message: str = "", **changes: Any) -> Death:
    facts = {"pod": f"p-{node}", "node": node, "at": f"2026-01-01T00:00:{second:02d}Z", "exit_code": 1}
    return Death(**{**facts, "reason": "Error", "message": message, **changes})


def pod(*, state: dict[str, Any] | None = None, name: str = "p-0", **status: Any) -> dict[str, Any]:
    head = {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {}}
    statuses = [{"name": "node", "image": "registry/x:1", "state": state}] if state is not None else []
    return {"metadata": head, "status": {"containerStatuses": statuses, **status}}


class TestFirst:
    def test_the_earliest_goes_first(self) -> None:
        found = first([death(1, 9, record("ValueError: late")), death(0, 5, record(OWN))])
        assert found is not None
        assert found.cause[0] == OWN

    def test_in_the_same_second_one_that_speaks_of_itself_goes_first(self) -> None:
        found = first([death(0, 5, record(PEER)), death(1, 5, record(OWN))])
        assert found is not None
        assert found.pod == "p-1"

    def test_a_culprit_whose_torchrun_ends_later_than_its_peers_is_found(self) -> None:
        found = first([death(0, 5, record(PEER)), death(1, 33, record(OWN))])
        assert found is not None
        assert found.pod == "p-1"

    def test_the_ranks_own_time_counts_before_the_containers(self) -> None:
        early, late = moment("2026-01-01T00:00:04Z")[0], moment("2026-01-01T00:00:05Z")[0]
        found = first(
            [
                death(0, 6, record("KeyError: 'b'", late.timestamp())),
                death(1, 9, record("KeyError: 'a'", early.timestamp())),
            ]
        )
        assert found is not None
        assert found.pod == "p-1"

    def test_what_comes_long_after_is_no_cause(self) -> None:
        late = death(1, 0, record(OWN), at="2026-01-01T00:05:00Z")
        found = first([death(0, 5, record(PEER)), late])
        assert found is not None
        assert found.pod == "p-0"

    def test_only_the_last_start_counts(self) -> None:
        found = first([death(0, 1, record(OWN)), death(0, 30, record("KeyError: 'x'"), attempt=1)])
        assert found is not None
        assert found.cause[0] == "KeyError: 'x'"

    def test_a_pod_that_was_ended_is_no_cause(self) -> None:
        found = first([death(0, 5, exit_code=143), death(1, 5, reason="OOMKilled", exit_code=137)])
        assert found is not None
        assert "more memory than it was given" in found.cause[0]
        assert "placement.memory" in str(found.cause[2])

    def test_nobody_died(self) -> None:
        assert first([]) is None

    @given(st.permutations([death(0, 5, record(PEER)), death(1, 5, record(OWN)), death(2, 5, record(PEER))]))
    def test_the_order_in_which_they_are_seen_does_not_matter(self, seen: list[Death]) -> None:
        found = first(seen)
        assert found is not None
        assert found.pod == "p-1"


class TestMessages:
    def test_a_record_whose_beginning_is_lost_is_read_from_its_end(self) -> None:
        trace = "Traceback (most recent call last):\n" + '  File "trainer.py", line 3\n    f()\n' * 400 + f"{OWN}\n"
        whole = record(OWN, 1767225600, trace=trace)
        assert len(whole) > 4096
        assert death(0, 1, whole[-4096:]).cause[0] == OWN

    def test_our_own_errors_come_apart(self) -> None:
        said = record("TrainingError: the loss is NaN\nExpected: a number\nFix: lower learning_rate")
        assert death(0, 1, said).cause == ("the loss is NaN", "a number", "lower learning_rate")

    def test_a_rank_that_left_no_record_is_known_by_its_last_line(self) -> None:
        found = death(0, 1, "loading\nSegmentation fault (core dumped)\n", exit_code=139)
        assert found.cause[0] == "pod p-0 ended with exit code 139: Error: Segmentation fault (core dumped)"

    @pytest.mark.parametrize(
        ("facts", "lost"),
        [
            ({"exit_code": 137, "message": "last lines of the log"}, True),
            ({"exit_code": 137, "reason": "OOMKilled"}, False),
            ({"exit_code": 1, "message": record(OWN)}, False),
            ({"exit_code": 143, "reason": "Evicted"}, True),
        ],
    )
    def test_a_lost_machine_is_told_from_a_broken_program(self, facts: dict[str, Any], lost: bool) -> None:
        assert death(0, 1, **{"message": "", **facts}).is_lost is lost


class TestPods:
    def ended(self, code: int, **more: Any) -> dict[str, Any]:
        return {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:05Z", "reason": "Error", **more}}

    def test_a_container_that_ended_well_did_not_die(self) -> None:
        assert deaths(pod(state=self.ended(0)), 0, "node") == []
        assert running([pod(state=self.ended(0)), pod(state={"running": {}}), pod(state={"waiting": {}})], "node") == 2

    def test_the_container_before_is_remembered(self) -> None:
        found = pod(state={"running": {}})
        found["status"]["containerStatuses"][0]["lastState"] = self.ended(1, message=record(OWN))
        assert [each.cause[0] for each in deaths(found, 0, "node")] == [OWN]

    def test_an_evicted_pod_says_why(self) -> None:
        found = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
        (only,) = deaths(found, 1, "node")
        assert only.is_lost
        assert "low on resource: memory" in only.cause[0]

    def test_a_pod_that_must_go_is_lost_whatever_its_container_says(self) -> None:
        gone = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for p-9"}
        (only,) = deaths(pod(state=self.ended(143), phase="Failed", conditions=[gone]), 0, "node")
        assert only.is_lost
        assert not only.is_consequence

    def test_a_pod_on_its_way_out_does_not_run(self) -> None:
        going = pod(state={"running": {}})
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z"
        assert running([going], "node") == 0


class TestTroubles:
    def test_a_pull_has_one_key_under_both_names(self) -> None:
        keys = {
            trouble.key
            for reason in ("ErrImagePull", "ImagePullBackOff")
            for trouble in troubles([pod(state={"waiting": {"reason": reason, "message": "x"}})])
        }
        assert len(keys) == 1

    def test_missing_config_is_hopeless_and_a_full_cluster_is_not(self) -> None:
        waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "bucket" not found'}}
        (trouble,) = troubles([pod(state=waiting)])
        assert trouble.hopeless
        assert 'secret "bucket" not found' in trouble.text
        full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        (trouble,) = troubles([pod(conditions=[full])])
        assert not trouble.hopeless

    def test_a_pod_that_starts_is_no_trouble(self) -> None:
        assert troubles([pod(state={"waiting": {"reason": "ContainerCreating"}}), pod()]) == []

    def test_of_several_warnings_of_a_kind_the_newest_is_told(self) -> None:
        def event(at: str, message: str) -> dict[str, Any]:
            head = {"creationTimestamp": at}
            about = {"kind": "Job", "name": "t-node-0"}
            return {"metadata": head, "reason": "FailedCreate", "message": message, "involvedObject": about}

        events = [event("2026-01-01T00:00:05Z", "old"), event("2026-01-01T00:00:09Z", "new")]
        assert [each.text for each in told(events, "2026-01-01T00:00:00Z")] == ["FailedCreate: new"]
        assert told(events, "2026-01-01T00:01:00Z") == []
