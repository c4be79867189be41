"""The tamper-evident audit log: its entries, trees, checkpoints, bundles and offline verifier."""
