"""Settings of a project whose URLs do not include the app's."""

from tests.child_settings import *  # noqa: F403

ROOT_URLCONF = __name__
urlpatterns: list[object] = []
