"""Settings of the project that ships with visionagents_runner.

With nothing set it runs on SQLite and the in-memory channel layer: one process, one machine. ``DATABASE_URL`` and
``REDIS_URL`` switch it to PostgreSQL, or MariaDB or MySQL, and Redis.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import django
from django.core.exceptions import ImproperlyConfigured

from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.utils.secret_key import read_or_make_secret
from visionagents_runner.utils.sqlite import keep_private

BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str, default: bool) -> bool:
    return os.environ.get(name, str(default)).strip().lower() in {"1", "true", "yes", "on"}


def _list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def _secret_key() -> str:
    """Return SECRET_KEY, or one made at the first start and kept in a file that only its owner reads."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    if not DEBUG:
        raise ImproperlyConfigured("Set the environment variable SECRET_KEY, or DEBUG=1 on your own machine.")
    try:
        return read_or_make_secret(BASE_DIR / ".secret_key")
    except RunnerConfigurationError as error:
        raise ImproperlyConfigured(f"{error}, or set the environment variable SECRET_KEY") from None


def _database(url: str) -> dict[str, Any]:
    """Return DATABASES["default"] for ``postgresql://user:password@host:port/name?sslmode=...``, ``mysql://...`` or
    ``sqlite:///path``.

    Drivers are imported by Django, not here: without the extra, the error names the package.
    """
    parts = urlsplit(url)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "sqlite":
        path = name or BASE_DIR / "db.sqlite3"
        keep_private(path)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path,
            # Without WAL, IMMEDIATE and a timeout, two processes (or threads) that write meet "database is locked".
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    if parts.scheme in {"postgres", "postgresql"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
            "OPTIONS": {**dict(parse_qsl(parts.query)), "pool": {"min_size": 2, "max_size": 16}},
        }
    if parts.scheme in {"mysql", "mariadb"}:
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": name,
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
            "OPTIONS": {
                "charset": "utf8mb4",
                "isolation_level": "read committed",
                # Without it, what does not fit into a column is cut instead of refused.
                "init_command": "SET sql_mode = 'STRICT_TRANS_TABLES'",
                **dict(parse_qsl(parts.query)),
            },
        }
    raise ImproperlyConfigured(
        f"DATABASE_URL has the unknown scheme {parts.scheme!r}: use postgresql://, mysql:// or sqlite:///"
    )


def _channel_layer(url: str) -> dict[str, Any]:
    if url:
        # redis-py gives up an idle read after 5 s, which is just how long channels_redis waits for a message. A worker
        # has one channel for all that others tell it: sound that is relayed needs more room than 100 messages.
        host = {"address": url, "socket_timeout": 15}
        return {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [host], "capacity": 1000}}
    return {"BACKEND": "channels.layers.InMemoryChannelLayer"}


DEBUG = _flag("DEBUG", default=True)
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = _list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else "")
CSRF_TRUSTED_ORIGINS = _list("CSRF_TRUSTED_ORIGINS", "")

INSTALLED_APPS = [
    "daphne",  # before staticfiles: it replaces runserver by its ASGI one
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "ninja",  # serves the assets of the API's docs page from here instead of a CDN
    "visionagents_runner",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": _database(os.environ.get("DATABASE_URL") or "sqlite:///")}
if DATABASES["default"]["ENGINE"].endswith("postgresql") and find_spec("procrastinate"):
    INSTALLED_APPS.append("procrastinate.contrib.django")  # moves dispatched sessions; without it, a poll does
CHANNEL_LAYERS = {"default": _channel_layer(os.environ.get("REDIS_URL", ""))}
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    SILENCED_SYSTEM_CHECKS = ["models.W037"]  # it has no indexes with conditions, which only save time

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "project" / "static"]
STATIC_ROOT = BASE_DIR / "staticfiles"

VISIONAGENTS_RUNNER: dict[str, Any] = {"RUNNER": "project.agents.runner"}
if not DEBUG and find_spec("whitenoise"):
    # Without DEBUG Django serves no static files. Where no server before this one does, as in the image, this does.
    MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
    VISIONAGENTS_RUNNER["LEAN_API"] = True  # it guards nothing: the API does not need it

if django.VERSION >= (6, 0):
    from django.utils.csp import CSP

    # For what is not the app's own, which sets stricter ones: the admin's index, the page for signing in.
    MIDDLEWARE.insert(1, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    SECURE_CSP = {"default-src": [CSP.SELF], "img-src": [CSP.SELF, "data:"], "frame-ancestors": [CSP.SELF]}

if not DEBUG:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_CONTENT_TYPE_NOSNIFF = True
    # Off unless wanted: where nothing ends TLS, a redirect to https leads nowhere, and HSTS cannot be taken back.
    SECURE_SSL_REDIRECT = _flag("SECURE_SSL_REDIRECT", default=False)
    SECURE_REDIRECT_EXEMPT = [r"^(health|ready|metrics)/?$"]  # asked for from within, by probes and Prometheus
    SECURE_HSTS_SECONDS = int(os.environ.get("SECURE_HSTS_SECONDS") or 0)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = _flag("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=False)
    SECURE_HSTS_PRELOAD = _flag("SECURE_HSTS_PRELOAD", default=False)
    if header := os.environ.get("SECURE_PROXY_SSL_HEADER"):
        # Only behind a proxy that sets it, or takes it away, on every request.
        SECURE_PROXY_SSL_HEADER = ("HTTP_" + header.strip().upper().replace("-", "_"), "https")
