"""What an exercise is, what the names of its arguments mean, and random values of them."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

NUM_CASES = 6
Formula = Callable[..., Any]


class Exercise(NamedTuple):
  """An exercise; misprints: message => misprint.

  also: further numbers that formulas name; steps: T of the inputs, in turn;
  first: the least t; error: what is allowed beyond 1e-4 of the largest number.
  """

  signature: str
  statement: str
  answer: Formula
  misprints: Mapping[str, Formula | Mapping[str, Any]]
  also: Formula = lambda: {}
  steps: tuple[int, ...] = (12,)
  first: int = 1
  error: float = 1e-6


# Shape, meaning. D is 3, K is 2.
ARGUMENTS = {
  'x_prev': '[D], x_{t−1}',
  'x0': '[D], a clean example x_0',
  'xt': '[D], x_t',
  'eps': '[D], the standard normal noise of x_t',
  'eps_hat': "[D], the network's estimate of the noise in x_t",
  'noise': '[D], fresh standard normal noise',
  'photo': '[H, W, 3], numbers from 0 to 255',
  'noises': '[T, H, W, 3], standard normal noise; noises[t − 1] is for step t',
  'z': 'a number, a value of x_t',
  'weights': '[K], probabilities with the sum 1',
  'means': '[K], the means of the components',
  'variances': '[K], their variances',
  'mean_q': '[D], the mean of q',
  'var_q': '[D] > 0, the variance of each number under q',
  'mean_p': '[D], the mean of p',
  'var_p': '[D] > 0, the variance of each number under p',
  'pixels': '[D], each 0 or 1',
  'decoded': '[L, D] in (0, 1), what the decoder returns at L draws of z from q(z | x)',
  'decoder_var': 'None for a Bernoulli decoder, or the variance of a Gaussian one, a number > 0',
  'a': 'a number',
  'variance': 'a number > 0',
  'x': 'a number',
  'zs': '[T], z_1 … z_T, a draw of the chain; zs[0] is z_1',
  'grey': '[D], grey levels k = 0 … 255 as 2 k / 255 − 1, so from −1 to 1',
  'grey_mean': '[D], the mean of p(x_0 | x_1)',
  'std': 'a number > 0, its standard deviation',
  'model': 'a function, model(x_t, t) estimates the noise in x_t, [D]',
  'mean': 'a number',
  'eps_c': "a number, the network's noise given the condition",
  'eps_u': "a number, the network's noise without it",
  'w': 'a number, the scale; w = 0 ignores the condition',
  'var_c': 'a number > 0',
  'var_u': 'a number > 0',
  't': 'an integer, the step, from 1 to T',
  's': 'an integer, the step to go to, from 0 to t − 1',
  'betas': '[T] in (0, 1), β_1 … β_T; betas[0] is β_1, and α_t = 1 − β_t',
}
# Of a name, or of a shape.
_DRAWS: dict[str, Callable[[np.random.Generator], Any]] = {
  '[D]': lambda rng: rng.normal(size=3),
  '[D] > 0': lambda rng: rng.uniform(0.3, 2.0, 3),
  'a number': lambda rng: float(rng.normal()),
  'a number > 0': lambda rng: float(rng.uniform(0.3, 0.9)),
  '[T]': lambda rng: rng.normal(size=12),
  'photo': lambda rng: rng.uniform(0, 255, (4, 5, 3)),
  'noises': lambda rng: rng.normal(size=(500, 4, 5, 3)),
  'decoded': lambda rng: rng.uniform(0.1, 0.9, (4, 3)),
  'weights': lambda rng: rng.dirichlet([9, 9]),
  'means': lambda rng: np.array([-1.5, 1.5]) + 0.3 * rng.normal(size=2),
  'variances': lambda rng: rng.uniform(0.1, 0.5, 2),
  'pixels': lambda rng: rng.integers(0, 2, 3).astype(float),
  'decoder_var': lambda rng: (None, 0.4, 0.7)[rng.integers(3)],
  'grey': lambda rng: np.array([-1, 1, 2 * rng.integers(99, 156) / 255 - 1]),
  'grey_mean': lambda rng: rng.uniform(-1, 1, 3),
  'model': lambda rng: lambda x, t: 0.4 * x + 0.1 * t,
  'w': lambda rng: float(rng.uniform(1.5, 3)),
  'var_u': lambda rng: float(rng.uniform(0.9, 1.2)),
}
# Mistakes with levels, of all exercises that have them; numbers are changed as by a misprint.
_SLIPS = {
  'you take α_t where ᾱ_t = α_1 ⋯ α_t belongs: t steps lead from x_0 to x_t, not one': {
    'bar': 'alpha',
    'bar_s': 'alpha_s',
  },
  'your ᾱ_t is a sum: it is a product, Π(1 − β_s)': {'bar': 'sum', 'bar_s': 'sum_s'},
  'your ᾱ_0 is the last entry of a list, index −1: ᾱ_0 = 1, the empty product': {'bar_s': 'last_s'},
}
_NEXT = """your levels are those of step t + 1: betas[0] is β_1, so that β_t is betas[t − 1] and
ᾱ_t has the t factors α_1 … α_t, without an α_0"""


def draw(exercise: Exercise, case: int) -> dict[str, Any]:
  """Draws the arguments of a case, 0 to 5; cases 0 and 1 have the two least t, and s = t - 1."""
  rng = np.random.default_rng(case)
  num_steps = exercise.steps[case % len(exercise.steps)]
  t = exercise.first + case if case < 2 else int(rng.integers(3, num_steps))
  s = t - 1 if case < 2 else int(rng.integers(1, t))
  drawn = {'t': t, 's': s, 'betas': rng.uniform(0.24, 3.6, num_steps) / num_steps}
  arguments = re.findall(r'\w+', exercise.signature)[1:]
  for name in arguments:
    if name not in drawn:
      drawn[name] = _DRAWS[name if name in _DRAWS else ARGUMENTS[name].partition(',')[0]](rng)
  return {name: drawn[name] for name in arguments}


def outcomes(exercise: Exercise, case: dict[str, Any]) -> dict[str, np.ndarray]:
  """Returns the answer, under '', and what each misprint gives, under its message."""
  given = case | levels(case)
  numbers = given | _apply(exercise.also, given)
  table = {'': _apply(exercise.answer, numbers)}
  for text, misprint in exercise.misprints.items():
    if callable(misprint):
      table[text] = _apply(misprint, numbers)
    else:
      table[text] = _apply(exercise.answer, _changed(numbers, misprint))
  slips = {text: _changed(given, slip) for text, slip in _SLIPS.items() if 'betas' in case}
  if 't' in case:
    slips[_NEXT] = given | levels(case, late=1)
  with np.errstate(all='ignore'):
    for text, other in slips.items():
      table[text] = _apply(exercise.answer, other | _apply(exercise.also, other))
  return {text: np.asarray(value, np.float64) for text, value in table.items()}


def levels(case: dict[str, Any], late: int = 0) -> dict[str, Any]:
  """Returns β_t, α_t, α_s, ᾱ_t and ᾱ_s as numbers of formulas, and what slips put for them.

  Where the case has none, t = T and s = t - 1. late: what is added to t and s.
  """
  if 'betas' not in case:
    return {}
  alphas = np.append(1.0, 1.0 - case['betas'])
  bars, sums = np.cumprod(alphas), np.cumsum(alphas) - 1
  t = case.get('t', len(bars) - 1) + late
  s = case['s'] + late if 's' in case else t - 1
  return {
    **{'beta': 1.0 - alphas[t], 'alpha': alphas[t], 'alpha_s': alphas[s], 'bar': bars[t]},
    **{'bar_s': bars[s], 'last_s': bars[s or -1], 'sum': sums[t], 'sum_s': sums[s]},
  }


def _changed(numbers, changes):
  new = dict(numbers)
  for name, change in changes.items():
    if isinstance(change, str):
      new[name] = numbers[change]
    else:
      new[name] = change(numbers[name]) if callable(change) else change
  return new


def _apply(formula, numbers):
  names = inspect.signature(formula).parameters
  return formula(**{name: numbers[name] for name in names if name in numbers})
