"""Sums that a coordinator can open only once, for one set of survivors, and only above a threshold.

Bonawitz et al. (2017): double masking, for distributed noise. Who needs a sum in spite of regions
that are lost in the middle must be able to take their masks off; whoever can do that for two sets
of survivors knows their difference, which is one region's update with a share of noise that
protects nobody. Here that takes the regions' own shares, and each region gives them up once.

Pure state machines: no transport, no files. ``docs/decisions/0025-distributed-noise.md`` says why
it is as it is.
"""
