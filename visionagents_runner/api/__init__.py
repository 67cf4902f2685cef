"""The REST API, on django-ninja.

`create_api` makes the API of a runner. The routers can be added to a NinjaAPI of your own; give it the errors of the
contract by `register_error_handlers`.
"""

from .calls import router as calls_router
from .errors import register_error_handlers
from .factory import RunnerAPI, create_api
from .history import router as history_router
from .invitations import router as invitations_router
from .sessions import router as sessions_router
from .speak import router as speak_router
from .status import router as status_router

__all__ = [
    "RunnerAPI",
    "calls_router",
    "create_api",
    "history_router",
    "invitations_router",
    "register_error_handlers",
    "sessions_router",
    "speak_router",
    "status_router",
]
