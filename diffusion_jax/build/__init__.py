"""Builds plain objects and functions from a config.

A config names constructors; `make` calls them with the fields of its section
that are set. Every `build_...` takes the whole config. An unknown name, and
what a constructor refuses, ends in one line that names the section.
"""

from diffusion_jax.build.data import (
  build_batches,
  build_source,
  text_length,
)
from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.flow_map import build_flow_map, is_map
from diffusion_jax.build.guidance import (
  build_decoder,
  build_denoiser,
  build_logits,
  build_self_conditioned,
)
from diffusion_jax.build.make import from_config, words
from diffusion_jax.build.network import (
  build_image_condition,
  build_network,
  build_noise_input,
  init_params,
  init_shapes,
)
from diffusion_jax.build.objective import (
  build_objective,
  build_times,
  build_weight,
)
from diffusion_jax.build.optimizer import (
  build_ema_decays,
  build_learning_rate,
  build_mesh,
  build_optimizer,
  ema_name,
  width_name,
  width_of,
)
from diffusion_jax.build.sampling import (
  build_levels,
  build_sampler,
  build_sampling_schedule,
  describe_steps,
)
from diffusion_jax.build.schedule import (
  build_schedule,
  check_signal,
  num_steps,
)
