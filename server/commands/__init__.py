"""The groups of ``fedpref-server``."""
