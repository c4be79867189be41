"""Customer-level DP training of the preference model inside a region."""
