"""Compiled parts, each of which has an equal in NumPy or PyTorch."""
