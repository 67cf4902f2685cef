"""URLs of the project: its page, the admin, and the REST API at the root, as the Runner's documentation has it."""

from django.contrib import admin
from django.urls import include, path

from .views import home

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
    path("", include("visionagents_runner.urls")),
]
