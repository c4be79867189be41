"""The compiled part of batch scoring, which has an equal in NumPy."""
