"""Only listed forms pass, whatever the spelling of the rest."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import RefusedNameError
from headway.components.register import names

HOSTILE = [
    "",
    ".",
    "..",
    "../escape",
    "/etc/passwd",
    "flights/../../etc",
    "flights#fragment",
    "flights?query=1",
    "%2e%2e",
    "%2e%2e%2fetc",
    "flights\0",
    "flights\n",
    "flights ",
    "FLIGHTS",
    "fl\u0456ghts",  # a Cyrillic letter
    "\uff46lights",  # a full-width letter
    "\uff0e\uff0e",
    "-flights",
    "flights-",
    "f" * 64,
    "a'or'1'='1",
    "models:/flights",
]

# Pieces that path traversals are made of, mixed with plain ones.
CLIMBING = [".", "..", "/", "//", "\\", "#", "?", ";", "@", ":", "\0", "\uff0e\uff0e", "é", " "]
ESCAPED = ["%2e", "%2E%2E", "%2f", "%5c", "%00", "%25", "%23", "%20", "%c3%a9", "%ff"]
PIECES = st.sampled_from([*CLIMBING, *ESCAPED, "a", "b1", "file:", "s3:", "bucket", "x" * 40])


class TestModelNames:
    @pytest.mark.parametrize("name", ["flights", "f", "flights-2", "0", "f" * 63])
    def test_labels_pass(self, name: str) -> None:
        assert names.model_name(name) == name

    @pytest.mark.parametrize("name", HOSTILE)
    def test_the_rest_is_refused(self, name: str) -> None:
        with pytest.raises(RefusedNameError, match="Refused model name"):
            names.model_name(name)

    def test_another_type_is_refused(self) -> None:
        with pytest.raises(RefusedNameError, match="Refused model name None"):
            names.model_name(None)  # type: ignore[arg-type]

    @given(st.text(max_size=80))
    def test_whatever_passes_is_a_dns_label(self, name: str) -> None:
        try:
            names.model_name(name)
        except RefusedNameError:
            return
        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(name) <= 63
        assert name.strip("-") == name


class TestVersions:
    @pytest.mark.parametrize("ref", ["1", "999", "1.0.0", "10.20.30", "champion", "my-alias"])
    def test_numbers_semantic_versions_and_aliases_pass(self, ref: str) -> None:
        assert names.version_ref(ref) == ref

    @pytest.mark.parametrize("ref", [*HOSTILE, "0", "01", "1.0", "1.0.0-rc1", "v1.0.0/", "1.2.3.4", "१"])
    def test_the_rest_is_refused(self, ref: str) -> None:
        if ref == "f" * 64:
            ref += "f"
        with pytest.raises(RefusedNameError, match="Refused version"):
            names.version_ref(ref)

    def test_an_alias_that_looks_like_a_number_is_refused(self) -> None:
        with pytest.raises(RefusedNameError, match="Refused alias '3'"):
            names.alias("3")


class TestPaths:
    @pytest.mark.parametrize("path", ["model.onnx", "registered/3f2a-1/model.skops", "a_b/c-d.e"])
    def test_paths_below_pass(self, path: str) -> None:
        assert names.relative_path(path) == path

    @pytest.mark.parametrize(
        "path", ["", "/a", "a/", "a//b", "a/../b", "./a", "a/.hidden", "a\\b", "a%2fb", "a\0", "é"]
    )
    def test_the_rest_is_refused(self, path: str) -> None:
        with pytest.raises(RefusedNameError, match="Refused path"):
            names.relative_path(path)

    @given(st.lists(PIECES, max_size=8).map("".join))
    def test_whatever_passes_stays_below(self, path: str) -> None:
        try:
            names.relative_path(path)
        except RefusedNameError:
            return
        assert not path.startswith("/")
        assert not {".", "..", ""} & set(path.split("/"))
        assert unquote(path) == path


class TestArtifactUris:
    @pytest.mark.parametrize(
        "uri",
        [
            "file:///data/models/1",
            "file:///home/a%20b/caf%C3%A9/1",
            "s3://bucket/flights/1",
            "gs://bucket/a=b/c",
            "mlflow-artifacts:/0/run/artifacts/registered/x",
            "wasbs://container@account.blob.core.windows.net/models/1",
        ],
    )
    def test_stores_pass(self, uri: str) -> None:
        assert names.artifact_uri(uri) == uri

    def test_an_absolute_path_becomes_a_uri(self) -> None:
        assert names.artifact_uri("/data/a b") == "file:///data/a%20b"

    @pytest.mark.parametrize(
        "uri",
        [
            "relative/path",
            "file:///data/../etc/passwd",
            "file:///data/%2e%2e/etc",
            "file:///data/%2E./etc",
            "file:///data/..%2fetc",
            "file:///data/%252e%252e/etc",
            "file:///data/x#../../etc",
            "file:///data/x?../../etc",
            "file:///data/x%23y",
            "file:///data/%00",
            "file:///data/\uff0e\uff0e/etc",
            "file:///data/%EF%BC%8E%EF%BC%8E/etc",
            "file:///data/%ff",
            "file://elsewhere/data",
            "file:///data\\..\\etc",
            "s3://user:password@bucket/x",
            "http://169.254.169.254/latest",
            "javascript:alert(1)",
            "models:/flights/1",
            "/data/../etc",
            "//host/share",
            "file:///" + "x" * 3000,
        ],
    )
    def test_the_rest_is_refused(self, uri: str) -> None:
        with pytest.raises(RefusedNameError, match="Refused artifact URI"):
            names.artifact_uri(uri)

    def test_a_password_is_not_repeated(self) -> None:
        with pytest.raises(RefusedNameError) as caught:
            names.artifact_uri("s3://user:hunter2@bucket/x")
        assert "hunter2" not in str(caught.value)

    @given(st.sampled_from(["file://", "s3://bucket", "/", ""]), st.lists(PIECES, max_size=8).map("".join))
    def test_whatever_passes_never_climbs(self, start: str, rest: str) -> None:
        try:
            uri = names.artifact_uri(start + rest)
        except RefusedNameError:
            return
        once = unquote(urlsplit(uri).path)
        assert unquote(once) == once
        assert not {".", ".."} & set(once.split("/"))
        assert not set(once) & set("\0#?\\")
