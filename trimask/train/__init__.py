"""Training: configuration, the loop, its state and checkpoints, and the record of a run."""
