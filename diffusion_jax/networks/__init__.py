"""Flax networks, which receive the noise level as one number per example.

Every image network is a Linen module called as
`apply({'params': p}, x [B, H, W, C], noise [B], cond=None, *, train=False)`,
with `rngs={'dropout': key}` when training, and returns [B, H, W, C_out].
All submodules have explicit names, so options such as remat do not change the
parameters.
"""
