"""Hundreds of bad inputs through the command line: each ends with 1 or 2 and a sentence that names the thing."""

import gzip
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from headway.pipelines.cli import app

CONTRACT = """\
name: toy
target: y
key: [id]
columns:
  id: {type: integer, role: info}
  x: {type: number, range: {min: 0, max: 10}}
  group: {type: string, values: {allowed: [a, b]}}
  y: {type: boolean}
"""
SPEC = """\
name: toy
source: {uri: data.csv}
split: {method: random, validation: 0.25}
training: {estimator: logistic_regression}
evaluation: {primary: roc_auc}
"""
DATA = "id,x,group,y\n" + "".join(f"{i},{i % 10},{'ab'[i % 2]},{i % 3 == 0}\n" for i in range(40))


@dataclass(frozen=True)
class Case:
    """One bad input: how it is made, the command, and what the message must name."""

    name: str
    command: str
    names: str
    contract: str = CONTRACT
    spec: str = SPEC
    data: str | bytes = DATA
    prepare: Callable[[Path], None] = field(default=lambda folder: None)


def swapped(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def contract_case(name: str, old: str, new: str, names: str) -> Case:
    return Case(
        f"contract: {name}",
        "contract check data.csv --contract contract.yaml",
        names,
        contract=swapped(CONTRACT, old, new),
    )


def whole_contract(name: str, text: str, names: str) -> Case:
    return Case(f"contract: {name}", "contract check data.csv --contract contract.yaml", names, contract=text)


def spec_case(name: str, old: str, new: str, names: str) -> Case:
    return Case(f"spec: {name}", "compile .", names, spec=swapped(SPEC, old, new))


def whole_spec(name: str, text: str, names: str) -> Case:
    return Case(f"spec: {name}", "compile .", names, spec=text)


def data_case(name: str, data: str | bytes, names: str) -> Case:
    return Case(f"data: {name}", "contract check data.csv --contract contract.yaml", names, data=data)


def infer_case(name: str, data: str | bytes, names: str) -> Case:
    return Case(f"infer: {name}", "contract infer data.csv --target y", names, data=data)


def call(command: str, names: str) -> Case:
    return Case(f"call: {command}", command, names)


X = "x: {type: number, range: {min: 0, max: 10}}"
GROUP = "group: {type: string, values: {allowed: [a, b]}}"
ID = "id: {type: integer, role: info}"
Y = "y: {type: boolean}"

CONTRACTS = [
    contract_case("unknown key", "target: y", "targt: y", "did you mean 'target'"),
    contract_case("unknown column key", "role: info", "rol: info", "did you mean 'role'"),
    contract_case("unknown rule key", "max: 10", "maxx: 10", "did you mean 'max'"),
    contract_case("unknown type", "type: number", "type: numbr", "numbr"),
    contract_case("unknown role", "role: info", "role: infos", "infos"),
    contract_case("target is no column", "target: y", "target: z", "'z'"),
    contract_case("target is nearly a column", "target: y", "target: grup", "did you mean 'group'"),
    contract_case("key is no column", "key: [id]", "key: [idd]", "'idd'"),
    contract_case("empty key", "key: [id]", "key: []", "key"),
    contract_case("key is a number", "key: [id]", "key: 3", "key"),
    contract_case("range upside down", "{min: 0, max: 10}", "{min: 10, max: 0}", "min 10"),
    contract_case("range of texts", "{min: 0, max: 10}", "{min: a, max: b}", "columns.x"),
    contract_case("range of mixed types", "{min: 0, max: 10}", "{min: 0, max: b}", "columns.x"),
    contract_case("empty range", "{min: 0, max: 10}", "{}", "min, max or both"),
    contract_case("range is a list", "{min: 0, max: 10}", "[0, 10]", "columns.x.range"),
    contract_case("range is nan", "{min: 0, max: 10}", "{min: .nan}", "columns.x.range.min"),
    contract_case("range is infinite", "{min: 0, max: 10}", "{max: .inf}", "columns.x.range.max"),
    contract_case("range on a string", GROUP, "group: {type: string, range: {min: 0}}", "columns.group"),
    contract_case("range on a boolean", Y, "y: {type: boolean, range: {min: 0}}", "columns.y"),
    contract_case("pattern on a number", X, 'x: {type: number, pattern: {regex: "a"}}', "columns.x"),
    contract_case(
        "pattern that does not compile", GROUP, 'group: {type: string, pattern: {regex: "("}}', "columns.group"
    ),
    contract_case("pattern with look-ahead", GROUP, 'group: {type: string, pattern: {regex: "(?=a)"}}', "look-around"),
    contract_case(
        "pattern with back-reference", GROUP, r"group: {type: string, pattern: {regex: '(a)\1'}}", "back-ref"
    ),
    contract_case(
        "pattern too long", GROUP, f"group: {{type: string, pattern: {{regex: {'a' * 1001}}}}}", "columns.group"
    ),
    contract_case("empty pattern", GROUP, 'group: {type: string, pattern: {regex: ""}}', "columns.group"),
    contract_case("no values", "[a, b]", "[]", "columns.group.values.allowed"),
    contract_case("values twice", "[a, b]", "[a, a]", "stands twice"),
    contract_case("values of another type", "[a, b]", "[a, 1]", "1"),
    contract_case("values is a text", "[a, b]", "a", "columns.group.values.allowed"),
    contract_case("values on a timestamp", X, "x: {type: timestamp, values: {allowed: [a]}}", "columns.x"),
    contract_case("numbers for a boolean", Y, "y: {type: boolean, values: {allowed: [1]}}", "columns.y"),
    contract_case("booleans for an integer", ID, "id: {type: integer, values: {allowed: [true]}}", "columns.id"),
    contract_case("unknown level", "max: 10}", "max: 10, level: blok}", "blok"),
    contract_case("share above one", X, "x: {type: number, missing: {max_share: 1.5}}", "max_share"),
    contract_case("share below zero", X, "x: {type: number, missing: {max_share: -0.1}}", "max_share"),
    contract_case("share is a text", X, "x: {type: number, missing: {max_share: some}}", "max_share"),
    contract_case("missing is a number", X, "x: {type: number, missing: 0.5}", "columns.x.missing"),
    contract_case("monotone on a string", GROUP, "group: {type: string, monotone: {}}", "columns.group"),
    contract_case("known at another time", X, "x: {type: number, known: yesterday}", "columns.x.known"),
    contract_case("column without a type", X, "x: {}", "columns.x.type is missing"),
    contract_case("column is a text", X, "x: number", "columns.x"),
    contract_case("column is a list", X, "x: [number]", "columns.x"),
    contract_case("column twice", X, f"{X}\n  {X}", "stands twice"),
    contract_case("no columns", CONTRACT[CONTRACT.index("columns:") :], "columns: {}", "columns"),
    contract_case("columns is a list", CONTRACT[CONTRACT.index("columns:") :], "columns: [x, y]", "columns"),
    contract_case("columns missing", CONTRACT[CONTRACT.index("columns:") :], "", "columns is missing"),
    contract_case("name missing", "name: toy\n", "", "name is missing"),
    contract_case("empty name", "name: toy", 'name: ""', "name"),
    contract_case("time is no column", "key: [id]", "time: when", "'when'"),
    contract_case("time is a number", "key: [id]", "time: x", "not a timestamp"),
    contract_case("freshness without time", "key: [id]", "freshness: {max_age: 1d}", "freshness needs"),
    contract_case("freshness without a unit", "key: [id]", "freshness: {max_age: '1'}", "freshness.max_age"),
    contract_case("freshness below zero", "key: [id]", "freshness: {max_age: -1d}", "freshness.max_age"),
    contract_case("rows below zero", "key: [id]", "rows: {min: -1}", "rows.min"),
    contract_case("rows is a text", "key: [id]", "rows: {min: many}", "rows.min"),
    contract_case("extra columns", "key: [id]", "extra_columns: drop", "extra_columns"),
    contract_case("rule without a name", "key: [id]", 'rules: [{expression: "x > 0"}]', "rules.0.name"),
    contract_case("rule without an expression", "key: [id]", "rules: [{name: a}]", "rules.0.expression"),
    contract_case(
        "two rules of one name",
        "key: [id]",
        "rules: [{name: a, expression: x > 0}, {name: a, expression: x > 1}]",
        "one name",
    ),
    contract_case("rule is no SQL", "key: [id]", "rules: [{name: odd, expression: 'x >'}]", "odd"),
    contract_case("rule names no column", "key: [id]", "rules: [{name: odd, expression: 'z > 0'}]", "z"),
    contract_case("rule is no condition", "key: [id]", "rules: [{name: odd, expression: 'group'}]", "odd"),
    contract_case(
        "rule is two statements", "key: [id]", "rules: [{name: odd, expression: 'x > 0; drop table t'}]", "odd"
    ),
    contract_case("rule with a subquery", "key: [id]", "rules: [{name: odd, expression: 'x > (select 1)'}]", "odd"),
    contract_case(
        "rule reads a file",
        "key: [id]",
        "rules: [{name: odd, expression: \"x > (select count(*) from read_csv('/etc/passwd'))\"}]",
        "odd",
    ),
    contract_case(
        "rule reads the environment", "key: [id]", "rules: [{name: odd, expression: \"getenv('HOME') = group\"}]", "odd"
    ),
    contract_case("rule aggregates", "key: [id]", "rules: [{name: odd, expression: 'sum(x) > 0'}]", "odd"),
    contract_case("two targets", f"{X}", "x: {type: number, role: target}", "target"),
    contract_case(
        "two weights",
        f"{X}\n  {GROUP}",
        "x: {type: number, role: weight}\n  group: {type: number, role: weight}",
        "weight",
    ),
    whole_contract("empty file", "", "columns is missing"),
    whole_contract("a list", "- a\n- b", "got a list"),
    whole_contract("a text", "hello", "got a str"),
    whole_contract("broken YAML", "name: [toy", "not valid YAML"),
    whole_contract("a tab", "name: toy\n\tcolumns: {}", "not valid YAML"),
    whole_contract("a Python object", "!!python/object/apply:os.getcwd []", "not valid YAML"),
    whole_contract("two documents", "a: 1\n---\nb: 2", "not valid YAML"),
    whole_contract("an alias to nothing", "name: *x", "not valid YAML"),
    whole_contract("binary", "\x00\x01", "not valid YAML"),
]

SPECS = [
    spec_case("unknown section", "training:", "trainning:", "did you mean 'training'"),
    spec_case("no source", "source: {uri: data.csv}\n", "", "source is missing"),
    spec_case("empty source", "{uri: data.csv}", "{}", "source"),
    spec_case("unknown source key", "{uri: data.csv}", "{url: data.csv}", "did you mean 'uri'"),
    spec_case("two sources", "{uri: data.csv}", "{uri: a.csv, database: 'sqlite://', query: select 1}", "source"),
    spec_case("database without a query", "{uri: data.csv}", "{database: 'sqlite:///x.db'}", "query"),
    spec_case("tables without a query", "{uri: data.csv}", "{tables: {a: {uri: b.csv}}}", "query"),
    spec_case("query alone", "{uri: data.csv}", "{query: select 1}", "source"),
    spec_case("source is a list", "{uri: data.csv}", "[a, b]", "source"),
    spec_case("uri is a number", "{uri: data.csv}", "{uri: 3}", "source.uri"),
    spec_case("unknown split method", "method: random", "method: rndom", "split.method"),
    spec_case("share above one", "validation: 0.25", "validation: 1.5", "split.validation"),
    spec_case("share below zero", "validation: 0.25", "validation: -0.5", "split.validation"),
    spec_case("share is a text", "validation: 0.25", "validation: some", "split.validation"),
    spec_case("shares above one together", "validation: 0.25", "validation: 0.6, holdout: 0.6", "split"),
    spec_case("unknown split key", "validation: 0.25", "valdation: 0.25", "did you mean 'validation'"),
    spec_case("group without a column", "method: random", "method: group", "split"),
    spec_case(
        "cut points upside down",
        "method: random, validation: 0.25",
        "method: time, column: x, train_until: '2020-02-01', validation_until: '2020-01-01'",
        "split",
    ),
    spec_case(
        "a cut point that is no time",
        "method: random, validation: 0.25",
        "method: time, column: x, train_until: soon",
        "split",
    ),
    spec_case("unknown estimator", "logistic_regression", "logistc_regression", "did you mean 'logistic_regression'"),
    spec_case(
        "unknown training key", "{estimator: logistic_regression}", "{estimtor: ridge}", "did you mean 'estimator'"
    ),
    spec_case("unknown task", "{estimator: logistic_regression}", "{task: ranking}", "training.task"),
    spec_case("seed is a text", "{estimator: logistic_regression}", "{seed: lucky}", "training.seed"),
    spec_case("threads below zero", "{estimator: logistic_regression}", "{threads: -1}", "training.threads"),
    spec_case("parameters is a list", "{estimator: logistic_regression}", "{parameters: [1]}", "training.parameters"),
    spec_case("training is a text", "{estimator: logistic_regression}", "ridge", "training"),
    spec_case("unknown metric", "{primary: roc_auc}", "{primary: roc_auk}", "did you mean 'roc_auc'"),
    spec_case("unknown metric in the list", "{primary: roc_auc}", "{metrics: [accurcy]}", "did you mean 'accuracy'"),
    spec_case("threshold without a bound", "{primary: roc_auc}", "{thresholds: [{metric: roc_auc}]}", "thresholds.0"),
    spec_case("threshold of an unknown metric", "{primary: roc_auc}", "{thresholds: [{metric: roc, min: 0.5}]}", "roc"),
    spec_case(
        "threshold is a text", "{primary: roc_auc}", "{thresholds: [{metric: roc_auc, min: high}]}", "thresholds.0.min"
    ),
    spec_case(
        "threshold the wrong way", "{primary: roc_auc}", "{thresholds: [{metric: log_loss, min: 0.5}]}", "log_loss"
    ),
    spec_case("maximum of a score", "{primary: roc_auc}", "{thresholds: [{metric: roc_auc, max: 0.5}]}", "roc_auc"),
    spec_case(
        "threshold of an unknown slice",
        "{primary: roc_auc}",
        "{thresholds: [{metric: roc_auc, min: 0.5, slice: nowhere}]}",
        "nowhere",
    ),
    spec_case("slice without a name", "{primary: roc_auc}", "{slices: [{column: group}]}", "slices.0.name"),
    spec_case("slice of nothing", "{primary: roc_auc}", "{slices: [{name: a}]}", "slices.0"),
    spec_case(
        "two slices of one name",
        "{primary: roc_auc}",
        "{slices: [{name: a, column: x}, {name: a, column: y}]}",
        "slice",
    ),
    spec_case(
        "unknown level", "{primary: roc_auc}", "{thresholds: [{metric: roc_auc, min: 0.5, level: warn}]}", "level"
    ),
    spec_case("champion without a margin", "{primary: roc_auc}", "{champion: {metric: roc_auc}}", "champion"),
    spec_case(
        "champion of an unknown metric", "{primary: roc_auc}", "{champion: {metric: auc, max_regression: 0.1}}", "auc"
    ),
    spec_case("no resamples", "{primary: roc_auc}", "{bootstrap: {resamples: 0}}", "bootstrap.resamples"),
    spec_case("level of an interval", "{primary: roc_auc}", "{bootstrap: {level: 1.5}}", "bootstrap.level"),
    spec_case("a name with capitals", "name: toy", "name: Toy", "Toy"),
    spec_case("a name that climbs", "name: toy", "name: ../toy", "../toy"),
    spec_case("an absolute name", "name: toy", "name: /toy", "/toy"),
    spec_case("a name with a fragment", "name: toy", "name: 'toy#1'", "toy#1"),
    spec_case("a name that is a number", "name: toy", "name: 3", "name"),
    spec_case("a name too long", "name: toy", f"name: {'t' * 64}", "name"),
    spec_case("an empty name", "name: toy", "name: ''", "name"),
    spec_case("a name with a space", "name: toy", "name: my toy", "my toy"),
    spec_case("another alphabet", "name: toy", "name: тоу", "name"),
    spec_case("contract elsewhere", "name: toy", "name: toy\ncontract: nowhere.yaml", "nowhere.yaml"),
    spec_case("contract is a folder", "name: toy", "name: toy\ncontract: .", "is a folder"),
    spec_case("registry", "name: toy", "name: toy\nregistry: {promote: true}", "registry.promote"),
    whole_spec("empty", "", "name is missing"),
    whole_spec("a list", "[]", "got a list"),
    whole_spec("broken", "name: toy: x", "not valid YAML"),
    whole_spec("twice", "name: a\nname: b", "stands twice"),
]

DATAS = [
    data_case("empty file", "", "data.csv"),
    data_case("blank lines only", "\n\n\n", "data.csv"),
    data_case("duplicate columns", "id,x,x,y\n1,2,3,true\n", "x"),
    data_case("not text", b"\x89PNG\r\n\x1a\n\x00\x00\x00" * 50, "data.csv"),
    data_case("another encoding", "id,x,group,y\n1,2,ä,true\n".encode("utf-16"), "data.csv"),
    data_case("column missing", "id,group,y\n1,a,true\n2,b,false\n", "x"),
    data_case("key twice", "id,x,group,y\n1,2,a,true\n1,3,b,false\n", "id"),
    data_case("out of range", "id,x,group,y\n1,20,a,true\n2,3,b,false\n", "x"),
    data_case("another category", "id,x,group,y\n1,2,c,true\n2,3,b,false\n", "c"),
    data_case("missing value", "id,x,group,y\n1,,a,true\n2,3,b,false\n", "x"),
    data_case("text for a number", "id,x,group,y\n1,high,a,true\n2,3,b,false\n", "x"),
    data_case("fraction for an integer", "id,x,group,y\n1.5,2,a,true\n2,3,b,false\n", "id"),
    data_case("text for a boolean", "id,x,group,y\n1,2,a,perhaps\n2,3,b,false\n", "y"),
    infer_case("empty file", "", "data.csv"),
    infer_case("header only", "id,x,group,y\n", "data.csv"),
    infer_case("duplicate columns", "id,x,x,y\n1,2,3,true\n", "x"),
    infer_case("duplicate but for case", "id,x,X,y\n1,2,3,true\n", "x"),
    infer_case("target missing", "id,x\n1,2\n", "y"),
    infer_case("not text", b"\xff\xfe\x00\x01" * 100, "data.csv"),
]


def _gzip_lie(folder: Path) -> None:
    (folder / "data.csv.gz").write_text(DATA)


def _gzip_cut(folder: Path) -> None:
    (folder / "data.csv.gz").write_bytes(gzip.compress(DATA.encode())[:-20])


def _parquet_lie(folder: Path) -> None:
    (folder / "data.parquet").write_text(DATA)


def _parquet_cut(folder: Path) -> None:
    pd.DataFrame({"x": range(100)}).to_parquet(folder / "data.parquet")
    path = folder / "data.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def _empty_folder(folder: Path) -> None:
    (folder / "parts").mkdir()


def _excel(folder: Path) -> None:
    (folder / "data.xlsx").write_bytes(b"PK\x03\x04" + b"\x00" * 100)


def _database(folder: Path) -> None:
    with sqlite3.connect(folder / "data.db") as connection:
        connection.execute("create table t (x)")


def _no_contract(folder: Path) -> None:
    (folder / "contract.yaml").unlink()


FILES = [
    Case("file: gzip that is none", "contract infer data.csv.gz --target y", "data.csv.gz", prepare=_gzip_lie),
    Case("file: gzip cut off", "contract infer data.csv.gz --target y", "data.csv.gz", prepare=_gzip_cut),
    Case("file: Parquet that is none", "contract infer data.parquet --target y", "data.parquet", prepare=_parquet_lie),
    Case(
        "file: Parquet cut off",
        "contract check data.parquet --contract contract.yaml",
        "data.parquet",
        prepare=_parquet_cut,
    ),
    Case("file: an empty folder", "contract infer parts --target y", "parts", prepare=_empty_folder),
    Case("file: a spreadsheet", "contract infer data.xlsx --target y", "data.xlsx", prepare=_excel),
    Case("file: a database", "contract infer data.db --target y", "data.db", prepare=_database),
]

CALLS = [
    call("rum", "rum"),
    call("run", "pipeline"),
    call("run nowhere", "nowhere"),
    call("run fligts", "did you mean 'flights'"),
    call("run flights extra", "extra"),
    call("run flights --set", "--set"),
    call("run flights --set seed=1", "seed"),
    call("run flights --set training.seed", "training.seed"),
    call("run flights --set training.estimator=forest", "forest"),
    call("run flights --set evaluation.primary=acuracy", "did you mean 'accuracy'"),
    call("run flights --set name=A", "'A'"),
    call("run flights --cach", "--cach"),
    call("run data.csv", "data.csv"),
    call("run contract.yaml", "contract.yaml"),
    call("compile nowhere", "nowhere"),
    call("compile flights --image UPPER", "UPPER"),
    call("compile flights --release", "digest"),
    call("compile flights --release --image headway:1", "headway:1"),
    call("submit", "pipeline"),
    call("submit nowhere", "nowhere"),
    call("submit flights", "endpoint"),
    call("submit flights --endpoint http://127.0.0.1:9", "127.0.0.1:9"),
    call("submit flights --endpoint ftp://host", "ftp://host"),
    call("submit flights --endpoint http://127.0.0.1:9 --set split.method=none2", "split.method"),
    call("runs list", "endpoint"),
    call("runs show", "RUN"),
    call("runs shw x", "shw"),
    call("new", "name"),
    call("new churn --target y", "--data"),
    call("new churn --data data.csv", "--target"),
    call("new churn --data nowhere.csv --target y", "nowhere.csv"),
    call("new churn --data dta.csv --target y", "data.csv"),
    call("new churn --data data.csv --target z", "'z'"),
    call("new churn --data data.csv --target grup", "did you mean 'group'"),
    call("new Churn --data data.csv --target y", "Churn"),
    call("new ../churn --data data.csv --target y", "../churn"),
    call("new /churn --data data.csv --target y", "/churn"),
    call("new churn --data data.csv --target y --task ranking", "ranking"),
    call("new churn --data data.csv --target y --time x", "x"),
    call("new churn --data data.csv --target y --time when", "when"),
    call("new taken --data data.csv --target y", "taken"),
    call("new churn --data . --target y", "."),
    call("contract", "Usage"),
    call("contract infer", "FILE"),
    call("contract infer nowhere.csv", "nowhere.csv"),
    call("contract infer data.csv --target z", "z"),
    call("contract infer data.csv --key z", "z"),
    call("contract infer data.csv --time x", "x"),
    Case("call: contract check without a contract", "contract check data.csv", "contract.yaml", prepare=_no_contract),
    call("contract check data.csv --contract nowhere.yaml", "nowhere.yaml"),
    call("contract check nowhere.csv --contract contract.yaml", "nowhere.csv"),
    call("contract check data.csv --contract .", "folder"),
    call("contract check data.csv --contract data.csv", "data.csv"),
    call("contract diff contract.yaml", "CONTRACT"),
    call("contract diff contract.yaml nowhere.yaml", "nowhere.yaml"),
    call("contract diff model.yaml contract.yaml", "model.yaml"),
    call("contract export contract.yaml --format excel", "excel"),
    call("contract export nowhere.yaml --format pandera", "nowhere.yaml"),
    call("contract generate contract.yaml --rows -1", "--rows"),
    call("contract generate contract.yaml --rows many", "--rows"),
    call("model show nowhere", "nowhere"),
    call("model show ../nowhere", "../nowhere"),
    call("model show /etc/passwd", "/etc/passwd"),
    call("model show 'a#b'", "a#b"),
    call("model show %2e%2e", "%2e%2e"),
    call("model verify nowhere champion", "nowhere"),
    call("model verify ../x 1", "../x"),
    call("model promote nowhere 1 --expect none --reason why", "nowhere"),
    call("model promote nowhere one --expect none --reason why", "one"),
    call("model promote nowhere 1 --expect none", "--reason"),
    call("model rollback nowhere --reason why", "nowhere"),
    call("model download nowhere 1 out", "nowhere"),
    call("ledger shw", "shw"),
    call("ledger show --limit 0", "--limit"),
    call("ledger show --limit x", "--limit"),
    call("config --nothing", "--nothing"),
    call("doctor extra", "extra"),
]

CASES = [*CONTRACTS, *SPECS, *DATAS, *FILES, *CALLS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "HEADWAY_KFP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "taken").mkdir()
    return tmp_path


def test_there_are_at_least_200_and_no_two_alike() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ends_with_a_sentence_that_names_the_thing(case: Case, folder: Path) -> None:
    (folder / "contract.yaml").write_text(case.contract, encoding="utf-8")
    (folder / "model.yaml").write_text(case.spec, encoding="utf-8")
    data = case.data if isinstance(case.data, bytes) else case.data.encode()
    (folder / "data.csv").write_bytes(data)
    case.prepare(folder)
    result = CliRunner().invoke(app, case.command)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert case.names in result.output
    assert not (folder / "churn").exists()
