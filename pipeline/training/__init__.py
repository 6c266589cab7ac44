"""The parts of the training stage: loop, weights, checkpoints, workers."""
