"""Files of a source: found by path, glob, folder, URL or installed package, and brought onto this machine.

What comes from elsewhere (S3, GCS, HTTP through fsspec; a member of a zip archive; text that is not UTF-8) is
copied in blocks into a temporary folder, so that one reader serves all and memory stays bounded.
"""

import codecs
import glob
import hashlib
import importlib.metadata
import importlib.util
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from headway.components.errors import HeadwayError, SourceError, did_you_mean
from headway.components.ingest.credentials import Secrets

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
PACKAGE = "package://"
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""The extra of Headway that brings the driver of a URL's scheme."""

_SMALL = 8 * 2**20
"""Bytes up to which a file's fingerprint is its content rather than its time."""
_BLOCK = 2**20
_NO_CREDENTIALS = re.compile(r"credential|forbidden|access.?denied|unauthorized|\b40[13]\b|permission", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file on this machine.

    Args:
        path: Where it lies now.
        name: What messages call it: the path or URL that a person would know.
        version: What changes when its content does, where that is known without reading it.
    """

    path: Path
    name: str
    version: str = ""

    @property
    def kind(self) -> str:
        """`csv` or `parquet`, by the name's ending.

        Raises:
            SourceError: Neither.
        """
        suffixes = [suffix.lower() for suffix in PurePosixPath(urlsplit(self.name).path).suffixes]
        last = suffixes[-1] if suffixes else ""
        if last in PARQUET_SUFFIXES:
            return "parquet"
        if last in (".gz", ".zip") and len(suffixes) > 1:
            last = suffixes[-2]
        if last in CSV_SUFFIXES:
            return "csv"
        raise SourceError(
            f"{self.name}: not a kind of file that ingest reads",
            expected="a name that ends in .csv, .tsv, .txt (also .gz or .zip), .parquet or .pq",
        )


def find(uri: str, base: Path) -> list[SourceFile]:
    """The files that a local path, glob, folder or `package://` address names, by name.

    Raises:
        SourceError: There are none; offers near names.
    """
    if uri.startswith(PACKAGE):
        return [_in_package(uri)]
    path = base / Path(uri.removeprefix("file://")).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.is_file():
            return [SourceFile(path, str(path))]
    except PermissionError:
        raise no_rights(str(path)) from None
    if glob.has_magic(uri):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = sorted(Path(name) for name in names if Path(name).is_file())
        if not found:
            raise SourceError(f"{path}: no file has such a name", expected="a pattern that at least one file matches")
        return [SourceFile(file, str(file)) for file in found]
    raise missing_file(path)


def is_remote(uri: str) -> bool:
    """Whether a URI is fetched through fsspec."""
    return "://" in uri and not uri.startswith((PACKAGE, "file://"))


def fetch(uri: str, workspace: Path) -> list[SourceFile]:
    """Copy what a URL (or a URL with a pattern) names into `workspace`, in blocks.

    Raises:
        SourceError: The driver or the credentials are missing, or there is no such object.
    """
    secrets = Secrets()
    address = secrets.expand(uri, where="source.uri")
    filesystem, names = _remote(address, secrets)
    files = []
    for number, name in enumerate(names):
        target = workspace / f"{number:05d}-{PurePosixPath(urlsplit(name).path).name}"
        shown = secrets.hide(_shown(filesystem, name))
        try:
            with filesystem.open(name, "rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK)
        except Exception as error:
            raise _remote_error(shown, error, secrets) from None
        files.append(SourceFile(target, shown))
    return files


def versions(uri: str, base: Path) -> str:
    """A short text that changes when the content behind a URI does; empty when that cannot be known cheaply.

    Raises:
        SourceError: There is no such file, or its driver or credentials are missing.
    """
    if is_remote(uri):
        return _remote_versions(uri)
    parts = []
    for file in find(uri, base):
        try:
            stat = file.path.stat()
            content = (
                _sha256(file.path) if stat.st_size <= _SMALL else f"{file.version or stat.st_mtime_ns}:{stat.st_size}"
            )
        except PermissionError:
            raise no_rights(file.name) from None
        parts.append(f"{file.path.name}:{content}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def readable(file: SourceFile, workspace: Path, *, encoding: str) -> SourceFile:
    """The file as UTF-8 text (or gzip of it), unpacked and transcoded into `workspace` where it is not.

    Raises:
        SourceError: The archive is broken or holds more than one file; a byte does not fit the encoding.
    """
    name = file.path.name.lower()
    try:
        if name.endswith(".zip"):
            file = _unzip(file, workspace)
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii"):
            file = _transcode(file, workspace, encoding)
    except PermissionError:
        raise no_rights(file.name) from None
    return file


def open_text_bytes(path: Path) -> IO[bytes]:
    """Open a plain or gzipped file for reading bytes."""
    if path.suffix.lower() == ".gz":
        import gzip

        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def no_rights(name: str) -> SourceError:
    """The error for a file that this user may not read."""
    return SourceError(f"{name}: no right to read it", fix="give this user the right to read the file and its folder")


def encoding_error(file: SourceFile, encoding: str) -> SourceError:
    """Say which byte of a file does not fit its encoding, and which encodings would fit."""
    decoder = codecs.getincrementaldecoder(encoding)()
    position = line = 0
    with open_text_bytes(file.path) as stream:
        head = stream.read(_BLOCK)
        block = head
        while block:
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                at = error.start - pending
                line += block[: max(at, 0)].count(b"\n") + 1
                bad = error.object[error.start]
                return SourceError(
                    f"{file.name}: not {encoding} text: byte {position + at:,} (0x{bad:02x}) on line {line:,}",
                    expected=f"text in {encoding}",
                    fix=f"set `encoding` in the source to {_fitting_encodings(head)}",
                )
            position += len(block)
            line += block.count(b"\n")
            block = stream.read(_BLOCK)
    return SourceError(
        f"{file.name}: not {encoding} text: the last character is cut off", expected=f"text in {encoding}"
    )


def _fitting_encodings(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    fits = []
    for name in ("utf-8", "cp1252", "latin-1"):
        try:
            codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        fits.append(name)
    return " or ".join(fits)


def _in_package(uri: str) -> SourceFile:
    name, _, inner = uri.removeprefix(PACKAGE).partition("/")
    # A dotted name would import the parent package, which runs its code.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"{uri}: there is no installed Python package {name!r}",
            expected="package://PACKAGE/path/of/the/file",
            fix=f"pip install {name}" if name.isidentifier() else None,
        )
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = root / inner
    if not path.resolve().is_relative_to(root):
        raise SourceError(f"{uri}: leads out of the package", expected="a path inside the package")
    if not path.is_file():
        raise missing_file(path, shown=uri)
    return SourceFile(path, uri, _package_version(name))


def _package_version(name: str) -> str:
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        # The distribution has another name than the package; finding it reads every installed one.
        owners = importlib.metadata.packages_distributions().get(name, [])
        return f"{owners[0]}=={importlib.metadata.version(owners[0])}" if owners else ""


def _in_folder(folder: Path) -> list[SourceFile]:
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            found.append(SourceFile(path, str(path)))
    if not found:
        raise SourceError(f"{folder}: the folder is empty", expected="CSV or Parquet files")
    return found


def missing_file(path: Path, shown: str | None = None) -> SourceError:
    """The error for a file that is not there, with the near names of its folder.

    Args:
        path: The file.
        shown: What the message calls it, if not by its path.
    """
    folder = path.parent
    if not folder.is_dir():
        return SourceError(f"{shown or path}: no such file; there is no folder {folder} either")
    try:
        near = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
    except PermissionError:
        return no_rights(str(folder))
    return SourceError(f"{shown or path}: no such file{near}", expected="a CSV or Parquet file, a folder or a pattern")


def _remote(address: str, secrets: Secrets) -> tuple[Any, list[str]]:
    import fsspec

    shown = secrets.hide(address)
    scheme = address.split("://", 1)[0]
    try:
        filesystem, name = fsspec.url_to_fs(address)
        # A question mark in a web address starts its query; elsewhere it is a pattern.
        pattern = glob.has_magic(name) and scheme not in ("http", "https")
        names = sorted(filesystem.glob(name)) if pattern else [name]
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        raise SourceError(
            f"{shown}: the driver for {scheme}:// is not installed ({error})",
            fix=f"pip install 'headway[{extra}]'" if extra else f"install the fsspec driver for {scheme}://",
        ) from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise _remote_error(shown, error, secrets) from None
        near = did_you_mean(scheme, [*EXTRAS, "file", "package"])
        raise SourceError(
            f"{shown}: unknown scheme {scheme}://{near}", expected="s3, gs, http, https or package"
        ) from None
    except Exception as error:
        raise _remote_error(shown, error, secrets) from None
    if not names:
        raise SourceError(f"{shown}: no object has such a name", expected="a pattern that at least one object matches")
    return filesystem, names


def _remote_error(shown: str, error: Exception, secrets: Secrets) -> HeadwayError:
    scheme = shown.split("://", 1)[0]
    text = secrets.hide(f"{type(error).__name__}: {error}".split("\n", 1)[0])
    cause = error.__cause__ or error.__context__
    if isinstance(error, FileNotFoundError):
        why = f" ({secrets.hide(str(cause))})" if cause is not None and str(cause) else ""
        return SourceError(f"{shown}: no such object{why}", expected="an object that exists on a server that answers")
    if isinstance(error, PermissionError) or _NO_CREDENTIALS.search(text):
        hints = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the task's service account",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
        }
        return SourceError(
            f"{shown}: no credentials, or they do not allow reading ({text})",
            fix=hints.get(
                scheme.replace("s3a", "s3").replace("gcs", "gs"), "give this process credentials for the store"
            ),
        )
    return SourceError(f"{shown}: could not be read ({text})")


def _remote_versions(uri: str) -> str:
    secrets = Secrets()
    filesystem, names = _remote(secrets.expand(uri, where="source.uri"), secrets)
    parts = []
    for name in names:
        try:
            about = {key.lower().replace("-", ""): value for key, value in filesystem.info(name).items()}
        except Exception as error:
            raise _remote_error(secrets.hide(_shown(filesystem, name)), error, secrets) from None
        marks = [about.get(key) for key in ("etag", "md5hash", "contentmd5", "generation", "lastmodified", "created")]
        if not any(marks):
            return ""
        parts.append(f"{name}:{about.get('size')}:{marks}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _shown(filesystem: Any, name: str) -> str:
    return name if "://" in name else str(filesystem.unstrip_protocol(name))


def _unzip(file: SourceFile, workspace: Path) -> SourceFile:
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = [
                item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX")
            ]
            if len(members) != 1:
                names = ", ".join(item.filename for item in members[:5]) or "nothing"
                raise SourceError(f"{file.name}: the archive holds {names}", expected="an archive with one file")
            target = fresh(workspace, "unzipped.csv")
            with archive.open(members[0]) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{file.name}: not a zip archive that can be read ({error})") from None
    return SourceFile(target, file.name)


def _transcode(file: SourceFile, workspace: Path, encoding: str) -> SourceFile:
    target = fresh(workspace, "utf8.csv")
    with open_text_bytes(file.path) as source, target.open("w", encoding="utf-8", newline="") as copy:
        reader = codecs.getreader(encoding)(source)
        try:
            while text := reader.read(_BLOCK):
                copy.write(text)
        except UnicodeError:
            raise encoding_error(file, encoding) from None
    return SourceFile(target, file.name)


def fresh(workspace: Path, name: str) -> Path:
    """A path in the workspace that nothing has taken."""
    return workspace / f"{sum(1 for _ in workspace.iterdir()):05d}-{name}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def one_kind(files: Iterable[SourceFile]) -> str:
    """The one kind of all files.

    Raises:
        SourceError: They are of two kinds.
    """
    by_kind = {file.kind: file.name for file in files}
    if len(by_kind) > 1:
        raise SourceError(
            f"{by_kind['csv']} is CSV and {by_kind['parquet']} is Parquet",
            expected="files of one kind in one source",
            fix="name one kind with a pattern such as `data/*.parquet`",
        )
    return next(iter(by_kind))
