"""Methods of other projects on the problems of `diffusion_jax.testing.bench`."""
