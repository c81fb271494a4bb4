"""Secrets in a source: named in the document, taken from the environment, never shown."""

import os
import re

from headway.components.errors import SourceError, did_you_mean

_REFERENCE = re.compile(r"\$\{(\w+)\}")
_PASSWORD_IN_URL = re.compile(r"(://[^/?#@]*?:)([^/?#@]+)(@)")
_SECRET_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|signature|api_?key)|sig)=)([^&;#\s]+)", re.IGNORECASE
)
_MASK = "***"


class Secrets:
    """Puts environment variables in the place of `${NAME}`, and takes their values out of messages again."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def expand(self, text: str, *, where: str) -> str:
        """The text with each `${NAME}` replaced by that environment variable.

        Raises:
            SourceError: A variable is not set.
        """

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in os.environ:
                # Names only, and only near ones: what an environment holds is nobody's business.
                raise SourceError(
                    f"{where}: the environment variable {name} is not set{did_you_mean(name, os.environ)}",
                    expected="the credentials that the source refers to",
                    fix=f"export {name}, or mount the secret that holds it into the step",
                )
            if os.environ[name]:
                self._values.add(os.environ[name])
            return os.environ[name]

        return _REFERENCE.sub(value, text)

    def hide(self, text: str) -> str:
        """The text without passwords, tokens and the values that `expand` put in."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, _MASK)
        return mask(text)


def mask(text: str) -> str:
    """Hide the passwords and tokens of the addresses in a text.

    Example:
        >>> mask("postgresql://ann:hunter2@db/sales?sslpassword=x")
        'postgresql://ann:***@db/sales?sslpassword=***'
    """
    return _SECRET_PARAMETER.sub(rf"\1{_MASK}", _PASSWORD_IN_URL.sub(rf"\1{_MASK}\3", text))


def literal_secret(text: str) -> bool:
    """Whether an address holds a password or token itself rather than a `${NAME}`.

    Example:
        >>> literal_secret("postgresql://ann:hunter2@db/sales"), literal_secret("postgresql://ann:${PW}@db/sales")
        (True, False)
    """
    found = [match[2] for pattern in (_PASSWORD_IN_URL, _SECRET_PARAMETER) for match in pattern.finditer(text)]
    return any(not _REFERENCE.fullmatch(value) for value in found)
