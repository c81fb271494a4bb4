"""Up, down, and what comes back after everything was killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from headway.components.errors import ConfigError, GatewayError, NotReadyError, ReleaseError, TrustError
from headway.serving.embedded import ports
from headway.serving.embedded.envoy import PROGRAM
from headway.serving.embedded.lifecycle import down, up
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.state import write_atomically
from headway.serving.embedded.status import status
from headway.serving.embedded.supervisor import orphans
from headway.serving.platform import TOTAL_WEIGHT, Phase, Route, Share, Variant
from tests.serving.embedded.conftest import (
    STANDIN,
    PlatformMaker,
    program_pid,
    serve,
    server_pids,
    split,
    take_down,
)
from tests.serving.embedded.load import wait_until

VariantMaker = Callable[..., Variant]


def answered_by(platform: EmbeddedPlatform) -> str:
    answer = httpx.post(f"{platform.address('flights').url}/flights/predict", json={}, timeout=20)
    assert answer.status_code == 200
    return str(answer.json()["variant"])


class TestUpAndDown:
    def test_a_second_up_changes_nothing(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), variant(2), route=split(0, TOTAL_WEIGHT))
        pids = [program_pid(own, PROGRAM), *server_pids(own, "flights", "v1"), *server_pids(own, "flights", "v2")]
        result = up(own)
        assert result.changes == []
        assert result.url == own.address("flights").url
        assert pids == [
            program_pid(own, PROGRAM),
            *server_pids(own, "flights", "v1"),
            *server_pids(own, "flights", "v2"),
        ]

    def test_down_keeps_what_was_served(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), variant(2), route=split(0, TOTAL_WEIGHT))
        url = own.address("flights").url
        assert down(own) == ["stopped gateway, driver and servers"]
        assert down(own) == []
        assert orphans(own.installation.store.read().id) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        assert own.route("flights") == split(0, TOTAL_WEIGHT)
        told: list[str] = []
        up(own, tell=told.append)
        assert own.address("flights").url == url
        assert "flights/v2 ready" in told
        assert answered_by(own) == "v2"

    def test_nothing_can_be_changed_while_it_is_down(
        self, make_platform: PlatformMaker, tmp_path: Path, variant: VariantMaker
    ) -> None:
        platform = make_platform(tmp_path / "home")
        for change in (
            lambda: platform.ensure_variant("flights", variant(1)),
            lambda: platform.set_route("flights", split(TOTAL_WEIGHT)),
            lambda: platform.address("flights"),
        ):
            with pytest.raises(GatewayError, match="headway up"):
                change()
        assert down(platform) == []
        assert not platform.installation.layout.state.exists()

    def test_purge_keeps_what_people_wrote(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        payloads = own.installation.layout.home / "payloads" / "flights"
        payloads.mkdir(parents=True)
        assert len(down(own, purge=True)) == 2
        root = own.installation.layout.root
        assert [path.name for path in root.iterdir()] == ["gateway.yaml"]
        assert not payloads.exists()
        assert own.endpoints() == []
        assert (own.installation.layout.home / "policy.yaml").exists()

    def test_a_taken_port_is_named_with_its_owner(self, make_platform: PlatformMaker, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            platform = make_platform(tmp_path / "home", gateway_port=port)
            with pytest.raises(GatewayError) as raised:
                up(platform)
        text = str(raised.value)
        assert f"Port {port} is taken by process {os.getpid()} (" in text
        assert f"HEADWAY_GATEWAY_PORT={port + 1} headway up" in text
        assert not status(platform).up

    def test_another_port_is_moved_to_without_a_restart(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        pid, port = program_pid(own, PROGRAM), ports.free_port()
        moved = EmbeddedPlatform(own.settings.model_copy(update={"gateway_port": port}), server=STANDIN)
        assert up(moved).url == f"http://127.0.0.1:{port}"
        assert answered_by(moved) == "v1"
        assert program_pid(own, PROGRAM) == pid

    def test_a_wrong_file_changes_nothing(self, own: EmbeddedPlatform) -> None:
        write_atomically(own.installation.layout.root / "gateway.yaml", "replicas: 0\n")
        with pytest.raises(ConfigError, match="replicas"):
            up(own)
        assert status(own).problems == []


class TestDisasters:
    def test_everything_is_killed(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        """As a reboot does it: no process is left, the files are."""
        serve(own, "flights", variant(1), variant(2), route=split(TOTAL_WEIGHT, 0, mirror="v2", mirror_weight=100))
        serve(own, "trains", variant(1), route=split(TOTAL_WEIGHT))
        url, mark = own.address("flights").url, own.installation.store.read().id
        kill_all(mark)
        assert not status(own).up
        result = up(own)
        assert result.url == url
        assert status(own).problems == []
        assert answered_by(own) == "v1"
        assert own.route("flights") == split(TOTAL_WEIGHT, 0, mirror="v2", mirror_weight=100)
        assert own.endpoints() == ["flights", "trains"]

    def test_only_the_supervisor_is_killed(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        """What it leaves would keep the ports: `up` ends it first."""
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        old = {program_pid(own, PROGRAM), *server_pids(own, "flights", "v1")}
        os.kill(supervisor_pid(own), signal.SIGKILL)
        wait_until(lambda: not own.installation.supervisor(own.installation.store.read()).running(), 5, "it is gone")
        up(own)
        assert answered_by(own) == "v1"
        mark = own.installation.store.read().id
        assert old.isdisjoint(orphans(mark))
        assert status(own).problems == []

    def test_a_servers_port_was_taken_meanwhile(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        served = own.installation.store.read().endpoint("flights").served("v1")
        assert served is not None
        (port,) = served.ports
        down(own)
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            up(own)
            assert answered_by(own) == "v1"

    def test_programs_come_back(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        for find in (lambda: program_pid(own, PROGRAM), lambda: server_pids(own, "flights", "v1")[0]):
            old = find()
            os.kill(old, signal.SIGKILL)
            wait_until(lambda f=find, o=old: f() not in (0, o), 20, "it was started again")
            wait_until(lambda: status(own).problems == [], 20, "all is well again")
            assert answered_by(own) == "v1"
        found = status(own)
        assert found.gateway.restarts == 1
        assert found.endpoints[0].variants[0].processes[0].restarts == 1

    def test_an_interrupted_removal_is_finished(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
        (pid,) = server_pids(own, "flights", "v2")
        own.finish_leaving = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            own.remove_variant("flights", "v2")
        again = EmbeddedPlatform(own.settings, server=STANDIN)
        assert again.installation.store.read().leaving == ["server-flights-v2-2"]
        again.remove_variant("flights", "v2")
        assert again.installation.store.read().leaving == []
        assert pid not in orphans(again.installation.store.read().id)

    def test_a_version_that_cannot_start(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        own.ensure_variant("flights", variant(8))
        wait_until(lambda: own.variant_state("flights", variant(8)).phase is Phase.FAILED, 30, "it is given up")
        reason = own.variant_state("flights", variant(8)).reason
        assert reason == "its server ended: this version cannot start: its model is broken"
        with pytest.raises(NotReadyError, match="its model is broken"):
            own.set_route("flights", Route(salt="s", shares=[Share(variant="v8", weight=TOTAL_WEIGHT)]))
        found = status(own)
        assert any("its model is broken" in problem for problem in found.problems)


class TestTrust:
    def test_a_changed_bundle_is_refused_and_traffic_stays(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        bundle = own.installation.layout.bundle(variant(2).digest)
        (bundle / "contract.yaml").write_text("name: evil\n")
        for call in (
            lambda: own.ensure_variant("flights", variant(2)),
            lambda: own.check("flights", split(0, TOTAL_WEIGHT), [variant(1), variant(2)]),
        ):
            with pytest.raises(TrustError, match=r"contract\.yaml was changed"):
                call()
        assert [each.name for each in own.variants("flights")] == ["v1"]
        assert answered_by(own) == "v1"

    def test_a_stranger_signature_is_refused(
        self, own: EmbeddedPlatform, variant: VariantMaker, tmp_path: Path
    ) -> None:
        from headway.components.signing import make_key, sign_bundle

        key = tmp_path / "stranger.pem"
        key.write_bytes(make_key())
        key.chmod(0o600)
        bundle = own.installation.layout.bundle(variant(2).digest)
        (bundle / "bundle.sig").unlink()
        sign_bundle(bundle, key)
        with pytest.raises(TrustError):
            own.ensure_variant("flights", variant(2))
        assert own.variants("flights") == []

    def test_a_name_is_one_version(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        own.ensure_variant("flights", variant(1))
        with pytest.raises(ReleaseError, match="flights/v1 serves version 1"):
            own.ensure_variant("flights", variant(2, name="v1"))


class TestTwoAtOnce:
    def test_two_homes_side_by_side(
        self, own: EmbeddedPlatform, make_platform: PlatformMaker, variant: VariantMaker, tmp_path: Path
    ) -> None:
        other = make_platform(tmp_path / "other home, 100% of it")
        up(other)
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        serve(other, "flights", variant(1), variant(2), route=split(0, TOTAL_WEIGHT))
        assert own.address("flights").url != other.address("flights").url
        assert (answered_by(own), answered_by(other)) == ("v1", "v2")
        take_down(other)
        assert answered_by(own) == "v1"
        assert status(own).problems == []

    def test_a_deep_home(self, make_platform: PlatformMaker, tmp_path: Path, variant: VariantMaker) -> None:
        home = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6)
        platform = make_platform(home)
        up(platform)
        serve(platform, "flights", variant(1), route=split(TOTAL_WEIGHT))
        sockets = Path(platform.installation.store.read().sockets)
        assert answered_by(platform) == "v1"
        assert len(str(sockets)) < 60
        assert sockets.stat().st_mode & 0o077 == 0
        take_down(platform)
        assert not sockets.exists()

    def test_a_home_that_supervisord_cannot_read(self, make_platform: PlatformMaker, tmp_path: Path) -> None:
        platform = make_platform(tmp_path / "home ; rm")
        with pytest.raises(ConfigError, match="HEADWAY_HOME"):
            up(platform)

    def test_many_change_it_at_once(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        """Threads and processes wait for one another; no change is lost."""
        names = [f"e{number}" for number in range(4)]
        errors: list[BaseException] = []

        def change(name: str) -> None:
            try:
                mine = EmbeddedPlatform(own.settings, server=STANDIN)
                serve(mine, name, variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
                for weight in (500, 5_000, 10_000):
                    mine.set_route(name, split(TOTAL_WEIGHT - weight, weight))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=change, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert own.endpoints() == names
        assert all(own.route(name) == split(0, TOTAL_WEIGHT) for name in names)
        assert status(own).problems == []

    def test_a_holder_of_the_lock_is_named(
        self, make_platform: PlatformMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from headway.serving.embedded import state

        platform = make_platform(tmp_path / "home")
        root = str(platform.installation.layout.root)
        script = (
            "import sys, time; from pathlib import Path\n"
            "from headway.serving.embedded.state import Layout, Store\n"
            "with Store(Layout(Path(sys.argv[1]).parent)).lock():\n"
            "    print('held', flush=True); time.sleep(60)\n"
        )
        holder = subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(state, "_LOCK_SECONDS", 0.2)
        with (
            pytest.raises(GatewayError, match=f"Process {holder.pid} has been changing"),
            platform.installation.store.lock(),
        ):
            pass
        holder.kill()
        holder.wait()
        holder.stdout.close()
        with platform.installation.store.lock():  # the kernel gave it back
            pass


def supervisor_pid(platform: EmbeddedPlatform) -> int:
    return int(platform.installation.supervisor(platform.installation.store.read()).call("getPID"))


def kill_all(mark: str) -> None:
    """SIGKILL for every process of an installation, the supervisor first."""
    import psutil

    pids = orphans(mark)
    parents = sorted(pids, key=lambda pid: psutil.Process(pid).ppid() in pids)
    for pid in parents:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: orphans(mark) == [], 10, "all are gone")
