"""benchmarks.claims: its intervals and verdicts, of closed forms and of draws, and its page."""

import math
import re

import numpy as np
import pytest

from benchmarks import claims
from benchmarks.claims import PAPERS, Claim, Interval, Paper
from tests.test_readme import ROOT

PAGE = (ROOT / 'docs/claims.md').read_text()
MORE = Claim('more', 'a', 'b', ('c', 'b'))
WITHIN = Claim('equal', 'a', 'b', ('c', 'b'), -0.1, 0.1)


def test_the_interval_is_students():
  """1, 2, 3: the mean 2, and 4.302653 / sqrt(3) (a table of t, 2 degrees)."""
  found = claims.interval([1.0, 2.0, 3.0])
  assert found.mean == 2.0 and found.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
  assert str(Interval(-0.5, 0.1)) == '−0.500 ± 0.100'


def test_the_smallest_effect_is_of_the_larger_spread():
  """(4.302653 + 1.060660) / sqrt(3) of a deviation of 1, of a table of t; and of 2."""
  base = [{'a': 0.0, 'b': 0.0, 'c': float(i)} for i in range(3)]
  least = (4.302653 + 1.060660) / 3**0.5
  assert claims.smallest(base, MORE, 3) == pytest.approx(least, rel=1e-6)
  wide = [row | {'a': 2.0 * row['c']} for row in base]
  assert claims.smallest(wide, MORE, 3) == pytest.approx(2.0 * least, rel=1e-6)


def test_how_often_it_errs(n=6, trials=4000):
  """Placebos are false alarms in 5 % of trials, and the smallest effect is seen in 80 %."""
  from scipy import stats

  x = np.random.default_rng(0).normal(size=(trials, n))
  least = (stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) / n**0.5
  pairs = ((0.0, '**false alarm**', 0.05), (least, '**false alarm**', 0.8))
  for effect, word, share in pairs:
    found = [claims.placebo_verdict(claims.interval(row)) for row in (x + effect).tolist()]
    assert np.mean([f == word for f in found]) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
  'mean, half, of_more, of_within',
  [
    (0.3, 0.2, 'held', 'not seen'),
    (-0.3, 0.1, 'contradicted', 'contradicted'),
    (0.02, 0.05, 'not seen', 'held'),
    (0.3, 0.1, 'held', 'contradicted'),
    (0.0, 0.5, 'not seen', 'not seen'),
  ],
)
def test_a_verdict_compares_two_intervals(mean, half, of_more, of_within):
  for claim, word in ((MORE, of_more), (WITHIN, of_within)):
    found = claims.verdict(Interval(mean, half), claim, 0.25)
    assert found == (f'{word} (could have seen 0.25)' if word == 'not seen' else word)


def test_a_trial_has_three_sets_of_seeds(capsys):
  """The pilot's seeds judge nothing, and no seed is run twice."""
  seeds = []

  def track(seed):
    seeds.append(seed)
    return {'a': 1.0 + 0.01 * (seed % 3), 'b': 0.01 * (seed % 2), 'c': 0.0}

  paper = Paper('0000.00000', (MORE, WITHIN))
  trial = claims.run(paper, track, 4)
  assert len({*seeds}) == len(seeds) == 12 and min(seeds[:4]) >= claims.PILOT
  assert capsys.readouterr().out.count('could see') == 2
  more, within, placebo = claims.lines('name', paper, trial)
  assert more.startswith('| `name` | 0000.00000 | more | ') and more.count('held') == 2
  assert within.count('contradicted') == 2 and placebo.count('nothing') == 2
  assert {line.count('|') for line in (*claims.HEAD, more, within, placebo)} == {8}


@pytest.mark.parametrize(
  'flags, line', [(['x'], "'x' is not one of"), (['--seeds=1'], '2 or more')]
)
def test_what_cannot_be_judged_is_refused(flags, line, monkeypatch, capsys):
  monkeypatch.setattr('sys.argv', ['claims', *flags])
  with pytest.raises(SystemExit):
    claims.main()
  assert line in capsys.readouterr().err


def test_every_paper_is_a_file():
  files = {path.stem for path in (ROOT / 'examples/papers').glob('*.py')} - {'fitting'}
  assert files == {*PAPERS}
  for name in files:
    text = (ROOT / f'examples/papers/{name}.py').read_text()
    assert f'python -m benchmarks.claims {name}\n' in text and PAPERS[name].arxiv in text


def test_the_page_has_a_line_for_each_claim_whose_verdicts_follow():
  """From the printed intervals, to their digits; placebos too."""
  rows = [line.strip('| ').split(' | ') for line in PAGE.splitlines() if line.startswith('| `')]
  for name, paper in PAPERS.items():
    mine = {row[2]: row for row in rows if row[0] == f'`{name}`'}
    placebos = {f'placebo: {c.placebo[1]}, another key' for c in paper.claims}
    assert {*mine} == {c.words for c in paper.claims} | placebos, name
    for words, (_, arxiv, _, _, *sets, _) in mine.items():
      claim = next((c for c in paper.claims if c.words == words), None)
      assert arxiv == paper.arxiv and len(sets) == 2
      for cell in sets:
        mean, half = (float(x.replace('−', '-')) for x in re.findall(r'[−+]?\d+\.\d+', cell)[:2])
        found = Interval(mean, half)
        said = cell.partition(': ')[2].partition(' (')[0]
        if claim is None:
          assert said == claims.placebo_verdict(found), cell
        else:
          assert said == claims.verdict(found, claim, math.nan).partition(' (')[0], cell
