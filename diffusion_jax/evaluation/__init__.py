"""Measures of samples, of likelihoods and of noise."""
