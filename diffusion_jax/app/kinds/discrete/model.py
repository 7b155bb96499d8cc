"""Diffusion models of discrete states: grey levels, and bytes of text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.discrete import StateEmbedding, StateFacts, StateSampling
from diffusion_jax.app.kinds.model import Guides, Latents, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.app.kinds.sampling import Plan, ordered
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.data.spec import Facts
from diffusion_jax.discrete.network import StateNetwork
from diffusion_jax.discrete.transitions import StateProcess
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import order_gap
from diffusion_jax.networks import functional
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Objective

Array = jax.Array


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a diffusion model of states.

  The states are the grey levels of images, or the bytes of texts.
  """
  noisy, sampling = ConfiguredNetwork.of(config, facts), config.sampling.make()
  c: StateEmbedding = config.states.make()
  schedule, levels = noisy.schedule(), facts.x.levels
  own = StateFacts(num_values=levels, schedule=schedule, num_steps=num_steps_of(schedule))
  if why := config.transitions.declared.refuses(config, facts):  # Matrices may be large.
    raise UserError(f'config.transitions={config.transitions.name}: {why}')
  process = config.transitions.make(own)
  own['process'] = process
  num_states, is_logistic = len(process.prior), c.output == 'logistic'
  outputs = 2 if is_logistic else num_states

  def of_states(network):
    return StateNetwork(network, num_states, outputs, c.features)

  def apply_fn(network):
    apply = functional.network_fn(of_states(network))
    return dj.logistic_network(apply, levels) if is_logistic else apply

  def init(key):
    states, cond = jnp.zeros((1, *noisy.state_shape), int), noisy.inputs.example()
    noise = jnp.zeros(states.shape[: noisy.level_axes])
    return {'network': of_states(noisy.network).init(key, states, noise, cond)['params']}

  # The network is within the embedding of states.
  channels = outputs * (1 if len(facts.x.shape) == 1 else facts.x.shape[-1])
  noisy = dataclasses.replace(noisy, channels=channels, apply_fn=apply_fn)
  model = StateDiffusion(noisy, process, own)
  is_masked = Row(
    lambda c, facts: is_logistic and process.mask is not None,
    'config.states.output=logistic: it has no masked state: set transitions=uniform, '
    'transitions=gaussian or states.output=logits',
  )
  is_ordered = Row(
    lambda c, facts: facts.x.tokens and is_logistic,
    'config.states.output=logistic is a distribution of levels in their order, which tokens do not '
    'have: set states.output=logits',
  )
  latents = Latents(model.encode, model.decode)
  plan = functools.partial(plan_of, model, sampling)
  made = diffusion.of_network(noisy, run, plan, latents)
  return dataclasses.replace(
    made,
    init=init,
    objective=model.objective,
    measured=model,
    refusals=(*made.refusals, is_masked, is_ordered),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class StateDiffusion:
  """A network of states, and what these change to, process.

  Metrics measure it; see `state_bits.StateModel`. given: what transitions,
  objectives and samplers get.
  """

  noisy: ConfiguredNetwork
  process: StateProcess
  given: StateFacts

  @property
  def facts(self) -> Facts:
    """The facts of the images or texts."""
    return self.noisy.facts

  @property
  def num_steps(self) -> int | None:
    """The steps of the schedule; None in continuous time."""
    return self.given['num_steps']

  def encode(self, autoencoder: Params | None, x: Array, keys: Array | None = None) -> Array:
    """Returns the states of examples in [-1, 1], [B, *state_shape]."""
    return dj.states_of(x, self.facts.x.levels)

  def decode(self, autoencoder: Params | None, states: Array) -> Array:
    """Returns examples in [-1, 1]; masked states are grey, 0."""
    return dj.values_of(states, self.facts.x.levels)

  def objective(self, test: bool = False) -> Objective:
    """Makes the loss; `test`: of a held-out loss, without dropout."""
    own = {'network': self.noisy.trained(test), 'states': lambda b: self.encode(None, b['x'])}
    objective = self.noisy.config.objective
    made = (objective.as_held_out() if test else objective).make(self.given | own)
    return diffusion.constrained(self.noisy, made)

  def denoiser(self, params: Params, cond: dict) -> dj.StateDenoiser:
    """Returns the denoiser of the network, without guidance."""
    inputs = self.noisy.inputs.among(cond)
    return dj.make_state_denoiser(
      self.noisy.given(), params['network'], inputs, process=self.process
    )

  def state_bound(
    self,
    params: Params,
    keys: Array,
    x0: Array,
    cond: dict,
    num_times: int,
    order: order_gap.ElementOrder = 'together',
  ) -> dict[str, jax.Array]:
    """Returns the bound of images x0; see `metrics.state_bits.state_elbo`."""
    denoise, process, schedule = self.denoiser(params, cond), self.process, self.given['schedule']
    x0 = self.encode(None, x0)
    if self.num_steps is not None:
      levels = self.path(dj.level_grid(schedule, self.num_steps, 'steps'), order)
      return dj.state_bound(keys, denoise, process, levels, x0)
    levels = self.path(dj.level_grid(schedule, 1), order)
    options = {'num_times': num_times, 'levels': levels}
    if isinstance(process, dj.ReplacementProcess) and process.mask is None:
      nats = dj.uniform_bound(keys, denoise, process, schedule, x0, **options)
    else:
      nats = dj.masked_bound(keys, denoise, process, schedule, x0, **options)
    return {'total': nats}

  def path(self, levels: dj.NoiseLevel, order: order_gap.ElementOrder) -> dj.NoiseLevel:
    """Returns the path of elements, or of their blocks that share a level, in an order."""
    if order == order_gap.TOGETHER:
      return levels
    if not self.noisy.levels_differ:
      raise ValueError(
        f'order={order}: the network has one level for all that is noisy in an example, so that '
        'elements have no order: train one with objective.levels=independent or in_turn, or take '
        'order=together'
      )
    place = np.arange(self.noisy.state_shape[0]) // self.noisy.shared
    return dj.staggered(levels, (len(levels.t) - 1) * order_gap.ORDERS[order](place))


def guided(
  model: StateDiffusion,
  c: StateSampling,
  params: Params,
  cond: dict,
  scale: Array | float | None = None,
) -> dj.StateDenoiser:
  """Returns the denoiser with guidance and top_p; see `Plan` for scale."""
  denoise = model.denoiser(params, cond)
  if c.guidance is not None:
    scale = c.guidance.scale if scale is None else scale
    if diffusion.is_guided(scale):
      drop = {'drop': jnp.ones(len(next(iter(cond.values()))), bool)}
      denoise = dj.guided_states(denoise, model.denoiser(params, cond | drop), scale)
  with from_config('sampling.top_p'):
    return dj.top_p(denoise, c.top_p) if c.top_p != 1.0 else denoise


def plan_of(
  model: StateDiffusion,
  c: StateSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling; other runs do not guide it."""
  schedule, process = model.given['schedule'], model.process
  sampler = c.sampler.make(model.given)
  if c.remasking:
    with from_config('sampling.remasking'):
      sampler = dj.remasked(sampler, process, c.remasking)

  def prior_sample(keys, level):
    return dj.prior_sample_states(keys, (*keys.shape, *model.noisy.state_shape), process)

  levels = diffusion.levels_of(c.grid, schedule)
  with from_config('sampling.order'):
    levels = ordered(levels, c.order, model.noisy.state_shape[0], model.noisy.shared)
  return Plan(
    schedule,
    levels,
    sampler,
    lambda cond, scale=None, **_: guided(model, c, params or {}, cond, scale),
    prior_sample,
    dj.keep_known,
  )
