"""The sub-commands of ``fedpref-region``, a module for each theme."""
