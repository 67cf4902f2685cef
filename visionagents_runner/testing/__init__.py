"""For tests of a project's own agents: a stub edge, an LLM that echoes, and an agent made of both.

Fixtures: ``pytest_plugins = ["visionagents_runner.testing.fixtures"]``.
"""

from .stubs import EchoLLM, StubEdge, join_call, stub_agent

__all__ = ["EchoLLM", "StubEdge", "join_call", "stub_agent"]
