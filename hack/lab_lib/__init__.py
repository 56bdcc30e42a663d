"""hack/lab: real Xen hosts on this machine, each a dom0 in QEMU's software emulation, from Debian packages.

`image` builds what they boot from and keeps it in the user's cache; `agents` adds the project's own package and
certificates; `machines` runs the QEMU processes; `shell` reaches into the hosts; `lab` puts them together; `cli` is the
command line. `dom0/` is laid over Debian's files in the image, `initrd/` holds the two initrds' programs.
Nothing here is imported by the programs themselves.
"""
