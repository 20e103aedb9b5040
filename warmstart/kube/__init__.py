"""Kubernetes: its API server, pods, and the transfer of checkpoints from nodes."""
