"""What a cluster needs beside KServe: complete, least rights, and equal to what is rendered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway.components.kubernetes.kinds import KINDS
from headway.components.settings import Settings
from headway.components.trust import Policy
from headway.serving.inference_service import POLICY_CONFIG_MAP, SERVICE_ACCOUNT, serving_runtime
from headway.serving.kubeflow.platform import MODES
from headway.serving.kubeflow.routing import network_policy
from tests.components.kubernetes import schemas

FOLDER = Path(__file__).resolve().parents[3] / "manifests" / "serving"
DOCUMENTS: list[dict[str, Any]] = [
    document
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
SETTINGS = Settings(serving_namespace="headway-models")


def named(kind: str, name: str) -> dict[str, Any]:
    return next(each for each in DOCUMENTS if each["kind"] == kind and each["metadata"]["name"] == name)


def test_the_kustomization_lists_every_file() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def test_the_runtime_is_the_one_that_is_rendered() -> None:
    assert named("ServingRuntime", "headway") == serving_runtime(SETTINGS)
    assert schemas.problems(named("ServingRuntime", "headway")) == []


def test_the_network_policy_is_the_one_that_is_rendered() -> None:
    gateways = ["envoy-gateway-system", "istio-system", "knative-serving", "kourier-system"]
    assert named("NetworkPolicy", "headway-servers") == network_policy(SETTINGS, gateways=gateways)


def test_everything_else_is_denied() -> None:
    everything = named("NetworkPolicy", "default-deny")
    assert everything["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert everything["metadata"]["namespace"] == SETTINGS.serving_namespace


@pytest.mark.parametrize("name", [POLICY_CONFIG_MAP, "headway-release-policy"])
def test_policies_are_read_by_the_gate_and_trust_nobody_yet(name: str) -> None:
    policy = Policy.parse(named("ConfigMap", name)["data"]["policy.yaml"])
    assert policy.require_signature
    assert policy.signers == []


def rights() -> set[tuple[str, str, str]]:
    """Verb, group and plural that the release driver gets."""
    rules = named("Role", "headway-release")["rules"] + named("ClusterRole", "headway-release")["rules"]
    return {
        (verb, group, plural)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    }


def needed() -> set[tuple[str, str, str]]:
    """What the modes ask for, and what is read besides."""
    besides: Mapping[str, tuple[str, ...]] = {
        "BackendTrafficPolicy": ("get", "create", "patch", "delete"),
        "ServingRuntime": ("get",),
        "Deployment": ("get",),
    }
    return {
        (verb, KINDS[kind].group, KINDS[kind].plural)
        for needs in (*(mode.needs for mode in MODES.values()), besides)
        for kind, verbs in needs.items()
        for verb in verbs
    }


def test_the_driver_may_do_what_it_must_and_nothing_else() -> None:
    assert rights() == needed()


def test_servers_have_an_account_without_rights() -> None:
    account = named("ServiceAccount", SERVICE_ACCOUNT)
    assert account["automountServiceAccountToken"] is False
    subjects = [
        each["name"] for binding in DOCUMENTS if binding["kind"].endswith("Binding") for each in binding["subjects"]
    ]
    assert set(subjects) == {"headway-release"}


def test_the_driver_runs_as_little_as_it_can() -> None:
    pod = named("Deployment", "headway-release")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == "headway-release"
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "headway.serving.release"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]


def test_the_drivers_settings_are_settings() -> None:
    (container,) = named("Deployment", "headway-release")["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    ours = {name.removeprefix("HEADWAY_").lower(): value for name, value in values.items() if name[:8] == "HEADWAY_"}
    assert ours.pop("database_url") is None  # from a Secret
    settings = Settings.parse(ours)
    assert settings.platform == "kubeflow"
    assert settings.serving_namespace == named("Namespace", "headway-models")["metadata"]["name"]
