"""Programs that run on the dom0 outside the agent: Xen's block hotplug script and the resuming of a suspended domain.

`block-xentandem` is installed in /etc/xen/scripts; nothing here is imported."""
