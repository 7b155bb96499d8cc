"""The programs on eight simulated devices, and what stops a run."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import build, families
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, sample, train
from diffusion_jax.training import checkpoints
from diffusion_jax.runtime.sharding import replicated
from tests.programs.conftest import smoke, unet_smoke


def losses(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line).get('loss') for line in lines]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Four steps on one device, with a second average; no test changes it."""
  workdir = tmp_path_factory.mktemp('runs') / 'one'
  PROGRAMS['train'](unet_smoke(**CONSTANT, **TWO_EMAS), str(workdir))
  return workdir


CONSTANT = {'optimizer.decay': 'constant', 'optimizer.decay_steps': 0}
TWO_EMAS = {'training.more_ema_decays': (0.5,)}


def test_a_run_continues_on_other_devices_and_in_parts(run, tmp_path, capsys):
  """One device, then two with accumulation: the losses of one alone."""
  moved = {'training.mesh': (1, 2), 'training.accumulate': 2}
  parts = tmp_path / 'parts'
  shutil.copytree(run, parts)
  shutil.rmtree(parts / 'checkpoints' / '4')
  PROGRAMS['train'](unet_smoke(**TWO_EMAS, **CONSTANT, **moved), str(parts))
  assert 'devices: 1x2 cpu (data x fsdp)' in capsys.readouterr().out
  assert (parts / 'checkpoints' / '4').is_dir()
  found = losses(parts)
  assert len(found) == 4
  np.testing.assert_allclose(found, losses(run), rtol=1e-5)


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_two_to_one(tmp_path):
  """The parameters of the run that stays, but for the rounding of sums."""

  def train_on(name, meshes):
    for i, mesh in enumerate(meshes):
      fields = CONSTANT | {'training.mesh': mesh}
      fields['training.num_steps'] = 4 * (i + 1)
      PROGRAMS['train'](unet_smoke(**fields), str(tmp_path / name))
    return checkpoints.restore_params(tmp_path / name, False)[0]

  stays = train_on('stays', [(8, 1)] * 3)
  for name, meshes, most in (
    ('again', [(8, 1)] * 3, 0.0),
    ('moves', [(8, 1), (2, 1), (1, 1)], 1e-3),
  ):
    other = train_on(name, meshes)
    pairs = zip(jax.tree.leaves(stays), jax.tree.leaves(other), strict=True)
    apart = max(np.abs(a - b).max() for a, b in pairs)
    print(f'{name}: parameters {apart:.1e} apart after 12 steps of Adam')
    assert apart <= most
  whole = PROGRAMS['train']
  fields = CONSTANT | {'training.mesh': (8, 1)}
  whole(
    unet_smoke(**fields, **{'training.num_steps': 12}), str(tmp_path / 'whole')
  )
  undisturbed, _ = checkpoints.restore_params(tmp_path / 'whole', False)
  jax.tree.map(np.testing.assert_array_equal, stays, undisturbed)


def generator(config, params):
  mesh = build.build_mesh(config)
  generate = families.of(config).generate(config, mesh)
  params = jax.device_put(params, replicated(mesh))
  return lambda index: generate(params, index, {'label': index % 10})


def test_an_image_depends_on_its_seed_alone(run):
  """The same eight from batches of 1, 3 and 8, and from eight devices."""
  params = sample.restore(unet_smoke(), str(run))
  images = generator(unet_smoke(), params)
  everything = images(np.arange(8))
  assert np.abs(everything[0] - everything[1]).max() > 0.1
  alone = np.stack([images(np.array([i]))[0] for i in (0, 7)])
  np.testing.assert_allclose(alone, everything[[0, 7]], atol=1e-5)
  threes = [images(np.arange(i, i + 3)) for i in (0, 3)]
  np.testing.assert_allclose(np.concatenate(threes), everything[:6], atol=1e-5)
  images = generator(unet_smoke(**{'training.mesh': (8, 1)}), params)
  for n in (8, 3):  # a number of images that the devices do not divide, too
    np.testing.assert_allclose(images(np.arange(n)), everything[:n], atol=1e-5)


def test_any_average_and_checkpoint_can_be_sampled_from(run):
  restore = lambda **fields: sample.restore(
    unet_smoke(**{f'sampling.{k}': v for k, v in fields.items()}), str(run)
  )
  raw, slow, half = (
    restore(checkpoint='2', **fields)
    for fields in ({'ema': False}, {}, {'ema_decay': 0.5})
  )
  bias = lambda p: p['network']['conv_in']['bias']
  # steps 1 and 2 of ema_warmup: decays 0.1 and 2/11, whatever the rate is
  np.testing.assert_allclose(bias(half), bias(slow), rtol=1e-5)
  assert (bias(raw) != bias(slow)).any()
  latest = bias(restore())
  assert (latest == bias(restore(checkpoint='4'))).all()
  assert (latest != bias(slow)).any()
  for fields, message in {
    (('ema_decay', 0.9),): "no average '0.9' of the parameters, but 0.5",
    (('checkpoint', '3'),): 'there is no checkpoint 3 in .* but 2, 4',
    (('checkpoint', 'best'),): 'knows how good it is',
    (('checkpoint', 'newest'),): "checkpoint='newest' is not one of",
  }.items():
    with pytest.raises(UserError, match=message):
      restore(**dict(fields))


def test_the_best_checkpoint_is_kept(tmp_path):
  fields = {
    'training.checkpoint_every': 1,
    'training.keep_checkpoints': 1,
    'training.keep_best': 1,
  }
  PROGRAMS['train'](smoke(**fields), str(tmp_path))
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  test = [json.loads(line) for line in lines if 'test_loss' in line]
  best = min(test, key=lambda line: line['test_loss'])['step']
  kept = {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()}
  assert len(test) == 4 and kept == {best, 4}


@pytest.fixture
def explode(monkeypatch):
  """explode(n, ...): the images of step n are NaN, in the runs that follow."""
  make = train.make_train_step

  def exploding(*steps):
    def make_step(*args, **fields):
      step = make(*args, **fields)

      def at(state, batch, key, frozen):
        bad = jnp.isin(state.step + 1, jnp.array(steps))
        batch['image'] = jnp.where(bad, jnp.nan, batch['image'])
        return step(state, batch, key, frozen)

      return at

    monkeypatch.setattr(train, 'make_train_step', make_step)

  return exploding


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
  tmp_path, explode
):
  explode(3)
  fields = {'training.log_every': 4}
  message = 'loss is nan at step 3: stopped, .* keeps checkpoint 2'
  with pytest.raises(UserError, match=message):
    PROGRAMS['train'](smoke(**fields), str(tmp_path))
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']
  params, _ = checkpoints.restore_params(tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_steps_that_are_nan_may_be_left_out(tmp_path, explode):
  """They change nothing but the step; one too many in a row stops the run."""
  explode(2, 4, 5)
  fields = {
    'training.num_steps': 6,
    'training.log_every': 3,
    'training.checkpoint_every': 1,
    'training.keep_checkpoints': 6,
    'training.skip_nonfinite': 1,
  }
  message = 'loss is nan at step 5, 2 steps in a row: stopped, .*checkpoint 4'
  with pytest.raises(UserError, match=message):
    PROGRAMS['train'](smoke(**fields), str(tmp_path))
  PROGRAMS['train'](
    smoke(**fields | {'training.skip_nonfinite': 2}), str(tmp_path)
  )
  for ema in (True, False):
    at = [
      checkpoints.restore_params(tmp_path, ema, checkpoint=step)[0]
      for step in range(1, 7)
    ]
    found = [
      jax.tree.all(jax.tree.map(np.array_equal, a, b))
      for a, b in itertools.pairwise(at)
    ]
    assert found == [True, False, True, True, False]
  text = (tmp_path / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert [x['skipped_steps'] for x in lines] == [1, 1]  # since the restart at 4
  assert all(np.isfinite(x['loss']) for x in lines)


MISTAKES = {
  'batch_size=12 cannot be split over the 8 devices of the mesh: take a '
  'multiple of 8, or fewer devices by --config.training.mesh': {
    'training.batch_size': 12,
    'training.mesh': (-1, 1),
  },
  'batch_size=8 cannot be split over the 2 devices of the mesh in 8 parts': {
    'training.accumulate': 8,
    'training.mesh': (2, 1),
  },
  'config.training.mesh: a mesh of 16x1 needs 16 devices, there are 8': {
    'training.mesh': (16, 1)
  },
  'keep_every=3 is not a multiple of training.checkpoint_every=2': {
    'training.keep_every': 3
  },
  'only one of the two can be on': {
    'training.skip_nonfinite': 1,
    'optimizer.repair_gradients': True,
  },
  "decay='cos' .did you mean 'cosine'.. is not one of constant, linear": {
    'optimizer.decay': 'cos'
  },
}


@pytest.mark.parametrize('message', MISTAKES)
def test_a_mistake_is_one_clear_line(message, tmp_path):
  with pytest.raises(UserError, match=message) as error:
    PROGRAMS['train'](smoke(**MISTAKES[message]), str(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()  # noticed before anything is written
