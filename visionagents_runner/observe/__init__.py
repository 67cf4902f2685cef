"""What an agent does, as one stream of plain events: the same for every edge and every kind of model.

``observe(agent)`` gives the agent's `Observer`; listeners get `Observed` events on the event loop. vision-agents is
imported only once an agent is observed.
"""

from .observer import Listener, Observed, Observer, observe
from .redaction import load_redact

__all__ = ["Listener", "Observed", "Observer", "load_redact", "observe"]
