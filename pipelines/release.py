"""The release pipeline: a registered version takes over an endpoint's traffic, or is taken back.

    release_model

On its own it is a release that Kubeflow Pipelines starts, shows and keeps; in a pipeline of one's own `release_model`
is the last step after `register`.
"""

from kfp import dsl

from headway.pipelines.cluster import configured
from headway.serving.component import release_model


@dsl.pipeline(
    name="release", description="Moves an endpoint's traffic to a registered version, and back on bad numbers."
)
def release(name: str, version: str = "challenger", release: str = "{}", reason: str = "released by pipeline") -> str:
    """Release one version.

    Args:
        name: The model's name, which is the endpoint's too.
        version: The version: a number, a semantic version or an alias.
        release: What the release shall do: the `release` section of model.yaml, as YAML text.
        reason: Why, in words; it goes into the ledger.

    Returns:
        How it ended: promoted, completed or held.
    """
    released = configured(release_model(name=name, version=version, release=release, reason=reason), "small")
    # The endpoint is another one at every run, whatever the arguments say.
    released.set_caching_options(False)
    ended: str = released.outputs["Output"]
    return ended
