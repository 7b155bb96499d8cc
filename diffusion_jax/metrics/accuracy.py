"""The share of images whose class a classifier finds."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Json, Params
from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.declared import declares
from diffusion_jax.metrics import estimates, plots
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import (
  Arrays,
  ExampleArrays,
  ImageModel,
  ModelMetric,
  SampleMetric,
  Score,
  check_counts,
  take,
)


def inception_score(logits: np.ndarray, num_splits: int = 10, seed: int | None = 2020) -> Estimate:
  """Returns exp(E KL(p(y | x) || p(y))), mean and deviation over the splits.

  logits: [N, K]; for the published score Inception's, without its bias
  (Salimans et al. 2016). The score is 1 to K. The images are shuffled by
  RandomState(seed), as in torch-fidelity, or not at all for None. The deviation
  divides by the number of splits. Raises ValueError.
  """
  if logits.ndim != 2 or not 1 <= num_splits <= len(logits):
    raise ValueError(
      f'{num_splits} splits of logits {list(logits.shape)}: give [N, K] and at most N splits'
    )
  estimates.check_finite('logits', logits)
  n = len(logits)
  order = np.arange(n)
  if seed is not None:
    order = np.random.RandomState(seed).permutation(n)
  ends = [i * n // num_splits for i in range(num_splits + 1)]
  scores = [_score(logits[order[a:b]]) for a, b in itertools.pairwise(ends)]
  return Estimate(float(np.mean(scores)), float(np.std(scores)))


@declares(
  what='exp E KL(p(y | x) ‖ p(y)) (Salimans et al. 2016), mean and deviation over 10 splits',
  needs='`inception`, `digits`, `classifier`',
  data='pictures',
  instead='take fd, c2st or others of numbers',
)
def inception(num_splits: int = 10, features: tuple[str, ...] = ()) -> SampleMetric:
  """Inception score by the logits of a classifier (Salimans et al. 2016).

  The mean and the deviation over num_splits parts of the samples.
  """
  check_at_least(1, num_splits=num_splits)

  def compute(samples, reference):
    logits = take('is', samples, 'logits')
    check_counts('is', samples=(len(logits), num_splits))
    note = f'deviation over {num_splits} splits'
    return [Score('is', inception_score(logits, num_splits), note)]

  return SampleMetric({'is': True}, ('logits',), compute, features)


def _score(logits):
  from scipy import special, stats  # not at every start of the program

  p = special.softmax(np.asarray(logits, np.float64), axis=1)
  return np.exp(stats.entropy(p, p.mean(axis=0)[None], axis=1).mean())


Array = jax.Array


@declares(
  what='the fraction of images that a classifier assigns to their label',
  needs='`digits`, `classifier`',
  data='pictures',
)
def of_samples() -> SampleMetric:
  """Share of the samples that a classifier assigns to their label."""

  def compute(samples, reference):
    labels = take('accuracy', samples, 'labels')
    predicted = take('accuracy', samples, 'predicted')
    if len(labels) != len(predicted):
      raise ValueError(f'{len(labels)} labels for {len(predicted)} samples')
    return [Score('accuracy', estimates.mean(predicted == labels))]

  return SampleMetric({'accuracy': True}, ('predicted', 'labels'), compute)


class Classifier(ImageModel, Protocol):
  """A classifier p(y | x_t), as `of_classifier` needs it; facts has num_classes."""

  def logits(self, params: Params) -> Callable[[Array, dj.NoiseLevel], Array]:
    """Returns (x_t, level) -> logits [B, K]."""
    ...

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule it was trained on."""
    ...


@declares(data='pictures')
def of_classifier(t_min: float = 1e-3) -> ModelMetric:
  """Share of real images whose class a classifier finds, at noise levels.

  t_min: time of the first level, which the score is taken at; the other times
  are 0.1, 0.2, ..., 1.
  """
  times = np.append(t_min, np.linspace(0.1, 1.0, 10))

  def measure(model: Classifier) -> ExampleArrays:
    def function(params, keys, x0, cond):
      logits = model.logits(params)
      levels = model.schedule(params)(jnp.asarray(times, x0.dtype))

      def correct_at(inputs):
        keys, level = inputs
        x = dj.q_sample(x0, draw_normal(keys, x0), level)
        return jnp.argmax(logits(x, level), axis=-1) == cond['label']

      keys = split_key(keys, len(times))
      right = jax.lax.map(correct_at, (keys, levels)).T
      chance = jnp.full(len(x0), 1.0 / model.facts.num_classes)
      return {'right': right, 'chance': chance}

    return function

  def by_time(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    count = len(arrays['chance'])
    accuracy = arrays['right'].sum(axis=0) / count
    return accuracy, np.sqrt(accuracy * (1 - accuracy) / count)

  def compute(arrays):
    accuracy, error = by_time(arrays)
    first = Estimate(float(accuracy[0]), float(error[0]))
    return [Score('accuracy', first, f'at t = {t_min:g}')]

  def report(arrays: Arrays, out: Path) -> Json:
    accuracy, error = by_time(arrays)
    chance = float(arrays['chance'][0])
    plots.plot_accuracy(out / 'accuracy.png', times, accuracy, chance)
    print('accuracy by t:')
    for t, value in zip(times, accuracy, strict=True):
      print(f'  {t:5.3f}  {value:6.1%}')
    return {'t': times.tolist(), 'accuracy': accuracy.tolist(), 'standard_error': error.tolist()}

  return ModelMetric(measure, compute, report, calls=lambda model, train: len(times))
