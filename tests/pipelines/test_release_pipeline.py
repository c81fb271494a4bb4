"""The pipelines that belong to no model: their compiled YAML is the code's, and they lint clean."""

import pytest

from headway.pipelines.compile import compile_text, load_spec
from headway.pipelines.lint import errors_in, lint_spec
from headway.pipelines.project import SHARED_PIPELINES, SharedPipeline


@pytest.mark.parametrize("name", SHARED_PIPELINES)
def test_the_compiled_file_is_what_the_code_compiles_to(name: str) -> None:
    shared = SharedPipeline(name)
    spec, platform = load_spec(compile_text(shared.pipeline(), name=name))
    golden, golden_platform = load_spec(shared.compiled)
    spec.pop("sdkVersion"), golden.pop("sdkVersion")
    assert spec == golden
    assert platform == golden_platform
    assert not errors_in(lint_spec(shared.compiled))


def test_a_release_is_never_taken_from_the_cache() -> None:
    spec, _ = load_spec(SharedPipeline("release").compiled)
    (task,) = spec["root"]["dag"]["tasks"].values()
    assert task.get("cachingOptions", {}).get("enableCache") is not True
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {"name", "version", "release", "reason"}
