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
  that differ by their key alone.
  """

  words: str
  of: str
  than: str
  placebo: tuple[str, str]
  low: float = 0.0
  high: float = math.inf


class Paper(NamedTuple):
  """Claims about the numbers that `track` of a file of examples/papers returns."""

  arxiv: str
  claims: tuple[Claim, ...]


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
        'and smaller than that of the denoiser that memorises: log ratio',
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
        'after 250 steps the spread of |x| is that of the data: log ratio, ± 0.1',
        '250',
        'data',
        ('again', 'flow'),
        -0.1,
        0.1,
      ),
      Claim(
        'it is lost, as by the exact field (ours): log ratio of 500 steps to 250 below −0.1',
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


def smallest(placebos: Sequence[float], seeds: int) -> float:
  """Returns the difference whose interval misses 0 in 80 % of sets of seeds.

  placebos: differences of a pilot, whose spread is taken for that of the effect. It is 2.8
  standard errors for many seeds, and more for few.
  """
  from scipy import stats

  factor = sum(float(stats.t.ppf(p, seeds - 1)) for p in (0.975, 0.8))
  return factor * statistics.stdev(placebos) / seeds**0.5


def verdict(found: Interval, claim: Claim, could_see: float) -> str:
  """Says whether an interval lies in that of the claim, outside of it, or neither."""
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
  """The rows of a pilot and of two sets of seeds, and minutes of the processor of each set."""

  pilot: list[dict[str, float]]
  sets: tuple[list[dict[str, float]], ...]
  minutes: tuple[float, ...]


def run(track: Callable[[int], dict[str, float]], seeds: int, say: Callable = print) -> Trial:
  """Runs the pilot, then two sets of seeds that share none."""
  pilot = [track(PILOT + i) for i in range(seeds)]
  sets, minutes = [], []
  for first in (0, seeds):
    start = time.process_time()
    sets.append([track(first + i) for i in range(seeds)])
    minutes.append((time.process_time() - start) / 60.0)
    say(f'  seeds {first} to {first + seeds - 1}: {minutes[-1]:.1f} minutes', flush=True)
  return Trial(pilot, (*sets,), (*minutes,))


def lines(name: str, paper: Paper, trial: Trial) -> list[str]:
  """Returns the lines of the table for a paper, its placebos last."""
  seeds, minutes = len(trial.pilot), ', '.join(f'{x:.1f}' for x in trial.minutes)
  placebos = {claim.placebo for claim in paper.claims}
  could_see = {x: smallest(differences(trial.pilot, *x), seeds) for x in placebos}
  table = []
  for claim in paper.claims:
    cells = [claim.words, f'{could_see[claim.placebo]:.2g}']
    for rows in trial.sets:
      effect = interval(differences(rows, claim.of, claim.than))
      cells.append(f'{effect}: {verdict(effect, claim, could_see[claim.placebo])}')
    table.append(cells)
  for placebo in sorted(placebos):
    cells = [f'placebo: {placebo[1]}, another key', f'{could_see[placebo]:.2g}']
    for rows in trial.sets:
      effect = interval(differences(rows, *placebo))
      cells.append(f'{effect}: {placebo_verdict(effect)}')
    table.append(cells)
  return [f'| `{name}` | {paper.arxiv} | {" | ".join([*cells, minutes])} |' for cells in table]


HEAD = [
  '| file | arXiv | claim | could see | first seeds | other seeds | minutes |',
  7 * '|---' + '|',
]


def main():
  """Runs papers in turn, and prints their lines of the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('papers', nargs='*', metavar='paper', help=f'of {", ".join(PAPERS)}')
  parser.add_argument('--seeds', type=int, default=6, help='of each set, 2 or more')
  given = parser.parse_args()
  if unknown := [name for name in given.papers if name not in PAPERS]:
    parser.error(f'{unknown[0]!r} is not one of {", ".join(PAPERS)}')
  if given.seeds < 2:
    parser.error(f'--seeds={given.seeds}: an interval needs 2 or more')
  table = [*HEAD]
  for name in given.papers or PAPERS:
    print(name, flush=True)
    track = importlib.import_module(f'examples.papers.{name}').track
    table += lines(name, PAPERS[name], run(track, given.seeds))
  print('\n'.join(table))


if __name__ == '__main__':
  main()
