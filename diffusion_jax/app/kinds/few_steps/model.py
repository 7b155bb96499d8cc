"""Flow maps: models whose network takes a step of any length in one call."""

import dataclasses
import functools

import jax.numpy as jnp
from jax.typing import ArrayLike

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.few_steps import MapSampling
from diffusion_jax.app.kinds.model import Guides, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.data.spec import Facts
from diffusion_jax.few_steps.sampler import flow_map_sampler
from diffusion_jax.runtime.run_folder import RunFolder


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a flow map."""
  noisy = ConfiguredNetwork.of(config, facts)
  plan = functools.partial(plan_of, noisy, config.sampling.make())
  return diffusion.of_network(noisy, run, plan)


def flow_map(noisy: ConfiguredNetwork, scale: ArrayLike, params: Params, cond: dict) -> dj.FlowMap:
  """Returns the `FlowMap` of the network; scale: of the guidance."""
  sigma_min = noisy.config.schedule.get('sigma_min')
  lowest = {} if sigma_min is None else {'sigma_min': sigma_min}
  cond, kind = noisy.inputs.among(cond), noisy.needs.map_kind
  assert kind is not None  # the objectives of `few_steps.SCHEMA` declare it
  sigma_data = noisy.config.objective.get('sigma_data', 0.5)
  network = dataclasses.replace(noisy.given(), sigma_data=sigma_data)

  def function(xt, level_t, level_s):
    scales = {}
    if noisy.inputs.guidance_scale:
      scales = {'guidance_scale': jnp.full(len(xt), scale)}
    map_fn = dj.make_flow_map(network, params['network'], cond | scales, kind=kind, **lowest)
    return map_fn(xt, level_t, level_s)

  return function


def plan_of(
  noisy: ConfiguredNetwork,
  c: MapSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, whose step functions are flow maps.

  The levels end at t = 0, even if it has some noise: the network never
  learned a step from there to clean data.
  """
  schedule = noisy.schedule(params)
  return Plan(
    schedule,
    diffusion.levels_of(c.grid, schedule, end_clean=False),
    flow_map_sampler(schedule(0.0) if c.stochastic else None),
    lambda cond, scale=None, **_: flow_map(
      noisy, c.guidance_scale if scale is None else scale, params or {}, cond
    ),
    noisy.prior_sample,
  )
