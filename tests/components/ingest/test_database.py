"""SQL sources over a real SQLite file, and joins of several tables in DuckDB."""

import datetime
import decimal
import sqlite3
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, SourceError
from headway.components.ingest.credentials import Secrets, literal_secret, mask
from headway.components.ingest.database import kind_of, plain
from headway.components.ingest.sources import Source

EVENING = datetime.datetime(2026, 1, 2, 22, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
MIDNIGHT = datetime.datetime(2026, 1, 3)


@pytest.fixture
def sales(tmp_path: Path) -> str:
    connection = sqlite3.connect(tmp_path / "sales.db")
    connection.execute("CREATE TABLE orders (id INTEGER, city TEXT, amount REAL, placed TEXT)")
    rows = [
        (i, None if i % 7 == 0 else f"city {i % 3}", i / 4, f"2026-01-{i % 28 + 1:02d} 10:00:00") for i in range(500)
    ]
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return "sqlite:///sales.db"


class TestRows:
    def test_types_and_nulls(self, sales: str, read: Any) -> None:
        table = read(database=sales, query="SELECT id, city, amount, NULL AS empty FROM orders ORDER BY id")
        assert [str(kind) for kind in table.schema.types] == ["int64", "string", "double", "string"]
        assert table.num_rows == 500
        assert table.column("city").to_pylist()[:3] == [None, "city 1", "city 2"]

    def test_a_contract_reads_texts_as_times(self, sales: str, read: Any) -> None:
        contract = Contract.parse({"name": "c", "columns": {"placed": {"type": "timestamp"}}})
        table = read(contract, database=sales, query="SELECT placed FROM orders WHERE id = 1")
        assert table.column("placed").to_pylist() == [datetime.datetime(2026, 1, 2, 10)]

    def test_a_column_whose_type_changes_between_batches(self, sales: str, tmp_path: Path, read: Any) -> None:
        connection = sqlite3.connect(tmp_path / "sales.db")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 44999)"
        connection.execute(
            f"CREATE TABLE long AS {numbers} SELECT i, "
            "CASE WHEN i < 20000 THEN NULL WHEN i < 40000 THEN i ELSE i + 0.5 END AS x, "
            "CASE WHEN i = 44999 THEN 'end' ELSE i END AS y FROM n"
        )
        connection.commit()
        connection.close()
        table = read(database=sales, query="SELECT * FROM long ORDER BY i")
        assert [str(kind) for kind in table.schema.types] == ["int64", "double", "string"]
        assert table.column("x").null_count == 20_000
        assert table.column("x").to_pylist()[-1] == 44_999.5
        assert table.column("y").to_pylist()[-2:] == ["44998", "end"]

    def test_colons_in_the_query_are_no_parameters(self, sales: str, read: Any) -> None:
        table = read(database=sales, query="SELECT count(*) AS n FROM orders WHERE placed LIKE '% 10:00:00'")
        assert table.column("n").to_pylist() == [500]

    def test_no_rows_keep_the_columns(self, sales: str, read: Any) -> None:
        table = read(database=sales, query="SELECT id, city FROM orders WHERE id < 0")
        assert table.column_names == ["id", "city"]
        assert table.num_rows == 0

    @pytest.mark.parametrize(
        ("values", "kind", "expected"),
        [
            ([True, None], "boolean", [True, None]),
            ([1, decimal.Decimal("1.5")], "number", [1.0, 1.5]),
            ([2**70, 1], "number", [float(2**70), 1.0]),
            ([EVENING, datetime.date(2026, 1, 3)], "timestamp", [datetime.datetime(2026, 1, 2, 20), MIDNIGHT]),
            ([uuid.UUID(int=1), 7], "string", ["00000000-0000-0000-0000-000000000001", "7"]),
            ([None], "null", [None]),
        ],
    )
    def test_python_values(self, values: list[Any], kind: str, expected: list[Any]) -> None:
        assert kind_of("x", values) == kind
        assert [plain(value, kind) for value in values] == expected

    def test_a_value_that_is_no_single_value(self) -> None:
        with pytest.raises(SourceError, match=r"column 'x' holds a bytes[\s\S]*cast or leave out"):
            kind_of("x", [b"a"])


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("SELECT nope FROM orders", "the query failed: no such column: nope"),
            ("SELCT 1", 'the query failed: near "SELCT"'),
            ("SELECT id, id FROM orders", "columns 1 and 2 are both called 'id'"),
            ("DELETE FROM orders", "the query returns no rows"),
        ],
    )
    def test_bad_sql(self, sales: str, read: Any, query: str, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            read(database=sales, query=query)
        assert read(database=sales, query="SELECT count(*) AS n FROM orders").to_pylist() == [{"n": 500}]

    def test_a_mistyped_file_is_not_made(self, sales: str, tmp_path: Path, read: Any) -> None:
        with pytest.raises(SourceError, match=r"sale\.db: no such SQLite file - did you mean 'sales\.db'"):
            read(database="sqlite:///sale.db", query="SELECT 1")
        assert not (tmp_path / "sale.db").exists()

    def test_a_missing_driver_names_the_extra(self, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        monkeypatch.setenv("DB_PASSWORD", "hunter2")
        with pytest.raises(SourceError, match=r"driver 'psycopg' is not installed[\s\S]*headway\[postgres\]") as caught:
            read(database="postgresql+psycopg://ann:${DB_PASSWORD}@localhost/x", query="SELECT 1")
        assert "hunter2" not in str(caught.value)

    def test_an_unknown_dialect(self, read: Any) -> None:
        with pytest.raises(SourceError, match=r"knows no database 'postgre' - did you mean 'postgresql'"):
            read(database="postgre://h/x", query="SELECT 1")
        with pytest.raises(SourceError, match="not a database URL"):
            read(database="nonsense", query="SELECT 1")

    def test_a_variable_that_is_not_set(self, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DB_PASSWRD", raising=False)
        monkeypatch.setenv("DB_PASSWORD", "hunter2")
        with pytest.raises(SourceError, match=r"variable DB_PASSWRD is not set - did you mean 'DB_PASSWORD'") as caught:
            read(database="postgresql+psycopg://ann:${DB_PASSWRD}@h/x", query="SELECT 1")
        assert "hunter2" not in str(caught.value)

    def test_a_whole_url_from_the_environment(self, sales: str, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SALES_URL", sales)
        assert read(database="${SALES_URL}", query="SELECT max(id) AS n FROM orders").to_pylist() == [{"n": 499}]


class TestSecrets:
    def test_values_never_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN", "s3cret")
        secrets = Secrets()
        assert secrets.expand("https://h/a.csv?token=${TOKEN}", where="source.uri") == "https://h/a.csv?token=s3cret"
        assert secrets.hide("GET https://h/a.csv?token=s3cret failed for s3cret") == (
            "GET https://h/a.csv?token=*** failed for ***"
        )

    @pytest.mark.parametrize(
        "url",
        ["postgresql://a:p@h/d", "https://h/x?token=abc", "mysql://h/d?ssl=1&password=abc", "https://h/x?sig=abc"],
    )
    def test_a_secret_in_the_document_is_refused(self, url: str) -> None:
        assert literal_secret(url)
        assert "abc" not in mask(url)
        with pytest.raises(ConfigError, match="holds a secret"):
            Source.parse({"uri": url + ".csv"})

    @pytest.mark.parametrize(
        "url", ["postgresql://a:${P}@h/d", "https://h:80/x?page=2", "s3://b/a.csv", "sqlite:///a.db"]
    )
    def test_references_pass(self, url: str) -> None:
        assert not literal_secret(url)


class TestJoins:
    @pytest.fixture
    def tables(self, tmp_path: Path, sales: str) -> dict[str, Any]:
        (tmp_path / "cities.csv").write_text("city;country\ncity 0;DE\ncity 1;NL\n")
        orders = {"database": sales, "query": "SELECT id, city, amount FROM orders"}
        return {"orders": orders, "cities": {"uri": "cities.csv", "delimiter": ";"}}

    def test_a_database_and_a_file(self, tables: dict[str, Any], read: Any) -> None:
        query = """
            SELECT country, sum(id) AS total, count(*) AS n
            FROM orders JOIN cities USING (city) GROUP BY country ORDER BY country;
        """
        table = read(tables=tables, query=query)
        assert table.column("country").to_pylist() == ["DE", "NL"]
        assert table.schema.field("total").type == pa.float64()  # a HUGEINT in DuckDB
        assert table.column("n").to_pylist() == [143, 143]

    def test_a_plain_text_is_a_uri(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("x\n1\n2\n")
        assert read(tables={"a": "a.csv"}, query="SELECT x * 2 AS y FROM a").column("y").to_pylist() == [2, 4]

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("SELECT nope FROM cities", r'source.query: Binder Error: Referenced column "nope" not found'),
            ("SELECT * FROM citys", r"Table with name citys does not exist! Did you mean \"cities\""),
            ("SELCT 1", "source.query: Parser Error"),
            ("SELECT 1 AS a; DROP TABLE cities", "source.query is SELECT and DROP"),
            ("COPY cities TO 'x.csv'", "source.query is COPY"),
            ("SELECT 1 AS a, 2 AS A", "differ only in capital letters"),
            ("SELECT * FROM read_csv('/etc/passwd')", "file system operations are disabled"),
            ("SELECT [1, 2] AS a", r"Column 'a' is of type list<"),
            ("SELECT CAST(country AS INTEGER) AS a FROM cities", "Conversion Error: Could not convert string 'DE'"),
        ],
    )
    def test_bad_sql(self, tables: dict[str, Any], read: Any, query: str, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            read(tables=tables, query=query)
