"""The complete example of vision-agents' documentation, with imports that need no key: a plain script, no project."""

import logging

from vision_agents.core import Agent, User

from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.demo.voice import SilentTTS
from visionagents_runner.edge import BrowserEdge
from visionagents_runner.testing import EchoLLM

logging.basicConfig(level=logging.INFO)


async def create_agent(**kwargs) -> Agent:
    """Factory function that creates and configures an agent."""
    agent = Agent(
        edge=BrowserEdge(),
        agent_user=User(name="Assistant", id="agent"),
        instructions="You are a helpful voice assistant.",
        llm=EchoLLM(),
        tts=SilentTTS(),
    )

    @agent.llm.register_function(description="Get the current weather for a location")
    async def get_weather(location: str) -> str:
        return f"The weather in {location} is sunny and 72°F."

    return agent


async def join_call(agent: Agent, call_type: str, call_id: str, **kwargs) -> None:
    """Called when the agent should join a call."""
    call = await agent.create_call(call_type, call_id)

    async with agent.join(call):
        await agent.simple_response("Hello! How can I help you today?")
        await agent.finish()


if __name__ == "__main__":
    runner = Runner(AgentLauncher(create_agent=create_agent, join_call=join_call))
    runner.cli()
