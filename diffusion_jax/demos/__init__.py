"""Demonstrations: small data sets, simulators, a noised photo."""
