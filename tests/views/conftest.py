from tests.api.fixtures import allow_local, client, mount, serve

__all__ = ["allow_local", "client", "mount", "serve"]
