"""Attacks on federated learning, each against stock Flower and against this system."""
