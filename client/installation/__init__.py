"""How a region is set up: a kit installed, keys made, enrolment, first entries of its log."""
