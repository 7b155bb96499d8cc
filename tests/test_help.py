"""What the command line says of itself is what the sources say."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from configs import base
from diffusion_jax import help
from diffusion_jax.programs import PROGRAMS

ROOT = Path(__file__).parent.parent
BASE = ROOT / 'configs' / 'base.py'


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('COLUMNS', '100')


SOURCE = """
def get_config():
  config = ConfigDict()
  config.seed = 0  # of all

  # --mode=train,sample (docs/a.md)
  part = config.part = ConfigDict()
  # one line
  # and another
  part.size = placeholder(int)  # then the last
  part.kind = 'x'
  inner = part.inner = ConfigDict()

  # far above

  inner.values = (
    1,
    2,
  )  # after them
  return config
"""


def test_fields_have_the_comments_above_and_beside_them(tmp_path):
  (tmp_path / 'base.py').write_text(SOURCE)
  first, part, inner = help.read_sections(tmp_path / 'base.py')
  assert first == ('', '', (), [('seed', '0', 'of all')])
  assert part[:3] == ('part', 'docs/a.md', ('train', 'sample'))
  assert part.fields == [
    ('part.size', '<int>', 'one line and another then the last'),
    ('part.kind', "'x'", ''),
  ]
  assert inner[:3] == ('part.inner', '', ('train', 'sample'))
  assert inner.fields == [('part.inner.values', '(1, 2)', 'after them')]


def flat(config, prefix=''):
  for name, value in config.items():
    if hasattr(value, 'items'):
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def test_every_field_of_the_base_config_is_known_with_its_value():
  fields = [f for section in help.read_sections(BASE) for f in section.fields]
  found = {
    field.name: None
    if field.default.startswith('<')
    else ast.literal_eval(field.default)
    for field in fields
  }
  assert found == dict(flat(base.get_config()))


def test_every_section_says_which_modes_read_it():
  first, *sections = help.read_sections(BASE)
  assert first.modes == ()
  for section in sections:
    assert section.modes and set(section.modes) <= set(PROGRAMS), section.name


@pytest.mark.parametrize('mode', PROGRAMS)
def test_the_help_of_a_mode_has_its_fields_within_the_width(mode):
  text = help.mode_help(mode, help.base_file())
  assert text.startswith(f'--mode={mode} ')
  assert ('  edit.task=' in text) == (mode == 'edit')
  assert ('  optimizer.b1=' in text) == (mode == 'train')
  assert '  seed=0' in text
  assert max(map(len, text.splitlines())) <= 100


def test_modes_are_described_by_their_programs():
  found = help.modes()
  assert list(found) == [*PROGRAMS, 'list']
  assert found['sample'] == 'draws images from a trained run.'
  assert all(text and 'Implements' not in text for text in found.values())


def test_all_configs_are_listed_with_their_first_lines(tmp_path, monkeypatch):
  text = help.list_configs()
  names = {f'configs/{p.name}' for p in ROOT.glob('configs/*.py')}
  names -= {'configs/__init__.py', 'configs/base.py'}
  listed = [x for x in text.splitlines() if x.startswith('  configs/')]
  assert {line.split()[0] for line in listed} == names
  assert ':smoke' in text
  assert 'Rectified flow on the digits' in text
  # the user's own come first, and hide those of their name
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'digits.py').write_text('"""Mine."""')
  (tmp_path / 'configs' / 'broken.py').write_text('def')
  monkeypatch.chdir(tmp_path)
  lines = help.list_configs().partition('\n\n')[2].splitlines()
  assert lines[0].split() == ['configs/broken.py']
  assert lines[1].split() == ['configs/digits.py', 'Mine.']
  assert help.base_file() == BASE or help.base_file().samefile(BASE)


TIMES = {
  'digits': '1 min 44 s',
  'digits_distilled': '12 minutes of CPU time',
  'digits_vae': '58 s',
  'shapes_text': '65 min',
}
CONFIGS = [p.stem for p in sorted(ROOT.glob('configs/[!_]*.py'))]


@pytest.mark.parametrize('name', [x for x in CONFIGS if x != 'base'])
def test_a_config_is_listed_with_its_variants_and_the_runs_it_needs(name):
  """As its get_config knows them, whose docstring may be old."""
  module = importlib.import_module(f'configs.{name}')
  config, expected = module.get_config(), []
  if name != 'run':  # it takes the folder of any run
    with pytest.raises(ValueError, match="can be 'smoke'") as refused:
      module.get_config('unknown')
    known = re.findall(r"'(\w+)'", str(refused.value))[:-1]
    variants = [f':{arg}' for arg in known if not arg.endswith('smoke')]
    expected += [f'variants {", ".join(variants)}'] if variants else []
  runs = config.latent.run, config.objective.teacher, config.training.init_from
  for run in dict.fromkeys(filter(None, runs)):
    first, _, arg = run.removeprefix('runs/').partition('-')
    expected.append(f'after configs/{first}.py' + (f':{arg}' if arg else ''))
  path = ROOT / 'configs' / f'{name}.py'
  _, facts = help.describe_config(f'configs/{name}.py', path)
  *found, last = facts.split('; ')
  time = [last] if last[:1].isdigit() else []
  assert list(filter(None, [*found, last])) == expected + time
  assert TIMES.get(name) in (None, *time)


def test_variants_that_are_not_written_out_are_left_out(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('ALL = ("a",)\nbase.with_argument(config, arg, ALL)')
  assert help.describe_config('configs/mine.py', path) == ('', '')
