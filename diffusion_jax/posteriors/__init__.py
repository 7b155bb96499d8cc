"""Samples of p(x_0 | y), given a measurement or a reward."""
