"""Flow maps: models whose network takes a step of any length in one call."""

from typing import Any

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.app import schemas
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.app.models.model import Params
from diffusion_jax.errors import UserError
from diffusion_jax.sampling.map_sampler import flow_map_sampler

# The kind of `dj.make_flow_map` that each objective trains.
MAP_KINDS = {
  'mean_flow': 'average_velocity',
  'shortcut': 'average_velocity',
  'consistency_training': 'consistency',
  'consistency_distillation': 'consistency',
  'continuous_consistency': 'trigflow',
}

# Objectives that differentiate the network in time, by forward mode.
FORWARD_MODE = 'mean_flow', 'continuous_consistency'


class FlowMap(Diffusion):
  """A flow map; see `Model`."""

  schema = schemas.FLOW_MAP

  @property
  def map_kind(self) -> str:
    """The kind of `dj.make_flow_map` that the network is."""
    return MAP_KINDS[self.config.objective.name]

  @property
  def takes_elapsed(self) -> bool:
    """Whether the length of a step is an input of the network."""
    return self.map_kind == 'average_velocity'

  @property
  def takes_guidance(self) -> bool:
    """Whether the guidance scale is an input of the network."""
    return self._trained_guidance == 'power_law'

  @property
  def _trained_guidance(self):
    section = self.config.objective.get('guidance')
    return None if section is None else section.name

  def flow_map(self, params: Params, cond: dict) -> dj.FlowMap:
    """Returns the `FlowMap` of the network."""
    options: dict[str, Any] = {
      'kind': self.map_kind,
      'noise_input': self.noise_input,
      'sigma_data': self.config.objective.get('sigma_data', 0.5),
      'time_scale': self.time_scale,
    }
    sigma_min = self.config.schedule.get('sigma_min')
    if sigma_min is not None:
      options['sigma_min'] = sigma_min
    cond = self.given_cond(cond)

    def flow_map(xt, level_t, level_s):
      more = {}
      if self.takes_guidance:
        scale = self.sampling.guidance_scale
        more['guidance_scale'] = jnp.full(len(xt), scale)
      function = dj.make_flow_map(
        self.network_fn(), params['network'], cond=cond | more, **options
      )
      return function(xt, level_t, level_s)

    return flow_map

  def step_function(
    self, params: Params, cond: dict, trained: dj.Schedule, **options: Any
  ) -> Any:
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

  def check(self, mode: str) -> None:
    """Raises UserError for a config that flow maps do not allow."""
    super().check(mode)
    self._check_time()
    c, edit = self.sampling, self.config.edit
    one_way = self.map_kind != 'average_velocity' and not c.stochastic
    if one_way and (c.num_steps > 1 or c.respacing):
      raise UserError(
        f'config.sampling.num_steps={c.num_steps}: a consistency function only '
        'reaches the clean end: set it to 1, or sampling.stochastic=True'
      )
    observed = edit.name in ('superres', 'colorize')
    by_denoiser = observed and self.conditioning.image is None
    by_denoiser |= edit.get('method') == 'reconstruction'
    if mode == 'edit' and (by_denoiser or edit.name == 'interpolate'):
      raise UserError(
        f'config.edit={edit.name} needs a denoiser, and this run is a flow '
        'map: it can do inpaint by repaint or replace, and sdedit'
      )

  def _check_time(self):
    name, noise_input = self.config.objective.name, self.config.noise_input.name
    if self.takes_elapsed and noise_input != 'time':
      raise UserError(
        f'config.noise_input={noise_input}: the network of objective={name} '
        'gets t and t - s: set it to time'
      )
    if name not in FORWARD_MODE:
      return
    if self.time_scale > 10.0 or noise_input not in ('time', 'edm'):
      raise UserError(
        f'config.noise_input: the loss of objective={name} contains the '
        'derivative in t, which an input that goes to 1000 makes 1000 times '
        'too large: set noise_input=time and noise_input.scale=1'
      )
    if self.config.network.get('attention') == 'cudnn':
      raise UserError(
        'config.network.attention=cudnn has no forward-mode derivative, which '
        f'objective={name} needs: set it to xla'
      )

  def _check_guidance(self):
    c, kind = self.config.objective, self._trained_guidance
    scale = self.sampling.guidance_scale
    if kind is not None and not self.conditioning.dropout:
      raise UserError(
        'config.objective.guidance also trains the network without a '
        'condition: set conditioning.dropout, 0.1 for instance'
      )
    if kind != 'power_law' and scale != 1.0:
      raise UserError(
        f'config.sampling.guidance_scale={scale}: a flow map has the guidance '
        'scale it was trained with, which is 1 here; '
        'objective.guidance=power_law trains several scales'
      )
    if kind == 'power_law' and not 1.0 <= scale <= c.guidance.high:
      raise UserError(
        f'config.sampling.guidance_scale={scale} is outside the scales of the '
        f'training, 1 to {c.guidance.high}'
      )
