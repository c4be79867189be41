"""The family of preference models whose clipped gradients are computed in closed form."""
