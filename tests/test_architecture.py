"""Imports, names and folders of the project."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import diffusion_jax as dj

ROOT = Path(__file__).parent.parent
HEAVY = (
  'flax', 'absl', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'diffrax',
  'PIL', 'matplotlib', 'sklearn', 'ml_collections',
)  # fmt: skip


def test_import_diffusion_jax_loads_only_jax_and_numpy():
  code = 'import sys, diffusion_jax; print(*sorted(sys.modules))'
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  loaded = {name.partition('.')[0] for name in result.stdout.split()}
  assert {'jax', 'numpy', 'diffusion_jax'} <= loaded
  assert not loaded & set(HEAVY)


def test_import_arrows():
  """Checks the contracts of pyproject.toml."""
  result = subprocess.run(
    ['lint-imports', '--no-cache'], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout


def test_the_application_names_modules_of_the_user_in_one_place():
  """Only these files run code by its name."""
  runs_code = re.compile(r'importlib\.import_module|\b(exec|eval)\(')
  users = {
    path.name
    for path in (ROOT / 'diffusion_jax' / 'app').rglob('*.py')
    if runs_code.search(path.read_text())
  }
  assert users == {
    'own.py',  # asks for permission
    'convert.py',  # a reader of interop
    '__init__.py',  # a mode
  }


def test_modes_are_imported_on_dispatch():
  """Reporting a mistake loads no library for data sets or checkpoints."""
  code = (
    'import sys\nfrom diffusion_jax.app import cli\nprint(*sorted(sys.modules))'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  loaded = {name.partition('.')[0] for name in result.stdout.split()}
  assert 'diffusion_jax' in loaded, result.stderr
  assert not loaded & {
    'orbax', 'grain', 'tensorflow_datasets', 'tensorboardX', 'tensorflow',
    'bokeh', 'matplotlib', 'diffrax',
  }  # fmt: skip


def test_files_are_written_by_drafts():
  """What is opened for writing by its path may be a link of a stranger."""
  by_path = re.compile(
    r"""\.write_(text|bytes)\(|open\(.*['"][wax]b?['"]|makedirs\(|mkdir\("""
    r'|savefig\((?!file)|np\.savez?\((?!file)|memmap\((?!file)|\.touch\('
  )
  package = ROOT / 'diffusion_jax'
  users = {
    path.relative_to(package).as_posix()
    for path in package.rglob('*.py')
    if by_path.search(path.read_text().replace('files.write_text(', ''))
  }
  assert users == {
    'drafts.py', 'runtime/files.py',  # which all others use
    'training/logging.py',  # appends to a file that it has made
    'interop/stablehlo.py', 'interop/diffusers_folders.py',  # a new folder
    'runtime/cache.py', 'metrics/references.py', 'app/config/own.py',  # caches
    'app/modes/convert.py',  # a place that the user names
    'runtime/processes.py',  # /dev/null
    'demos/perceptrons.py',  # weights of the package
  }  # fmt: skip


def test_sampling_draws_its_noise_in_core_keys_alone():
  """Keys per example need all noise to come from there."""
  for path in (ROOT / 'diffusion_jax' / 'sampling').glob('*.py'):
    used = {
      ast.unparse(node)
      for node in ast.walk(ast.parse(path.read_text()))
      if isinstance(node, ast.Attribute)
    }
    assert not any(name.startswith('jax.random') for name in used), path


def test_no_file_refers_to_a_place_on_a_machine():
  tracked = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True
  ).stdout.split()
  for name in tracked:
    if Path(name).suffix in ('.py', '.md', '.toml', '.yml', ''):
      text = (ROOT / name).read_text()
      assert '../' + 'shared' not in text, name
      assert '/' + 'root/' not in text, name


def test_the_version_is_written_once():
  """The wheel reads it from the package; other files repeat it."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'version' not in project['project']
  version = project['tool']['hatch']['version']
  assert version == {'path': 'diffusion_jax/__init__.py'}
  first = next(
    line
    for line in (ROOT / 'CHANGELOG.md').read_text().splitlines()
    if line.startswith('## ')
  )
  assert first.split()[1] == dj.__version__
  assert f'\nversion: {dj.__version__}\n' in (ROOT / 'CITATION.cff').read_text()


# Modules without a test file of their own -> the file with their tests.
TESTED_ELSEWHERE = {
  'app/config/sections.py': 'app/test_scoring.py',
  'app/run/averages.py': 'app/run/test_weights.py',
  'app/modes/average.py': 'app/run/test_weights.py',
  'app/modes/patience.py': 'app/modes/test_train_run.py',
  'app/models/classifier.py': 'app/models/test_guidance.py',
  'app/models/teachers.py': 'app/models/test_flow_map.py',
  'app/config/constructors.py': 'app/config/test_tables.py',
  'app/edits/methods.py': 'app/modes/test_edit.py',
  'app/edits/pictures.py': 'app/modes/test_edit.py',
  'app/config/errors.py': 'app/config/test_tree.py',
  'app/config/fields.py': 'app/config/test_store.py',
  'app/config/kinds.py': 'app/config/test_store.py',
  'app/devices.py': 'app/modes/test_train_setup.py',
  'app/drawing/emerging.py': 'app/modes/test_serve.py',
  'app/run/ema.py': 'app/test_noisy.py',
  'app/drawing/generate.py': 'app/models/test_diffusion.py',
  'app/run/model_card.py': 'app/run/test_sharing.py',
  'app/model.py': 'app/models/test_vae.py',
  'app/config/unread.py': 'app/modes/test_refusals.py',
  'app/run/other_runs.py': 'app/models/test_guidance.py',
  'app/edits/posteriors.py': 'app/modes/test_restore.py',
  'app/edits/restoration.py': 'app/modes/test_restore.py',
  'core/measurements.py': 'sampling/test_measurements.py',
  'core/network.py': 'core/test_denoiser.py',
  'core/flow_losses.py': 'training/test_flow_maps.py',
  'data/builders.py': 'data/test_prepare.py',
  'data/columns.py': 'data/test_webdataset.py',
  'data/splits.py': 'data/test_npz.py',
  'demos/judging.py': 'demos/test_digits_judge.py',
  'demos/noising.py': 'app/modes/test_noise.py',
  'errors.py': 'app/test_cli.py',
  'interop/diffusers_autoencoder.py': 'interop/test_diffusers.py',
  'interop/diffusers_folders.py': 'interop/test_diffusers.py',
  'interop/diffusers_options.py': 'interop/test_diffusers.py',
  'interop/diffusers_schedulers.py': 'interop/test_diffusers.py',
  'interop/diffusers_transformer.py': 'interop/test_diffusers.py',
  'interop/diffusers_unet.py': 'interop/test_diffusers.py',
  'interop/edm_options.py': 'interop/test_edm.py',
  'interop/openai_options.py': 'interop/test_openai.py',
  'interop/score_sde_layers.py': 'interop/test_score_sde.py',
  'interop/reader.py': 'interop/test_readers.py',
  'interop/layers.py': 'interop/test_openai.py',
  'interop/stablehlo.py': 'app/modes/test_convert.py',
  'metrics/likelihoods.py': 'app/modes/test_evaluate.py',
  'metrics/real_images.py': 'app/modes/test_evaluate.py',
  'metrics/table.py': 'metrics/test_metric.py',
  'metrics/sweeps.py': 'app/test_scoring.py',
  'aliases.py': 'test_architecture.py',
  'runtime/precision.py': 'test_numerics.py',
  'training/base_weights.py': 'app/run/test_adapters.py',
  'training/integrity.py': 'training/test_checksums.py',
  'training/first_weights.py': 'app/modes/test_convert.py',
  'training/stored_weights.py': 'training/test_checkpoints.py',
  'drafts.py': 'runtime/test_files.py',
  'sampling/conjugate_gradients.py': 'sampling/test_reconstruction.py',
  'sampling/twists.py': 'sampling/test_particles.py',
}


def test_every_folder_of_tests_is_collected(request):
  """Pytest ignores, by default, folders named build."""
  left_out = request.config.getini('norecursedirs')
  for path in (ROOT / 'tests').rglob('test_*.py'):
    for folder in path.relative_to(ROOT).parts[:-1]:
      assert not [p for p in left_out if fnmatch.fnmatch(folder, p)], path


def test_tests_mirror_the_package():
  """`core/process.py` has `tests/core/test_process.py`, for example."""
  tests, package = ROOT / 'tests', ROOT / 'diffusion_jax'
  modules = {path.relative_to(package) for path in package.rglob('*.py')}
  without = {
    path.as_posix()
    for path in modules
    if path.name != '__init__.py'
    and not (tests / path.with_name(f'test_{path.name}')).is_file()
  }
  assert without == set(TESTED_ELSEWHERE), 'add tests/<the same path>'
  for path in TESTED_ELSEWHERE.values():
    assert (tests / path).is_file(), path
