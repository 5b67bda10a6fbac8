"""`/metrics`: what is counted anywhere, read when it is asked for. One module for each of whom it is told."""
