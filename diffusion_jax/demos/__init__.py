"""Demonstrations: small data sets, judges of what is drawn, a noised photo."""
