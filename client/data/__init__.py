"""From a region's stores to the data set that training may see."""
