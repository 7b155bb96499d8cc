"""Diffusion models of discrete states: grey levels, and bytes of text."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.rules import Row
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.model import Guides, Latents, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.plan import Plan
from diffusion_jax.app.kinds.states import StateFacts, States, StateSampling
from diffusion_jax.core.denoiser import NetworkFn
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.core.transitions import StateProcess
from diffusion_jax.data.sources import Facts
from diffusion_jax.networks import functional
from diffusion_jax.networks.states import StateNetwork
from diffusion_jax.training.objectives import Objective

Array = jax.Array


def make(config: Node, workdir: Path, facts: Facts) -> Model:
  """Makes a diffusion model of states.

  The states are the grey levels of images, or the bytes of texts.
  """
  own = {'states': config.states.make(), 'sampling': config.sampling.make()}
  model = StateDiffusion.of(config, facts, **own)
  latents = Latents(model.encode, model.decode)
  made = diffusion.of_network(model, workdir, model.plan, latents)
  is_masked = Row(
    lambda c, facts: c.states.output == 'logistic' and model.transitions.mask is not None,
    'config.states.output=logistic: it has no masked state: set transitions=uniform, '
    'transitions=gaussian or states.output=logits',
  )
  rules = *made.refusals, is_masked
  return dataclasses.replace(made, objective=model.objective, refusals=rules)


@dataclasses.dataclass(frozen=True, eq=False)
class StateDiffusion(ConfiguredNetwork):
  """A network of states with its process, as a config describes them.

  Metrics measure it; see `likelihoods.StateModel`. `network` is within the
  embedding of states.
  """

  states: States
  sampling: StateSampling

  def encode(self, autoencoder: Params | None, x: Array, keys: Array | None = None) -> Array:
    """Returns the states of examples in [-1, 1], [B, *state_shape]."""
    return dj.states_of(x, self.facts.x.levels)

  def decode(self, autoencoder: Params | None, states: Array) -> Array:
    """Returns examples in [-1, 1]; masked states are grey, 0."""
    return dj.values_of(states, self.facts.x.levels)

  # -- the network ------------------------------------------------------------

  @functools.cached_property
  def transitions(self) -> StateProcess:
    """What the states change to."""
    with jax.ensure_compile_time_eval():  # it is kept when a trace has ended
      return self.config.transitions.make(self._facts)

  @property
  def _facts(self):
    schedule, levels = self.schedule(), self.facts.x.levels
    steps = num_steps_of(schedule)
    return StateFacts(num_values=levels, schedule=schedule, num_steps=steps)

  @property
  def _num_outputs(self):
    is_logistic = self.states.output == 'logistic'
    return 2 if is_logistic else len(self.transitions.prior)

  @property
  def out_channels(self) -> int:
    """The channels of the network within the embedding of states."""
    channels = 1 if self.facts.x.is_text else self.facts.x.shape[-1]
    return channels * self._num_outputs

  def _of_states(self, network):
    sizes = len(self.transitions.prior), self._num_outputs, self.states.features
    return StateNetwork(network, *sizes)

  def apply_fn(self, network: nn.Module) -> NetworkFn:
    """Returns (params, x_t, noise, cond, *, key=None) -> logits."""
    apply = functional.network_fn(self._of_states(network))
    if self.states.output == 'logits':
      return apply
    return dj.logistic_network(apply, self.facts.x.levels)

  def context_code(self, params: Params, rows: dict) -> dict:
    """Returns {}: the network's parameters are within the embedding's."""
    return {}

  def init(self, key: Array) -> Params:
    """Returns the first parameters, {'network': ...}; can be traced."""
    x = jnp.zeros((1, *self.state_shape), int)
    network = self._of_states(self.network)
    variables = network.init(key, x, jnp.zeros(1), self.inputs.example())
    return {'network': variables['params']}

  def objective(self, test: bool = False) -> Objective:
    """Makes the loss; `test`: without dropout."""
    objective = self.config.objective.make(
      {
        **self._facts,
        'process': self.transitions,
        'network': self.trained(test),
        'states': lambda batch: self.encode(None, batch['x']),
      }
    )
    return diffusion.constrained(self, objective)

  # -- sampling ---------------------------------------------------------------

  def state_denoiser(self, params: Params, cond: dict) -> dj.StateDenoiser:
    """Returns the denoiser of the network, without guidance."""
    network = self.given(), params['network'], self.inputs.among(cond)
    return dj.make_state_denoiser(*network, process=self.transitions)

  def guided(
    self, params: Params, cond: dict, scale: Array | float | None = None
  ) -> dj.StateDenoiser:
    """Returns the denoiser with guidance and top_p; see `Plan` for scale."""
    c = self.sampling
    denoise = self.state_denoiser(params, cond)
    given = 1.0 if c.guidance is None else c.guidance.scale
    scale = given if scale is None else scale
    if c.guidance is not None and diffusion.is_guided(scale):
      drop = {'drop': jnp.ones(len(next(iter(cond.values()))), bool)}
      uncond = self.state_denoiser(params, cond | drop)
      denoise = dj.guided_states(denoise, uncond, scale)
    with from_config('sampling.top_p'):
      return dj.top_p(denoise, c.top_p) if c.top_p != 1.0 else denoise

  def plan(self, params: Params | None = None, guides: Guides | None = None) -> Plan:
    """Returns the plan of config.sampling; other runs do not guide it."""
    schedule, c = self.schedule(params), self.sampling
    sampler = c.sampler.make({**self._facts, 'process': self.transitions})
    if c.remasking:
      with from_config('sampling.remasking'):
        sampler = dj.remasked(sampler, self.transitions, c.remasking)
    return Plan(
      schedule,
      diffusion.levels_of(c, schedule),
      sampler,
      lambda cond, scale=None, **_: self.guided(params or {}, cond, scale),
      self.prior_sample,
      dj.keep_known,
    )

  def prior_sample(self, keys: Array, level: dj.NoiseLevel) -> jax.Array:
    """Draws pure noise for each of the keys [B]."""
    shape = *keys.shape, *self.state_shape
    return dj.prior_sample_states(keys, shape, self.transitions)

  def state_bound(
    self, params: Params, keys: Array, x0: Array, cond: dict, num_times: int
  ) -> dict[str, jax.Array]:
    """Returns the bound of images x0; see `metrics.likelihoods.state_elbo`."""
    schedule = self.schedule()
    model = self.state_denoiser(params, cond), self.transitions, schedule
    x0, num_steps = self.encode(None, x0), num_steps_of(schedule)
    if num_steps is not None:
      return dj.state_bound(keys, *model, x0, num_steps=num_steps)
    return {'total': dj.masked_bound(keys, *model, x0, num_times=num_times)}
