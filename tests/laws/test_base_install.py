"""A base install is the library: what `dependencies` bring is enough for it.

A process in which the other packages of this environment cannot be imported
loads every module of the library's rooms; slow, it uses them. Planted fault: an
import of tqdm at the top of `training/loggers.py`; slow, in `state.init_state`.
"""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.test_readme import EXAMPLE, README, ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
ROOMS = (
  'core networks sampling training planning testing few_steps discrete bridges autoencoders '
  'posteriors'
).split()


def closure(requirements):
  """Returns the distributions that requirements bring in this environment, their own too."""
  found, todo = set(), [Requirement(text) for text in requirements]
  while todo:
    requirement = todo.pop()
    name = re.sub('[-_.]+', '-', requirement.name).lower()
    extras = ['', *requirement.extras]
    for extra in extras:
      if (name, extra) in found:
        continue
      found.add((name, extra))
      for text in metadata.requires(name) or []:
        inner = Requirement(text)
        if inner.marker is None or inner.marker.evaluate({'extra': extra}):
          todo.append(inner)
  return {name for name, _ in found}


BASE = closure(PROJECT['dependencies'])
HIDING = """
import sys
class Hidden:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in HIDDEN:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Hidden())
"""
IMPORTING = """
import importlib, pkgutil
import diffusion_jax as dj
for room in ROOMS:
  package = importlib.import_module(f'diffusion_jax.{room}')
  for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
    if not module.name.endswith('__main__'):
      importlib.import_module(module.name)
print('imported')
"""
# What the README and a certificate use; the wheel of .ci/run is used in an environment of its own.
USING = """
import jax, jax.numpy as jnp
import diffusion_jax as dj
# All functions are traced; tests of the docs also compute the numbers.
jax.eval_shape(lambda: exec(README, {}))  # It trains and samples.

x, schedule = jnp.ones((2, 4, 4, 1)), dj.CosineSchedule()
point = lambda x, level: dj.Prediction(0 * x)
jax.eval_shape(lambda: dj.log_likelihood(jax.random.key(3), point, schedule, x))

from diffusion_jax.testing import bench
from diffusion_jax.testing.certify import certify
def exact(problem, x, num_steps, rng):
  return problem.draw(rng, len(x))
print(certify(exact, bench.gaussian(), draws=200, steps=(1, 2)).verdict)
"""
PROGRAM = """
import diffusion_jax as dj
from diffusion_jax.errors import UserError
try:
  dj.open_run('runs/none')
except UserError as error:
  print(error)
sys.argv[:] = ['launch.py', '--config=configs/digits.py']
import launch
launch.app.start()
"""


def run(code):
  """Runs code in a process that has the packages of a base install."""
  hidden = {
    module
    for module, names in metadata.packages_distributions().items()
    if not BASE & {re.sub('[-_.]+', '-', name).lower() for name in names}
  } - {'diffusion_jax'}
  values = f'HIDDEN, ROOMS = {hidden!r}, {ROOMS!r}\n'
  [readme] = EXAMPLE.findall(README)
  short = readme.replace('256_000', '256').replace('(2000, 128', '(2, 128')
  assert short.count('2000') == 0
  code = f'{values}README = {short!r}\n{HIDING}{code}'
  return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)


def test_the_library_needs_the_packages_of_a_base_install_only():
  assert {'jax', 'flax', 'optax', 'scipy'} <= BASE and 'tqdm' not in BASE
  assert len(BASE) <= 38
  done = run(IMPORTING)
  assert (done.returncode, done.stdout) == (0, 'imported\n'), done.stderr


@pytest.mark.slow
def test_the_library_is_used_in_a_base_install():
  done = run(USING)
  assert (done.returncode, done.stdout) == (0, 'exact law\n'), done.stderr


def test_the_program_says_what_to_install():
  done = run(PROGRAM)
  line = (
    r'the program needs \w+, which the library does not: in the checkout, '
    r"pip install -e '\.\[program\]'\n"
  )
  assert done.returncode == 2
  assert re.fullmatch(line, done.stdout) and re.fullmatch(f'error: {line}', done.stderr)


def test_an_install_of_the_tests_has_the_program():
  """Each package of [program] is there where these tests run."""
  program = closure(PROJECT['optional-dependencies']['program'])
  assert {'grain', 'tqdm', 'matplotlib'} <= program
  assert 'diffusion_jax[program]' in PROJECT['optional-dependencies']['test']
