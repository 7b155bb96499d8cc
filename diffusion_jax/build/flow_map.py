"""Builds flow maps, the models of few steps, from a config."""

from typing import Any

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.guidance import cond_of_network
from diffusion_jax.build.network import (
  MAPS,
  build_network,
  build_noise_input,
  network_fn,
  time_scale,
)


def is_map(config) -> bool:
  """Returns whether the network of a config is a flow map, not a denoiser."""
  return config.objective.name in MAPS


def build_flow_map(config, params, cond) -> Any:
  """Returns the `FlowMap` of a run; params: {'network': ...}.

  cond: arrays [B, ...]; a network with guidance trained in also gets
  sampling.guidance_scale.
  """
  cond = cond_of_network(config, cond)
  options: dict[str, Any] = {
    'kind': MAPS[config.objective.name],
    'noise_input': build_noise_input(config),
    'sigma_data': config.objective.sigma_data,
    'time_scale': time_scale(config),
  }
  if config.schedule.sigma_min is not None:
    options['sigma_min'] = config.schedule.sigma_min
  network = build_network(config)

  def flow_map(xt, level_t, level_s):
    more = {}
    if network.guidance_input:
      more['guidance_scale'] = jnp.full(len(xt), config.sampling.guidance_scale)
    made = dj.make_flow_map(
      network_fn(config, network),
      params['network'],
      cond=cond | more,
      **options,
    )
    return made(xt, level_t, level_s)

  return flow_map
