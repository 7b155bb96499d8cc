"""The loss of the training on real images, and the losses of exact denoisers on them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.data.sources import Source, drawn_anew
from diffusion_jax.metrics.estimates import Estimate, mean
from diffusion_jax.metrics.metric import Arrays, ImageModel, ModelMetric, PerExample, Score, as_json
from diffusion_jax.ranges import Size
from diffusion_jax.runtime.files import with_error
from diffusion_jax.testing import floors
from diffusion_jax.testing.floors import MOST_EXAMPLES
from diffusion_jax.training.objectives import Mean

Array = jax.Array
QUARTERS = 't 0 to 1/4', 't 1/4 to 1/2', 't 1/2 to 3/4', 't 3/4 to 1'
MOST_CLASSES = 20  # the most classes that are printed
NETWORK = 'loss'
ABOUT = {
  NETWORK: 'the network',
  'nothing_learnt': 'the mean of the data, and no noise',
  'linear': 'a linear denoiser',
  'memorised': 'the training examples by heart',
}
# Each loss is measured on the examples of the split, and on as many training examples.
SETS = {'': 'on this split', 'training_': 'on training examples'}


class DenoisingModel(ImageModel, Protocol):
  """A model whose loss exact denoisers can have as well."""

  @property
  def reads(self) -> Collection[str]:
    """What the network reads besides x_t, names of `floors.READ`."""
    ...

  def losses(self, exact: bool = False) -> Callable[[Params, Array, dict], Mapping[str, Mean]]:
    """Returns (params, key, batch) -> means by name; exact: of `floors.exact`."""
    ...


def loss(draws: Size = 4, examples: Size = MOST_EXAMPLES) -> ModelMetric:
  """Loss of the training, and losses of exact denoisers.

  draws: levels and noises of each image. examples: the number of training
  examples, drawn at random, that `memorised` knows; the others know all.
  """

  def fit(model: DenoisingModel, source: Source) -> Params:
    words, lines = (f(model.reads, model.facts) for f in (floors.no_floor, floors.lines_of))
    if words:
      print(f'memorised has {words}' if lines else words)
    if not lines:
      return {}
    fitted = floors.of_source(source, model.facts, model.reads, examples)
    if model.reads:
      print(f'exact denoisers are given {" and ".join(floors.READ[x] for x in model.reads)}')
    if fitted.limit:
      print(f'{floors.NOT_LEAST}{fitted.limit}')
    if drawn_anew(source):
      print('no loss of training examples: each epoch draws them anew')
      return {'floors': fitted, 'drawn_anew': ()}
    return {'floors': fitted}

  def measure(model: DenoisingModel) -> PerExample:
    losses, exact = model.losses(), model.losses(exact=True)

    def function(params, keys, x0, cond):
      fitted = params.get('floors')
      cond = {n: x for n, x in cond.items() if n != 'image'}  # The loss draws its own.

      def of_example(key, batch):
        # Every line has the same levels and noises, and the same conditions.
        def one(key):
          lines = {NETWORK: losses(params, key, batch)}
          if fitted is not None:
            lines |= floors.by_line(
              lambda fitted: exact(params | {'network': fitted}, key, batch), fitted
            )
          values = {line: values_of(metrics) for line, metrics in lines.items()}
          return jax.tree.map(lambda x: jnp.reshape(x, ()), values)

        of_draws = jax.vmap(one)(jax.random.split(key, draws))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_draws)

      def of_image(key, x0, cond):
        key, row_key, training_key = jax.random.split(key, 3)
        batch = jax.tree.map(lambda x: x[None], {'x': x0, **cond})
        arrays = _named('', of_example(key, batch), batch)
        if fitted is not None and 'drawn_anew' not in params:
          row = jax.random.randint(row_key, (1,), 0, len(fitted.examples))
          batch = fitted.rows(row, x0.shape)
          arrays |= _named('training_', of_example(training_key, batch), batch)
        return arrays

      return jax.vmap(of_image)(keys, x0, cond)

    return function

  def compute(arrays):
    return [
      Score(prefix + line, mean(arrays[f'{prefix}{line} all']), f'{about}, {where}')
      for prefix, where in SETS.items()
      for line, about in ABOUT.items()
      if f'{prefix}{line} all' in arrays
    ]

  def calls(model: DenoisingModel, train: Source | None) -> int:
    has_floors = bool(floors.lines_of(model.reads, model.facts))
    is_of_both = has_floors and train is not None and not drawn_anew(train)
    return draws * (2 if is_of_both else 1)  # 2: as in `SETS`

  return ModelMetric(measure, compute, report, fit, calls)


def _named(prefix, by_line, batch):
  # Returns the values of one example by their names in files, with its class.
  values = {
    f'{prefix}{line} {name}': x for line, part in by_line.items() for name, x in part.items()
  }
  return values | ({f'{prefix}label': batch['label'][0]} if 'label' in batch else {})


def values_of(metrics: Mapping[str, Mean]) -> dict[str, Array]:
  """Returns the loss of an example, and what it adds to sum and count of each quarter.

  The loss is the one without a learned variance, `floors.metric_of`. The metrics are
  of one example, or of several, [B].
  """
  name = floors.metric_of(metrics)
  value = metrics[name].total / metrics[name].count
  values = {'all': value}
  for q in range(1, 5):
    count = metrics[f'loss_quarter_{q}'].count
    total = metrics[f'loss_quarter_{q}'].total if name == 'loss' else value * count
    values |= {f'total_{q}': total, f'count_{q}': count}
  return values


def parts_of(arrays: Arrays) -> dict[str, Estimate]:
  """Returns the mean of `values_of`, and those per quarter of t that is drawn."""
  quarters = {
    name: _quarter(arrays[f'total_{q}'], arrays[f'count_{q}'])
    for q, name in enumerate(QUARTERS, 1)
    if arrays[f'count_{q}'].any()
  }
  return {'all': mean(arrays['all']), **quarters}


def _quarter(total, count):
  # A ratio of means over the images, with its error to first order.
  total, count = total.astype(np.float64), count.astype(np.float64)
  value, several = total.sum() / count.sum(), np.count_nonzero(count) > 1
  error = mean((total - value * count) / count.mean()).error if several else np.nan
  return Estimate(float(value), error)


def report(arrays: Arrays, out: Path) -> Json:
  """Prints and returns the losses per quarter of t, and per class."""
  losses: dict[str, dict[str, Estimate]] = {}
  for prefix, where in SETS.items():
    lines = {line: f'{prefix}{line}' for line in ABOUT if f'{prefix}{line} all' in arrays}
    label, here = arrays.get(f'{prefix}label', np.zeros(0)), {}
    for line, name in lines.items():
      values = {n.partition(' ')[2]: x for n, x in arrays.items() if n.startswith(f'{name} ')}
      by_class = {f'class {c}': mean(values['all'][label == c]) for c in np.unique(label)}
      here[line] = parts_of(values) | by_class
    if here:
      print(f'{where}:\n{table(here, 1 + len(QUARTERS) + MOST_CLASSES)}')
    losses |= {f'{prefix}{line}': parts for line, parts in here.items()}
  scores = {
    line: as_json([Score(*part) for part in parts.items()]) for line, parts in losses.items()
  }
  return {'losses': scores}


def table(losses: Mapping[str, Mapping[str, Estimate]], most: int | None = None) -> str:
  """Returns lines of text, a column for each line and a row for each of the first parts."""
  parts = list(dict.fromkeys(part for x in losses.values() for part in x))[:most]
  columns = [['', *parts]]
  columns += [[line, *(shown(x.get(part)) for part in parts)] for line, x in losses.items()]
  widths = [max(map(len, column)) for column in columns]
  widths[0] *= -1  # the first column is aligned to the left
  return '\n'.join(
    '  '.join(map('%*s'.__mod__, zip(widths, row, strict=True)))
    for row in zip(*columns, strict=True)
  )


def shown(estimate: Estimate | None) -> str:
  """Returns a value with its standard error, for a table; '' for None."""
  if estimate is None:
    return ''
  return with_error(*estimate).replace('\xa0', ' ') or f'{estimate.value}'
