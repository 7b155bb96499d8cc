"""Papers on trial: measures what the files of examples/papers claim, and judges it.

  python -m benchmarks.claims                     # all papers
  python -m benchmarks.claims contrastive --seeds=6

A claim is that the difference of two numbers of a track lies in an interval, at the same seed. In
turn: the pilot, whose placebos say how small a difference these seeds can see; two sets of seeds,
each with an interval of 95 % (Student's t), a verdict and a placebo; the lines of docs/claims.md.
"""

import argparse
import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

PILOT = 1000  # the first seed of the pilot


class Claim(NamedTuple):
  """A claim: numbers[of] - numbers[than] lies between low and high.

  words: of docs/claims.md, with the unit of the difference. placebo: two numbers in the same unit
  that only differ by their key.
  """

  words: str
  of: str
  than: str
  placebo: tuple[str, str]
  low: float = 0.0
  high: float = math.inf


class Paper(NamedTuple):
  """Claims about the numbers that `track` of a file of examples/papers returns.

  seeds: of each set, more where a track is short or its numbers scatter.
  """

  arxiv: str
  claims: tuple[Claim, ...]
  seeds: int = 6


LESS = 0.5 ** (1 / (1 - 0.2)) - 0.5  # of the deviation, by contrastive flow matching
PAPERS = {
  'jit': Paper(
    '2511.13720',
    (
      Claim('v fails in R^128 where x does not: log ratio of errors', 'v', 'x', ('again', 'x')),
      Claim('ε fails too: log ratio', 'eps', 'x', ('again', 'x')),
      Claim(
        'x in R^128 has at most 3 times its error in R²: log ratio below 1.1',
        'x',
        'narrow x',
        ('again', 'x'),
        -math.inf,
        math.log(3.0),
      ),
    ),
  ),
  'closed_target': Paper(
    '2506.03719',
    (
      Claim(
        'without noise in the target the error on new data is no larger: log ratio below 0.1',
        'closed',
        'noisy',
        ('again', 'noisy'),
        -math.inf,
        0.1,
      ),
      Claim(
        "and smaller than the memorising denoiser's: log ratio",
        'memorised',
        'closed',
        ('again', 'noisy'),
      ),
    ),
  ),
  'equilibrium': Paper(
    '2510.02300',
    (
      Claim(
        'after 250 steps the spread of the norm is that of the data: log ratio, ± 0.1',
        '250',
        'data',
        ('again', 'flow'),
        -0.1,
        0.1,
      ),
      Claim(
        'it ends at the mean, as the exact field (ours): log ratio of 500 steps to 250 below −0.1',
        '500',
        '250',
        ('again', 'flow'),
        -math.inf,
        -0.1,
      ),
    ),
  ),
  'contrastive': Paper(
    '2506.05350',
    (
      Claim(
        'on N(0, 0.5²) its draws have the deviation 0.5^(1/(1−λ)) (ours): 0.080 less at λ = 0.2, '
        '± 0.02',
        'contrastive',
        'plain',
        ('again', 'plain'),
        LESS - 0.02,
        LESS + 0.02,
      ),
    ),
  ),
  'rewards': Paper(
    '2509.16117',
    (
      Claim(
        'by 512 reward calls DiffusionNFT has more reward than Flow-GRPO',
        'nft',
        'grpo',
        ('again', 'nft'),
      ),
      Claim(
        'its law is nearer to the tilted law of its mean (ours): log ratio of KL',
        'grpo, KL',
        'nft, KL',
        ('again, KL', 'nft, KL'),
      ),
    ),
    seeds=24,
  ),
  'two_levels': Paper(
    '2603.06507',
    (
      Claim(
        'two levels and a head have a smaller error than one level: log ratio',
        'one',
        'aligned',
        ('again', 'one'),
      ),
      Claim(
        'the head makes the error of two levels smaller: log ratio',
        'two',
        'aligned',
        ('again', 'one'),
      ),
    ),
  ),
  'memorising': Paper(
    '2505.17638',
    (
      Claim(
        'the slope of log time over log n, for 16, 32 and 64 examples, is 1 ± 0.25',
        'slope',
        'nothing',
        ('again', 'slope'),
        0.75,
        1.25,
      ),
    ),
    seeds=12,
  ),
  'drifting': Paper(
    '2602.04770',
    (
      Claim(
        'one call is nearer to held-out digits than one of rectified flow: log ratio',
        'flow, 1',
        'drifting',
        ('again', 'drifting'),
      ),
      Claim(
        'and no farther than 47 calls of it: log ratio below 0.1',
        'drifting',
        'flow, 47',
        ('again', 'drifting'),
        -math.inf,
        0.1,
      ),
    ),
  ),
  'mosaic': Paper(
    '2412.20292',
    (
      Claim(
        'the local denoiser explains draws of convolutions better than memorising: r²',
        'local',
        'memorised',
        ('again', 'local'),
      ),
      Claim('it explains more than 0.75 of them: r²', 'local', 'nothing', ('again', 'local'), 0.75),
    ),
    seeds=12,
  ),
  'entropic': Paper(
    '2504.13612',
    (
      Claim(
        "entropic times have a smaller error than EDM's grid: log ratio",
        'edm',
        'entropic',
        ('again', 'edm'),
      ),
      Claim(
        'so have equal steps of the root of the rate (ours): log ratio',
        'edm',
        'root',
        ('again', 'edm'),
      ),
    ),
    seeds=24,
  ),
}


class Interval(NamedTuple):
  """The mean of differences, and the half width of its interval of 95 %."""

  mean: float
  half: float

  def __str__(self):
    return f'{self.mean:+.3f} ± {self.half:.3f}'.replace('-', '−')


def interval(differences: Sequence[float]) -> Interval:
  """Computes the mean of two differences or more, with 95 % of Student's t."""
  from scipy import stats

  n = len(differences)
  scale = statistics.stdev(differences) / n**0.5
  return Interval(statistics.mean(differences), float(stats.t.ppf(0.975, n - 1)) * scale)


def smallest(pilot: Iterable[dict[str, float]], claim: Claim, seeds: int) -> float:
  """Returns the difference whose interval misses 0 in 80 % of sets of seeds.

  It is 2.8 standard errors for many seeds, and more for few. The spread is the larger one of the
  pilot's placebos and of its effects.
  """
  from scipy import stats

  pairs = claim.placebo, (claim.of, claim.than)
  spread = max(statistics.stdev(differences(pilot, *pair)) for pair in pairs)
  return sum(float(stats.t.ppf(p, seeds - 1)) for p in (0.975, 0.8)) * spread / seeds**0.5


def verdict(found: Interval, claim: Claim, could_see: float) -> str:
  """Says whether an interval lies inside the claim's, outside, or neither."""
  low, high = found.mean - found.half, found.mean + found.half
  if claim.low < low and high < claim.high:
    return 'held'
  if high < claim.low or low > claim.high:
    return 'contradicted'
  return f'not seen (could have seen {could_see:.2g})'


def placebo_verdict(found: Interval) -> str:
  """Says whether the interval of a placebo contains 0."""
  return 'nothing' if abs(found.mean) <= found.half else '**false alarm**'


def differences(rows: Iterable[dict[str, float]], of: str, than: str) -> list[float]:
  """Returns the difference of two numbers for each seed."""
  return [row[of] - row[than] for row in rows]


class Trial(NamedTuple):
  """What each claim could see, the rows of two sets of seeds, and their processor minutes."""

  could_see: list[float]
  sets: tuple[list[dict[str, float]], ...]
  minutes: tuple[float, ...]


def run(paper: Paper, track: Callable[[int], dict[str, float]], seeds: int) -> Trial:
  """Runs the pilot and prints what it could see, then two sets of seeds that share none."""
  pilot = [track(PILOT + i) for i in range(seeds)]
  could_see = [smallest(pilot, claim, seeds) for claim in paper.claims]
  for claim, least in zip(paper.claims, could_see, strict=True):
    print(f'  could see {least:.2g}: {claim.words}', flush=True)
  sets, minutes = [], []
  for first in (0, seeds):
    start = time.process_time()
    sets.append([track(first + i) for i in range(seeds)])
    minutes.append((time.process_time() - start) / 60.0)
    print(f'  seeds {first} to {first + seeds - 1}: {minutes[-1]:.1f} minutes', flush=True)
  return Trial(could_see, (*sets,), (*minutes,))


def lines(name: str, paper: Paper, trial: Trial) -> list[str]:
  """Returns the lines of the table for a paper, its placebos last."""
  minutes = ', '.join(f'{x:.1f}' for x in trial.minutes)
  table = []
  for claim, least in zip(paper.claims, trial.could_see, strict=True):
    effects = [interval(differences(rows, claim.of, claim.than)) for rows in trial.sets]
    cells = [f'{x}: {verdict(x, claim, least)}' for x in effects]
    table.append([claim.words, f'{least:.2g}', *cells])
  for of, than in sorted({claim.placebo for claim in paper.claims}):
    effects = [interval(differences(rows, of, than)) for rows in trial.sets]
    cells = [f'{x}: {placebo_verdict(x)}' for x in effects]
    table.append([f'placebo: {than}, another key', '', *cells])
  return [f'| `{name}` | {paper.arxiv} | {" | ".join([*cells, minutes])} |' for cells in table]


HEAD = [
  '| file | arXiv | claim | could see | first seeds | other seeds | minutes |',
  7 * '|---' + '|',
]


def main():
  """Runs papers in turn, and prints their lines of the table."""
  parser = argparse.ArgumentParser(description='Measures what papers claim, and judges it.')
  parser.add_argument('papers', nargs='*', metavar='paper', help=f'of {", ".join(PAPERS)}')
  parser.add_argument('--seeds', type=int, help='of each set, 2 or more; else 6, 12 or 24')
  given = parser.parse_args()
  if unknown := [name for name in given.papers if name not in PAPERS]:
    parser.error(f'{unknown[0]!r} is not one of {", ".join(PAPERS)}')
  if given.seeds is not None and given.seeds < 2:
    parser.error(f'--seeds={given.seeds}: an interval needs 2 or more')
  table = [*HEAD]
  for name in given.papers or PAPERS:
    print(name, flush=True)
    track = importlib.import_module(f'examples.papers.{name}').track
    paper = PAPERS[name]
    table += lines(name, paper, run(paper, track, given.seeds or paper.seeds))
  print('\n'.join(table))


if __name__ == '__main__':
  main()
