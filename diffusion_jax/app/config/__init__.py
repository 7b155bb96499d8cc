"""Configs: which sections there are, and how a config becomes objects."""
