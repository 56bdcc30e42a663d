"""The kubectl plugin: `kubectl xen`."""
