"""Where customers' choices become signed, logged consent records."""
