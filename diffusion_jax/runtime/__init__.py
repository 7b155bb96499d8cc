"""A program that runs: processes, locks, caches, batches on devices."""
