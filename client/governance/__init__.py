"""What a region does to keep its data right, sensitive columns closed, and reads on record."""
