"""Diffusion in latents: as in pixels where it must be, and self-contained."""

import itertools
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from configs import digits_autoencoder, digits_latent
from diffusion_jax import build, families
from diffusion_jax.build import audit, own_parts
from diffusion_jax.data import sources
from diffusion_jax.data.images import scale, to_uint8
from diffusion_jax.errors import UserError
from diffusion_jax.families import latent
from diffusion_jax.programs import PROGRAMS, sample
from diffusion_jax.runs import guidance_runs, run_folder
from diffusion_jax.training import checkpoints
from diffusion_jax.runtime.sharding import replicated, to_global
from tests.build import toy_parts
from tests.programs.conftest import (
  printed_by,
  smoke,
  take_small_network,
  untrained,
)

CONSTANT = {'optimizer.decay': 'constant', 'optimizer.decay_steps': 0}
QUIET = CONSTANT | {
  'training.mesh': (1, 1),
  'training.sample_every': 0,
  'training.checkpoint_every': 2,
  'training.evaluate_every': 0,
  'sampling.num_samples': 4,
  'sampling.batch_size': 4,
}


def config_of(run, **changes):
  """digits_latent:smoke in the latents of a run."""
  config = digits_latent.get_config('smoke')
  take_small_network(config)
  fields = QUIET | {'latent.run': str(run)} | changes
  config.update_from_flattened_dict(fields)
  return config


def metrics(workdir, name='loss'):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  return [line[name] for line in found if name in line]


@pytest.fixture(scope='module')
def autoencoder(tmp_path_factory):
  """digits_autoencoder:smoke, of normal parameters."""
  config = digits_autoencoder.get_config('smoke')
  config.update_from_flattened_dict(QUIET)
  config.network.multipliers = (1, 2)
  config.network.attention_resolutions = ()
  config.network.middle_attention = 'none'
  return untrained(config, tmp_path_factory.mktemp('runs') / 'autoencoder')


@pytest.fixture(scope='module')
def trained(autoencoder, tmp_path_factory):
  """(workdir, what it printed) of four steps in its latents.

  The autoencoder has left since.
  """
  folder = tmp_path_factory.mktemp('runs')
  source = folder / 'autoencoder'
  shutil.copytree(autoencoder, source)
  workdir = folder / 'latent'
  printed = printed_by(PROGRAMS['train'], config_of(source), str(workdir))
  shutil.rmtree(source)
  return workdir, printed


@pytest.fixture(scope='module')
def run(trained):
  return trained[0]


def source_of(workdir):
  return json.loads((workdir / 'config.json').read_text())['latent']['run']


HALF = latent.Latents(
  lambda frozen, x, keys=None: frozen['scale'] * x / 2.0,
  lambda frozen, z: 2.0 * z / frozen['scale'],
)
LINEAR = {
  'latent.shape': (8, 8, 1),
  'training.evaluate_every': 2,
  'network.name': f'{toy_parts.__name__}:Network',  # no network is in question
  'conditioning.labels': False,
  'conditioning.dropout': 0.0,
}


def linear_config(run, **changes):
  config = config_of(run, **LINEAR | changes)
  own_parts.allow_named(config)
  audit.drop_unused(config, audit.DIRECT)
  return config


@pytest.fixture
def linear(autoencoder, tmp_path, monkeypatch):
  """A folder that has begun with z = scale * x / 2, scale = 2: z = x."""
  monkeypatch.setattr(latent, 'functions', lambda config: HALF)
  config = linear_config(autoencoder)
  mesh, source = build.build_mesh(config), build.build_source(config)
  latent.store(config, tmp_path, HALF, source, mesh)
  path = tmp_path / 'latent.json'
  record = json.loads(path.read_text())
  path.write_text(json.dumps(record | {'scale': 2.0}))
  return tmp_path, record


def test_latents_that_are_pixels_are_diffused_as_pixels(linear, autoencoder):
  """The same losses, test losses, parameters and samples."""
  workdir, _ = linear
  pixels = linear_config('', **{'latent.shape': ()})
  latents = linear_config(autoencoder)
  PROGRAMS['train'](pixels, str(workdir / 'pixels'))
  PROGRAMS['train'](latents, str(workdir))
  for name in ('loss', 'test_loss', 'grad_norm'):
    ours, theirs = metrics(workdir, name), metrics(workdir / 'pixels', name)
    assert len(ours) > 1
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  mesh, index = build.build_mesh(pixels), np.arange(4)
  params = sample.restore(pixels, str(workdir / 'pixels'))
  expected = families.of(pixels).generate(pixels, mesh)(params, index, {})
  params = sample.restore(latents, str(workdir))
  params |= latent.load(latents, workdir)
  found = families.of(latents).generate(latents, mesh, HALF)(params, index, {})
  # the decoder gives back x, which is z
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_measured_scale_is_one_over_the_deviation(linear):
  _, record = linear
  x = scale(sources.digits('train').images, 17).astype(np.float64)
  assert record['images'] == len(x)
  np.testing.assert_allclose(record['scale'], 1.0 / (x / 2.0).std(), rtol=1e-6)


def test_the_deviation_of_parts_is_that_of_the_whole():
  x = np.random.default_rng(0).normal(3.0, 2.0, (70, 3, 2, 5))
  found, rows = latent.inverse_std([x[:32], x[32:64], x[64:]])
  np.testing.assert_allclose(found, 1.0 / x.std(), rtol=1e-12)
  assert rows == 70
  assert not np.isfinite(latent.inverse_std([np.ones((4, 2))])[0])


def test_the_scale_is_that_of_draws_over_the_training_set(run):
  """Scaled draws have deviation 1, per set; drawn anew with other keys."""
  config = config_of(source_of(run))
  frozen = latent.load(config, run)['autoencoder']
  latents = latent.open_latents(config, run)
  x = scale(sources.digits('train').images, 17)
  keys = jax.random.split(jax.random.key(5), len(x))
  z = np.asarray(jax.jit(latents.encode)(frozen, x, keys))
  assert z.shape == (len(x), 4, 4, 4)
  np.testing.assert_allclose(z.std(), 1.0, atol=0.02)
  # whatever the scale is, latents have it and the decoder takes it back
  other = frozen | {'scale': 3.0 * frozen['scale']}
  encode, decode = jax.jit(latents.encode), jax.jit(latents.decode)
  z = encode(frozen, x[:2])
  np.testing.assert_allclose(encode(other, x[:2]), 3.0 * z, rtol=1e-5)
  np.testing.assert_allclose(
    decode(other, 3.0 * z), decode(frozen, z), atol=1e-5
  )


def test_latents_are_drawn_anew_each_step_on_any_devices(run):
  config = config_of(source_of(run))
  frozen = latent.load(config, run)
  latents = latent.open_latents(config, run)
  batch = {
    'image': scale(sources.digits('train').images[:8], 17),
    'label': np.arange(8, dtype=np.int32),
  }
  key, found = jax.random.key(0), {}
  for shape in ((1, 1), (4, 2)):
    config.training.mesh = shape
    mesh = build.build_mesh(config)
    encode = latent.make_encode(config, latents, mesh)
    place = jax.device_put(frozen, replicated(mesh))
    for i in (0, 1):
      out = encode(place, to_global(mesh, batch), key, i)
      assert len(out['image'].sharding.device_set) == mesh.size
      np.testing.assert_array_equal(out['label'], batch['label'])
      found[shape, i] = np.asarray(out['image'])
  np.testing.assert_allclose(found[(4, 2), 1], found[(1, 1), 1], atol=1e-5)
  assert np.abs(found[(1, 1), 0] - found[(1, 1), 1]).max() > 1e-3
  # the same distribution: they differ by noise alone
  encode = jax.jit(latents.encode)
  mean = np.asarray(encode(frozen['autoencoder'], batch['image']))
  noise = [found[(1, 1), i] - mean for i in (0, 1)]
  correlation = np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]
  assert np.std(noise) > 1e-3 and abs(correlation) < 0.2


def test_a_run_continues_exactly_without_its_autoencoder(
  trained, tmp_path, capsys
):
  """Bit for bit; latent.json is read, not measured again."""
  whole, printed = trained
  assert 'scale' in printed
  parts = tmp_path / 'parts'
  shutil.copytree(whole, parts)
  shutil.rmtree(parts / 'checkpoints' / '4')
  before = (parts / 'latent.json').read_bytes()
  PROGRAMS['train'](config_of(source_of(whole)), str(parts))
  assert 'scale' not in capsys.readouterr().out
  assert (parts / 'latent.json').read_bytes() == before
  a, b = (checkpoints.restore_params(w)[0] for w in (parts, whole))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert len(metrics(whole)) == 4 and metrics(parts) == metrics(whole)


@pytest.mark.slow
def test_losses_are_those_of_one_device_in_one_part(run, tmp_path):
  moved = {'training.mesh': (2, 1), 'training.accumulate': 2}
  other = tmp_path / 'other'
  shutil.copytree(run, other)
  shutil.rmtree(other / 'checkpoints' / '4')
  PROGRAMS['train'](config_of(source_of(run), **moved), str(other))
  np.testing.assert_allclose(metrics(other), metrics(run), rtol=1e-5)


def test_samples_need_the_run_folder_alone(run, tmp_path):
  """Decoded, also each frame of a trajectory, and guided by another run."""
  copy = tmp_path / 'moved'
  shutil.copytree(run, copy)
  changes = {
    'sampling.trajectory': True,
    # autoguidance by the run itself: no difference of the two, no guidance
    'sampling.guidance_run': str(run),
    'sampling.guidance_scale': 3.0,
    'sampling.name': 'guided',
  }
  PROGRAMS['sample'](config_of('', **changes), str(copy))
  with np.load(copy / 'samples' / 'guided.npz') as found:
    guided = found['arr_0']
  assert guided.shape == (4, 8, 8, 1) and guided.dtype == np.uint8
  with Image.open(copy / 'samples' / 'guided.gif') as frames:
    assert frames.n_frames > 2  # pyright: ignore[reportAttributeAccessIssue]
  PROGRAMS['sample'](config_of(''), str(copy))
  with np.load(copy / 'samples' / 'samples.npz') as found:
    np.testing.assert_array_equal(found['arr_0'], guided)


@pytest.fixture
def files(tmp_path):
  digits = to_uint8(scale(sources.digits('test').images[:2], 17), 17)[..., 0]
  known = np.full((8, 8), 255, np.uint8)
  known[:, 5:] = 0  # column 4 is known, but not its latents
  for name, x in {'a': digits[0], 'b': digits[1], 'mask': known}.items():
    Image.fromarray(x).save(tmp_path / f'{name}.png')
  return tmp_path


NUMBERS = itertools.count()


def edited(run, files, task, **changes):
  fields = {f'edit.{n}': str(files / f'{f}.png') for n, f in (
    ('image', 'a'), ('image2', 'b'), ('mask', 'mask')
  )}  # fmt: skip
  fields |= {'edit.task': task, 'edit.num_samples': 2, 'edit.jump': 1}
  fields['edit.name'] = name = f'edit{next(NUMBERS)}'
  config = config_of('', **fields | changes)
  PROGRAMS['edit'](config, str(run))
  with np.load(run / 'edits' / f'{name}.npz') as found:
    return found['arr_0'][..., 0]


@pytest.mark.parametrize('method', ['repaint', 'reconstruction'])
def test_known_pixels_stay_to_the_bit(run, files, method, capsys):
  made = edited(run, files, 'inpaint', **{'edit.method': method})
  assert 'in latents 50% are known' in capsys.readouterr().out
  given = np.asarray(Image.open(files / 'a.png'))
  np.testing.assert_array_equal(made[:, :, :5], given[None, :, :5].repeat(2, 0))
  assert (made[0, :, 5:] != made[1, :, 5:]).any()


def test_edits_of_no_strength_are_what_the_autoencoder_makes_of_it(run, files):
  """SDEdit from step 0, and the two ends of an interpolation."""
  config = config_of('')
  config.latent.run = source_of(run)
  latents = latent.open_latents(config, run)
  frozen = latent.load(config, run)['autoencoder']
  x = scale(sources.digits('test').images[:2], 17)
  round_trip = lambda frozen, x: latents.decode(
    frozen, latents.encode(frozen, x)
  )
  back = jax.jit(round_trip)(frozen, x)
  expected = to_uint8(np.asarray(back), 17)[..., 0]
  made = edited(run, files, 'sdedit', **{'edit.strength': 0.0, 'edit.mask': ''})
  np.testing.assert_array_equal(made[0], expected[0])
  many = {'sampling.num_steps': 200}
  made = edited(run, files, 'interpolate', **many)
  for end in (0, 1):
    assert np.abs(made[end].astype(float) - expected[end]).mean() < 4.0


def test_a_latent_is_known_where_all_its_pixels_are():
  mask = np.ones((6, 4, 1), bool)
  mask[0, 3] = mask[5, 0] = False
  found: Any = latent.shrink_mask(mask, (3, 2, 7))
  np.testing.assert_array_equal(found[..., 0], [[1, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'latent.run': 'nowhere'}, 'no run in nowhere, and an autoencoder, as of'),
    ({'latent.shape': (4, 4, 2)}, 'shape=.*need --config.latent.shape=4,4,4'),
    ({'latent.shape': ()}, r'shape=\(\): give height, width and channels'),
    ({'sampling.clip': True}, 'sampling.clip=True in latents .* not within'),
    ({'sampling.dynamic_threshold': 0.9}, 'dynamic_threshold=0.9 in latents'),
    ({'sampling.classifier': 'x'}, 'sampling.classifier=x in latents'),
    ({'objective.augment': 0.1}, 'objective.augment=0.1 in latents'),
    (
      {'objective.name': 'vdm'},
      "name=vdm in latents.* Set it to 'denoising' or 'hybrid'",
    ),
    ({'conditioning.image': 'superres'}, 'conditioning.image=superres in lat'),
    ({'conditioning.self_conditioning': True}, 'self_conditioning=True in lat'),
    ({'data.image_shape': (8, 8, 3), 'data.name': 'synthetic',
      'data.num_levels': 256}, r'image_shape is \(8, 8, 1\) in .* 8, 3\) here'),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line(autoencoder, tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    PROGRAMS['train'](config_of(autoencoder, **changes), str(tmp_path / 'r'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'r' / 'latent.json').exists()


def test_a_run_that_is_no_autoencoder_has_no_latents(run, tmp_path):
  with pytest.raises(UserError, match='has no latents of height and width'):
    PROGRAMS['train'](config_of(run), str(tmp_path / 'r'))


def test_what_cannot_be_measured_or_edited_says_so(run, files, tmp_path):
  with pytest.raises(UserError, match='elbo of latents is not in bits of imag'):
    PROGRAMS['evaluate'](config_of(''), str(run))
  for task in ('superres', 'colorize'):
    with pytest.raises(UserError, match='sees no pixels while it samples'):
      edited(run, files, task)
  with pytest.raises(UserError, match='clip=True in latents'):
    PROGRAMS['sample'](config_of('', **{'sampling.clip': True}), str(run))


def test_a_changed_autoencoder_is_noticed(run, autoencoder, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  path = copy / 'latent.json'
  record = json.loads(path.read_text())
  path.write_text(json.dumps(record | {'checksum': 1}))
  with pytest.raises(UserError, match='not those that this run began with'):
    PROGRAMS['sample'](config_of(''), str(copy))
  changes = {'sampling.guidance_run': str(copy), 'sampling.guidance_scale': 2.0}
  with pytest.raises(UserError, match='latents of another autoencoder'):
    PROGRAMS['sample'](config_of('', **changes), str(run))
  path.unlink()
  with pytest.raises(UserError, match='latent.json cannot be read'):
    PROGRAMS['sample'](config_of(''), str(copy))


def test_a_run_in_pixels_does_not_guide_one_in_latents(run, tmp_path):
  pixels = tmp_path / 'pixels'
  run_folder.prepare(str(pixels))
  run_folder.write_config(pixels, smoke())
  config = config_of(source_of(run))
  config.sampling.guidance_run = str(pixels)
  config.sampling.guidance_scale = 2.0
  with pytest.raises(UserError, match='do not diffuse the same'):
    guidance_runs.find_guiding_runs(config)
