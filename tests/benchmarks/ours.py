"""The runner of the benchmark's settings."""

from tests.benchmarks.stub import create_agent, join_call, limits
from visionagents_runner import AgentLauncher, Runner

runner = Runner(launcher=AgentLauncher(create_agent, join_call, **limits()))
