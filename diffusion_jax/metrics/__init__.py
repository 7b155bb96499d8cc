"""Metrics of samples and of models; `table` has their names."""
