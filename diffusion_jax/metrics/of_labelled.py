"""Metrics of models of examples with their labels: the bound in several orders, the labels."""

from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.aliases import Json, Params
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.data.sources import Source
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import mean
from diffusion_jax.metrics.metric import (
  Arrays,
  ExampleArrays,
  ImageModel,
  ModelMetric,
  Score,
  as_json,
  table,
)
from diffusion_jax.ranges import Probability, Size

Array = jax.Array
TOGETHER = 'together'
# The groups of variables that lose their noise one after another.
ORDERS = {
  TOGETHER: [['label', 'x']],
  'label_first': [['label'], ['x']],
  'x_first': [['x'], ['label']],
}
STEPS = 64  # of a path, half of them even in log(1 + SNR), and half in time


class LabelledExamples(ImageModel, Protocol):
  """A diffusion model of examples and their labels."""

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule of x."""
    ...

  def grids(self, levels: dj.NoiseLevel) -> dict[str, dj.NoiseLevel]:
    """Returns the grids of x and the label at the times of levels of x."""
    ...

  def path_loss(
    self,
    params: Params,
    keys: Array,
    x0: dict[str, Array],
    levels: dict[str, dj.NoiseLevel],
    num_times: int,
  ) -> Array:
    """Returns the diffusion loss along a path, [B], in nats."""
    ...

  def label_logits(self, params: Params, x0: Array) -> Array:
    """Returns log p(label | x_0), [B, num_classes]."""
    ...


@declares(
  what=(
    'the bound of −log p(x, label) in nats, on the common clock, by the label first, and by x '
    'first (`joint.path_loss`), and the differences of the orders'
  ),
  needs='5 · `.num_times` calls of the network for each example',
  data='levels',
)
def joint_elbo(num_times: Size = 16, t_min: Probability = 0.01) -> ModelMetric:
  """Bound of an example with its label in nats, in three orders, and the orders' differences.

  num_times: levels of each example in each part of an order. t_min: the time of the last
  level of x, where `dj.categorical_nll` decodes it.
  """
  if not 0.0 < t_min < 1.0:
    raise ValueError(f't_min={t_min} must be in (0, 1)')

  def calls(model: LabelledExamples, train: Source | None) -> int:
    return num_times * sum(map(len, ORDERS.values()))

  def measure(model: LabelledExamples) -> ExampleArrays:
    levels = model.facts.x.levels

    def function(params, keys, x0, cond):
      schedule = model.schedule(params)
      grids = until(schedule, t_min, model.grids)
      path_keys, noise_keys = split_key(keys, 2)
      z = dj.q_sample(x0, draw_normal(noise_keys, x0), schedule(t_min))
      others = dj.prior_kl(x0, schedule(1.0)) + dj.categorical_nll(x0, z, schedule(t_min), levels)
      data = {'x': x0, 'label': cond['label']}
      found = {}
      for name, groups in ORDERS.items():
        # The parts have equal random numbers, so that their differences have small errors.
        parts = (
          model.path_loss(params, path_keys, data, part, num_times)
          for part in parts_of(grids, groups)
        )
        found[name] = others + sum(parts)
      return found

    return function

  return ModelMetric(measure, compute_orders, report_orders, calls=calls)


def until(schedule: dj.Schedule, t_min: float, grids) -> dict[str, dj.NoiseLevel]:
  """Returns grids of x from noise to t_min, and of the label to clean data.

  In the last step x stays. grids: levels of x -> levels of both.
  """
  rate = jnp.log1p(schedule(jnp.asarray([1.0, t_min])).snr)
  half = STEPS // 2
  rates = jnp.linspace(rate[0], rate[1], half + 1)[1:]
  inner = schedule.from_logsnr(jnp.log(jnp.expm1(rates))).t
  inner = jnp.concatenate([inner[:-1], jnp.linspace(1.0, t_min, half + 1)[1:-1]])
  t = jnp.concatenate([jnp.ones(1), jnp.sort(inner, descending=True), jnp.full(2, t_min)])
  found = grids(schedule(t))
  return {'x': found['x'], 'label': grids(schedule(t.at[-1].set(0.0)))['label']}


def parts_of(grids: dict[str, dj.NoiseLevel], groups: list[list[str]]):
  """Yields the grids of each group of an order, while the others stay."""
  num_steps = len(grids['x'].t) - 1
  path = joint.in_turn(grids, groups)
  for i in range(len(groups)):
    rows = slice(i * num_steps, (i + 1) * num_steps + 1)
    yield {name: level.take(rows) for name, level in path.items()}


def compute_orders(arrays: Arrays) -> list[Score]:
  """Returns the bound on the common clock, and how much larger it is in other orders."""
  scores = [Score('elbo', mean(arrays[TOGETHER]), 'nats of x and its label')]
  for name in ORDERS:
    if name != TOGETHER:
      gap = mean(arrays[name].astype(np.float64) - arrays[TOGETHER])
      scores.append(Score(f'order_gap_{name}', gap, f'nats above {TOGETHER}'))
  return scores


def report_orders(arrays: Arrays, out: Path) -> Json:
  """Prints and returns the bound in each order."""
  bounds = [Score(name, mean(arrays[name]), 'nats, bound') for name in ORDERS]
  print(table(bounds))
  return {'orders': as_json(bounds)}


@declares(
  what='the labels of real examples by p(label | x): the most probable one, a drawn one, and nats',
  needs='a call of the network for each example',
)
def label_accuracy() -> ModelMetric:
  """Accuracy of a generative model's labels of real examples, and their nats.

  `labels` is the share whose most probable label is theirs, `labels_drawn` that of labels
  drawn from p(label | x), in the mean over draws, and `labels_nats` the mean of -log p.
  """

  def measure(model: LabelledExamples) -> ExampleArrays:
    def function(params, keys, x0, cond):
      log_p = jax.nn.log_softmax(model.label_logits(params, x0))
      nats = -jnp.take_along_axis(log_p, cond['label'][:, None], axis=1)[:, 0]
      return {'right': jnp.argmax(log_p, axis=1) == cond['label'], 'nats': nats}

    return function

  def compute(arrays: Arrays) -> list[Score]:
    nats = arrays['nats'].astype(np.float64)
    return [
      Score('labels', mean(arrays['right']), 'share of the most probable'),
      Score('labels_drawn', mean(np.exp(-nats)), 'share of drawn ones, expected'),
      Score('labels_nats', mean(nats), 'nats of the label given x'),
    ]

  return ModelMetric(measure, compute, calls=lambda model, train: 1)
