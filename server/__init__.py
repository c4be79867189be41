"""What the coordinator runs."""
