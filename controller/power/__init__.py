"""Runs ClusterLabs fence agents: programs that switch hosts on and off. Knows programs and their standard, no hosts."""
