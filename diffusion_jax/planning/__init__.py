"""Plans for TPUs and GPUs that are not installed on this machine.

XLA's compilers for TPU and GPU run without the device. `topologies` makes the
devices to compile for, `programs` measures a compiled program, `roofline`
computes lower bounds of its time, and `plans` shows the results.
"""
