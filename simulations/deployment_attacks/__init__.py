"""Attacks on whole deployments, stock Flower's and this system's, by users that own nothing."""
