"""What the README prints runs as printed; pages and links are there."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial import KDTree

import diffusion_jax as dj

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
EXAMPLE = re.compile(r'```python\n(.*?)```', re.DOTALL)


def run(code, capsys):
  exec(compile(code, 'README.md', 'exec'), {})
  return capsys.readouterr().out


@pytest.mark.docs
def test_the_readme_is_short_and_its_dozen_lines_train_a_network():
  """The points that they draw have the moments of two moons, and lie on them."""
  assert len(README.splitlines()) <= 120
  (code,) = EXAMPLE.findall(README)
  lines = [line for line in code.splitlines() if line.strip()]
  assert len([line for line in lines if not re.match('import |from ', line)]) <= 12
  found = {}
  exec(compile(code, 'README.md', 'exec'), found)
  x, moons = np.asarray(found['x']), found['batches'].reshape(-1, 2)[:10_000]
  assert x.shape == (1000, 2)
  assert_allclose(x.mean(axis=0), moons.mean(axis=0), atol=0.3)  # of circles of radius 3
  assert_allclose(x.std(axis=0), moons.std(axis=0), atol=0.3)
  distance, _ = KDTree(moons).query(x)
  assert np.quantile(distance, 0.9) < 0.2


def words(page):
  return len(re.findall(r'\S*\w\S*', (ROOT / page).read_text()))  # a line of a table is not a word


@pytest.mark.parametrize('path', sorted(ROOT.glob('docs/**/*.md')), ids=lambda path: path.stem)
def test_a_page_has_2500_words_beside_tables_formulas_and_code(path):
  text = re.sub(r'(?ms)^(\$\$.*?\$\$|```.*?```|\|.*?)$', '', path.read_text())
  assert len(text.split()) <= 2500


def test_a_newcomer_reads_12000_words():
  index = (ROOT / 'docs' / 'index.md').read_text()
  path = re.search(r'\*\*The path of a newcomer\*\*(.*?)\n\n', index, re.S)
  assert path
  pages = [
    'README.md',
    'docs/index.md',
    *(f'docs/{p}' for p in re.findall(r'\]\((.*?)\)', path[1])),
  ]
  assert len(pages) == 9 and sum(map(words, pages)) <= 12_000


def check_means(printed):
  numbers = re.findall(r'-?\d+\.\d*(?:e-?\d+)?', printed)
  found, expected = map(float, numbers[:2]), map(float, numbers[2:])
  for a, b in zip(found, expected, strict=True):
    assert a == pytest.approx(b, abs=0.08)


def test_the_time_of_the_main_job_is_the_same_everywhere():
  """docs/results.md has the measurements."""
  results = (ROOT / 'docs' / 'results.md').read_text()
  time = re.search(r'^\*\*(\d+ s on two CPU cores)\*\*', results, re.M)[1]
  for page in 'README.md', 'docs/index.md', 'configs/digits.py':
    assert time in ' '.join((ROOT / page).read_text().split()), page


def test_links_and_pictures_are_there():
  targets = re.findall(r'\]\(([^)#\s,]+)\)', README)
  assert len(targets) > 8
  for page in ('README.md', *(str(p.relative_to(ROOT)) for p in ROOT.glob('docs/**/*.md'))):
    folder = (ROOT / page).parent
    for target in re.findall(r'\]\(([^)#\s,]+)\)', (ROOT / page).read_text()):
      if '://' not in target:
        assert (folder / target).exists(), (page, target)


def test_every_page_of_the_site_is_in_its_menu_and_index():
  menu = re.findall(r'^ +- .*: (\w+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.M)
  pages = {page.name for page in (ROOT / 'docs').glob('*.md')}
  assert menu[0] == 'index.md' and sorted(menu) == sorted(pages)
  index = (ROOT / 'docs' / 'index.md').read_text()
  linked = set(re.findall(r'\]\((\w+\.md)\)', index))
  assert linked == pages - {'index.md'}


def test_equations_index_names_tests_and_functions_that_exist():
  index = (ROOT / 'docs' / 'equations.md').read_text()
  path = None
  for cell in re.findall(r'`([^`]+)`', index):
    file, _, test = cell.partition('::')
    if file.startswith('tests/'):
      path = ROOT / file
      assert path.exists(), file
    if test:
      assert f'def {test}(' in path.read_text(), cell
  for name in re.findall(r'\| `([a-zA-Z_]+)[`(]', index):
    assert hasattr(dj, name) or name in ('training', 'one_minus_snr_ratio'), name
