"""The OpenAPI schema and its page. Nothing of the page comes from a CDN."""

from __future__ import annotations

import json
from typing import Any

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger

from ..utils.offloop import compute
from ..utils.page_headers import guard, page_policy
from .errors import answer, encode_json, json_response

OPENAPI = "openapi.json"
DOCS = "docs"

_MOUNT = "/-mount-/"


class LocalSwagger(Swagger):
    """Swagger UI with its assets from the app ``ninja``; without that app there is no page."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        if not apps.is_installed("ninja"):
            detail = f'Add "ninja" to INSTALLED_APPS for a page of documentation here; the schema is at {OPENAPI}'
            return json_response({"detail": detail}, 404)
        # Relative, so that it is right under any prefix and namespace.
        url = f"../{OPENAPI}" if request.path.endswith("/") else OPENAPI
        context = {"api": api, "add_csrf": False, "swagger_settings": json.dumps({**self.settings, "url": url})}
        response = render(request, self.template, context)
        guard(response, page_policy(inline_styles=True))  # Swagger UI sets styles of its own
        return response


class Schema:
    """The schema of an API as JSON. It takes a tenth of a second to build: that is done once, in a thread."""

    def __init__(self, api: NinjaAPI) -> None:
        self._api = api
        self._pieces: list[bytes] | None = None
        """What stands between the places for the prefix of its paths."""

    async def under(self, prefix: str) -> bytes:
        """Return the schema with paths that begin with ``prefix``, such as ``/agents/``."""
        pieces = await compute(self._build) if self._pieces is None else self._pieces
        # Put together for each request, so that nobody can fill a memory by asking under many prefixes.
        return json.dumps(prefix)[1:-1].encode().join(pieces)

    def _build(self) -> list[bytes]:
        if self._pieces is None:  # several may have asked at once
            schema = self._api.get_openapi_schema(path_prefix=_MOUNT)
            self._pieces = encode_json(schema).encode().split(_MOUNT.encode())
        return self._pieces


async def openapi_schema(request: HttpRequest, schema: Schema) -> HttpResponse:
    """Answer with the schema, whose paths begin where this was asked for."""
    body = await schema.under(request.path.removesuffix(OPENAPI))
    return answer(body, "application/json")
