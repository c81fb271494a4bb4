"""What must be done now and then while endpoints serve: merge the payload log's small files, remove its old ones."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from headway.components.errors import HeadwayError
from headway.components.settings import Settings

COMPACT_EVERY = timedelta(minutes=10)
PRUNE_EVERY = timedelta(days=1)

_log = logging.getLogger(__name__)


class Housekeeping:
    """Keeps the payload log tidy.

    Args:
        settings: The installation, with how long the log is kept.
        now: The clock.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._compact_at = now() + COMPACT_EVERY
        self._prune_at = now()

    def run(self) -> None:
        """Do what is due. What cannot be done is logged, and tried again when it is due again."""
        from headway.serving.compaction import compact
        from headway.serving.payloads import prune

        now = self._now()
        try:
            if now >= self._compact_at:
                self._compact_at = now + COMPACT_EVERY
                compact(self._settings, now=now)
            if now >= self._prune_at:
                self._prune_at = now + PRUNE_EVERY
                prune(self._settings, timedelta(days=self._settings.payload_days), now=now)
        except (HeadwayError, OSError) as error:
            _log.warning("the payload log could not be tidied: %s", error)
