"""Simulated dom0s: lvs, drbdadm, drbdsetup, xl and /proc answer with the real tools' words, exit codes and states.

What lives here: the clock, the hosts with their processes, files and block devices, LVM, DRBD, Xen, the faults, and
`truth`, the monitor that sees everything. Nothing here may be imported by the rest of the agent; it talks to a host
through `agent.host.Host` alone, so that the same drivers run on real and simulated dom0s.

`process`, `host`, `devices`, `files`, `cluster`: processes, one dom0, its devices and files, all dom0s and their links.
`lvm`, `drbd_*`: storage. `xl`, `xenstore`, `guest`, `migrate`, `hotplug`: Xen; `xl.install(host)` adds it to a host.
`programs.install` puts a host's software together. `truth` watches, `control` and `main` run it as a process.
"""
