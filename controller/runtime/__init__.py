"""Work queue, object cache, leader election, compare-and-swap writes, events, metrics, logs, health.

The only place that imports kubernetes; knows nothing of agents, and nothing of what the kinds mean beyond their names
and claims.
"""
