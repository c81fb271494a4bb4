from pathlib import Path
from typing import Any

import pytest

import headway.components.images
from headway.components.errors import PipelineError
from headway.pipelines.compile import compile_text, load_spec
from headway.pipelines.lint import RULES, errors_in, lint_source, lint_spec
from tests.pipelines import samples

OWN = "from headway.components.images import component\nfrom kfp import dsl\n"
RAW = "from kfp import dsl\n"
F = "@component\ndef f("
SAFE = "base_image='x', install_kfp_package=False"


def rules(findings: list[Any]) -> list[str]:
    return sorted({finding.rule for finding in findings})


class TestSource:
    @pytest.mark.parametrize(
        ("rule", "source"),
        [
            ("future-annotations", f"from __future__ import annotations\n{OWN}@component\ndef f(a: str): ...\n"),
            ("parameter-type", f"{OWN}from typing import Optional\n@component\ndef f(a: Optional[int] = None): ...\n"),
            ("parameter-type", f"{OWN}from typing import Union\n@component\ndef f(a: Union[int, str]): ...\n"),
            ("parameter-type", f"{OWN}from typing import Literal\n@component\ndef f(a: Literal['x']): ...\n"),
            ("parameter-type", f"{OWN}from typing import Any\n@component\ndef f(a: Any): ...\n"),
            ("parameter-type", f"{OWN}@component\ndef f(a: int | None = None): ...\n"),
            ("parameter-type", f"{OWN}@component\ndef f(a): ...\n"),
            ("parameter-type", f"{OWN}@component\ndef f(a: str) -> int | None: ...\n"),
            ("dropped-decorator", f"import functools\n{OWN}@component\n@functools.cache\ndef f(a: str): ...\n"),
            ("unknown-name", f"{OWN}import json\n@component\ndef f(a: str):\n    json.loads(a)\n"),
            ("unknown-name", f"{OWN}LIMIT = 3\n@component\ndef f(a: int = LIMIT): ...\n"),
            ("unknown-name", f"{OWN}def helper(): ...\n@component\ndef f(a: str):\n    [helper() for _ in a]\n"),
            ("runtime-install", f"{OWN}@component(packages_to_install=['pandas'])\ndef f(a: str): ...\n"),
            ("kfp-install", f"{RAW}@dsl.component(base_image='x')\ndef f(a: str): ...\n"),
            ("kfp-install", f"{OWN}@component(install_kfp_package=True)\ndef f(a: str): ...\n"),
            ("default-image", f"{RAW}@dsl.component(install_kfp_package=False)\ndef f(a: str): ...\n"),
            ("embedded-artifact", f"{OWN}@component(embedded_artifact_path='lib')\ndef f(a: str): ...\n"),
            ("sliced-metrics", f"{OWN}@component\ndef f(m: dsl.Output[dsl.SlicedClassificationMetrics]): ...\n"),
        ],
    )
    def test_a_rule_fires_alone(self, tmp_path: Path, rule: str, source: str) -> None:
        (tmp_path / "component.py").write_text(source)
        assert rules(lint_source(tmp_path / "component.py")) == [rule]

    @pytest.mark.parametrize(
        "source",
        [
            f"{OWN}{F}a: str, d: dsl.Output[dsl.Dataset], n: int = 3, x: float = 1.0, b: bool = True): ...\n",
            f"{OWN}{F}a: list, b: dict[str, int], s: dsl.PipelineTaskFinalStatus) -> str:\n    return 'x'\n",
            f"{OWN}{F}a: str) -> dsl.Dataset: ...\n",
            f"{OWN}from typing import NamedTuple\n{F}a: str) -> NamedTuple('O', [('x', int)]): ...\n",
            f"{OWN}{F}p: dsl.OutputPath(str), q: dsl.InputPath('Model')): ...\n",
            f"{OWN}{F}a: str):\n    import json\n    for k, v in json.loads(a).items():\n        k + v\n",
            f"{OWN}{F}a: str):\n    def g(x):\n        return x + a\n    print([g(y) for y in a], Dataset)\n",
            f"{RAW}def h(): ...\n@dsl.component({SAFE}, additional_funcs=[h])\ndef f(a: str):\n    h()\n",
            f"{RAW}@dsl.component({SAFE}, packages_to_install=[])\ndef f(a: str): ...\n",
            "from __future__ import annotations\nimport json\ndef f(a: int | None = None):\n    json.loads(a)\n",
        ],
    )
    def test_a_good_component_is_quiet(self, tmp_path: Path, source: str) -> None:
        (tmp_path / "component.py").write_text(source)
        assert lint_source(tmp_path / "component.py") == []

    def test_a_finding_says_where_what_and_how(self, tmp_path: Path) -> None:
        path = tmp_path / "component.py"
        path.write_text(f"{OWN}import json\n\n@component\ndef load(a: str):\n    return json.loads(a)\n")
        (finding,) = lint_source(path)
        assert str(finding) == (
            f"{path}:7 load: error [unknown-name] 'json' comes from the module, and the step runs without the module: "
            "NameError. Import or define it inside the body."
        )

    def test_what_is_no_python_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "component.py").write_text("def f(:\n")
        with pytest.raises(PipelineError, match=r"component\.py: cannot be linted"):
            lint_source(tmp_path / "component.py")
        with pytest.raises(PipelineError, match=r"missing\.py: cannot be linted"):
            lint_source(tmp_path / "missing.py")

    def test_the_shipped_components_have_no_findings(self) -> None:
        folder = Path(headway.components.images.__file__).parent
        files = sorted(folder.glob("*/component.py"))
        assert files
        assert [str(finding) for file in files for finding in lint_source(file)] == []


class TestCompiled:
    def test_every_construct_of_the_sample_is_quiet(self) -> None:
        assert lint_spec(compile_text(samples.sample)) == []

    def test_a_condition_on_a_named_output(self) -> None:
        (finding,) = lint_spec(compile_text(samples.named_condition))
        assert (finding.rule, finding.level) == ("named-condition", "error")
        assert "'measure.accuracy'" in finding.message
        assert finding.place == "root/exit-handler-1/condition-2"

    def test_a_loop_over_a_named_output(self) -> None:
        (finding,) = lint_spec(compile_text(samples.named_loop))
        assert (finding.rule, finding.place) == ("named-loop", "root/for-loop-1")
        assert "'measure.names'" in finding.message

    def test_a_cached_import(self) -> None:
        (finding,) = lint_spec(compile_text(samples.imports))
        assert (finding.rule, finding.level) == ("importer-cache", "warning")
        assert lint_spec(compile_text(samples.imports_again)) == []
        assert lint_spec(compile_text(samples.imports, cache=False)) == []

    def test_a_careless_step(self) -> None:
        findings = lint_spec(compile_text(samples.careless))
        assert rules(findings) == ["no-resources", "python-word"]
        assert errors_in(findings) == []

    def test_a_value_that_is_too_large(self) -> None:
        (finding,) = lint_spec(compile_text(samples.heavy))
        assert finding.rule == "large-argument"
        assert finding.message == "a value of 70,002 bytes"

    def test_a_release_with_a_tag(self) -> None:
        text = compile_text(samples.plain)
        assert lint_spec(text) == []
        assert rules(lint_spec(text, release=True)) == ["mutable-image"]
        pinned = compile_text(samples.plain, image="headway@sha256:" + "0" * 64)
        assert lint_spec(pinned, release=True) == []

    def test_a_whole_that_is_too_large(self) -> None:
        spec, platform = load_spec(compile_text(samples.plain))
        spec["components"]["comp-fit"]["notes"] = "x" * 500_000
        (finding,) = lint_spec((spec, platform))
        assert finding.rule == "oversize"

    @pytest.mark.parametrize(
        ("rule", "command"),
        [
            ("large-command", "x" * 110_000),
            ("runtime-install", "python3 -m pip install pandas"),
            ("embedded-artifact", "__KFP_EMBEDDED_ARCHIVE_B64 = 'aa'"),
        ],
    )
    def test_a_command(self, rule: str, command: str) -> None:
        spec, platform = load_spec(compile_text(samples.plain))
        spec["deploymentSpec"]["executors"]["exec-fit"]["container"]["command"].append(command)
        (finding,) = lint_spec((spec, platform))
        assert (finding.rule, finding.place) == (rule, "exec-fit")

    def test_sliced_metrics(self) -> None:
        spec, platform = load_spec(compile_text(samples.plain))
        artifact = spec["components"]["comp-fit"]["outputDefinitions"]["artifacts"]["model"]
        artifact["artifactType"]["schemaTitle"] = "system.SlicedClassificationMetrics"
        (finding,) = lint_spec((spec, platform))
        assert finding.rule == "sliced-metrics"


def test_every_rule_has_a_firing_test() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [rule for rule in RULES if f'"{rule}"' not in tested] == []
