"""Keeps run folders, and runs programs in several processes."""
