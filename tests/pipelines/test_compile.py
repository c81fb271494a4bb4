import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components

from headway.components.errors import PipelineError, UsageError
from headway.components.images import IMAGE
from headway.pipelines.compile import (
    all_tasks,
    compile_pipeline,
    compile_text,
    difference,
    dump_spec,
    images,
    load_spec,
    set_caching,
    set_image,
    spec_digest,
    write_atomically,
)
from tests.pipelines import samples

PINNED = "registry.example.com/team/headway-python@sha256:" + "a" * 64


def _without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


class TestTheText:
    def test_is_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        first = compile_pipeline(samples.sample, output=tmp_path / "a.yaml")
        second = compile_pipeline(samples.sample, output=tmp_path / "b" / "b.yaml")
        assert first.path.read_bytes() == second.path.read_bytes()
        assert first.digest == second.digest

    @pytest.mark.parametrize("pipeline", [samples.plain, samples.named_condition, samples.imports, samples.careless])
    def test_says_what_kfp_itself_writes(self, pipeline: Any, tmp_path: Path) -> None:
        compiler.Compiler().compile(pipeline, str(tmp_path / "kfp.yaml"))
        theirs = (tmp_path / "kfp.yaml").read_text()
        ours = compile_text(pipeline)
        assert load_spec(ours) == load_spec(theirs)
        assert _without_comments(ours) == _without_comments(theirs)

    def test_is_whole_where_kfp_lets_a_default_of_two_lines_into_the_document(self, tmp_path: Path) -> None:
        compiler.Compiler().compile(samples.sample, str(tmp_path / "kfp.yaml"))
        assert "seed" in load_spec(tmp_path / "kfp.yaml")[0]
        spec, _ = load_spec(compile_text(samples.sample))
        assert "seed" not in spec
        assert spec["root"]["inputDefinitions"]["parameters"]["section"]["defaultValue"] == "estimator: tree\nseed: 1"

    def test_survives_being_read_and_written(self) -> None:
        text = compile_text(samples.sample)
        assert dump_spec(*load_spec(text)) == _without_comments(text)

    def test_is_read_by_kfp_after_every_change(self, tmp_path: Path) -> None:
        compiled = compile_pipeline(samples.sample, output=tmp_path / "p.yaml", image=PINNED, cache=False)
        loaded = components.load_component_from_text(compiled.text)
        assert (loaded.name, loaded.description) == ("sample", "A pipeline for tests.")

    def test_keeps_the_platform_document_and_the_header_through_a_change(self) -> None:
        text = compile_text(samples.sample, cache=False)
        _, platform = load_spec(text)
        secrets = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert [entry["secretAsEnv"][0]["secretName"] for entry in secrets.values()] == ["access"]
        assert text.startswith("# PIPELINE DEFINITION\n# Name: sample\n")

    def test_has_no_time_and_no_path_of_the_machine(self) -> None:
        text = compile_text(samples.sample)
        assert not re.search(r"20\d\d-\d\d-\d\d", text)
        assert str(Path(__file__).parent) not in text

    def test_digest_leaves_out_the_sdk_version_only(self) -> None:
        spec, platform = load_spec(compile_text(samples.sample))
        assert spec_digest({**spec, "sdkVersion": "kfp-9.9.9"}, platform) == spec_digest(spec, platform)
        assert spec_digest(spec, {}) != spec_digest(spec, platform)


class TestDefaults:
    def test_parameters_become_the_forms_values(self) -> None:
        spec, _ = load_spec(compile_text(samples.plain, name="flights-training", parameters={"name": "flights"}))
        assert spec["pipelineInfo"]["name"] == "flights-training"
        assert spec["root"]["inputDefinitions"]["parameters"]["name"]["defaultValue"] == "flights"

    def test_an_unknown_one_is_refused_with_the_near_name(self) -> None:
        with pytest.raises(UsageError, match=r"Unknown parameter 'row' - did you mean 'rows'\?"):
            compile_text(samples.plain, parameters={"row": 3})

    def test_the_pipeline_itself_is_left_as_it_was(self) -> None:
        compile_text(samples.plain, parameters={"name": "flights"})
        assert (
            "defaultValue"
            not in load_spec(compile_text(samples.plain))[0]["root"]["inputDefinitions"]["parameters"]["name"]
        )


class TestCaching:
    def test_off_reaches_conditions_loops_and_nested_pipelines(self) -> None:
        spec, _ = load_spec(compile_text(samples.sample, cache=False))
        switched = {
            place: task["cachingOptions"]["enableCache"] for place, task in all_tasks(spec) if "cachingOptions" in task
        }
        assert set(switched.values()) == {False}
        owners = {place.split("/")[0] for place in switched}
        assert owners == {"root", "exit-handler-1", "condition-3", "condition-4", "for-loop-6", "inner"}

    def test_on_reaches_a_step_that_was_written_off(self) -> None:
        spec, _ = load_spec(compile_text(samples.sample))
        off = [place for place, task in all_tasks(spec) if task.get("cachingOptions") == {}]
        assert off == ["condition-3/judge"]
        set_caching(spec, True)
        steps = dict(all_tasks(spec))
        assert steps["condition-3/judge"]["cachingOptions"] == {"enableCache": True}
        assert "cachingOptions" not in steps["exit-handler-1/for-loop-6"]


class TestImages:
    def test_every_step_gets_the_new_one(self) -> None:
        spec, _ = load_spec(compile_text(samples.sample, image=PINNED))
        assert set(images(spec).values()) == {PINNED}
        assert len(images(spec)) == 7

    def test_a_name_that_is_none_is_refused(self) -> None:
        with pytest.raises(UsageError, match="'Not An Image' is not an image's name"):
            compile_text(samples.sample, image="Not An Image")

    def test_nothing_to_replace_is_an_error(self) -> None:
        text = compile_text(samples.sample, image=PINNED)
        spec, _ = load_spec(text)
        with pytest.raises(PipelineError, match=f"No step runs in {re.escape(IMAGE)}"):
            set_image(spec, "other:1")


class TestARelease:
    def test_with_a_tag_names_every_step_and_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(PipelineError) as caught:
            compile_pipeline(samples.plain, output=tmp_path / "p.yaml", release=True)
        assert f"exec-fit: {IMAGE}" in str(caught.value)
        assert f"exec-gate: {IMAGE}" in str(caught.value)
        assert "Fix: give the pushed image with --image" in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_with_a_digest_goes_out(self, tmp_path: Path) -> None:
        compiled = compile_pipeline(samples.plain, output=tmp_path / "p.yaml", image=PINNED, release=True)
        assert compiled.path.read_text() == compiled.text

    def test_with_half_a_digest_does_not(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not an image's name"):
            compile_pipeline(samples.plain, output=tmp_path / "p.yaml", image="headway@sha256:abc", release=True)


class TestWhatIsNoPipeline:
    def test_a_plain_function(self, tmp_path: Path) -> None:
        with pytest.raises(PipelineError, match="is not a pipeline"):
            compile_pipeline(len, output=tmp_path / "p.yaml")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "0 YAML documents"),
            ("- 1\n", "1 YAML documents"),
            ("a: [", "not valid YAML"),
            ("name: x\n", "it has no pipelineInfo, root, deploymentSpec"),
            ("a: 1\n---\nb: 1\n---\nc: 1\n", "3 YAML documents"),
        ],
    )
    def test_a_text(self, text: str, message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            load_spec(text)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(PipelineError, match=r"p\.yaml: no such file"):
            load_spec(tmp_path / "p.yaml")

    @pytest.mark.parametrize("name", ["", "Flights", "a b", "-a", "x" * 129])
    def test_a_name(self, name: str) -> None:
        with pytest.raises(UsageError, match="cannot name a pipeline"):
            compile_text(samples.plain, name=name)


class TestDifference:
    def test_is_empty_for_another_sdk(self) -> None:
        text = compile_text(samples.plain)
        assert difference(text.replace("sdkVersion: kfp-", "sdkVersion: older-"), text) == []

    def test_names_the_line_and_stays_short(self) -> None:
        text = compile_text(samples.plain)
        changed = difference(text, compile_text(samples.plain, parameters={"rows": 7}))
        assert "+        defaultValue: 7.0" in changed
        assert difference(text, compile_text(samples.sample), limit=5)[-1].endswith("lines more")


class TestWriting:
    def test_replaces_a_file_and_leaves_no_other(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "p.yaml", "old")
        write_atomically(tmp_path / "p.yaml", "new")
        assert (tmp_path / "p.yaml").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]

    def test_that_fails_keeps_the_old_file(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "p.yaml", "old")
        with pytest.raises(UnicodeEncodeError):
            write_atomically(tmp_path / "p.yaml", "\ud800")
        assert (tmp_path / "p.yaml").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]


def test_all_tasks_are_found() -> None:
    spec = yaml.safe_load(compile_text(samples.plain))
    assert [place for place, _ in all_tasks(spec)] == ["root/fit", "root/gate"]
