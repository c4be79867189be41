"""The compliance report: a bundle's verdict and content for readers who are no engineers."""
