"""A config that came with a run or with weights executes nothing.

Each config here names a module, whose import creates a file, in a field that
accepts a part of a user's own.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import digits_distilled, digits_latent
from configs import run as run_of
from diffusion_jax.build import own_parts
from diffusion_jax.errors import UserError
from diffusion_jax.interop import files
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.runs import run_folder
from tests.programs.conftest import smoke, without_extras

# Fields that are read from a run; those of `sampling` are read from it by
# configs/run.py alone.
OF_A_RUN = [
  field
  for field in own_parts.PLACES
  if field.partition('.')[0] in run_folder.RUN_SECTIONS
]
MESSAGE = "{}='{}' would be imported, .* add --allow={}"


@pytest.fixture
def payload(tmp_path, monkeypatch):
  """A name, 'module:part'; the import creates the file `executed`."""
  monkeypatch.chdir(tmp_path)
  module = f'payload_{tmp_path.parent.name}_{tmp_path.name}'.replace('-', '_')
  code = 'from pathlib import Path\nPath("executed").touch()\n'
  code += 'def part(command=None):\n  pass\n'
  (tmp_path / f'{module}.py').write_text(code)
  yield f'{module}:part'
  assert not (tmp_path / 'executed').exists()


def spoil(workdir, field, name):
  """Writes a name into config.json of a run folder, which is made if needed."""
  workdir.mkdir(exist_ok=True)
  path = workdir / 'config.json'
  found = json.loads(path.read_text()) if path.exists() else None
  stored = found or run_folder.plain(smoke())
  section, key = field.split('.')
  if field in ('objective.pairs', 'objective.distance'):  # others take none
    stored['objective']['name'] = 'consistency_training'
  stored[section][key] = name
  stored[section]['command'] = 'touch executed'
  path.write_text(json.dumps(stored))
  # it seems to be trained
  (workdir / 'checkpoints' / '4').mkdir(parents=True, exist_ok=True)
  return workdir


def refused(mode, config, workdir, field, name):
  message = MESSAGE.format(field, name, name)
  with pytest.raises(UserError, match=message) as error:
    PROGRAMS[mode](config, str(workdir))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('field', OF_A_RUN)
def test_a_run_that_is_opened(field, payload, tmp_path):
  workdir = spoil(tmp_path / 'run', field, payload)
  for mode in ('sample', 'evaluate', 'edit', 'report', 'average', 'convert'):
    fields = {
      'average.sigma_rel': 0.1,
      'convert.to': 'safetensors' if mode == 'convert' else '',
      'convert.out': 'out.safetensors',
    }
    refused(mode, smoke(**fields), workdir, field, payload)
  with pytest.raises(UserError, match='holds a run with another config'):
    PROGRAMS['train'](smoke(), str(workdir))


def test_system_as_a_schedule(payload, tmp_path):
  """As it was reported: the command is a field of the stored config."""
  workdir = spoil(tmp_path / 'run', 'schedule.name', 'os:system')
  refused('sample', smoke(), workdir, 'schedule.name', 'os:system')


GUIDED = {'sampling.guidance_scale': 2.0, 'sampling.num_samples': 2}


@pytest.mark.parametrize(
  'field, changes',
  [
    ('sampling.guidance_run', GUIDED),
    ('sampling.classifier', {}),
  ],
)
def test_a_run_that_guides(field, changes, payload, digits_run, tmp_path):
  other = spoil(tmp_path / 'other', 'schedule.name', payload)
  config = smoke(**changes | {field: str(other)})
  run = shutil.copytree(digits_run, tmp_path / 'run')
  refused('sample', config, run, 'schedule.name', payload)
  metrics = {'evaluation.metrics': ('kid',), 'evaluation.features': 'digits'}
  config.update_from_flattened_dict(metrics)
  refused('evaluate', config, run, 'schedule.name', payload)


def test_a_teacher_and_an_autoencoder(payload, tmp_path):
  other = spoil(tmp_path / 'other', 'network.name', payload)
  config = without_extras(digits_distilled.get_config('smoke'))
  config.training.init_from = config.objective.teacher = str(other)
  refused('train', config, tmp_path / 'new', 'network.name', payload)
  config = without_extras(digits_latent.get_config('smoke'))
  config.latent.run = str(other)
  refused('train', config, tmp_path / 'new', 'network.name', payload)
  assert not (tmp_path / 'new').exists()


def test_weights_to_begin_with_and_a_run_in_a_report(
  payload, digits_run, tmp_path, capsys
):
  """These give numbers alone, whatever their config names."""
  other = shutil.copytree(digits_run, tmp_path / 'other')
  spoil(other, 'schedule.name', payload)
  config = smoke(**{'training.init_from': str(other)})
  config.report.after_training = False
  PROGRAMS['train'](config, str(tmp_path / 'new'))
  assert 'leaves' in capsys.readouterr().out
  config = smoke(
    **{'report.runs': (str(other),), 'report.trajectory_seconds': 0.0}
  )
  PROGRAMS['report'](config, str(tmp_path / 'new'))
  assert payload in (tmp_path / 'new' / 'report.html').read_text()


def test_a_file_of_weights(payload, tmp_path):
  stored = run_folder.plain(smoke())
  stored = {n: stored[n] for n in (*run_folder.RUN_SECTIONS, 'sampling')}
  stored['network']['name'] = payload
  path = tmp_path / 'weights.safetensors'
  arrays = {'network/kernel': np.zeros(2, np.float32)}
  files.write_safetensors(path, arrays, config=json.dumps(stored))
  config: Any = run_of.get_config()
  config.convert.source = str(path)
  refused('convert', config, tmp_path / 'new', 'network.name', payload)


@pytest.mark.parametrize('mode', ['sample', 'report', 'train'])
def test_the_config_of_a_run_from_python(mode, payload, tmp_path):
  workdir = spoil(tmp_path / 'run', 'schedule.name', payload)
  config: Any = run_of.get_config(str(workdir))
  refused(mode, config, workdir, 'schedule.name', payload)


def test_a_run_says_nothing_of_where_to_write_or_what_is_compiled(tmp_path):
  """Compiled programs are code as well."""
  fields = {
    'compilation_cache': 'compiled',
    'average.out': 'elsewhere',
    'convert.out': 'elsewhere',
  }
  (tmp_path / 'config.json').write_text(
    json.dumps(run_folder.plain(smoke(**fields)))
  )
  config: Any = run_of.get_config(str(tmp_path))
  assert config.compilation_cache is None
  assert not config.average.out and not config.convert.out
  assert config.stored_in == str(tmp_path)


def test_a_part_that_was_named_is_read_from_a_run(tmp_path):
  """By the config of the start, here that of SmallNetwork."""
  own = Path(tmp_path / 'run')
  spoil(own, 'network.name', smoke().network.name)
  found = run_folder.run_config(own, smoke())
  assert found.network.name == smoke().network.name
