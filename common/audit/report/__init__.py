"""The compliance report: one page on a bundle, for someone who is no engineer.

It takes everything from the bundle, by way of the verifier; it needs neither the run's database nor
a network. A bundle that does not verify gets a report as well, which says so first.
"""
