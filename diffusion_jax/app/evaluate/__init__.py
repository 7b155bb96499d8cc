"""Scores of samples, pairs and examples."""
