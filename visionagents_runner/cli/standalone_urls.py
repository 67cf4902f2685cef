"""URLs of a plain ``agent.py`` that has no project: the API at the root."""

from django.urls import include, path

urlpatterns = [path("", include("visionagents_runner.urls"))]
