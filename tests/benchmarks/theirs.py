"""vision-agents' own Runner with the same agents: ``python -m tests.benchmarks.theirs PORT LOG_LEVEL``."""

import sys

from vision_agents.core import AgentLauncher, Runner

from tests.benchmarks.stub import create_agent, join_call, limits

runner = Runner(launcher=AgentLauncher(create_agent, join_call, **limits()))

if __name__ == "__main__":
    runner.serve(port=int(sys.argv[1]), agents_log_level=sys.argv[2], http_log_level=sys.argv[2])
