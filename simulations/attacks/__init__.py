"""Attacks on logs and bundles, each on a copy, each by its id in the specification."""
