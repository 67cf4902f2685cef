from tests.api.fixtures import allow_local, client, mount, serve
from tests.auth.keys.fixtures import afresh

__all__ = ["afresh", "allow_local", "client", "mount", "serve"]
