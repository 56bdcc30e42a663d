"""Simulated dom0s that answer as the real tools do. Only `agent.main` and tests may import it."""
