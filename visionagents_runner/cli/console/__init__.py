"""The chat of `runagent`: a person at a terminal, or a script with a pipe, talks to an agent by text."""

from .chat import chat

__all__ = ["chat"]
