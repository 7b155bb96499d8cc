"""The application is a kernel: five features are deleted from a copy, which still works."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.test_architecture import ROOT

_APP, _KINDS = 'diffusion_jax/app', 'diffusion_jax/app/kinds'
# Each feature: the files that are removed, and in other files the rows. A row that
# ends with ':' stands for its class or function.
FEATURES = {
  'a kind of model, bridges': (
    [f'{_KINDS}/bridges', 'diffusion_jax/bridges/sampler.py', 'diffusion_jax/bridges/objective.py'],
    {
      f'{_KINDS}/store.py': ['  bridges,\n', 'bridges, '],
    },
  ),
  'an edit, restore': (
    [f'{_APP}/edit/restoration.py'],
    {
      f'{_KINDS}/choices.py': [
        ', restoration',
        "    'restore': restoration.Restore,\n",
        "    'mask': restoration.mask,\n",
        "    'matrix': restoration.matrix,\n",
      ]
    },
  ),
  'a mode, serve': (
    [f'{_APP}/modes/serve.py', f'{_APP}/modes/serve.html'],
    {
      f'{_APP}/modes/__init__.py': [
        "  _mode('serve', 'serve', 'sampling', uses_a_run=True, extra='serve'),\n"
      ],
      f'{_KINDS}/sections.py': ["  'serve': Serve,\n", 'class Serve:'],
      f'{_KINDS}/roles.py': [", 'serve'"],
    },
  ),
  'a format, score_sde': (
    ['diffusion_jax/interop/score_sde.py'],
    {'diffusion_jax/interop/formats.py': ["'score_sde', "]},
  ),
  'metrics of calibration': (
    ['diffusion_jax/metrics/pairs.py'],
    {
      'diffusion_jax/metrics/table.py': [
        '  pairs,\n',
        "  'sbc': pairs.sbc,\n",
        "  'interval_coverage': pairs.interval_coverage,\n",
        "  'density_coverage': pairs.density_coverage,\n",
        "  'tarp': pairs.tarp,\n",
        "  'contraction': pairs.contraction,\n",
      ]
    },
  ),
}
PROGRAM = """
import importlib, pkgutil, sys
from pathlib import Path
import numpy as np
import diffusion_jax
from diffusion_jax.app import cli

for module in pkgutil.walk_packages(diffusion_jax.__path__, 'diffusion_jax.'):
  if '__main__' not in module.name:
    importlib.import_module(module.name)
assert diffusion_jax.__file__.startswith(sys.argv[1])
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.runtime.run_folder import RunFolder

run = RunFolder.at('run')
trial = shrunk(store.completed(store.from_file('configs/digits.py')))
flags = [('training.num_steps', '10'), ('sampling.num_samples', '2')]
trial = store.with_flags(trial, [*flags, ('training.sample_every', '0')])
cli.start(MODES['train'], trial, run)
cli.start(MODES['sample'], store.of_run(run, None, flags[1:]), run)
with np.load(next(Path('run').glob('samples/*.npz'))) as samples:
  assert samples['arr_0'].shape == (2, 8, 8, 1)
for name in ('edit=restore', 'objective=bridge', 'serve.port=1', 'evaluation.metrics=sbc'):
  try:
    store.with_flags(trial, [tuple(name.split('='))])
  except diffusion_jax.errors.UserError as error:
    print('refused:', error)
assert 'serve' not in MODES
"""


def without(text, row):
  """Returns a file's text without a row, which must occur once."""
  assert text.count(row) == 1, row
  start, end = text.index(row), text.index(row) + len(row)
  if row.endswith(':'):
    start, end = text.rindex('\n\n\n', 0, start), text.index('\n\n\n', start)
  return text[:start] + text[end:]


@pytest.mark.parametrize('feature', FEATURES)
def test_the_files_and_rows_of_a_feature_are_there(feature):
  """The next test takes a minute and is seldom run."""
  files, rows = FEATURES[feature]
  assert all((ROOT / file).exists() for file in files)
  for file, texts in rows.items():
    for row in texts:
      assert without((ROOT / file).read_text(), row)


@pytest.mark.slow
def test_five_features_are_deleted_by_their_files_and_rows(tmp_path):
  copy = tmp_path / 'copy'
  hidden = shutil.ignore_patterns('__pycache__')
  for folder in ('diffusion_jax', 'configs'):
    shutil.copytree(ROOT / folder, copy / folder, ignore=hidden)
  for files, rows in FEATURES.values():
    for path in (copy / file for file in files):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file, texts in rows.items():
      text = (copy / file).read_text()
      for row in texts:
        text = without(text, row)
      (copy / file).write_text(text)
  env = os.environ | {'PYTHONPATH': str(copy), 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-c', PROGRAM, str(copy)]
  found = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=env)
  assert found.returncode == 0, found.stderr[-3000:]
  assert found.stdout.count('refused:') == 4, found.stdout
