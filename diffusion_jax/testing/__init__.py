"""Closed-form truth to test samplers, losses and bounds against."""
