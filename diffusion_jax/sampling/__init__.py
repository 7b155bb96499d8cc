"""Samplers, guidance and their wrappers: functions from noise to images."""
