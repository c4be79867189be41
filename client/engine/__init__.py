"""The privacy engine: the only code that holds data, keys, ledger and noise."""
