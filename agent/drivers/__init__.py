"""Drivers for LVM, DRBD, Xen: build command lines, parse output. They talk to a `Host` only."""
