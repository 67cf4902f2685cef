from tests.admin.conftest import make, sign_in, worker
from tests.api.fixtures import allow_local, client, mount, serve

__all__ = ["allow_local", "client", "make", "mount", "serve", "sign_in", "worker"]
