"""Flow maps: models whose network takes a step of any length in one call."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.app.config import kinds
from diffusion_jax.app.model import Params
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.core.flow_map import MapKind
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.sampling.map_sampler import flow_map_sampler


class FlowMap(Diffusion):
  """A flow map; see `Model`."""

  schema = kinds.FLOW_MAP

  @functools.cached_property
  def network(self) -> nn.Module:
    """The network, with XLA's attention if the loss needs forward mode."""
    network = super().network
    automatic = self.config.network.get('attention') == 'auto'
    if automatic and self.needs.forward_mode:
      return network.clone(attention='xla')
    return network

  @property
  def map_kind(self) -> MapKind:
    """The kind of `dj.make_flow_map` that the network is."""
    kind = self.needs.map_kind
    assert kind is not None  # the objectives of `kinds.FLOW_MAP` declare it
    return kind

  @functools.cached_property
  def inputs(self) -> Inputs:
    """The inputs of the network, with the length and guidance of a step."""
    return dataclasses.replace(
      super().inputs,
      elapsed=self.map_kind == 'average_velocity',
      guidance_scale=self._trained_guidance == 'power_law',
    )

  @property
  def _trained_guidance(self):
    section = self.config.objective.get('guidance')
    return None if section is None else section.name

  def flow_map(self, params: Params, cond: dict) -> dj.FlowMap:
    """Returns the `FlowMap` of the network."""
    sigma_min = self.config.schedule.get('sigma_min')
    own = {} if sigma_min is None else {'sigma_min': sigma_min}
    cond = self.given_cond(cond)
    network = dataclasses.replace(
      self.given_network(),
      sigma_data=self.config.objective.get('sigma_data', 0.5),
    )

    def flow_map(xt, level_t, level_s):
      more = {}
      if self.inputs.guidance_scale:
        scale = self.sampling.guidance_scale
        more['guidance_scale'] = jnp.full(len(xt), scale)
      function = dj.make_flow_map(
        network, params['network'], cond | more, kind=self.map_kind, **own
      )
      return function(xt, level_t, level_s)

    return flow_map

  def step_function(
    self, params: Params, cond: dict, trained: dj.Schedule, *guidance: object
  ) -> Callable:
    """Returns the flow map, which the sampler calls at each step."""
    return self.flow_map(params, cond)

  def levels_and_sampler(
    self, params: Params | None = None
  ) -> tuple[dj.Schedule, dj.NoiseLevel, dj.Sampler]:
    """Returns (schedule, levels [N + 1], sampler).

    The levels end at t = 0, even if it has some noise: the network has not
    learned a step from there to clean data.
    """
    schedule = self.schedule(params)
    levels = self.levels(schedule, end_clean=False)
    end = schedule(0.0) if self.sampling.stochastic else None
    return schedule, levels, flow_map_sampler(end)

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what a flow map does not allow."""
    yield from super().problems(mode)
    yield from self._time_problems()
    c, edit = self.sampling, self.config.edit
    one_way = self.map_kind != 'average_velocity' and not c.stochastic
    if one_way and (c.num_steps > 1 or c.respacing):
      yield (
        f'config.sampling.num_steps={c.num_steps}: a consistency function only '
        'reaches the clean end: set it to 1, or sampling.stochastic=True'
      )
    if mode != 'edit':
      return
    task, method = edit.constructor, edit.get('method')
    observes = task.observes and self.conditioning.image is None
    if observes or task.inverts or method == 'reconstruction':
      yield (
        f'config.edit={edit.name} needs a denoiser, and this run is a flow '
        'map: it can do inpaint by repaint or replace, and sdedit'
      )

  def _time_problems(self):
    name, noise_input = self.config.objective.name, self.config.noise_input.name
    if self.inputs.elapsed and noise_input != 'time':
      yield (
        f'config.noise_input={noise_input}: the network of objective={name} '
        'gets t and t - s: set it to time'
      )
    if not self.needs.forward_mode:
      return
    if self.time_scale > 10.0 or noise_input not in ('time', 'edm'):
      yield (
        f'config.noise_input: the loss of objective={name} contains the '
        'derivative in t, which an input that goes to 1000 makes 1000 times '
        'too large: set noise_input=time and noise_input.scale=1'
      )
    if self.config.network.get('attention') == 'cudnn':
      yield (
        'config.network.attention=cudnn has no forward-mode derivative, which '
        f'objective={name} needs: set it to auto or xla'
      )

  def _guidance_problems(self):
    c, kind = self.config.objective, self._trained_guidance
    scale = self.sampling.guidance_scale
    if kind is not None and not self.conditioning.dropout:
      yield (
        'config.objective.guidance also trains the network without a '
        'condition: set conditioning.dropout, 0.1 for instance'
      )
    if kind != 'power_law' and scale != 1.0:
      yield (
        f'config.sampling.guidance_scale={scale}: a flow map has the guidance '
        'scale it was trained with, which is 1 here; '
        'objective.guidance=power_law trains several scales'
      )
    if kind == 'power_law' and not 1.0 <= scale <= c.guidance.high:
      yield (
        f'config.sampling.guidance_scale={scale} is outside the scales of the '
        f'training, 1 to {c.guidance.high}'
      )
