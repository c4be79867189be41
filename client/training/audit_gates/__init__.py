"""Statistical gates that a trainer must pass: each notices a fault that would break its ε.

A gate treats training as a black box: it hands it customers, takes what it releases, and compares
that with what the claim implies. `python -m client.training.audit_gates` shows each gate beside the
faults that it is for.
"""
