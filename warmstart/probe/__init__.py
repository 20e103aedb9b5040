"""Readiness probes, warm-up steps, and the requests they make."""
