"""What the paper measures, as pure functions."""
