"""URLs of a project that has nothing at its root."""

from django.urls import include, path

urlpatterns = [path("agents/", include("visionagents_runner.urls"))]
