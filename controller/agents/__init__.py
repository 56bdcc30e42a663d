"""What the controller hears from and says to the agents: one client and one supervisor a host. No decisions."""
