"""Whether a region is ready to start: every problem at once, and what it would allow."""
