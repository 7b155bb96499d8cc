"""Convolutions and matrix products that are fast on XLA:CPU.

A program that is lowered for another platform computes them as JAX does, with
JAX's gradients, whatever machine traces it.
"""
