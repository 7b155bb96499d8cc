"""The edits restore and steer: each method, files, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app import posteriors, restoration
from diffusion_jax.app.config.tables import TABLES
from diffusion_jax.app.model import Plan
from diffusion_jax.app.modes import MODES
from diffusion_jax.testing import oracles
from tests.app.conftest import arrays_of, refused, smoke, untrained
from tests.app.modes.test_edit import QUICK
from tests.app.test_sharing import command

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
PRIOR = oracles.gaussian(
  np.array([0.3, -0.2]), np.array([[1.0, 0.5], [0.5, 1]])
)
MATRIX, Y, STD = np.array([[0.6, 0.8]]), np.array([0.5]), 0.4


def plan_of(prior):
  """Returns a plan of an exact denoiser, 60 ancestral steps."""

  def step_function(cond, after_guidance=None, clip=True):
    wrap = after_guidance or (lambda denoise: denoise)
    return wrap(prior.denoise)

  return Plan(
    SCHEDULE,
    dj.level_grid(SCHEDULE, 60),
    dj.ancestral(),
    step_function,
    lambda keys, level: dj.prior_sample(keys, (*keys.shape, 2), level),
    denoises=True,
  )


# The mean errors that the methods are known for, in standard deviations.
METHODS = {
  'moment': (posteriors.Moment(), 0.1),
  'pseudoinverse': (posteriors.Pseudoinverse(iterations=1), 0.25),
  'steered': (posteriors.Steered(particles=8, iterations=1), 0.15),
  'decoupled': (posteriors.Decoupled(iterations=1), 0.25),
  'decoupled by steps': (posteriors.Decoupled(step_size=0.04), 0.25),
  'gibbs': (posteriors.Gibbs(iterations=1), 0.15),
  'proximal': (posteriors.Proximal(iterations=1), 0.35),
  'dps': (posteriors.Dps(step_size=0.1), 0.5),
  'red_diff': (posteriors.RedDiff(rate=0.05), 0.5),
}


@pytest.mark.parametrize('name', METHODS)
def test_each_method_moves_towards_the_posterior(name, key):
  method, most = METHODS[name]
  forward = lambda x: x @ jnp.asarray(MATRIX.T, jnp.float32)
  y = jnp.broadcast_to(jnp.asarray(Y, jnp.float32), (1000, 1))
  measurement = dj.Measurement(y, forward, STD)

  @jax.jit
  def draw(keys):
    given = posteriors.Given(plan_of(PRIOR), keys, {}, measurement, True)
    return method.draw(given)

  x = np.asarray(draw(jax.random.split(key, 1000))['x'], np.float64)
  exact = PRIOR.posterior(MATRIX, Y, STD)
  error = np.linalg.norm(x.mean(axis=0) - exact.mean)
  assert error / np.sqrt(np.trace(exact.cov)) < most


def test_every_method_of_the_table_is_tested():
  tested = {type(method) for method, _ in METHODS.values()}
  assert tested == {*TABLES['edit.posterior'].values()}


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clean')
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    picture = rng.integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(picture).save(folder / f'{name}.png')
  mask = np.repeat([255, 0], 32).astype(np.uint8).reshape(8, 8)
  (folder / 'mask').mkdir()
  Image.fromarray(mask).save(folder / 'mask' / 'mask.png')
  return folder


@pytest.fixture(scope='module')
def colour(tmp_path_factory):
  fields = {'data': 'synthetic', 'data.image_shape': (8, 8, 3)}
  fields |= {'conditioning.labels': False, 'conditioning.dropout': 0.0}
  config = smoke(**fields)
  return untrained(config, tmp_path_factory.mktemp('runs') / 'colour')


def run(workdir, output, **changes):
  mesh = changes.pop('mesh', None)
  fields = {f'edit.{name}': value for name, value in changes.items()}
  fields |= {'training.mesh': mesh} if mesh else {}
  fields |= {'edit': fields.pop('edit.edit', 'restore'), 'edit.output': output}
  config = smoke(**QUICK | fields)
  MODES['edit'](config, workdir)
  return arrays_of(workdir, output, 'edits')


def test_pictures_are_damaged_and_restored(plain, clean, capsys):
  """Two pictures, two samples each; then one from its damaged file."""
  found = run(plain, 'two', image=str(clean), simulate=True, noise=12.75,
              operator='downsample', posterior='steered')  # fmt: skip
  assert found['arr_0'].shape == (4, 8, 8, 1)
  assert found['y'].shape == (2, 4, 4, 1)
  blocks = found['clean'].reshape(2, 4, 2, 4, 2, 1) / 127.5 - 1.0
  noise = found['y'] - blocks.mean(axis=(2, 4))
  assert 0.05 < noise.std() < 0.15
  assert found['log_evidence'].shape == found['lowest_ess'].shape == (4,)
  out = capsys.readouterr().out
  assert 'noise: 12.75 grey levels of 255, 0.1 in [-1, 1]' in out
  for word in ('a.png: residual', 'b.png: residual', 'psnr_of_mean', 'between',
               'log_evidence', 'mean of 2 pictures'):  # fmt: skip
    assert word in out
  written = {x.name for x in (plain / 'edits').glob('two*')}
  parts = '0', '1', 'mean', 'std'
  files = {f'two_{name}_{part}.png' for name in 'ab' for part in parts}
  assert written == files | {'two.npz', 'two.png'}
  for name in 'ab':
    samples = [np.asarray(Image.open(plain / 'edits' / f'two_{name}_{i}.png'))
               for i in range(2)]  # fmt: skip
    mean = np.asarray(Image.open(plain / 'edits' / f'two_{name}_mean.png'))
    # samples have 17 grey levels, and their mean 255
    np.testing.assert_allclose(mean, np.mean(samples, axis=0), atol=9)


def test_a_mask_of_the_damage(plain, clean, capsys):
  found = run(plain, 'masked', image=str(clean / 'a.png'), noise=5.0,
              operator='mask', **{'operator.mask': str(clean / 'mask/mask.png'),
              'posterior.iterations': 2})  # fmt: skip
  assert found['arr_0'].shape == (2, 8, 8, 1)
  assert 'psnr' not in capsys.readouterr().out


OPERATORS = (
  'blur', 'mask', 'hdr', 'downsample', 'motion', 'gray', 'phase', 'blur',
)  # fmt: skip


@pytest.mark.parametrize(
  'method, operator', [*zip(TABLES['edit.posterior'], OPERATORS, strict=True)]
)
def test_each_method_and_operator_as_typed(
  method, operator, plain, colour, clean
):
  workdir, shape = plain, (2, 8, 8, 1)
  if operator == 'gray':
    workdir, shape = colour, (2, 8, 8, 3)
  fields = {'image': clean / 'a.png', 'simulate': True, 'output': method}
  fields |= {'num_samples': 2, 'operator': operator, 'posterior': method}
  if operator == 'mask':
    fields['operator.mask'] = clean / 'mask/mask.png'
  flags = [f'--config.edit.{name}={value}' for name, value in fields.items()]
  steps = ['edit.posterior.rounds=2', 'edit.posterior.inner_steps=2']
  steps = steps if method == 'gibbs' else ['sampling.num_steps=3']
  flags += [f'--config.{step}' for step in (*steps, 'training.mesh=1,1')]
  flags += [f'--config={workdir}', '--mode=edit', '--config.edit=restore']
  assert not command(*flags)
  x = arrays_of(workdir, method, 'edits')['arr_0']
  assert x.shape == shape and x.std() > 0


def test_every_operator_is_typed():
  assert {*OPERATORS} == {*TABLES['edit.operator']}


def test_steering_has_more_reward(plain, capsys):
  more = run(
    plain,
    'bright',
    edit='steer',
    reward='brightness',
    num_samples=8,
    particles=8,
  )
  less = run(plain, 'dark', edit='steer', reward='brightness', num_samples=8,
             particles=8, **{'reward.strength': -10.0})  # fmt: skip
  assert more['arr_0'].mean() > less['arr_0'].mean() + 5.0
  x = more['arr_0'] / 127.5 - 1.0
  expected = 10.0 * x.mean(axis=(1, 2, 3))
  np.testing.assert_allclose(more['reward'], expected, atol=0.2)
  assert 'reward' in capsys.readouterr().out


def test_a_reward_of_the_user(plain, tmp_path, monkeypatch):
  (tmp_path / 'rewards.py').write_text(
    'def left(x0, size=3.0):\n'
    '  return size * x0[:, :, :4].mean(axis=(1, 2, 3))\n'
    'def whole(x0):\n'
    '  return x0.mean()\n'
  )
  monkeypatch.chdir(tmp_path)
  from diffusion_jax.app.config import own

  own.allow(['rewards:left', 'rewards:whole'])
  found = run(plain, 'left', edit='steer', reward='rewards:left',
              particles=4, **{'reward.size': 20.0})  # fmt: skip
  assert np.isfinite(found['log_evidence']).all()
  refused(
    r'its result has the shape \[\], \[2\] is needed',
    lambda: run(plain, 'bad', edit='steer', reward='rewards:whole'),
  )


def test_errors_of_known_samples():
  clean = np.zeros((2, 2, 1))
  x = np.stack([clean + 0.1, clean - 0.3])
  found = restoration.errors(x, clean)
  np.testing.assert_allclose(found['psnr_of_mean'], 20 * np.log10(2 / 0.1))
  each = [20 * np.log10(2 / 0.1), 20 * np.log10(2 / 0.3)]
  np.testing.assert_allclose(found['psnr'], np.mean(each))
  assert found['between'] == 100.0
  assert restoration.errors(np.abs(x), clean)['between'] == 0.0


@pytest.mark.parametrize('found, part', [
  ({'residual': 1.2}, ''),
  ({'residual': 3.2}, 'try edit.posterior=gibbs, more posterior.iterations'),
  ({'residual': 0.2}, 'noise is too large'),
  ({'residual': 1.0, 'lowest_ess': 1.02}, 'log_evidence are reliable'),
  ({'reward': 3.0, 'lowest_ess': 4.0}, ''),
])  # fmt: skip
def test_a_warning_says_what_to_try(found, part):
  text = restoration._warning(**found)
  assert part in text and bool(part) == bool(text)


def test_an_array_is_read_in_its_own_units(tmp_path):
  y = np.linspace(0.0, 3.0, 8).reshape(2, 2, 2)
  np.save(tmp_path / 'y.npy', y)
  found = restoration._read(str(tmp_path / 'y.npy'), (2, 2, 2))
  np.testing.assert_allclose(found, y, rtol=1e-6)
  with pytest.raises(ValueError, match=r'shape \(2, 2, 2\), \(4,\) is needed'):
    restoration._read(str(tmp_path / 'y.npy'), (4,))


def test_all_fields_of_methods_are_described():
  """--help_mode shows the text of a docstring beside a field."""
  for constructor in TABLES['edit.posterior'].values():
    for field in dataclasses.fields(constructor):
      texts = [c.__doc__ or '' for c in constructor.__mro__[:-2]]
      assert any(f'{field.name}:' in text for text in texts), field.name


def test_particles_are_the_same_on_several_devices(plain, clean):
  """Up to a grey level: sums have another order."""
  both = [
    run(plain, f'mesh{n}', image=str(clean), simulate=True, noise=12.75,
        operator='downsample', posterior='steered',
        **{'posterior.particles': 4}, mesh=(n, 1))
    for n in (1, 2)
  ]  # fmt: skip
  assert (both[0]['arr_0'] != both[1]['arr_0']).mean() < 0.05
