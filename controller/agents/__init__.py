"""Client of the node agents, one supervisor a host."""
