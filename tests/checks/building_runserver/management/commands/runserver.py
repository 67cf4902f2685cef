"""A ``runserver`` that builds on Daphne's, as WhiteNoise's does."""

from daphne.management.commands.runserver import Command as DaphneCommand


class Command(DaphneCommand):
    pass
