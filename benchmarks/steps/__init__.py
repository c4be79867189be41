"""Steps of training: ours, and what they are measured against."""
