"""The daemon on each dom0: it makes LVM, DRBD and Xen be what the controller asked for, within its own guards.

Lives here: the wire protocol (`protocol`), the seam to the host (`host`), drivers, journal, guards, server,
migration, and simulated hosts. Nothing here imports the controller.
"""
