"""Samplers, guidance and what combines them: functions from noise to images."""
