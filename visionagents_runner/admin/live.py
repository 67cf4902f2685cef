"""Pages that refresh themselves: the browser asks for the page again, and gets only what changes.

Who may see the page may see that, since it is the same view. Without JavaScript a reload shows the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from django.template.response import TemplateResponse
from django.utils.cache import patch_vary_headers

if TYPE_CHECKING:
    from django.http import HttpRequest

HEADER = "X-Live"
"""Sent by live.js. Its value is the number of the last event that the page shows, where it shows events."""

LIST_SECONDS = 5
PAGE_SECONDS = 3


def shown_until(request: HttpRequest) -> int | None:
    """Return the number of the last event that the asking page shows; None for a browser that wants a whole page."""
    value = request.headers.get(HEADER)
    if value is None:
        return None
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else 0


def fragments(request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
    """Answer with the parts of a page that change. A cache must not take them for the page."""
    response = TemplateResponse(request, template, context)
    patch_vary_headers(response, [HEADER])
    return response
