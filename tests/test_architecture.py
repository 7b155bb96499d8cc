"""Imports, names and folders of the project."""

import ast
import fnmatch
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
  """The contracts of pyproject.toml."""
  result = subprocess.run(
    ['lint-imports', '--no-cache'], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout


def test_programs_are_imported_on_dispatch():
  """`--mode=noise` loads nothing that stores checkpoints or reads data sets."""
  code = (
    'import sys, diffusion_jax.programs as p, diffusion_jax.errors as e\n'
    'import configs.noise_photo as c\n'
    'config = c.get_config("smoke"); config.schedule.alphas = ()\n'
    'try: p.PROGRAMS["noise"](config, "x")\n'
    'except e.UserError: print(*sorted(sys.modules))'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  loaded = {name.partition('.')[0] for name in result.stdout.split()}
  assert 'diffusion_jax' in loaded, result.stderr
  assert not loaded & {'orbax', 'grain', 'tensorflow_datasets', 'tensorboardX'}


def test_public_names_are_documented():
  """Every name of `dj` has a docstring of one to a dozen lines."""
  names = [name for name in dir(dj) if not name.startswith('_')]
  assert len(names) > 40
  for name in names:
    value = getattr(dj, name)
    if callable(value) and value.__module__.startswith('diffusion_jax'):
      assert value.__doc__, name
      assert len(value.__doc__.strip().splitlines()) <= 14, name


def test_sampling_draws_its_noise_in_core_keys_alone():
  """Keys per example work because nothing else draws noise (rule 6)."""
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
  """In the package; the wheel reads it there, others are compared with it."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'version' not in project['project']
  dynamic = project['tool']['setuptools']['dynamic']
  assert dynamic['version']['attr'] == 'diffusion_jax.__version__'
  first = next(
    line
    for line in (ROOT / 'CHANGELOG.md').read_text().splitlines()
    if line.startswith('## ')
  )
  assert first.split()[1] == dj.__version__
  assert f'\nversion: {dj.__version__}\n' in (ROOT / 'CITATION.cff').read_text()


# module -> where its tests are: builders and programs are tested on what they
# build and write
TESTED_ELSEWHERE = {
  'build/facts.py': 'families/test_latent.py',
  'build/flow_map.py': 'families/test_flow_map.py',
  'build/guidance.py': 'families/test_guidance.py',
  'build/make.py': 'build/test_audit.py',
  'build/network.py': 'build/test_build.py',
  'build/objective.py': 'build/test_build.py',
  'build/optimizer.py': 'build/test_recipes.py',
  'core/flow_losses.py': 'training/test_flow_maps.py',
  'data/builders.py': 'data/test_prepare.py',
  'errors.py': 'test_command_line.py',
  'families/classifier.py': 'families/test_guidance.py',
  'families/family.py': 'families/test_vae.py',
  'families/vae_models.py': 'families/test_vae.py',
  'interop/diffusers_autoencoder.py': 'interop/test_diffusers.py',
  'interop/diffusers_folders.py': 'interop/test_diffusers.py',
  'interop/diffusers_options.py': 'interop/test_diffusers.py',
  'interop/diffusers_schedulers.py': 'interop/test_diffusers.py',
  'interop/diffusers_transformer.py': 'interop/test_diffusers.py',
  'interop/diffusers_unet.py': 'interop/test_diffusers.py',
  'interop/edm_options.py': 'interop/test_edm.py',
  'interop/openai_options.py': 'interop/test_openai.py',
  'interop/reader.py': 'app/modes/test_convert.py',
  'interop/score_sde_layers.py': 'interop/test_score_sde.py',
  'interop/layers.py': 'interop/test_openai.py',
  'interop/ve.py': 'interop/test_score_sde.py',
  'runs/averages.py': 'programs/test_average.py',
  'runs/base_config.py': 'programs/test_report.py',
  'runs/first_weights.py': 'app/modes/test_convert.py',
  'runs/guidance_runs.py': 'families/test_guidance.py',
  'runs/rehearsal.py': 'programs/test_train.py',
  'runs/results.py': 'programs/test_evaluate.py',
  'runs/sample_inputs.py': 'programs/test_sample.py',
  'runs/sessions.py': 'programs/test_report.py',
}


def test_every_folder_of_tests_is_collected(request):
  """By default pytest leaves out folders whose name is build."""
  left_out = request.config.getini('norecursedirs')
  for path in (ROOT / 'tests').rglob('test_*.py'):
    for folder in path.relative_to(ROOT).parts[:-1]:
      assert not [p for p in left_out if fnmatch.fnmatch(folder, p)], path


def test_tests_mirror_the_package():
  """`core/process.py` has `tests/core/test_process.py`, and so on."""
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
