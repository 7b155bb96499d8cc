"""Bits per dimension of real images: bounds, likelihoods, histograms."""

import functools
import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import check_at_least, expand_to
from diffusion_jax.core.elbo import LastStep
from diffusion_jax.core.keys import split_key
from diffusion_jax.core.process import Variance
from diffusion_jax.data.sources import Source, in_batches
from diffusion_jax.declared import declares
from diffusion_jax.metrics import bits, plots
from diffusion_jax.metrics.bits import in_bits
from diffusion_jax.metrics.metric import ExampleArrays, ImageModel, ModelMetric, numbers_of
from diffusion_jax.ranges import Count, Rate, check_value, within

Array = jax.Array
_BELOW_ONE = Annotated[float, within('(0, 1)')]
# (x0, last: LastStep, num_levels) -> -log p(x_0 | z) in nats, [B].
DecodeLastStep = Callable[[Array, LastStep, int], Array]
DECODERS: dict[str, DecodeLastStep] = {
  'gaussian': dj.reconstruction_nll,
  'tanh': functools.partial(dj.reconstruction_nll, cdf='tanh'),
  'categorical': lambda x0, last, num_levels: dj.categorical_nll(
    x0, last.z, last.level, num_levels
  ),
}


class DiffusionModel(ImageModel, Protocol):
  """A diffusion model, as its bound and its likelihood need it."""

  @property
  def schedule_steps(self) -> int:
    """T of the bound, unless it is given."""
    ...

  @property
  def starts_noisy(self) -> bool:
    """Whether schedule(0) has noise."""
    ...

  @property
  def reverse_variance(self) -> Variance:
    """The variance of the reverse process; see `dj.reverse_variance`."""
    ...

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule of the training."""
    ...

  @property
  def clips(self) -> bool:
    """Whether estimates of x_0 are clipped in sampling."""
    ...

  def denoiser(self, params: Params, cond: dict) -> dj.Denoiser:
    """Returns the denoiser, without guidance and clipping."""
    ...


@declares(
  what=(
    'the bound −log p(x_0) ≤ L_T + L_{T−1} + … + L_1 + L_0 (DDPM Eq. 5), term by term '
    '(`dj.variational_bound`)'
  ),
  needs='T calls of the network for each image',
  data='levels',
  independent_noise=True,
  needs_denoiser=True,
)
def elbo(
  decoder: Literal['gaussian', 'tanh', 'categorical'] | DecodeLastStep = 'gaussian',
  num_steps: int = 0,
  random_steps: int = 0,
) -> ModelMetric:
  """Variational bound of a diffusion model, term by term, in bits/dim.

  decoder: p(x_0 | z), as `dj.reconstruction_nll` (gaussian, tanh),
  `dj.categorical_nll`, or a function. num_steps: T, by default of the
  schedule, or else 1000.
  random_steps: the number of steps that are drawn for each image, by
  importance; 0: all.
  """
  check_at_least(0, num_steps=num_steps, random_steps=random_steps)

  nll = DECODERS[decoder] if isinstance(decoder, str) else decoder

  def calls(model: DiffusionModel, train: Source | None) -> int:
    others = random_steps or (num_steps or model.schedule_steps) - 1
    return others + 1 + model.starts_noisy  # the decoder's, and the transition to schedule(0)

  def measure(model: DiffusionModel) -> ExampleArrays:
    levels = model.facts.x.levels

    def function(params, keys, x0, cond):
      denoise = model.denoiser(params, cond)
      nats = dj.variational_bound(
        keys,
        dj.clip_denoised(denoise) if model.clips else denoise,
        model.schedule(params),
        x0,
        num_steps=num_steps or model.schedule_steps,
        variance=model.reverse_variance,
        steps=random_steps or None,
        decoder=lambda x0, last: nll(x0, last, levels),
      )
      error = nats.pop('squared_error') / (x0.size // len(x0))
      per_dim = functools.partial(dj.bits_per_dim, data_shape=x0.shape[1:])
      return jax.tree.map(per_dim, nats) | {'squared_error': error}

    return function

  details = functools.partial(_terms, random_steps=random_steps)
  reads = 'clips', 'reverse_variance'
  return in_bits('elbo', measure, details, calls=calls, reads=reads)


def _terms(arrays, out, random_steps):
  # Returns the terms of the bound; plots them if all steps were computed.
  count = len(arrays['total'])
  prior = float(arrays['prior'].mean())
  decoder = float(arrays['reconstruction'].mean())
  steps = arrays['diffusion'].sum(axis=0) / count  # L_0 of z_0, L_1, ...
  parts = {
    'prior': prior,
    'diffusion': float(steps.sum()),
    'reconstruction': decoder,
    'random_steps': random_steps,
  }
  print(f'L_T {prior:.4f} + L_1..L_T-1 {steps.sum():.4f} + L_0 {decoder:.4f}')
  if random_steps:
    return parts
  terms = np.concatenate([[steps[0] + decoder], steps[1:]])
  errors = arrays['squared_error'].sum(axis=0) / count
  rate, distortion = bits.rate_distortion(prior, terms, errors)
  plots.plot_terms(out / 'terms.png', terms)
  plots.plot_rate_distortion(out / 'rate_distortion.png', rate, distortion)
  parts |= {'terms': terms.tolist(), 'rate': rate.tolist()}
  return parts | {'distortion': distortion.tolist()}


MOST_EXACT = 16  # numbers of an array, whose divergence is computed exactly


@declares(
  what=(
    'the likelihood of the probability-flow ODE, of images dequantised by '
    '`evaluation.ode.dequantization`; of latents a bound'
  ),
  needs='calls of the network and as many gradients',
  needs_denoiser=True,
  lengths=True,
)
def ode(
  t_min: float = 1e-3,
  tolerance: float = 1e-4,
  num_probes: int = 1,
  dequantization: Literal['uniform', 'gaussian'] = 'uniform',
  box_draws: Count = 30,
) -> ModelMetric:
  """Log-likelihood by the probability-flow ODE, in bits/dim.

  For real numbers it is -log p(x) / D in nats, in the user's units; with
  data.bounds also for p(x) within the box, p(x) over the share of p inside.
  t_min: the time where the ODE begins (a network of T steps is trained down to
  1/T); tolerance: the solver's; num_probes: probes of Hutchinson's estimate (up to
  MOST_EXACT real numbers need none); dequantization: uniform in the bin of
  a grey level, or Gaussian, the noise of t_min; box_draws: draws, for each
  example's condition, that estimate the share inside, 0 for none. Of real numbers with
  lengths it is of the valid ones, without the box.
  """
  log_p_of = log_p_by_ode(t_min, tolerance, num_probes)

  def measure(model: DiffusionModel) -> ExampleArrays:
    values = model.facts.x
    levels, log_det = values.levels, values.log_det

    def function(params, keys, x0, cond):
      noise_keys, probe_keys, box_keys = split_key(keys, 3)
      schedule, shape = model.schedule(params), x0.shape[1:]
      if not levels:
        x = x0
      elif dequantization == 'gaussian':
        x, log_weight = dj.gaussian_dequantize(noise_keys, x0, schedule(t_min), levels)
      else:
        x, log_weight = dj.dequantize(noise_keys, x0, levels), 0.0
      denoise = model.denoiser(params, cond)
      if 'valid' in cond:
        if levels:
          raise ValueError('examples of levels that have lengths have no density here: take elbo')
        valid = expand_to(cond['valid'], x)
        x = jnp.where(valid, x, 0.0)
        numbers = numbers_of(cond['valid'], x)
        log_p = log_p_of(probe_keys, denoise, schedule, x)
        # Held at 0, a number that pads an example has the density of the noise of t_min.
        of_padding = -0.5 * jnp.log(2.0 * jnp.pi * jnp.square(schedule(t_min).sigma))
        log_p -= (math.prod(shape) - numbers) * of_padding
        return {'nats': log_det / math.prod(shape) - log_p / numbers, 'numbers': numbers}
      log_p = log_p_of(probe_keys, denoise, schedule, x, not levels)
      if not levels:  # x = std x0 + mean is log_det less likely
        found = {'nats': (log_det - log_p) / math.prod(shape)}
        if values.low and box_draws:
          box = values.encoded_box
          share = _share_inside(
            box_keys, denoise, schedule, x, box, t_min, rtol=tolerance, draws=box_draws
          )
          more = jnp.log(share) / math.prod(shape)
          found['truncated'] = found['nats'] + more
        return found
      if dequantization == 'gaussian':
        return {'total': dj.bits_per_dim(-log_p - log_weight, shape)}
      return {'total': dj.ode_bits_per_dim(log_p, shape, levels)}

    return function

  return in_bits('ode', measure)


def _share_inside(keys, denoise, schedule, x, box, t_min, rtol, draws):
  # Returns the share of p in the box of x [B, ...], estimated by draws. The
  # halves leave its logarithm without a bias of the order 1 / draws.
  low, high = box

  def is_inside(keys):
    start = dj.prior_sample(keys, x.shape, schedule(1.0))
    drawn = dj.probability_flow(denoise, schedule, start, 1.0, t_min, rtol=rtol, atol=rtol)
    within_box = (drawn >= low[None]) & (drawn <= high[None])
    return jnp.all(within_box.reshape(len(x), -1), axis=1)

  count = jax.lax.map(is_inside, split_key(keys, draws)).sum(axis=0)
  return (count + 0.5) / (draws + 0.5)


def log_p_by_ode(t_min: float, tolerance: float, num_probes: int) -> Callable[..., Array]:
  """Returns (keys, denoise, schedule, x, exact=True) -> log p(x), [B], in nats.

  exact: whether the divergence of small arrays is computed exactly. The arguments are
  those of `ode`.
  """
  check_value('t_min', t_min, Rate)
  check_value('tolerance', tolerance, _BELOW_ONE)
  check_at_least(1, num_probes=num_probes)

  # The denoiser is not clipped: no solver passes the kinks of such a field.
  def log_p(keys, denoise, schedule, x, exact=True):
    return dj.log_likelihood(
      keys,
      denoise,
      schedule,
      x,
      t_min=t_min,
      rtol=tolerance,
      atol=tolerance,
      num_probes=num_probes,
      exact_trace=exact and x.size // len(x) <= MOST_EXACT,
    )[0]

  return log_p


@declares(
  what='a histogram of each pixel on the train split, as a baseline',
  needs='nothing',
  data='levels',
)
def independent_pixels() -> ModelMetric:
  """Code length by a histogram of each pixel of the training images, bits/dim.

  A baseline: no network is used.
  """

  def fit(model: ImageModel, source: Source) -> Params:
    return {'log_prob': bits.pixel_histogram(in_batches(source, 1000), model.facts.x.levels)}

  def measure(model: ImageModel) -> ExampleArrays:
    def function(params, keys, x0, cond):
      nll = bits.independent_pixels_nll(x0, params['log_prob'])
      return {'total': dj.bits_per_dim(nll, x0.shape[1:])}

    return function

  return in_bits('independent_pixels', measure, fit=fit)
