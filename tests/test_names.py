"""Names of docs/samplers.md, in other projects and here."""

import re
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
