"""The agents of this project: what `VISIONAGENTS_RUNNER["RUNNER"]` names.

As they stand they need no key: `visionagents_runner.demo` answers by rules, and says so; `vision` looks at the camera
besides. For an agent of your own, put a `create_agent` here. Import vision_agents inside it, so that `manage.py check`
and `migrate` do not load it:

    async def create_agent():
        from vision_agents.core import Agent, User
        from vision_agents.plugins import gemini, getstream

        return Agent(
            edge=getstream.Edge(),                   # STREAM_API_KEY, STREAM_API_SECRET
            llm=gemini.Realtime(),                   # GOOGLE_API_KEY; or openai.Realtime(): OPENAI_API_KEY
            agent_user=User(id="agent", name="Agent"),
            instructions="Answer in one short sentence.",
        )

    (pip install "vision-agents[getstream,gemini]")

A model on your own machine, behind any OpenAI-compatible server, on this project's own edge:

    async def create_agent():
        from vision_agents.core import Agent, User
        from vision_agents.plugins import openai
        from visionagents_runner.edge.filters import PassThroughFilter
        from visionagents_runner.demo.voice import SilentTTS
        from visionagents_runner.edge import BrowserEdge

        return Agent(
            edge=BrowserEdge(),
            llm=openai.ChatCompletionsLLM(model="llama3.2", base_url="http://127.0.0.1:11434/v1", api_key="none"),
            tts=SilentTTS(),
            agent_user=User(id="agent", name="Agent"),
            multi_speaker_filter=PassThroughFilter(),
        )

    (pip install "vision-agents[openai]")

`join_call` may stay the demo's in both.
"""

from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.demo import create_agent, join_call, vision

launchers = {"default": AgentLauncher(create_agent, join_call, max_concurrent_sessions=10)}
if vision.installed():  # the extra `demo`: OpenCV
    launchers["vision"] = AgentLauncher(vision.create_agent, vision.join_call, max_concurrent_sessions=10)

runner = Runner(launchers=launchers)
