"""What Prometheus scrapes: of this worker from memory, of the cluster from the database.

Loading this package imports ``prometheus_client`` (50 ms): done where a worker starts, or metrics are asked for.
"""

from .cluster import Cluster
from .exposition import OPENMETRICS, TEXT, expose
from .instruments import Instruments

__all__ = ["OPENMETRICS", "TEXT", "Cluster", "Instruments", "expose"]
