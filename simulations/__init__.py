"""Scenarios on one machine: the same apps and engines as a deployment."""
