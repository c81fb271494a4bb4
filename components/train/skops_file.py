"""Write a fitted pipeline as a skops file with the same bytes each time.

skops puts memory addresses, random file names and the time of day into its archive. Each is replaced by a number that
counts from zero in the order in which the archive's own schema mentions it; what is loaded from it stays the same.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_skops(pipeline: Any, path: Path) -> None:
    """Write a pipeline; equal pipelines give equal bytes.

    Args:
        pipeline: The fitted pipeline.
        path: The file to write.

    Raises:
        TypeError: An object in the pipeline has no skops representation.
    """
    import skops.io

    source = zipfile.ZipFile(io.BytesIO(skops.io.dumps(pipeline)))
    schema = json.loads(source.read(SCHEMA))
    members: dict[str, str] = {}
    _renumber(schema, {}, members)
    # Stored, not deflated: what a compressor writes depends on its version.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for old, new in members.items():
            archive.writestr(zipfile.ZipInfo(new, _EPOCH), source.read(old))
        archive.writestr(zipfile.ZipInfo(SCHEMA, _EPOCH), json.dumps(schema, indent=1))


def _renumber(node: Any, ids: dict[int, int], members: dict[str, str]) -> None:
    """Replace identifiers and member names in place, in the order in which they come."""
    if isinstance(node, list):
        for item in node:
            _renumber(item, ids, members)
    elif isinstance(node, dict):
        if isinstance(node.get("__id__"), int):
            node["__id__"] = ids.setdefault(node["__id__"], len(ids))
        if "__loader__" in node and isinstance(node.get("file"), str):
            node["file"] = members.setdefault(node["file"], f"{len(members)}{Path(node['file']).suffix}")
        for key, value in node.items():
            if key not in ("__id__", "file"):
                _renumber(value, ids, members)
