"""Why a request gets no prediction: a status, a sentence, and the fields that are wrong.

Every such answer has one shape in REST, `{"error": "…", "fields": [{"field", "expected", "got", "row"?}]}`. In gRPC the
sentence is the status' text, and the document stands in the trailing metadata.
"""

from http import HTTPStatus
from typing import Any

from headway.components.errors import RequestError

Field = dict[str, Any]


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """An answer other than a prediction.

    Args:
        status: The HTTP status.
        error: What is wrong, in one sentence, and what to do.
        fields: The wrong fields, as the contract's check gives them.
        headers: More headers of the answer.
    """

    def __init__(
        self, status: int, error: str, fields: list[Field] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.fields = fields or []
        self.headers = headers or {}

    @property
    def document(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": self.error, "fields": self.fields}


class ContractRefusal(Refusal):
    """The contract's check refused the request."""

    def __init__(self, failures: list[Field]) -> None:
        count = len(failures)
        first = failures[0]
        where = f" of row {first['row']}" if "row" in first else ""
        name = f"Field {first['field']!r}{where}" if first["field"] else f"The request{where}"
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(400, f"{name}: expected {first['expected']}; got {first['got']}{more}", failures)

    @classmethod
    def field(cls, name: str, expected: str, got: str) -> "ContractRefusal":
        """The refusal of one field."""
        return cls([{"field": name, "expected": expected, "got": got}])

    @classmethod
    def of(cls, error: RequestError) -> "ContractRefusal":
        """The refusal that a failed check means."""
        return cls(error.failures)


def bad(error: str, *, field: str = "", expected: str = "", got: str = "") -> Refusal:
    """A request that cannot be read: 400."""
    fields = [{"field": field, "expected": expected, "got": got}] if expected else []
    return Refusal(HTTPStatus.BAD_REQUEST, error, fields)


def too_many_rows(rows: int, most: int) -> Refusal:
    """More rows than one request may have: 413."""
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{rows:,} rows in one request; at most {most:,} are taken")


def busy(what: str) -> Refusal:
    """No room now: 503, and when to come again."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, what, headers={"retry-after": "1"})


def not_ready(why: str) -> Refusal:
    """No model yet, or no more: 503. The gateway asks another process, or again: nothing has been done."""
    headers = {"retry-after": "1", "x-not-ready": "1"}
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"Not ready: {why}", headers=headers)
