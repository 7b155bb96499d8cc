"""The random streams of the program: every consumer of a seed has a key of its own.

Otherwise two consumers could draw the same numbers, because
`split(key, n)[i] == fold_in(key, i)`.
"""

import jax

# A tag for each consumer of a seed. A changed tag would change the random
# numbers of every run. Tags are at least 2**31, above all indices of steps and
# images that are folded in.
STREAMS = {
  'parameters': 0x869348FE,
  'training': 0xD5128A8F,
  'latents': 0xD26E1E70,
  'latent_scale': 0xA47B611D,
  'test_loss': 0xDB583BC6,
  'test_latents': 0x8E2FCAB8,
  'sampling': 0xB9DAF8C6,
  'sampling_images': 0x8146B8FF,
  'sampling_lengths': 0xB0E3F5A7,
  'vae_sampling': 0xE725CDBF,
  'edit': 0x8135DE1A,
  'measurement': 0xB7C3A5D1,
  'metrics': 0xE6B79F85,
  'evaluation_images': 0xAA608B9D,
  'count_calls': 0xC51C7E24,
  'noise_levels': 0xFE383916,
}


def stream(seed: int, name: str) -> jax.Array:
  """Returns fold_in(key(seed), tag), the root key of one consumer of a seed.

  name: one of STREAMS, or KeyError.
  """
  return jax.random.fold_in(jax.random.key(seed), STREAMS[name])
