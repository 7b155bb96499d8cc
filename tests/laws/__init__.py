"""What must hold for every combination of what exists: a file for each law.

Each law runs over the tables of metrics, kinds, configs, modes and fields, so
what is added to a table is covered. Its docstring names a planted fault that it
catches.
"""
