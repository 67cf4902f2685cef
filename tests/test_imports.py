"""Every module can be imported, and without a warning."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import project
import visionagents_runner

MODULES = [
    module.name
    for package in (visionagents_runner, project)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None)
]


@pytest.mark.smoke
@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)
