"""Files of weights: checkpoints, averages, adapters, and shared folders."""
