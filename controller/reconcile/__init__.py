"""observe -> decide -> commit -> act: the shell around the pure decisions."""
