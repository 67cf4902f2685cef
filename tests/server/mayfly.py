"""A project whose workers end at once."""

from __future__ import annotations

import multiprocessing
import os

from tests.agents import runner

if multiprocessing.parent_process() is not None:
    os._exit(7)

__all__ = ["runner"]
