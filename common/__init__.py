"""What regions, coordinator and compliance must agree on, byte for byte."""
