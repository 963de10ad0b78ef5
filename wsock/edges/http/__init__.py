"""What is no WebSocket: the REST API, health, readiness and metrics, on twisted.web and Klein."""

from wsock.edges.http.metrics import build_registry, node_measures
from wsock.edges.http.resource import HttpEdge
from wsock.edges.http.site import build_site

__all__ = ["HttpEdge", "build_registry", "build_site", "node_measures"]
