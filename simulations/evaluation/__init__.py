"""Evaluation as a tool: any mapped data, every strategy and mode, beside baselines."""
