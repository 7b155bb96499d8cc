"""What a program needs of machines that are not here.

XLA's compilers for TPU and GPU run without the device: `topologies` makes the
devices to compile for, `programs` measures a compiled program, and `roofline`
says how long it takes at least.
"""
