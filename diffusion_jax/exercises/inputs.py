"""What an exercise is, what the names of its arguments mean, and random values of them."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.exercises.slips import Symbols

NUM_CASES = 6
Formula = Callable[..., Any]


class Exercise(NamedTuple):
  """An exercise.

  answer: the right formula, of arguments of the exercise, of levels and of what `also` returns;
  forms: the same in other algebra, so that slips of it are known too; misprints: message =>
  a formula that no slip makes; also: further numbers; steps: T of the inputs, in turn;
  first: the least t; each_step: the first t, where levels are arrays over t = first … T;
  error: what is allowed beyond 1e-4 of the largest number; singly: only one slip is looked for;
  closed: the closed form of its expectation, for who took a mean over draws.
  """

  signature: str
  statement: str
  answer: Formula
  misprints: Mapping[str, Formula] = {}
  forms: tuple[Formula, ...] = ()
  also: Formula = lambda: {}
  steps: tuple[int, ...] = (12,)
  first: int = 1
  each_step: int = 0
  error: float = 1e-6
  singly: bool = False
  closed: str = ''

  @property
  def name(self) -> str:
    """Returns the name of the function to write."""
    return self.signature.partition('(')[0]

  @property
  def arguments(self) -> list[str]:
    """Returns the names of its arguments."""
    return re.findall(r'\w+', self.signature)[1:]


# Shape, meaning. D is 3, K is 4, L is 5.
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
  'var_x': 'a number > 0',
  'var_z': 'a number > 0',
  'eps_c': "a number, the network's noise given the condition",
  'eps_u': "a number, the network's noise without it",
  'w': 'a number, the scale; w = 0 ignores the condition',
  'var_c': 'a number > 0',
  'var_u': 'a number > 0',
  't': 'an integer, the step, from 1 to T',
  's': 'an integer, the step to go to, from 0 to t − 1',
  'betas': '[T] in (0, 1), β_1 … β_T; betas[0] is β_1, and α_t = 1 − β_t',
}
# {name or shape of an argument: a function that draws one}
_DRAWS: dict[str, Callable[[np.random.Generator], Any]] = {
  '[D]': lambda rng: rng.normal(size=3),
  '[D] > 0': lambda rng: rng.uniform(0.3, 2.0, 3),
  'a number': lambda rng: float(rng.normal()),
  'a number > 0': lambda rng: float(rng.uniform(0.3, 0.9)),
  '[T]': lambda rng: rng.normal(size=12),
  'photo': lambda rng: rng.uniform(0, 255, (4, 5, 3)),
  'noises': lambda rng: rng.normal(size=(500, 4, 5, 3)),
  'decoded': lambda rng: rng.uniform(0.1, 0.9, (5, 3)),
  'weights': lambda rng: rng.dirichlet([9, 9, 9, 9]),
  'means': lambda rng: np.array([-1.9, -0.6, 0.7, 1.6]) + 0.2 * rng.normal(size=4),
  'variances': lambda rng: rng.uniform(0.1, 0.5, 4),
  'pixels': lambda rng: rng.integers(0, 2, 3).astype(float),
  'decoder_var': lambda rng: (None, 0.4, 0.7)[rng.integers(3)],
  'grey': lambda rng: np.array([-1, 1, 2 * rng.integers(99, 156) / 255 - 1]),
  'grey_mean': lambda rng: rng.uniform(-1, 1, 3),
  'model': lambda rng: lambda x, t: 0.4 * x + 0.1 * t,
  'w': lambda rng: float(rng.uniform(1.5, 3)),
  'var_u': lambda rng: float(rng.uniform(0.9, 1.2)),
}
# How symbols are written; other arguments have their names.
_NAMES = {
  'x_prev': 'x_{t−1}',
  'x0': 'x_0',
  'xt': 'x_t',
  'eps': 'ε',
  'eps_hat': 'ε̂',
  'eps_c': 'ε_c',
  'eps_u': 'ε_u',
  'z': 'z_t',
  'z_s': 'z_{t−1}',
  'bar_T': 'ᾱ_T',
  'alpha_T': 'α_T',
  'alpha_1': 'α_1',
  'before': 'z_{t−1}',
  'zs': 'z_t',
  'betas': 'β_t',
  'var': 'decoder_var',
}
_FAMILIES = {'alpha': 'α', 'bar': 'ᾱ', 'beta': 'β', 'tilde': 'β̃'}
# What a learner may have computed in place of ᾱ.
_OTHER_BARS = {
  'sum': 'Σ α_s where {bar} = Π α_s belongs: a sum for a product',
  'product': 'Π β_s where {bar} = Π (1 − β_s) belongs',
  'short': '{bar} is one factor short: it starts with α_1 = 1 − betas[0]',
  'last': 'ᾱ_0 is the last entry of a list, index −1: ᾱ_0 = 1, the empty product',
}


def draw(exercise: Exercise, case: int) -> dict[str, Any]:
  """Draws the arguments of a case, 0 to 5; cases 0 and 1 have the two least t, and s = t - 1."""
  rng = np.random.default_rng(case)
  num_steps = exercise.steps[case % len(exercise.steps)]
  t = exercise.first + case if case < 2 else int(rng.integers(3, num_steps))
  s = t - 1 if case < 2 else int(rng.integers(1, t))
  drawn = {'t': t, 's': s, 'betas': rng.uniform(0.24, 3.6, num_steps) / num_steps}
  for name in exercise.arguments:
    if name not in drawn:
      drawn[name] = _DRAWS[name if name in _DRAWS else ARGUMENTS[name].partition(',')[0]](rng)
  return {name: drawn[name] for name in exercise.arguments}


def numbers(exercise: Exercise, case: dict[str, Any]) -> dict[str, Any]:
  """Returns all that formulas of an exercise name: arguments, levels and what `also` returns."""
  known = case | _levels(exercise, case)
  return known | apply(exercise.also, known)


def apply(formula: Formula, known: Mapping[str, Any]) -> Any:
  """Calls a formula with the numbers that it names."""
  return formula(**{name: known[name] for name in inspect.signature(formula).parameters})


def _indices(exercise):
  # {suffix of a level's name: (what it counts from, what is added, how it is written)}.
  t = 't' if 't' in exercise.arguments or exercise.each_step else 'T'
  indices = {'': ('t', 0, t), '_next': ('t', 1, f'{t}+1'), '_s_before': ('s', -1, f'{t}−2')}
  if 's' in exercise.arguments:
    indices |= {'_s': ('s', 0, 's'), '_before': ('t', -1, f'{t}−1')}
    return indices | {'_s_next': ('s', 1, 's+1'), '_s_before': ('s', -1, 's−1')}
  indices['_s'] = 's', 0, f'{t}−1'
  if t == 'T' or exercise.each_step:
    del indices['_next']
  return indices


def _levels(exercise, case):
  # β_t, α_t, ᾱ_t and β̃_t of each index, and what may stand in place of ᾱ. Without an
  # argument t it is T, without s, t - 1; an index before 0 stands for 0.
  if 'betas' not in case:
    return {}
  alphas = np.append(1.0, 1.0 - case['betas'])
  bars, last = np.cumprod(alphas), len(alphas) - 1
  t = case.get('t', np.arange(exercise.each_step, last + 1) if exercise.each_step else last)
  tables = {
    'alpha': alphas,
    'bar': bars,
    'beta': 1 - alphas,
    'tilde': np.append(0.0, (1 - bars[:-1]) / (1 - bars[1:]) * case['betas']),
    'sum': np.cumsum(alphas) - 1,
    'product': np.append(1.0, np.cumprod(case['betas'])),
    'short': np.append(1.0, bars[1:] / alphas[1]),
    'last': np.append(bars[-1], bars[1:]),
  }
  start = {'t': t, 's': case.get('s', t - 1)}
  return {
    family + suffix: table[np.maximum(start[from_] + added, 0)]
    for family, table in tables.items()
    for suffix, (from_, added, _) in _indices(exercise).items()
  }


def symbols(exercise: Exercise) -> Symbols:
  """Returns what slips need to know of the symbols of an exercise."""
  names = dict(_NAMES)
  sorts: dict[str, list[str]] = {}
  for name in exercise.arguments:
    sorts.setdefault(ARGUMENTS[name].partition(',')[0], []).append(name)
  positive = [*sorts.get('[D] > 0', []), *sorts.get('a number > 0', [])]
  positive += ['variances', 'weights', 'betas', 'rest', 'var']
  levels, everywhere = {}, []
  if 'betas' in exercise.arguments:
    indices = _indices(exercise)
    for suffix, (*_, index) in indices.items():
      for family, letter in _FAMILIES.items():
        levels[family + suffix] = family, suffix
        names[family + suffix] = f'{letter}_{index}' if len(index) == 1 else f'{letter}_{{{index}}}'
    everywhere = _everywhere(indices, names)
  if 'zs' in exercise.arguments:  # `also` has those of the last step.
    levels |= {f'{family}_T': (family, '_T') for family in ('alpha', 'bar')}
  alike = [group for group in sorts.values() if len(group) > 1]
  alike += [['z', 'z_s']] * (exercise.each_step > 0)
  return Symbols(names, levels, alike, positive, everywhere)


def _everywhere(indices, names):
  # Slips of all levels of a formula, (words, {name: name}).
  def renamed(old, new):
    return {old + suffix: new + suffix for suffix in indices}

  def moved(families, way):
    to = {'': way, '_s': '_s' + way}
    if '_s_next' not in indices:  # s is t - 1
      to = {'': '_next', '_s': ''} if way == '_next' else {'': '_s', '_s': '_s_before'}
    pairs = {old: new for old, new in to.items() if new in indices}
    return {f + old: f + new for f in families for old, new in pairs.items()}

  bar, index = names['bar'], indices[''][2]
  slips = [(words.format(bar=bar), renamed('bar', name)) for name, words in _OTHER_BARS.items()]
  one = f'{names["alpha"]} where {bar} = α_1 ⋯ {names["alpha"]} belongs: one step for {index}'
  swapped = renamed('alpha', 'beta') | renamed('beta', 'alpha')
  slips += [
    (one, renamed('bar', 'alpha')),
    (f'{names["alpha"]} and {names["beta"]} are swapped', swapped),
  ]
  for way, sign in ('_next', '+'), ('_before', '−'):
    count = 'betas[0] is β_1, so that β_t is betas[t − 1], and there is no α_0'
    words = f'levels of step {index} {sign} 1 where those of {index} belong: {count}'
    slips.append((words, moved(_FAMILIES, way)))
    slips.append((f'ᾱ has the index {index} {sign} 1 where {index} belongs', moved(['bar'], way)))
  return slips
