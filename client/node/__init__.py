"""The region's side of Flower: its SuperNode, and the relay that runs permitted bundles only."""
