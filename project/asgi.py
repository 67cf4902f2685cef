"""The ASGI application: the runner's, which starts and drains the worker with the server and serves Django besides."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from visionagents_runner.asgi import get_asgi_application

application = get_asgi_application()
