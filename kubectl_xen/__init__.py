"""The kubectl plugin, `kubectl xen`: what the hosts, volumes and VMs do, in words, and moves with their progress.

Lives here: command line, a small client of the API server, rendering. Not here: decisions; the plugin reads status and
edits spec.node, everything else is the controller's. It reads plain dictionaries, so that a plugin that is older or
newer than the CRDs still shows what it knows.
"""
