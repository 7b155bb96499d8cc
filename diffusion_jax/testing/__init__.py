"""Distributions with closed forms that test samplers, losses and bounds."""
