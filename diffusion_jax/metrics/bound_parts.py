"""Where the bound of a diffusion model comes from, part by part.

For the exact denoiser of the data's law q the errors are twice the slopes of the
information I(x_0; z) with respect to the SNR (Guo, Shamai & Verdu 2005). A bound of
-log p(x_0) is therefore a sum,

  entropy of q + KL(q(z_1) || p(z_1)) + 1/2 integral of (mse - mmse) d snr
  + what the decoder loses + what finite steps cost,

whose parts but the first are 0 for the best model. Where q is not known the network is
compared with a linear denoiser, and the entropy cannot be told from what an exact denoiser
would save.
"""

import functools
import math
import operator
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.aliases import Json, Params
from diffusion_jax.core.arguments import expand_to, sum_data_axes, weighted_sum
from diffusion_jax.core.denoiser import Prediction, predict
from diffusion_jax.core.elbo import draw_steps
from diffusion_jax.core.keys import draw_normal, draw_uniform, fold_each, key_per_example, split_key
from diffusion_jax.core.normal import Normal, log_prob
from diffusion_jax.core.path_bound import share_of_noise
from diffusion_jax.core.process import Variance
from diffusion_jax.data.sources import Source
from diffusion_jax.declared import declares
from diffusion_jax.metrics import losses, plots
from diffusion_jax.metrics.estimates import mean
from diffusion_jax.metrics.likelihoods import DiffusionModel
from diffusion_jax.metrics.metric import Arrays, ExampleArrays, ModelMetric, Score, as_json, table
from diffusion_jax.ranges import Count, Size
from diffusion_jax.testing import floors
from diffusion_jax.testing.oracles import Mixture

Array = jax.Array
QUARTERS = losses.QUARTERS[::-1]  # as the bound passes them, from noise
ABOUT = {
  'entropy': 'of the data, which no model can save',
  'prior': 'what the noise at t = 1 is not',
  **dict.fromkeys(QUARTERS, 'of the network above the exact denoiser'),
  'steps': 'what a finite number of steps costs',
  'decoder': 'what the decoder loses',
}
TOTALS = 'bits/dim', 'nats/dim'  # of levels, and of real numbers
OF_LINEAR = 'linear, '
UNKNOWN = 'the entropy, what an exact denoiser would save, and what the decoder loses'


class ModelOfLaw(DiffusionModel, Protocol):
  """A diffusion model, and the law of what it sees if that is known."""

  @property
  def law(self) -> Mixture | None:
    """The law of the numbers of x as the network sees them, [D]; None if it is not known."""
    ...

  @property
  def reads(self) -> tuple[str, ...]:
    """What the network reads besides x_t, names of `floors.READ`."""
    ...


@declares(
  what=(
    'the bound part by part: entropy, prior, what the network has above an exact denoiser in '
    'each quarter of t, steps, decoder ([what they say](explain.md#where-a-bound-comes-from))'
  ),
  needs='4 · `.num_times` + 2 · `.draws` calls for each example',
  independent_noise=True,
  needs_denoiser=True,
)
def bound_parts(
  num_times: Size = 8, draws: Size = 16, num_steps: Count = 0, examples: Size = losses.MOST_EXAMPLES
) -> ModelMetric:
  """Parts of the bound, in nats or bits per number.

  num_times: levels of each example in each quarter of t; draws: steps of each example whose
  cost is estimated. num_steps: T, by default of the schedule, or
  else 1000. examples: from which the linear denoiser is made, where the law is not known.
  """

  def calls(model: ModelOfLaw, train: Source | None) -> int:
    return len(QUARTERS) * num_times + 2 * min(draws, _steps_of(model) - 1)

  def _steps_of(model):
    return num_steps or model.schedule_steps

  def fit(model: ModelOfLaw, source: Source) -> Params:
    if model.law is not None or 'linear' not in floors.lines_of(model.reads, model.facts):
      return {}
    fitted = floors.of_source(source, model.facts, model.reads, examples)
    if fitted.limit:
      print(f'{floors.NOT_LEAST}{fitted.limit}')
    return {'floors': fitted.of('linear')}

  def measure(model: ModelOfLaw) -> ExampleArrays:
    if (count := _steps_of(model)) <= len(QUARTERS):
      raise ValueError(f'num_steps is {count}: the bound has parts with 5 steps or more')
    values, law = model.facts.x, model.law
    last = 0.0 if model.starts_noisy else 1.0 / count
    unit = TOTALS[0 if values.levels else 1]

    def function(params, keys, x0, cond):
      schedule, denoise = model.schedule(params), model.denoiser(params, cond)
      denoise = dj.clip_denoised(denoise) if model.clips else denoise
      path_keys, step_keys, noise_keys = split_key(keys, 3)
      ends = schedule(jnp.asarray([1.0, 0.75, 0.5, 0.25, last], x0.dtype))

      def by_quarter(denoise) -> dict[str, Array]:
        # All denoisers have the same levels and noises.
        def nats(i):
          path = jax.tree.map(lambda *pair: jnp.stack(pair), ends.take(i), ends.take(i + 1))
          keys = fold_each(path_keys, i)
          return dj.path_bound(keys, denoise, schedule, path, x0, num_times=num_times)

        rows = jax.lax.map(nats, jnp.arange(len(QUARTERS)))
        return dict(zip(QUARTERS, rows, strict=True))

      parts = by_quarter(denoise)
      parts['steps'] = cost_of_steps(
        step_keys, denoise, schedule, x0, count, draws=draws, variance=model.reverse_variance
      )
      z0, z1 = (
        dj.q_sample(x0, draw_normal(key, x0), ends.take(i))
        for i, key in zip((-1, 0), split_key(noise_keys, 2), strict=True)
      )
      if values.levels:
        parts['decoder'] = dj.categorical_nll(x0, z0, ends.take(-1), num_levels=values.levels)
      else:
        parts['decoder'] = -log_flat(x0, z0, ends.take(-1))
      parts['prior'] = dj.prior_kl(x0, ends.take(0))
      parts[unit] = functools.reduce(operator.add, parts.values())
      if law is not None:
        exact = by_quarter(_of_rows(law.denoise))
        parts |= {name: parts[name] - x for name, x in exact.items()}
        parts |= of_ends(law, x0, z0, z1, ends)
      if (fitted := params.get('floors')) is not None:
        read = {name: cond[name] for name in model.reads}
        of_linear = by_quarter(
          lambda xt, level: Prediction(floors.estimate(fitted, xt, level, read)[0])
        )
        parts |= {f'{OF_LINEAR}{name}': x for name, x in of_linear.items()}
      numbers = x0.size // len(x0)
      if values.levels:
        return {name: x / (numbers * math.log(2.0)) for name, x in parts.items()}
      # x = std x_0 + mean is log_det less likely; all other parts have no unit.
      changed = (unit, 'entropy') if law is not None else (unit, 'decoder')
      parts |= {name: parts[name] + values.log_det for name in changed}
      return {name: x / numbers for name, x in parts.items()}

    return function

  reads = 'clips', 'reverse_variance'
  return ModelMetric(measure, compute, report, fit, calls, reads)


def cost_of_steps(
  key: Array,
  denoise: dj.Denoiser,
  schedule: dj.Schedule,
  x0: Array,
  num_steps: int,
  draws: int,
  variance: Variance = 'fixed_small',
) -> Array:
  """Computes what T steps cost in nats, an unbiased draw, [B].

  It is the sum of L_{t-1} of DDPM Eq. 5 less VDM's integral over the same levels, whose
  limit the sum is for infinitely many steps. draws: the steps of each example, more often
  where terms are larger; both have less the share of their noise, of mean 0.
  """
  choice_keys, noise_keys, path_keys = split_key(key_per_example(key, len(x0)), 3)

  def at_step(step):
    return schedule(jnp.asarray(step / num_steps, x0.dtype))

  is_noisy = at_step(0).sigma > 0.0  # Then step 1 is a transition, too.
  steps = draws if draws < num_steps - 1 else None
  drawn, expected = draw_steps(choice_keys, at_step(jnp.arange(1, num_steps + 1)), steps)
  first = jnp.full((1, len(x0)), jnp.where(is_noisy, 1, 2))
  weights = [jnp.full(first.shape, jnp.where(is_noisy, 1.0, 0.0)), 1.0 / expected[drawn - 2]]

  def cost(row):
    i, step, weight = row
    level_s, level_t = at_step(step - 1), at_step(step)
    eps = draw_normal(fold_each(noise_keys, i), x0)

    def at(level):
      xt = dj.q_sample(x0, eps, level)
      return xt, predict(denoise, xt, level)

    xt, (x0_hat, var_frac) = at(level_t)
    model = dj.p_reverse(x0_hat, xt, level_s, level_t, variance, var_frac)
    of_step = dj.diffusion_kl(x0, xt, model, level_s, level_t)
    of_noise = share_of_noise(eps, level_t.expand_to(x0))
    of_step -= weighted_sum(0.5 * (level_s.snr - level_t.snr), of_noise)
    start, end = jnp.log1p(level_t.snr), jnp.log1p(level_s.snr)
    rate = start + (end - start) * draw_uniform(
      fold_each(path_keys, i), jnp.zeros(len(x0), x0.dtype)
    )
    within = schedule.from_logsnr(jnp.log(jnp.expm1(rate)))
    square = jnp.square(x0 - at(within)[1].x0) - share_of_noise(eps, within.expand_to(x0))
    integral = weighted_sum(0.5 * (end - start) * jnp.exp(rate), square)
    return weight * (of_step - integral)

  rows = jnp.concatenate((first, drawn))
  table = jnp.arange(len(rows)), rows, jnp.concatenate(weights)
  return jnp.sum(jax.lax.map(cost, table), axis=0)


def log_flat(x0: Array, z0: Array, level: dj.NoiseLevel) -> Array:
  """Computes log N(x_0; z_0 / alpha, sigma^2 / alpha^2) in nats, [B]: before z_0 all x_0 alike."""
  alpha, variance = (expand_to(a, x0) for a in (level.alpha, jnp.square(level.sigma)))
  return sum_data_axes(log_prob(Normal(z0 / alpha, variance / jnp.square(alpha)), x0))


def of_ends(law: Mixture, x0: Array, z0: Array, z1: Array, ends: dj.NoiseLevel) -> dict[str, Array]:
  """Computes what a law of x_0 says of both ends of a bound, in nats, [B] each.

  -log q(x_0), whose mean is the entropy; log q(z_1) - log p(z_1), whose mean is KL(q || p);
  and log q(x_0 | z_0) less `log_flat`. z0, z1: x_t at the last and the first of `ends`.
  """
  x0, z0, z1 = (x.reshape(len(x), -1) for x in (x0, z0, z1))
  noise, last = ends.take(0), ends.take(-1)
  log_q = law.log_prob(x0, dj.clean_level())
  of_noise = sum_data_axes(log_prob(Normal(last.alpha * x0, jnp.square(last.sigma)), z0))
  p = Normal(jnp.zeros_like(z1), jnp.square(noise.alpha) + jnp.square(noise.sigma))
  return {
    'entropy': -log_q,
    'prior': law.log_prob(z1, noise) - sum_data_axes(log_prob(p, z1)),
    'decoder': of_noise + log_q - law.log_prob(z0, last) - log_flat(x0, z0, last),
  }


def _of_rows(denoise):
  # Returns a denoiser of x [B, ...] by one of [B, D].
  def of_arrays(xt, level):
    return Prediction(denoise(xt.reshape(len(xt), -1), level).x0.reshape(xt.shape))

  return of_arrays


# -- in words -------------------------------------------------------------------


def compute(arrays: Arrays) -> list[Score]:
  """Returns the sum of all parts."""
  unit = next(unit for unit in TOTALS if unit in arrays)
  return [Score('bound_parts', mean(arrays[unit]), unit)]


def parts_of(arrays: Arrays) -> list[Score]:
  """Returns the parts of the bound, which add up to it.

  Where the law is not known the first is what cannot be told apart: the entropy, and what an
  exact denoiser would save.
  """
  if 'entropy' in arrays:
    return [Score(name, mean(arrays[name]), words) for name, words in ABOUT.items()]
  unknown = arrays['decoder'] + sum(arrays[quarter] for quarter in QUARTERS)
  known = [Score(name, mean(arrays[name]), ABOUT[name]) for name in ('prior', 'steps')]
  return [Score('unknown', mean(unknown), UNKNOWN), *known]


def above_linear(arrays: Arrays) -> list[Score]:
  """Returns what the network has above a linear denoiser in each quarter; [] without one."""
  if f'{OF_LINEAR}{QUARTERS[0]}' not in arrays:
    return []
  apart = {quarter: arrays[quarter] - arrays[f'{OF_LINEAR}{quarter}'] for quarter in QUARTERS}
  words = 'of the network above a linear denoiser'
  return [Score(name, mean(x), words) for name, x in apart.items()]


def report(arrays: Arrays, out: Path) -> Json:
  """Prints, draws and returns the parts."""
  parts, linear, unit = parts_of(arrays), above_linear(arrays), compute(arrays)[0].note
  print(table([*parts, *linear]))
  plots.plot_parts(
    out / 'parts.png',
    [(x.name, x.estimate.value, x.estimate.error) for x in parts],
    unit,
  )
  return {'unit': unit, 'parts': as_json(parts), 'above_linear': as_json(linear)}
