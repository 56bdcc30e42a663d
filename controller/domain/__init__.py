"""What is true and what to do next: pure functions of what was observed. No clock, no I/O, no randomness."""
