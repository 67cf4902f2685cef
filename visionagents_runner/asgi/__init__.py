"""What a project's ``asgi.py`` imports: importable before Django is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import AgentsApplication


def get_asgi_application(application: Any = None) -> AgentsApplication:
    """Set up Django and return the ASGI application of the project's runner.

    ``application`` is what answers all that is not the API's: Django's, unless given (a ``ProtocolTypeRouter``, say).
    Point ``ASGI_APPLICATION`` and your server here.
    """
    import django

    django.setup(set_prefix=False)
    from ..registry import get_runner
    from .application import AgentsApplication

    return AgentsApplication(get_runner(), application)
