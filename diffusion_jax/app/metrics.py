"""Metrics of real images in bits: bounds, likelihoods, histograms."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.runtime.files import write_json
from diffusion_jax.app.run.results import write_bits
from diffusion_jax.core import vae as bound
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.normal import kl
from diffusion_jax.metrics import bits, plots

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Elbo:
  """The variational bound, term by term, in bits per dimension.

  decoder: p(x_0 | z), as `dj.reconstruction_nll` (gaussian, tanh) or
  `dj.categorical_nll`. num_steps: T, by default of the schedule, or else 1000;
  random_steps: so many of them, drawn for each image; 0: all.
  """

  decoder: Literal['gaussian', 'tanh', 'categorical'] = 'gaussian'
  num_steps: int = 0
  random_steps: int = 0

  higher_is_better = False

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> the terms, [B] and [B, T]."""
    levels = model.facts.num_levels
    nll = functools.partial(dj.reconstruction_nll, num_levels=levels)
    decoder = {
      'gaussian': nll,
      'tanh': functools.partial(nll, cdf='tanh'),
      'categorical': lambda x0, last: dj.categorical_nll(
        x0, last.z, last.level, levels
      ),
    }[self.decoder]
    variance = model.config.sampling.sampler.get('variance', 'fixed_small')

    def measure(params, keys, x0, cond):
      return dj.variational_bound(
        keys,
        model.denoiser(params, cond),
        model.schedule(params),
        x0,
        num_steps=self.num_steps or model.schedule_steps,
        variance=variance,
        steps=self.random_steps or None,
        decoder=decoder,
      )

    return measure

  def report(self, arrays: Arrays, model: Any, out: Path) -> None:
    """Writes the bound, its terms and their plots."""
    shape = model.facts.image_shape
    in_bits = {
      name: np.asarray(dj.bits_per_dim(arrays[name], shape))
      for name in ('total', 'prior', 'reconstruction', 'diffusion')
    }
    count = len(in_bits['total'])
    prior = float(in_bits['prior'].mean())
    decoder = float(in_bits['reconstruction'].mean())
    steps = in_bits['diffusion'].sum(axis=0) / count  # L_0 of z_0, L_1, ...
    terms = np.concatenate([[steps[0] + decoder], steps[1:]])
    errors = arrays['squared_error'].sum(axis=0) / (count * np.prod(shape))
    rate, distortion = bits.rate_distortion(prior, terms, errors)
    more = {
      'prior': prior,
      'diffusion': float(steps.sum()),
      'reconstruction': decoder,
      'terms': terms.tolist(),
      'rate': rate.tolist(),
      'distortion': distortion.tolist(),
    }
    write_bits('elbo', in_bits['total'], model.config.evaluation.split, out, more)
    print(
      f'  L_T {prior:.4f} + L_1..L_T-1 {steps.sum():.4f} + L_0 {decoder:.4f}; '
      f'{out}/*.png'
    )
    plots.plot_terms(out / 'terms.png', terms)
    plots.plot_rate_distortion(out / 'rate_distortion.png', rate, distortion)


@dataclasses.dataclass(frozen=True)
class Ode:
  """The log-likelihood by the probability-flow ODE, in bits per dimension.

  t_min: the time where the ODE begins (a network of T steps is trained down to
  1/T); tolerance: of the solver; num_probes: of Hutchinson's estimate;
  dequantization: uniform in the bin of a grey level, or Gaussian, the noise of
  t_min.
  """

  t_min: float = 1e-3
  tolerance: float = 1e-4
  num_probes: int = 1
  dequantization: Literal['uniform', 'gaussian'] = 'uniform'

  higher_is_better = False

  def __post_init__(self):
    if not 0.0 <= self.t_min < 1.0:
      raise ValueError(f't_min={self.t_min} is not in [0, 1)')
    if not 0.0 < self.tolerance < 1.0:
      raise ValueError(f'tolerance={self.tolerance} is not in (0, 1)')
    if self.num_probes < 1:
      raise ValueError(f'num_probes={self.num_probes} is not positive')

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> {'log_p': [B]}, in nats."""
    # A clipped field would have kinks that no solver can pass.
    model = model.unclipped()
    levels = model.facts.num_levels

    def measure(params, keys, x0, cond):
      noise_keys, probe_keys = split_key(keys, 2)
      schedule = model.schedule(params)
      x, log_weight = dj.dequantize(noise_keys, x0, levels), 0.0
      if self.dequantization == 'gaussian':
        level = schedule(self.t_min)
        x, log_weight = dj.gaussian_dequantize(noise_keys, x0, level, levels)
      log_p, _ = dj.log_likelihood(
        probe_keys,
        model.denoiser(params, cond),
        schedule,
        x,
        t_min=self.t_min,
        rtol=self.tolerance,
        atol=self.tolerance,
        num_probes=self.num_probes,
      )
      return {'log_p': log_p + log_weight}

    return measure

  def report(self, arrays: Arrays, model: Any, out: Path) -> None:
    """Writes the likelihood."""
    c, log_p = model.facts, arrays['log_p']
    if self.dequantization == 'uniform':
      values = dj.ode_bits_per_dim(log_p, c.image_shape, c.num_levels)
    else:
      values = dj.bits_per_dim(-log_p, c.image_shape)
    write_bits('ode', np.asarray(values), model.config.evaluation.split, out)


@dataclasses.dataclass(frozen=True)
class IndependentPixels:
  """The code length by histograms of the training images' pixels."""

  higher_is_better = False

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> {'nll': [B]}, in nats."""
    source = model.source('train')
    every = range(0, len(source), 1000)
    log_prob = bits.pixel_histogram(
      (source.read(np.arange(i, min(i + 1000, len(source))))[0] for i in every),
      model.facts.num_levels,
    )
    log_prob = jnp.asarray(log_prob)
    return lambda params, keys, x0, cond: {
      'nll': bits.independent_pixels_nll(x0, log_prob)
    }

  def report(self, arrays: Arrays, model: Any, out: Path) -> None:
    """Writes the code length."""
    values = dj.bits_per_dim(arrays['nll'], model.facts.image_shape)
    write_bits('independent_pixels', np.asarray(values), model.config.evaluation.split, out)


@dataclasses.dataclass(frozen=True)
class VaeElbo:
  """The bound of a VAE and its terms, by one draw of z for each image."""

  higher_is_better = False

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> the terms in nats, [B] and [B, T]."""

    def measure(params, keys, x0, cond):
      params = params['network']
      if model.num_latents == 1:
        q = model.encode(params, 1, x0)
        terms = bound.vae_elbo(keys, x0, q, model.log_likelihood_of(params))
        groups = kl(q, bound.STANDARD)
        groups = jnp.sum(groups, axis=tuple(range(1, groups.ndim - 1)))
      else:
        terms = model.chain_elbo(params, keys, x0)
        groups = terms['log_ratio']
      return {
        'total': -terms['elbo'],
        'reconstruction': -terms['reconstruction'],
        'kl': groups,
      }

    return measure

  def report(self, arrays: dict, model: Any, out: Path) -> None:
    """Writes the bound and its terms."""
    shape = model.facts.image_shape
    total, decoder = (
      np.asarray(dj.bits_per_dim(arrays[name], shape))
      for name in ('total', 'reconstruction')
    )
    nats = arrays['kl'].sum(axis=0) / len(total)  # of each channel, or layer
    parts = np.asarray(dj.bits_per_dim(nats, shape))
    reconstruction, divergence = float(decoder.mean()), float(parts.sum())
    more = {
      'reconstruction': reconstruction,
      'kl': divergence,
      'kl_parts': parts.tolist(),
    }
    write_bits('elbo', total, model.config.evaluation.split, out, more)
    if model.num_latents > 1:
      layers = ', '.join(f'{x:.4f}' for x in parts)
      note = f'of z_1..z_{len(parts)}: {layers}'
    else:
      used = int((nats > 0.01).sum())
      note = f'{used} of {len(nats)} channels of z carry more than 0.01 nats'
    print(f'  reconstruction {reconstruction:.4f} + KL {divergence:.4f}; {note}')


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted:
  """log p(x) by num_samples draws of z for each image (Burda et al. 2016)."""

  num_samples: int = 100

  higher_is_better = False

  def __post_init__(self):
    if self.num_samples < 1:
      raise ValueError(f'num_samples={self.num_samples} is not positive')

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> {'log_p': [B]}, in nats."""

    def measure(params, keys, x0, cond):
      params = params['network']
      if model.num_latents == 1:
        q, decode = model.encode(params, 1, x0), model.log_likelihood_of(params)
        weight = functools.partial(
          bound.vae_log_weight, x=x0, q=q, decode=decode
        )
      else:

        def weight(key):
          return model.chain_elbo(params, key, x0)['elbo']

      log_p = bound.importance_weighted_elbo(keys, weight, self.num_samples)
      return {'log_p': log_p}

    return measure

  def report(self, arrays: dict, model: Any, out: Path) -> None:
    """Writes the bound."""
    values = dj.bits_per_dim(-arrays['log_p'], model.facts.image_shape)
    more = {'num_samples': self.num_samples}
    write_bits('iw', np.asarray(values), model.config.evaluation.split, out, more)


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """The share of images whose class is found, at several noise levels.

  t_min: the first of the times; the others are 0.1, 0.2, ..., 1.
  """

  t_min: float = 1e-3

  higher_is_better = True

  @property
  def times(self) -> np.ndarray:
    """The times of the levels."""
    return np.append(self.t_min, np.linspace(0.1, 1.0, 10))

  def measure(self, model: Any) -> Any:
    """Returns (params, keys, x0, cond) -> {'right': [B, T], 'images': [B]}."""

    def measure(params, keys, x0, cond):
      logits = model.logits(params)
      levels = model.schedule(params)(jnp.asarray(self.times, x0.dtype))

      def correct_at(inputs):
        keys, level = inputs
        x = dj.q_sample(x0, draw_normal(keys, x0), level)
        return jnp.argmax(logits(x, level), axis=-1) == cond['label']

      keys = split_key(keys, len(self.times))
      right = jax.lax.map(correct_at, (keys, levels))
      return {'right': right.T.astype(int), 'images': jnp.ones(len(x0), int)}

    return measure

  def report(self, arrays: dict, model: Any, out: Path) -> None:
    """Writes the accuracy at each time, with a plot."""
    split = model.config.evaluation.split
    count = int(arrays['images'].sum())
    accuracy = arrays['right'].sum(axis=0) / count
    result = {
      'metric': 'accuracy',
      'split': split,
      'images': count,
      't': self.times.tolist(),
      'accuracy': accuracy.tolist(),
      'standard_error': np.sqrt(accuracy * (1 - accuracy) / count).tolist(),
    }
    write_json(out / 'result.json', result)
    chance = 1 / model.facts.num_classes
    plots.plot_accuracy(out / 'accuracy.png', self.times, accuracy, chance)
    print(f'accuracy of {count} {split} images, by t:')
    for t, value in zip(self.times, accuracy, strict=True):
      print(f'  {t:5.3f}  {value:6.1%}')
    print(f'{out}/result.json, accuracy.png')
