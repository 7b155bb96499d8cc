"""The run folder, restored weights, and several processes."""
