from tests.worker.control.conftest import dead_redis, group, hanging_redis, redis_url, use_layer

__all__ = ["dead_redis", "group", "hanging_redis", "redis_url", "use_layer"]
