"""Metrics and health of a service, for Prometheus and orchestrators."""
