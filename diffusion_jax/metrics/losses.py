"""The loss of the training on real images, and the losses of exact denoisers on them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.data.sources import Source, drawn_anew
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import Estimate, ratio
from diffusion_jax.metrics.metric import (
  Arrays,
  ExampleArrays,
  ImageModel,
  ModelMetric,
  Score,
  as_json,
)
from diffusion_jax.ranges import Size
from diffusion_jax.runtime.files import with_error
from diffusion_jax.testing import floors
from diffusion_jax.testing.floors import MOST_EXAMPLES
from diffusion_jax.training.objectives import Mean

Array = jax.Array
QUARTERS = 't 0 to 1/4', 't 1/4 to 1/2', 't 1/2 to 3/4', 't 3/4 to 1'
MOST_CLASSES = 20  # the most classes that are printed
NETWORK = 'loss'
# The terms of a loss that exact denoisers are compared with, where the whole has more.
TERMS = {
  'simple': 'the network, without the bound',
  'error': 'the network, without the uncertainty',
}
FLOORS = {
  'nothing_learnt': 'the mean of the data, and no noise',
  'linear': 'a linear denoiser',
  'memorised': 'the training examples by heart',
}
ABOUT = {NETWORK: 'the network', **TERMS, **FLOORS}
INFINITE = Estimate(float('inf'))
# Each loss is measured on the examples of the split, and on as many training examples.
SETS = {'': 'on this split', 'training_': 'on training examples'}


class DenoisingModel(ImageModel, Protocol):
  """A model whose loss exact denoisers can have as well."""

  @property
  def reads(self) -> Collection[str]:
    """What the network reads besides x_t, names of `floors.READ`."""
    ...

  @property
  def infinite_floors(self) -> Collection[str]:
    """The exact denoisers without a finite loss on held-out examples."""
    ...

  def losses(self, exact: bool = False) -> Callable[[Params, Array, dict], Mapping[str, Mean]]:
    """Returns (params, key, batch) -> means by name; exact: of `floors.exact`."""
    ...


@declares(
  what=(
    'the loss of the training, beside those of exact denoisers, per quarter of t and class '
    '([is it good?](training.md#is-my-loss-good)); of `hybrid` also `simple`, with '
    '`uncertainty` also `error`, which the denoisers have'
  ),
  needs='`.draws` calls of the network for each image',
)
def loss(draws: Size = 4, examples: Size = MOST_EXAMPLES) -> ModelMetric:
  """Loss of the training, and losses of exact denoisers.

  The denoisers have the loss, or its term of TERMS, which the network has too then.
  draws: levels and noises of each image. examples: the number of training examples,
  drawn at random, that `memorised` knows; the others know all.
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
    for line in fitted.lines:
      if line in model.infinite_floors:
        print(f'{line} {floors.INFINITE}')
    if drawn_anew(source):
      print('no loss of training examples: each epoch draws them anew')
      return {'floors': fitted, 'drawn_anew': ()}
    return {'floors': fitted}

  def measure(model: DenoisingModel) -> ExampleArrays:
    losses, exact = model.losses(), model.losses(exact=True)
    infinite = model.infinite_floors

    def function(params, keys, x0, cond):
      fitted = params.get('floors')
      cond = {n: x for n, x in cond.items() if n != 'image'}  # The loss draws its own.

      def of_example(key, batch):
        # Every line has the same levels and noises, and the same conditions.
        def one(key):
          metrics = losses(params, key, batch)
          term = floors.metric_of(metrics)
          values = {name: values_of(metrics, name) for name in (NETWORK, term)}
          if fitted is not None:
            values |= floors.by_line(
              lambda fitted: values_of(exact(params | {'network': fitted}, key, batch), term),
              fitted,
            )
          return jax.tree.map(lambda x: jnp.reshape(x, ()), values)

        of_draws = jax.vmap(one)(jax.random.split(key, draws))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_draws)

      def of_image(key, x0, cond):
        key, row_key, training_key = jax.random.split(key, 3)
        batch = jax.tree.map(lambda x: x[None], {'x': x0, **cond})
        arrays = _named('', finite(of_example(key, batch), infinite), batch)
        if fitted is not None and 'drawn_anew' not in params:
          row = jax.random.randint(row_key, (1,), 0, len(fitted.examples))
          batch = fitted.rows(row, x0.shape)
          arrays |= _named('training_', of_example(training_key, batch), batch)
        return arrays

      return jax.vmap(of_image)(keys, x0, cond)

    return function

  def compute(arrays):
    term = ''.join(f' ({name})' for name in TERMS if f'{name} total' in arrays)
    return [
      Score(
        prefix + line,
        ratio(*(arrays[f'{prefix}{line} {x}'] for x in ('total', 'count'))),
        f'{about}{term * (line in FLOORS)}, {where}',
      )
      for prefix, where in SETS.items()
      for line, about in ABOUT.items()
      if f'{prefix}{line} total' in arrays
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


def values_of(metrics: Mapping[str, Mean], name: str) -> dict[str, Array]:
  """Returns what an example adds to sum and count of a loss, of all t and of each quarter.

  name: of the loss. The metrics are of one example, or of each of several, [B].
  """
  total, count = metrics[name]
  values = {'total': total, 'count': count}
  for q in range(1, 5):
    here = metrics[f'loss_quarter_{q}'].count
    values |= {f'total_{q}': jnp.where(here != 0.0, total, 0.0), f'count_{q}': here}
  return values


def finite(by_line: Mapping[str, Mapping], infinite: Collection[str]) -> dict[str, dict]:
  """Returns the values of lines, without those of lines that are infinite for t near 0."""
  near = 'total', 'count', 'total_1', 'count_1'
  return {
    line: {n: x for n, x in values.items() if not (line in infinite and n in near)}
    for line, values in by_line.items()
  }


def parts_of(arrays: Arrays) -> dict[str, Estimate]:
  """Returns the mean of `values_of`, and those per quarter of t that is drawn.

  They are INFINITE where `finite` has left them out.
  """
  parts = {}
  for name, end in zip(('all', *QUARTERS), ('', '_1', '_2', '_3', '_4'), strict=True):
    if f'count{end}' not in arrays:
      parts[name] = INFINITE
    elif arrays[f'count{end}'].any():
      parts[name] = ratio(arrays[f'total{end}'], arrays[f'count{end}'])
  return parts


def report(arrays: Arrays, out: Path) -> Json:
  """Prints and returns the losses per quarter of t, and per class."""
  losses: dict[str, dict[str, Estimate]] = {}
  for prefix, where in SETS.items():
    lines = {line: f'{prefix}{line}' for line in ABOUT if f'{prefix}{line} total_2' in arrays}
    label, here = arrays.get(f'{prefix}label', np.zeros(0)), {}
    for line, name in lines.items():
      values = {n.partition(' ')[2]: x for n, x in arrays.items() if n.startswith(f'{name} ')}
      of_class = {c: {n: x[label == c] for n, x in values.items()} for c in np.unique(label)}
      by_class = {f'class #{c}': parts_of(x)['all'] for c, x in of_class.items()}
      here[line] = parts_of(values) | by_class
    if here:
      print(f'{where}:\n{table(here, 1 + len(QUARTERS) + MOST_CLASSES)}')
    losses |= {f'{prefix}{line}': parts for line, parts in here.items()}
  scores = {
    line: as_json([Score(*part) for part in parts.items()]) for line, parts in losses.items()
  }
  for part in (part for parts in scores.values() for part in parts.values()):
    part['value'] = part['value'] if np.isfinite(part['value']) else None  # JSON has no inf
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
  """Returns a value with its standard error, for a table; '' for None, 'none' for INFINITE."""
  if estimate is None:
    return ''
  return with_error(*estimate).replace('\xa0', ' ') or 'none'
