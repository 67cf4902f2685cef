"""A ``runserver`` that knows nothing of Daphne."""

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    pass
