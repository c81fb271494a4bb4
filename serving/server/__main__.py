"""`python -m headway.serving.server --bundle DIR`: serve one bundle; `--help` lists all flags."""

import sys

from headway.components.errors import HeadwayError
from headway.serving.server.process import serve
from headway.serving.server.settings import parse_flags


def main() -> int:
    """Serve, and return the exit code."""
    try:
        serve(parse_flags())
    except HeadwayError as error:
        sys.stderr.write(f"Error {error.code} {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
