"""The operator: it reconciles XenNode, DrbdVolume and XenVM resources against the agents.

Layers, each importing only those below it: main, operator (kopf), reconcile, agents | runtime, domain, api.
"""
