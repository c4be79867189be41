"""What attackers and their victims ship in app bundles; none of it runs in this process."""
