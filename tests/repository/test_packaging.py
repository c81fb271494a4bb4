"""The repository itself: what is listed is what is there."""

import tomllib
from pathlib import Path

import yaml

from headway.pipelines import cluster

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP_LEVEL = {
    "LICENSE",
    "Makefile",
    "README.md",
    "components",
    "manifests",
    "notebooks",
    "pipelines",
    "pyproject.toml",
    "requirements.lock",
    "serving",
    "tests",
}


def test_every_package_is_in_the_wheel() -> None:
    folders = {
        ".".join(("headway", *path.parent.relative_to(ROOT).parts))
        for top in ("components", "pipelines", "serving")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_the_top_level_holds_what_the_layout_says_and_nothing_else() -> None:
    built = {"build", "dist", "local_outputs", "headway.egg-info"}
    present = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - built
    assert present == TOP_LEVEL


def test_each_root_is_typed() -> None:
    assert all((ROOT / top / "py.typed").exists() for top in ("components", "pipelines", "serving"))


def test_every_dependency_is_locked_to_one_version() -> None:
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["pipelines"]]
    names = {name.split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip().lower() for name in wanted}
    assert names - locked == set()
    assert "torch" not in locked


class TestManifests:
    documents = [
        document
        for path in sorted((ROOT / "manifests").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]

    def named(self, kind: str, name: str) -> dict[str, object]:
        return next(d for d in self.documents if d["kind"] == kind and d["metadata"]["name"] == name)

    def test_the_kustomization_lists_every_file(self) -> None:
        base = ROOT / "manifests" / "base"
        listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
        assert sorted(listed) == sorted(p.name for p in base.glob("*.yaml") if p.name != "kustomization.yaml")

    def test_steps_mount_what_the_manifests_define(self) -> None:
        settings = self.named("ConfigMap", cluster.CONFIG_MAP)["data"]
        assert isinstance(settings, dict)
        assert set(settings) == set(cluster._SETTINGS)
        assert settings["HEADWAY_POLICY"].startswith(cluster.POLICY_FOLDER)
        assert settings["HEADWAY_SIGNING_KEY"].startswith(cluster.SIGNING_FOLDER)

    def test_the_policy_is_one_that_the_gate_reads_and_it_trusts_nobody_yet(self) -> None:
        from headway.components.trust import Policy

        data = self.named("ConfigMap", cluster.POLICY_CONFIG_MAP)["data"]
        assert isinstance(data, dict)
        policy = Policy.parse(data["policy.yaml"])
        assert policy.require_signature
        assert policy.signers == []

    def test_no_container_may_be_more_than_it_needs(self) -> None:
        deployment = next(d for d in self.documents if d["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]
