"""Kubernetes: its API server, pods, and what it takes to get a checkpoint off a node."""
