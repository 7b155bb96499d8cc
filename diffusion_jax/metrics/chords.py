"""The energy distance of angles, directions and rotations, by their chords."""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.data.directional import as_points
from diffusion_jax.data.sources import some_of
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import Missing
from diffusion_jax.metrics.metric import SampleMetric, Score, sizes, take
from diffusion_jax.metrics.mmd import energy_distance

SETS = '', '_real'


@declares(
  what=(
    '2 E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖, unbiased, of angles as cosine and sine, unit vectors, '
    'and rotations as matrices; `_real`: of real examples of the other split'
  ),
)
def chordal_energy(max_samples: int = 10_000, beside: bool = True) -> SampleMetric:
  """Energy distance of directions by the lengths of chords, and the same of real examples.

  See `energy_distance` and `directional.as_points`. It is 0 for equal laws only, which it is
  not by the length of the arc: the two poles and two points of the equator have equal mean
  arcs. max_samples: of each set, random ones. beside: scores as many real examples
  too.
  """
  check_at_least(2, max_samples=max_samples)

  def compute(samples, reference):
    kind, period = reference['manifold'].tolist()
    sets = [take('chordal_energy', samples, 'values')]
    sets += [reference['others']] if beside and 'others' in reference else []
    real = take('chordal_energy', reference, 'values', 'reference')
    real = real[some_of(real, max_samples)]
    count = min(max_samples, *map(len, sets))
    if min(count, len(real)) < 2:
      raise Missing('chordal_energy needs 2 examples or more of the samples and of the reference')
    y, scores = as_points(real, kind, float(period)), []
    for of, x in zip(SETS, sets, strict=False):
      x = as_points(np.asarray(x)[some_of(x, count)], kind, float(period))
      scores.append(Score(f'chordal_energy{of}', energy_distance(x, y), sizes(x, y)))
    return scores

  names = [f'chordal_energy{of}' for of in SETS[: 1 + beside]]
  needs = 'values', 'manifold', *['others'] * beside
  return SampleMetric(dict.fromkeys(names, False), needs, compute)
