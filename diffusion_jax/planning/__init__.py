"""The FLOP of a program, and the rates of devices."""
