"""Names of docs/samplers.md, in other projects and here; names of one meaning."""

import ast
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.kinds import store
from tests.app.config.test_overrides import read

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'docs' / 'samplers.md').read_text()
# All samplers of k_diffusion.sampling 0.1.1.
K_DIFFUSION = """
  euler euler_ancestral heun dpm_2 dpm_2_ancestral lms dpm_fast dpm_adaptive
  dpmpp_2s_ancestral dpmpp_sde dpmpp_2m dpmpp_2m_sde dpmpp_3m_sde
""".split()
GIVEN = {
  **{name: getattr(dj, name) for name in dir(dj)},
  'schedule': dj.LinearVPSchedule(),
  **{'eta': 0.5, 'order': 3, 'N': 10, 'rtol': 1e-3, 'atol': 1e-3},
  **{'s_churn': 20.0, 's_tmin': 0.05, 's_tmax': 50.0, 's_noise': 1.003},
}
DISCRETE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))


def rows(heading):
  """Returns the cells of all rows of a section's tables."""
  section = PAGE.split(f'### {heading}\n')[1].split('\n##')[0]
  lines = [x for x in section.splitlines() if x.startswith('| `')]
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines]
  return [row for row in cells if not row[0].startswith('`dj.')]


def codes(cell):
  return re.findall(r'`([^`]+)`', cell)


def evaluate(code, **more):
  return eval(code, {}, GIVEN | more)  # the page is our own


SAMPLERS = rows('Samplers in other libraries')


@pytest.mark.parametrize('code', [code for row in SAMPLERS for code in codes(row[0])])
def test_a_sampler_of_the_page_makes_a_step(code):
  sampler = evaluate(code)
  levels = dj.level_grid(GIVEN['schedule'], 3)

  def sample(key, x):
    denoise = lambda x, level: dj.Prediction(0.5 * x)
    return dj.sample(key, denoise, sampler, levels, x)

  x = np.ones((2, 3), np.float32)
  assert jax.eval_shape(sample, jax.random.key(0), x).shape == x.shape


def test_all_samplers_of_k_diffusion_are_on_the_page():
  assert {*re.findall(r'sample_(\w+)', ' '.join(row[1] for row in SAMPLERS))} == {*K_DIFFUSION}


@pytest.mark.parametrize('code', [codes(row[0])[0] for row in rows('Grids in other libraries')])
def test_a_grid_of_the_page_has_its_levels(code):
  given = {'low': 0.02, 'high': 50.0, 'shift': 3.0}
  if re.search("'(trailing|leading|linspace|karras|logsnr)'", code):  # of steps
    given['schedule'] = DISCRETE

  @jax.jit
  def with_ratios():
    levels = evaluate(f'level_grid({code})', **given)
    return levels, levels.sigma / levels.alpha

  levels, ratio = jax.device_get(with_ratios())
  assert levels.t.shape == (11,) and levels.sigma[-1] == 0.0
  assert (np.diff(ratio) < 0).all()
  if re.search(r'\blow\b', code):  # the ends that get_sigmas_* has
    assert_allclose(ratio[[0, -2]], [50.0, 0.02], 1e-5)


OTHERS = {
  **{'ddpm': 'ancestral', 'Sample': 'sample', 'cosine_schedule': 'CosineSchedule'},
  **{'add_noise': 'q_sample', 'elbo': 'variational_bound', 'DDIM': 'ddim'},
}


@pytest.mark.parametrize('name', OTHERS)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(name):
  match = rf"no attribute '{name}' \(did you mean '{OTHERS[name]}'\?\)"
  with pytest.raises(AttributeError, match=match):
    getattr(dj, name)


def test_a_module_that_is_not_imported_is_named(monkeypatch):
  monkeypatch.delattr(dj, 'testing', raising=False)
  with pytest.raises(
    AttributeError, match=r"no attribute 'testing': import diffusion_jax\.testing"
  ):
    dj.testing  # type: ignore[attr-defined]  # noqa: B018
  with pytest.raises(AttributeError, match="no attribute 'qqq'$"):
    dj.qqq  # type: ignore[attr-defined]  # noqa: B018


FIELDS = rows('Pipelines of diffusers') + rows('Options of EDM and EDM2')


@pytest.mark.parametrize('fields', [codes(x[1]) for x in FIELDS], ids=' '.join)
def test_fields_of_the_page_are_set(fields):
  flags = dict(field.split('=', 1) for field in fields)
  base = {}
  if any(path.startswith('sampling.schedule.') for path in flags):
    base = {'sampling.schedule': 'karras'}
  config = store.with_flags(read('digits'), [*(base | flags).items()])
  found = folder.flat(config.to_dict())
  for path, text in flags.items():
    path = overrides.spelled(path, config.schema)
    expected = str(found.get(path, found.get(f'{path}.name'))).strip("(),[]'").removesuffix('.0')
    assert expected == text.removesuffix('.0'), path


# -- a name has one meaning ------------------------------------------------------

# Classes, types and modules of one name, and why each repeat is one meaning, or never in one file.
REPEATED = """
Array: jax.Array
ArrayTree: the type variable of a tree of arrays
Arrays: {name: an array of NumPy}
Block: a block of a transformer, of DINOv2 and of DiT
Class: the type variable of a class
Decoder: the network of a VAE, and the protocol of the last term of a bound
Initializer: Flax's
LogLikelihood: of x, of a decoder and of a measurement
Method: by which an edit fills in, and which `certify` judges
Padding: of a convolution; one is the other's
Params: the parameters of a network, and those of a file
Shape: of an array
Verdict: on a formula, and on a sampler
bounds: of a VAE, and in closed form
cells: of a table of data, and of a sweep
conditions: that a training computes, and those of the run that samples have
couplings: their equations, their batches, their refusals
damage: pictures as data, and as posteriors
dinov2: the network, and its weights
edm2: the network, and its weights
equations: of a family
estimates: scores of an array, and refusals of what estimates no x_0
features: the numbers of a network, and the files of these networks
floors: their closed forms, and the file of a training
inception: the network, and its weights
inputs: of a network, and of an exercise
losses: the equations, of flow maps, and the metric
mode: `main` of a mode, in its folder
model: `make` of a kind, in its folder, and the `Model` that it makes
network: of a kind, of states, and of several variables
objectives: of a family
options: of our networks, and of other projects'
oracles: closed forms, and those of states
pictures: of an edit, of data, of a page
restoration: the edit, and the metric
sampler: of a family
schedules: of a family
vdm: the equations, the network, the objective
"""


def defined(source):
  """Yields the classes and types at the top of a module, private ones and constants left out."""
  for node in ast.parse(source).body:
    names = [node.name] if isinstance(node, ast.ClassDef) else []
    if isinstance(node, ast.Assign):
      names = [x.id for x in node.targets if isinstance(x, ast.Name)]
    yield from (name for name in names if name[0].isupper() and not name.isupper())


def repeated(sources):
  """Returns the names that several modules have, of themselves or of a class or type."""
  counts = Counter()
  for path, source in sources.items():
    counts.update({path.stem} - {'__init__', '__main__'})
    counts.update({*defined(source)})
  return {name for name, count in counts.items() if count > 1}


def test_a_class_a_type_and_a_module_have_names_of_their_own():
  """A new repeat is renamed to the word of its field, or has a line above that says why not."""
  paths = (ROOT / 'diffusion_jax').rglob('*.py')
  known = {line.partition(': ')[0] for line in REPEATED.strip().splitlines()}
  assert repeated({path: path.read_text() for path in paths}) == known


def test_a_second_class_of_a_name_is_found():
  one, two = 'class Table:\n  pass', 'Table = dict[str, int]\nROWS = 3\n_Row = int'
  assert repeated({Path('a.py'): one, Path('b.py'): two, Path('c/a.py'): ''}) == {'Table', 'a'}
  assert repeated({Path('a.py'): one, Path('b.py'): 'ROWS = 3', Path('c.py'): 'ROWS = 4'}) == set()
