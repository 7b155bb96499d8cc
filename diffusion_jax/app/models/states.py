"""Diffusion models of discrete states: grey levels, and bytes of text."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.app import images
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.fields import States
from diffusion_jax.app.config.kinds import StateFacts
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.constructors import num_steps_of
from diffusion_jax.app.model import Latents, Params
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.core.denoiser import NetworkFn
from diffusion_jax.core.transitions import StateProcess
from diffusion_jax.data.text_files import decode_bytes, draw_bytes, printable
from diffusion_jax.networks.states import StateNetwork
from diffusion_jax.runtime.files import write_text

Array = jax.Array
_PRINTED = 4  # texts


class StateDiffusion(Diffusion):
  """A diffusion model of states, as a config describes it; see `Model`.

  The states of an image are its grey levels. Images of one row and one channel
  are sequences of bytes, texts.
  """

  schema = kinds.STATES

  def __init__(self, config: Node, workdir: str | Path, facts: images.Facts):
    super().__init__(config, workdir, facts)
    self.states: States = config.states.make()
    self.is_text = facts.image_shape[0] == facts.image_shape[2] == 1
    if self.is_text:
      self.state_shape = facts.image_shape[1:2]
    self.latents = Latents(self.encode, self.decode, self._shaped)

  def encode(
    self, autoencoder: Params | None, x: Array, keys: Array | None = None
  ) -> Array:
    """Returns the states of images in [-1, 1], [B, *state_shape]."""
    return self._shaped(dj.states_of(x, self.facts.num_levels), len(x))

  def decode(self, autoencoder: Params | None, states: Array) -> Array:
    """Returns images in [-1, 1]; masked states are grey, 0."""
    x = dj.values_of(states, self.facts.num_levels)
    return x.reshape(len(states), *self.facts.image_shape)

  def _shaped(self, x, *batch):
    # Texts have neither rows nor channels; a mask of images has one channel.
    return x.reshape(*batch, *self.state_shape) if self.is_text else x

  @functools.cached_property
  def process(self) -> StateProcess:
    """What the states change to."""
    with jax.ensure_compile_time_eval():  # it is kept when a trace has ended
      return self.config.transitions.make(self._state_facts)

  @property
  def _state_facts(self):
    schedule = self.schedule()
    num_steps = num_steps_of(schedule)
    return StateFacts(
      num_values=self.facts.num_levels, schedule=schedule, num_steps=num_steps
    )

  @property
  def _num_outputs(self):
    is_logistic = self.states.output == 'logistic'
    return 2 if is_logistic else len(self.process.prior)

  def network_facts(self) -> Mapping[str, object]:
    """Returns the facts of the network within the embedding of states."""
    channels = self.facts.image_shape[-1] * self._num_outputs
    return {**super().network_facts(), 'out_channels': channels}

  def _of_states(self, network):
    sizes = len(self.process.prior), self._num_outputs, self.states.features
    return StateNetwork(network, *sizes)

  def network_fn(self, network: nn.Module | None = None) -> NetworkFn:
    """Returns (params, x_t, noise, cond, *, key=None) -> logits."""
    network = self.network if network is None else network
    network_fn = super().network_fn(self._of_states(network))
    if self.states.output == 'logits':
      return network_fn
    return dj.logistic_network(network_fn, self.facts.num_levels)

  def init(self, key: Array) -> Params:
    """Returns the first parameters, {'network': ...}; can be traced."""
    x = jnp.zeros((1, *self.state_shape), int)
    network = self._of_states(self.network)
    variables = network.init(key, x, jnp.zeros(1), self.inputs.example())
    return {'network': variables['params']}

  def objective_facts(self, test: bool = False) -> StateFacts:
    """Returns the parameters of the objective that are no fields."""
    return {
      **self._state_facts,
      'process': self.process,
      'network': self.trained_network(test),
      'states': lambda batch: self.encode(None, batch['image']),
    }

  def state_denoiser(self, params: Params, cond: dict) -> dj.StateDenoiser:
    """Returns the denoiser of the network, without guidance."""
    return dj.make_state_denoiser(
      self.given_network(),
      params['network'],
      self.given_cond(cond),
      process=self.process,
    )

  def step_function(
    self, params: Params, cond: dict, trained: dj.Schedule, *guidance: object
  ) -> Callable:
    """Returns the denoiser that the sampler calls at each step."""
    c = self.sampling
    denoise = self.state_denoiser(params, cond)
    if c.guidance is not None and c.guidance.scale != 1.0:
      drop = {'drop': jnp.ones(len(next(iter(cond.values()))), bool)}
      uncond = self.state_denoiser(params, cond | drop)
      denoise = dj.guided_states(denoise, uncond, c.guidance.scale)
    with from_config('sampling.top_p'):
      return dj.top_p(denoise, c.top_p) if c.top_p != 1.0 else denoise

  def levels_and_sampler(
    self, params: Params | None = None
  ) -> tuple[dj.Schedule, dj.NoiseLevel, dj.Sampler]:
    """Returns (schedule, levels [N + 1], sampler)."""
    schedule, c = self.schedule(params), self.sampling
    facts = {**self._state_facts, 'process': self.process}
    sampler = c.sampler.make(facts)
    if c.remasking:
      with from_config('sampling.remasking'):
        sampler = dj.remasked(sampler, self.process, c.remasking)
    return schedule, self.levels(schedule), sampler

  def prior_sample(self, keys: Array, level: dj.NoiseLevel) -> jax.Array:
    """Draws pure noise for each of the keys [B]."""
    shape = *keys.shape, *self.state_shape
    return dj.prior_sample_states(keys, shape, self.process)

  def replace_known(
    self, sampler: dj.Sampler, known: jax.Array, mask: jax.Array
  ) -> dj.Sampler:
    """Returns the sampler that keeps known elements."""
    return dj.keep_known(sampler, known, mask)

  def state_bound(
    self, params: Params, keys: Array, x0: Array, cond: dict, num_times: int
  ) -> dict[str, jax.Array]:
    """Returns the bound of images x0; see `metrics.likelihoods.state_elbo`."""
    model = self.state_denoiser(params, cond), self.process, self.schedule()
    x0, num_steps = self.encode(None, x0), self._state_facts['num_steps']
    if num_steps is not None:
      return dj.state_bound(keys, *model, x0, num_steps=num_steps)
    return {'total': dj.masked_bound(keys, *model, x0, num_times=num_times)}

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what states do not allow."""
    yield from super().problems(mode)
    if self.states.output == 'logistic' and self.process.mask is not None:
      yield (
        'config.states.output=logistic: it has no masked state: set '
        'transitions=uniform, transitions=gaussian or states.output=logits'
      )
    if mode == 'edit' and self.is_text:
      yield '--mode=edit needs pictures, and this run has texts'

  def pictures(self, images: np.ndarray) -> np.ndarray:
    """Returns how images are drawn: bytes as letters."""
    if not self.is_text:
      return images
    return draw_bytes(images.reshape(len(images), -1))

  def write_more(
    self, params: Params, path: Path, samples: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Writes texts into <name>.txt, and prints the first ones."""
    if self.is_text:
      texts = [f'--- {i}\n{x}\n' for i, x in enumerate(decode_bytes(samples))]
      print(printable(''.join(texts[:_PRINTED])), end='')
      path = path.with_suffix('.txt')
      write_text(path, ''.join(texts))
      print(f'wrote {path}: {len(texts)} texts')
    return {}
