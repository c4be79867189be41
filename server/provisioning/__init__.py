"""How a federation's coordinator is set up: certificates, kits, enrolments, members, run plans."""
