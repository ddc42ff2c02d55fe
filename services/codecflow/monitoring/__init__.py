"""Metrics and health of a service, for Prometheus and for whoever restarts it."""
