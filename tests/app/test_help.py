"""What the command line says of itself is what the sources say."""

import re
from pathlib import Path

import pytest

from diffusion_jax.app import help
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import diffusion, store
from diffusion_jax.app.modes import MODES
from tests.app.conftest import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('COLUMNS', '100')


def mode_help(mode, name, *flags):
  return help.mode_help(mode, store.with_flags(read(name), flags), name)


def test_fields_have_the_texts_of_their_docstrings():
  text = mode_help('train', 'digits')
  lines = text.splitlines()
  assert '  seed=0' + ' ' * 32 + 'for parameters, noise and the order of the data' in lines
  start = lines.index(next(x for x in lines if 'training.machine.mesh=' in x))
  said = ' '.join(x[40:] for x in lines[start : start + 2])
  assert said == (
    'devices (data, fsdp): every batch is split over all of them, large '
    'parameters over the second; -1: all that are left'
  )
  schema = diffusion.SCHEMA
  for table in (schema.parts, *schema.tables.values()):
    for part in table.values():  # no text is left over
      assert {*help._texts(part)} - {'pair'} <= {*parameters(part)}  # a guider's denoisers
  every = {
    name for kind in store.KINDS for part in kind.parts.values() for name in help._texts(part)
  }
  assert {'reverse', 'top_p', 'guidance_scale', 'decoder'} <= every  # of sections of kinds


@pytest.mark.parametrize('name', ['digits_dit', 'digits_vae', 'digits_meanflow'])
def test_every_field_of_a_config_is_in_the_help_of_a_mode(name):
  """The help of some mode shows each field of the config."""
  shown = [mode_help(mode, name) for mode in MODES]
  shown = {line.split('=')[0].strip() for text in shown for line in text.splitlines()}
  names = [name for name in folder.flat(read(name).to_dict()) if not name.endswith('.name')]
  assert not {*names, 'sampling.name', 'evaluation.name'} - shown


@pytest.mark.parametrize('mode', MODES)
def test_the_help_of_a_mode_has_its_fields_within_the_width(mode):
  text = mode_help(mode, 'digits')
  assert text.startswith(f'--mode={mode} ')
  assert ('\nedit=' in text) == (mode == 'edit')
  assert ('  optimizer.b1=' in text) == (mode in ('train', 'band'))
  assert '  seed=0' in text
  assert max(map(len, text.splitlines())) <= 100


def test_a_section_has_its_choices_docstring_and_parameters():
  """The help of a section is its own, or of the choice that a flag names."""
  text = mode_help('train', 'digits_dit')
  section = text.partition('\nnetwork=')[2].partition('\n\nnoise_input=')[0]
  assert section.startswith('dit; or unet, ddpmpp, edm2, vdm, mlp\n')
  assert '  Computes a transformer: x [B, H, W, C]' in section
  assert '\n  network.patch_size=2\n' in section
  assert '  objective.times.mean=0.8' in text  # of a choice within a choice
  assert 'edit.image2' not in mode_help('edit', 'digits')
  other = mode_help('edit', 'digits', ('edit', 'interpolate'))
  assert '\nedit=interpolate; or inpaint' in other
  assert '\n  edit.image2=\n' in other
  start = other.index('  sampling.guidance=None  ')
  said = 'by the condition, or by a worse run; classifier_free,'
  assert other[start : start + 200].split()[1:10] == said.split()
  words = next(x for x in text.splitlines() if 'optimizer.decay=' in x)
  assert words.split()[1:] == 'constant, linear, cosine, inverse_sqrt'.split()


def test_modes_are_described_by_their_modules():
  texts = help.about_modes()
  assert list(texts) == [*MODES, 'list']
  assert texts['sample'] == 'draws images from a trained run.'
  assert all(text and 'Implements' not in text for text in texts.values())


def test_all_configs_are_listed_with_their_first_lines(tmp_path, monkeypatch):
  text = help.list_configs()
  names = {f'configs/{p.name}' for p in ROOT.glob('configs/*.py')}
  names -= {'configs/__init__.py', 'configs/base.py'}
  listed = [x for x in text.splitlines() if x.startswith('  configs/')]
  assert {line.split()[0] for line in listed} == names
  assert ':smoke' in text
  assert 'Rectified flow on the digits' in text
  assert re.search(r':superres; \d+ s', ' '.join(text.split()))
  # the user's own configs come first, and hide others of the same name
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'digits.py').write_text('"""Mine."""')
  (tmp_path / 'configs' / 'broken.py').write_text('def')
  monkeypatch.chdir(tmp_path)
  lines = help.list_configs().partition('\n\n')[2].splitlines()
  assert lines[0].split() == ['configs/broken.py']
  assert lines[1].split() == ['configs/digits.py', 'Mine.']
