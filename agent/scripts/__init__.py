"""Programs that run on the dom0 outside the agent: Xen's hotplug scripts and the resuming of a suspended domain.

`block-xentandem` and `vif-xentandem` are installed in /etc/xen/scripts; nothing here is imported."""
