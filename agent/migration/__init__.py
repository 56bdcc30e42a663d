"""Live migration with one Primary: both sides of it, the relay of the stream, the recovery."""
