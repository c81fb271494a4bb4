"""Log lines of the server: one JSON object a line on standard error, nothing a request unless asked for."""

import logging
import sys
import time
import warnings
from typing import Any

import orjson

LOGGER = logging.getLogger("headway.server")
_QUIET = ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "asyncio")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what `extra={"fields": {…}}` gave, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure() -> None:
    """Send our own records from INFO on, and everybody else's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    LOGGER.setLevel(logging.INFO)
    for name in _QUIET:
        logger = logging.getLogger(name)
        # kserve configures its logger unless it has a handler already.
        logger.handlers = [logging.NullHandler()]
        # uvicorn warns of every request that is no HTTP, as often as somebody sends one.
        logger.setLevel(logging.ERROR if name.startswith("uvicorn") else logging.WARNING)
        logger.propagate = True
    # FastAPI warns of kserve's ORJSONResponse at each answer.
    warnings.filterwarnings("ignore", message=".*ORJSONResponse.*")


def tell(message: str, **fields: Any) -> None:
    """Log one line of what the server does."""
    LOGGER.info(message, extra={"fields": fields})


def tell_error(message: str, **fields: Any) -> None:
    """Log one line of what went wrong, without a traceback."""
    LOGGER.error(message, extra={"fields": fields})
