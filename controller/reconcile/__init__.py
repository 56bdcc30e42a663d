"""Observe, decide, commit, act: carries out what `controller.domain` decides, one thin module a kind.

No rule about volumes or VMs lives here; kubernetes and kopf are not imported here.
"""
