"""Names that reach a path, a URL or a query: by allow-list, at the one place where they enter.

MLflow's path traversals (CVE-2023-1177, CVE-2023-6977, CVE-2024-1483, CVE-2024-3848) were one mistake made four times:
a list of what to refuse, with one spelling missing. Here only what is listed passes.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from headway.components.errors import RefusedNameError

MODEL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS-1123 label: a model's name is also the name of its InferenceService."""
ALIAS = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
NUMBER = re.compile(r"[1-9][0-9]{0,9}")
SEMANTIC_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){2}")
SCHEMES = frozenset({"abfss", "dbfs", "file", "gs", "hdfs", "mlflow-artifacts", "s3", "wasbs"})
"""Where a version's artifacts may lie."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_URI = re.compile(r"[A-Za-z0-9._~/@:=+,%-]+")
_HOST = re.compile(r"[A-Za-z0-9.@:_-]*")
_MAX_URI = 2_000


def model_name(name: str) -> str:
    """The name itself, when it may name a model.

    Raises:
        RefusedNameError: It is not a DNS-1123 label.

    Example:
        >>> model_name("flights")
        'flights'
    """
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        _refuse("model name", name, "lower-case letters, digits and inner dashes, at most 63, such as `flights`")
    return name


def alias(name: str) -> str:
    """The alias itself, when it may be one.

    Raises:
        RefusedNameError: It is not lower-case letters, digits and inner dashes behind a letter.
    """
    if not isinstance(name, str) or not ALIAS.fullmatch(name):
        _refuse("alias", name, "lower-case letters, digits and inner dashes, such as `champion`")
    return name


def version_ref(ref: str) -> str:
    """The reference itself, when it may name a version: a number, a semantic version or an alias.

    Raises:
        RefusedNameError: It is none of the three.

    Example:
        >>> [version_ref(ref) for ref in ("3", "1.2.0", "champion")]
        ['3', '1.2.0', 'champion']
    """
    if not isinstance(ref, str) or not any(form.fullmatch(ref) for form in (NUMBER, SEMANTIC_VERSION, ALIAS)):
        _refuse("version", ref, "a number (`3`), a semantic version (`1.2.0`) or an alias (`champion`)")
    return ref


def relative_path(path: str) -> str:
    """The path itself, when it stays below the folder that it is relative to.

    Raises:
        RefusedNameError: It is absolute, climbs, is not in its shortest form, or has other characters.

    Example:
        >>> relative_path("registered/model.onnx")
        'registered/model.onnx'
    """
    if not isinstance(path, str) or not path or not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
        _refuse("path", path, "names of letters, digits, `.`, `_` and `-`, with `/` between, below the folder")
    return path


def artifact_uri(uri: str) -> str:
    """Where artifacts lie, as a URI; an absolute path becomes a `file:` URI.

    Raises:
        RefusedNameError: The scheme is not listed, or the URI has a query, a fragment, credentials, a climbing segment
            or a hidden one.

    Example:
        >>> artifact_uri("/data/models/1")
        'file:///data/models/1'
    """
    expected = f"a URI without query, fragment and climbing; the scheme one of {', '.join(sorted(SCHEMES))}"
    if isinstance(uri, str) and uri.startswith("/") and not uri.startswith("//") and "\0" not in uri:
        uri = PurePosixPath(uri).as_uri() if not _climbs(uri) else uri
    if not isinstance(uri, str) or len(uri) > _MAX_URI or not _URI.fullmatch(uri):
        _refuse("artifact URI", uri, expected)
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not _HOST.fullmatch(parts.netloc) or not _path_is_plain(parts.path):
        _refuse("artifact URI", uri, expected)
    if "@" in parts.netloc and parts.scheme not in ("abfss", "wasbs"):  # there it parts container and account
        _refuse("artifact URI", uri.rpartition("@")[2], "no credentials in it: they belong to the environment")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        _refuse("artifact URI", uri, "a file of this machine: `file:///path`")
    return uri


def _path_is_plain(path: str) -> bool:
    """Whether the path means the same before and after decoding, however a later reader decodes it."""
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        return False
    if path.count("/") != decoded.count("/") or _climbs(decoded) or _climbs(unicodedata.normalize("NFKC", decoded)):
        return False
    return decoded.isprintable() and not set(unicodedata.normalize("NFKC", decoded)) & set("%#?\\;")


def _climbs(path: str) -> bool:
    return any(part in (".", "..") for part in path.split("/"))


def _refuse(kind: str, value: object, expected: str) -> NoReturn:
    shown = repr(value)
    raise RefusedNameError(f"Refused {kind} {shown if len(shown) <= 100 else shown[:99] + '…'}", expected=expected)
