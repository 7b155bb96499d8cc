"""Distributions with closed forms, to test samplers, losses and bounds."""
