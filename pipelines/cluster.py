"""What a step gets from the cluster it runs on: settings, secrets and resources. kfp.local ignores all of it."""

from typing import Any

from kfp import kubernetes

from headway.components.resources import resources

CONFIG_MAP = "headway"
"""ConfigMap with the settings of the installation (manifests/base)."""
SECRET = "headway"  # noqa: S105 - the name of a Secret, not a secret
"""Secret with the ledger's address."""
SIGNING_SECRET = "headway-signing"  # noqa: S105
"""Secret with the private key that signs bundles; only the step that registers gets it."""
SIGNING_FOLDER = "/etc/headway/signing"
POLICY_CONFIG_MAP = "headway-policy"
"""ConfigMap with the trust policy."""
POLICY_FOLDER = "/etc/headway/policy"

TRAINING_CONFIG_MAP = "headway-training"
"""ConfigMap with what the cluster gives to training jobs (manifests/training)."""
TRAINING_FOLDER = "/etc/headway/training"
SHARED_CLAIM = "headway-shared"
"""Volume claim that the step and all machines of its job see (manifests/training)."""
SHARED_FOLDER = "/shared"

_SETTINGS = {
    "MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI",
    "HEADWAY_POLICY": "HEADWAY_POLICY",
    "HEADWAY_SIGNING_KEY": "HEADWAY_SIGNING_KEY",
}


def configured(task: Any, preset: str, *, signs: bool = False) -> Any:
    """Give a KFP task its resources, settings and secrets, and return the task.

    Args:
        task: The task.
        preset: A resource preset's name (headway.components.resources).
        signs: Whether the step needs the signing key.
    """
    resources(preset).apply(task)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _SETTINGS, optional=True)
    kubernetes.use_secret_as_env(task, SECRET, {"HEADWAY_DATABASE_URL": "HEADWAY_DATABASE_URL"}, optional=True)
    kubernetes.use_config_map_as_volume(task, POLICY_CONFIG_MAP, mount_path=POLICY_FOLDER, optional=True)
    if signs:
        kubernetes.use_secret_as_volume(task, SIGNING_SECRET, mount_path=SIGNING_FOLDER, optional=True)
    return task


def launching(task: Any) -> Any:
    """Let a KFP task start a job on several machines, and return the task: the cluster's settings, shared storage."""
    kubernetes.use_config_map_as_volume(task, TRAINING_CONFIG_MAP, mount_path=TRAINING_FOLDER)
    kubernetes.mount_pvc(task, SHARED_CLAIM, SHARED_FOLDER)
    task.set_env_variable("HEADWAY_PLATFORM", "kubeflow")
    return task.set_env_variable("HEADWAY_TRAINING_CLUSTER", f"{TRAINING_FOLDER}/cluster.yaml")
