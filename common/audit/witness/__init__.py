"""Witnesses: who cosigns other parties' checkpoints, and keeps what contradicts them."""
