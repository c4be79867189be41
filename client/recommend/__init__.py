"""Serving: the published model with a region's own part and live events, for its customers."""
