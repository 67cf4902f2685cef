"""The project's URLs without ours, to measure what the app adds to the start of a command."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
