"""How kserve is imported: it reads the process's command line while that happens."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kserve_imports() -> Iterator[None]:
    """Hide the command line, which is ours, from kserve's parser."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments
