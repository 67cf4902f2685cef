"""How a serving process is configured."""

from __future__ import annotations

import os
from typing import TypedDict

from ..telemetry.logs import Format, configure_logging


class ProcessOptions(TypedDict):
    """How a serving process is configured: the same for one alone and for each of several workers."""

    agents_log_level: str
    http_log_level: str
    log_format: Format | None
    debug: bool


def configure_process(
    *, agents_log_level: str, http_log_level: str, log_format: Format | None = None, debug: bool = False
) -> None:
    configure_logging(agents=agents_log_level, http=http_log_level, log_format=log_format)
    if debug:
        # Read when the loop is made, which for daphne is when it is first imported.
        os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
