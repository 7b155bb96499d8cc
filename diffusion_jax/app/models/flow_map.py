"""Flow maps: models whose network takes a step of any length in one call."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
from jax.typing import ArrayLike

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.fields import MapSampling
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Guides, Model, Plan
from diffusion_jax.app.models import diffusion
from diffusion_jax.app.network import ConfiguredNetwork
from diffusion_jax.data.sources import Facts
from diffusion_jax.sampling.map_sampler import flow_map_sampler


def make(config: Node, workdir: Path, facts: Facts) -> Model:
  """Makes a flow map."""
  noisy = ConfiguredNetwork.of(kinds.FLOW_MAP, config, facts)
  sampling: MapSampling = config.sampling.make()
  refused = functools.partial(problems, noisy, sampling)
  plan = functools.partial(plan_of, noisy, sampling)
  return diffusion.of_network(noisy, workdir, refused, plan)


def flow_map(noisy: ConfiguredNetwork, scale: ArrayLike, params: Params, cond: dict) -> dj.FlowMap:
  """Returns the `FlowMap` of the network; scale: of the guidance."""
  sigma_min = noisy.config.schedule.get('sigma_min')
  own = {} if sigma_min is None else {'sigma_min': sigma_min}
  cond, kind = noisy.inputs.among(cond), noisy.needs.map_kind
  assert kind is not None  # the objectives of `kinds.FLOW_MAP` declare it
  sigma_data = noisy.config.objective.get('sigma_data', 0.5)
  network = dataclasses.replace(noisy.given(), sigma_data=sigma_data)

  def function(xt, level_t, level_s):
    given = cond
    if noisy.inputs.guidance_scale:
      given = cond | {'guidance_scale': jnp.full(len(xt), scale)}
    parts = network, params['network'], given
    return dj.make_flow_map(*parts, kind=kind, **own)(xt, level_t, level_s)

  return function


def plan_of(
  noisy: ConfiguredNetwork,
  c: MapSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, whose step functions are flow maps.

  The levels end at t = 0, even if it has some noise: the network has not
  learned a step from there to clean data.
  """
  schedule = noisy.schedule(params)
  return Plan(
    schedule,
    diffusion.levels_of(c, schedule, end_clean=False),
    flow_map_sampler(schedule(0.0) if c.stochastic else None),
    lambda cond, scale=None, **_: flow_map(
      noisy, c.guidance_scale if scale is None else scale, params or {}, cond
    ),
    noisy.prior_sample,
  )


def problems(noisy: ConfiguredNetwork, c: MapSampling, mode: str) -> Iterator[str]:
  """Yields what a flow map does not allow."""
  yield from noisy.problems(mode)
  yield from _guidance_problems(noisy, c)
  yield from _time_problems(noisy)
  one_way = noisy.needs.map_kind != 'average_velocity' and not c.stochastic
  if one_way and (c.num_steps > 1 or c.respacing):
    yield (
      f'config.sampling.num_steps={c.num_steps}: a consistency function only '
      'reaches the clean end: set it to 1, or sampling.stochastic=True'
    )
  if mode != 'edit':
    return
  edit = noisy.config.edit
  task, method = edit.constructor, edit.at('method.name')
  observes = task.observes and noisy.conditioning.image is None
  if observes or task.inverts or method == 'reconstruction':
    yield (
      f'config.edit={edit.name} needs a denoiser, and this run is a flow '
      'map: it can do inpaint by repaint or replace, and sdedit'
    )


def _guidance_problems(noisy, c):
  section, scale = noisy.config.objective.get('guidance'), c.guidance_scale
  if section is not None and not noisy.conditioning.dropout:
    yield (
      'config.objective.guidance also trains the network without a '
      'condition: set conditioning.dropout, 0.1 for instance'
    )
  if section is None or not noisy.needs.guidance_scale:
    if scale != 1.0:
      yield (
        f'config.sampling.guidance_scale={scale}: a flow map has the guidance '
        'scale it was trained with, which is 1 here; '
        'objective.guidance=power_law trains several scales'
      )
  elif not 1.0 <= scale <= section.high:
    yield (
      f'config.sampling.guidance_scale={scale} is outside the scales of the '
      f'training, 1 to {section.high}'
    )


def _time_problems(noisy):
  objective, section = noisy.config.objective, noisy.config.noise_input
  name, is_time = objective.name, section.constructor is dj.time_input
  if noisy.inputs.elapsed and not is_time:
    yield (
      f'config.noise_input={section.name}: the network of objective={name} '
      'gets t and t - s: set it to time'
    )
  if not noisy.needs.forward_mode:
    return
  is_edm = noisy.process.noise_input is dj.edm_input
  if not (section.scale <= 10.0 if is_time else is_edm):
    yield (
      f'config.noise_input: the loss of objective={name} contains the '
      'derivative in t, which an input that goes to 1000 makes 1000 times '
      'too large: set noise_input=time and noise_input.scale=1'
    )
  if noisy.config.network.get('attention') == 'cudnn':
    yield (
      'config.network.attention=cudnn has no forward-mode derivative, which '
      f'objective={name} needs: set it to auto or xla'
    )
