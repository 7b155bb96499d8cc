"""What the command line says of itself is what the sources say."""

import ast
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
  assert {line.split()[0] for line in text.splitlines() if line[2] != ' '} == (
    names
  )
  assert 'Rectified flow on the digits' in text
  # the user's own come first, and hide those of their name
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'digits.py').write_text('"""Mine."""')
  (tmp_path / 'configs' / 'broken.py').write_text('def')
  monkeypatch.chdir(tmp_path)
  lines = help.list_configs().splitlines()
  assert lines[0].split() == ['configs/broken.py']
  assert lines[1].split() == ['configs/digits.py', 'Mine.']
  assert help.base_file() == BASE or help.base_file().samefile(BASE)
