"""The loss of the training on real images, beside those of exact denoisers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.data.sources import Source
from diffusion_jax.metrics.estimates import Estimate, mean
from diffusion_jax.metrics.metric import Arrays, ImageModel, ModelMetric, PerExample, Score, as_json
from diffusion_jax.ranges import Size
from diffusion_jax.testing import floors
from diffusion_jax.testing.floors import MOST_EXAMPLES

Array = jax.Array
QUARTERS = 't 0 to 1/4', 't 1/4 to 1/2', 't 1/2 to 3/4', 't 3/4 to 1'
MOST_CLASSES = 20  # that are printed
ROWS = {
  'network': 'the network',
  'nothing_learnt': 'the mean of the data, and no noise',
  'linear': 'the linear denoiser of the mean and the covariance of the training examples',
  'memorised': 'the training examples by heart, on themselves',
  'memorised_held_out': 'the training examples by heart, on this split',
}


class DenoisingModel(ImageModel, Protocol):
  """A model whose loss exact denoisers can have as well."""

  def losses(self, exact: bool = False) -> Callable[[Params, Array, dict], Mapping]:
    """Returns (params, key, batch) -> means by name; exact: of `floors.exact`."""
    ...


def loss(draws: Size = 4, examples: Size = MOST_EXAMPLES) -> ModelMetric:
  """Loss of the training, beside those of exact denoisers.

  draws: levels and noises of each image. examples: the number of training
  examples, drawn at random, that `memorised` knows; the others know all.
  """

  def fit(model: DenoisingModel, source: Source) -> Params:
    fitted = floors.of_source(source, model.facts.x.encode, examples)
    if fitted.limit:
      print(f'linear is not the least loss of a linear denoiser: {fitted.limit}')
    return {'floors': fitted}

  def measure(model: DenoisingModel) -> PerExample:
    losses, exact = model.losses(), model.losses(exact=True)

    def function(params, keys, x0, cond):
      fitted = params['floors']
      cond = {n: x for n, x in cond.items() if n != 'image'}  # The loss draws its own.

      def one(key, x0, cond):
        # Of one draw of one image: every line has the same level and noise.
        key, row_key = jax.random.split(key)
        batch = jax.tree.map(lambda x: x[None], {'x': x0, **cond})
        row = jax.random.randint(row_key, (1,), 0, len(fitted.examples))

        def of(fitted, x):
          return exact(params | {'network': fitted}, key, batch | {'x': x})

        by_line = floors.by_line(of, fitted, batch['x'], row)
        by_line['network'] = losses(params, key, batch)
        return {line: _values(metrics) for line, metrics in by_line.items()}

      def of_image(key, x0, cond):
        by_line = jax.vmap(one, (0, None, None))(jax.random.split(key, draws), x0, cond)
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), by_line)

      by_line = jax.vmap(of_image)(keys, x0, cond)
      arrays = {f'{line} {name}': x for line, part in by_line.items() for name, x in part.items()}
      return arrays | ({'label': cond['label']} if 'label' in cond else {})

    return function

  def compute(arrays):
    return [
      Score('loss' if line == 'network' else line, mean(arrays[f'{line} all']), about)
      for line, about in ROWS.items()
    ]

  return ModelMetric(measure, compute, report, fit, lambda model: draws)


def _values(metrics):
  # Returns a loss, and what it adds to the sum and the count of each quarter.
  name = floors.metric_of(metrics)
  value = metrics[name].total / metrics[name].count
  values = {'all': value}
  for q in range(1, 5):
    count = metrics[f'loss_quarter_{q}'].count
    total = metrics[f'loss_quarter_{q}'].total if name == 'loss' else value * count
    values |= {f'total_{q}': total, f'count_{q}': count}
  return values


def report(arrays: Arrays, out: Path) -> Json:
  """Prints and returns the losses per quarter of t, and per class."""
  classes = np.unique(arrays['label']) if 'label' in arrays else []
  losses: dict[str, Json] = {}
  for line in ROWS:
    values = arrays[f'{line} all']
    quarters = {
      name: _quarter(arrays, line, q)
      for q, name in enumerate(QUARTERS, 1)
      if arrays[f'{line} count_{q}'].any()
    }
    by_class = {f'class {c}': mean(values[arrays['label'] == c]) for c in classes}
    parts = {'all': mean(values), **quarters, **by_class}
    losses[line] = as_json([Score(name, x) for name, x in parts.items()])
  print(' ' * 13 + ''.join(f'{line:>{max(9, len(line)) + 2}}' for line in losses))
  for name in [*losses['network']][: 1 + len(QUARTERS) + MOST_CLASSES]:
    row = (f'{x[name]["value"]:>{max(9, len(line)) + 2}.4g}' for line, x in losses.items())
    print(f'{name:13}' + ''.join(row))
  if len(classes):
    print('the exact denoisers read no class, nor any other condition')
  return {'losses': losses}


def _quarter(arrays, line, q):
  # A ratio of means over the images, with its error to first order.
  total, count = (arrays[f'{line} {name}_{q}'].astype(np.float64) for name in ('total', 'count'))
  value = total.sum() / count.sum()
  return Estimate(float(value), mean((total - value * count) / count.mean()).error)
