"""Customers' profiles: facts about each, and dated tags that say which facts they rest on.

For those alone who consented to it (`common.consent.PROFILING`). Everything stays in the region,
encrypted under its storage key; nothing of it reaches training, analytics or recommendations.
"""
