"""The OpenAPI schema and its page. Nothing of the page comes from a CDN."""

from __future__ import annotations

import json
from typing import Any

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger

from ..headers import guard, page_policy
from .errors import json_response

OPENAPI = "openapi.json"
DOCS = "docs"


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


def openapi_schema(request: HttpRequest, api: NinjaAPI) -> HttpResponse:
    """Answer with the schema, whose paths begin where this was asked for."""
    return json_response(api.get_openapi_schema(path_prefix=request.path.removesuffix(OPENAPI)))
