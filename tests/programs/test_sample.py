"""Sampling from a run of the real digits with a tiny network."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import build, families
from diffusion_jax.data.images import to_uint8
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, sample
from diffusion_jax.runs import run_folder, sample_inputs
from diffusion_jax.runs.per_image import PerImage
from tests.programs.conftest import printed_by, smoke, untrained


def samples(workdir, name='samples'):
  with np.load(workdir / 'samples' / f'{name}.npz') as file:
    return {key: file[key] for key in file}


@pytest.fixture(scope='module')
def printed(run):
  """What has been printed when 23 samples were made, ten at a time."""
  fields = {'sampling.num_samples': 23, 'sampling.batch_size': 10}
  return printed_by(PROGRAMS['sample'], smoke(**fields), str(run))


def test_sample_writes_images_of_all_classes_in_turn(run, printed):
  found = samples(run)
  assert found['arr_0'].shape == (23, 8, 8, 1)
  assert found['arr_0'].dtype == np.uint8
  np.testing.assert_array_equal(found['labels'], np.arange(23) % 10)
  # 17 grey levels stretched over 0..255
  levels = found['arr_0'] * (16 / 255)
  np.testing.assert_allclose(levels, np.rint(levels), atol=0.04)
  assert (run / 'samples' / 'samples.png').exists()
  assert 'samples.npz: 23 images of 8x8x1' in printed


@pytest.mark.parametrize(
  'labels, n, columns',
  [((), 40, 10), ((3, 7), 30, 6), ((3, 7, 1), 2, 2), ((4, 0, 5), 100, 9)],
)
def test_the_classes_of_a_sheet_are_its_columns(labels, n, columns):
  """Of pictures [8, 8] that have the grey level of their label."""
  config = smoke(**{'sampling.labels': labels, 'sampling.num_samples': n})
  grey = 100 + sample_inputs.choose_labels(config, n).astype(np.uint8)
  pictures = np.broadcast_to(grey[:, None, None, None], (n, 8, 8, 1))
  found = sample.sheet(config, pictures)[..., 0]
  height, width = found.shape
  rows = -(-n // columns)
  assert (height, width) == (6 * (9 * rows + 1), 6 * (9 * columns + 1))
  places = found[30::54, 30::54].astype(int)  # the middle of each
  asked = labels or range(10)
  for i, column in enumerate(places.T):
    shown = set(column.tolist()) - {32}  # places left empty
    assert shown == {100 + asked[i % len(asked)]}


def test_every_image_is_of_its_own_label(tmp_path):
  """Image 5, in the second of two parts, is what it is by itself."""
  run = untrained(smoke(), tmp_path, deviation=0.5)
  fields = {'sampling.num_samples': 7, 'sampling.batch_size': 4}
  PROGRAMS['sample'](smoke(**fields), str(run))
  found = samples(run)
  config = smoke()
  mesh, params = build.build_mesh(config), sample.restore(config, str(run))
  generate = families.of(config).generate(config, mesh)
  own, other = (
    to_uint8(generate(params, np.array([5]), {'label': label}), 17)[0]
    for label in (np.array([5]), np.array([6]))
  )
  assert found['labels'][5] == 5 and (own != other).any()
  np.testing.assert_array_equal(found['arr_0'][5], own)


def test_image_i_does_not_depend_on_the_batch(run, printed):
  """Nor on the network of the config: it is that of the run."""
  fields = {
    'sampling.num_samples': 10,
    'sampling.batch_size': 4,
    'sampling.name': 'fours',
    'network.channels': 16,
  }
  PROGRAMS['sample'](smoke(**fields), str(run))
  a, b = (
    samples(run, name)['arr_0'][:10].astype(int)
    for name in ('samples', 'fours')
  )
  # the images agree to 1e-5, so at most a rounding of grey levels differs
  assert (a != b).mean() < 0.005


def test_sample_by_label_seed_and_sampler(run):
  fields = {
    'sampling.labels': (3, 7),
    'sampling.num_samples': 4,
    'sampling.sampler': 'ancestral',
    'sampling.num_steps': 3,
    'sampling.name': 'seed0',
  }
  PROGRAMS['sample'](smoke(**fields), str(run))
  first = samples(run, 'seed0')
  assert first['labels'].tolist() == [3, 7, 3, 7]
  fields |= {'sampling.seed': 1, 'sampling.name': 'seed1'}
  PROGRAMS['sample'](smoke(**fields), str(run))
  assert (samples(run, 'seed1')['arr_0'] != first['arr_0']).any()


def test_any_sampler_takes_the_levels_of_any_schedule(run, printed):
  own = samples(run)['arr_0'][:4]
  fields = {'sampling.num_samples': 4, 'sampling.name': 'flow'}
  fields['sampling.schedule'] = 'flow'
  PROGRAMS['sample'](smoke(**fields), str(run))
  other = samples(run, 'flow')['arr_0']
  assert other.shape == own.shape and (other != own).any()
  euler = {'sampling.sampler': 'euler_maruyama', 'sampling.schedule': 'flow'}
  euler |= {'sampling.num_samples': 4, 'sampling.name': 'euler'}
  with pytest.raises(
    UserError, match='samples are nan: euler_maruyama may not'
  ):
    PROGRAMS['sample'](smoke(**euler), str(run))
  with pytest.raises(UserError, match="schedule='vp' is not one of linear,"):
    PROGRAMS['sample'](smoke(**{'sampling.schedule': 'vp'}), str(run))


def test_sample_trajectory_is_a_gif_from_noise_to_image(run):
  fields = {
    'sampling.trajectory': True,
    'sampling.num_samples': 10,
    'sampling.batch_size': 10,
    'sampling.name': 'path',
  }
  PROGRAMS['sample'](smoke(**fields), str(run))
  with Image.open(run / 'samples' / 'path.gif') as gif:
    # the noise and four steps
    assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
    gif.seek(4)
    last = np.asarray(gif.convert('L')).astype(int)
  with Image.open(run / 'samples' / 'path.png') as png:
    final = np.asarray(png).astype(int)
  assert np.abs(last - final).max() <= 2


def test_a_label_out_of_range_is_refused(run):
  with pytest.raises(UserError, match=r'10 is out of range.*0\.\.9'):
    PROGRAMS['sample'](smoke(**{'sampling.labels': (3, 10)}), str(run))


@pytest.mark.parametrize('field', ['num_samples', 'batch_size', 'num_steps'])
def test_counts_below_one_are_refused(run, field):
  with pytest.raises(UserError, match=f'sampling.{field}=0 is not in'):
    PROGRAMS['sample'](smoke(**{f'sampling.{field}': 0}), str(run))


def test_sampling_without_a_run_or_a_checkpoint(run, tmp_path):
  with pytest.raises(UserError, match='there is no run in .*train first'):
    PROGRAMS['sample'](smoke(), str(tmp_path))
  shutil.copy(run / 'config.json', tmp_path)
  with pytest.raises(UserError, match='there is no checkpoint in'):
    PROGRAMS['sample'](smoke(), str(tmp_path))


def test_a_run_in_float32_is_sampled_in_bfloat16(tmp_path):
  """If the command line says so, and not because the config file does."""
  run = untrained(smoke(), tmp_path)
  fields = {'sampling.num_samples': 10, 'sampling.batch_size': 10}
  given = {'network.dtype': 'bfloat16'}
  found = {}
  for name, overrides in (('as_stored', {}), ('short', given)):
    run_folder.check_overrides('sample', overrides, str(run))
    config = smoke(**fields, **given, **{'sampling.name': name})
    run_folder.forget_computed_by(config, overrides)
    PROGRAMS['sample'](config, str(run))
    found[name] = samples(run, name)
  settings = [json.loads(str(x['settings'])) for x in found.values()]
  assert settings[1].pop('network') == {'dtype': 'bfloat16'}
  assert settings[0] == settings[1]
  first, second = (x['arr_0'].astype(int) for x in found.values())
  assert 0 < (first != second).mean() < 0.2
  assert np.abs(first - second).max() < 0.1 * 255
  with pytest.raises(UserError, match='network.dtype cannot change in --mode='):
    run_folder.check_overrides('average', given, str(run))


def test_a_part_is_begun_before_the_one_before_is_written(run, monkeypatch):
  """And all parts have one shape, the last one too."""
  done = []

  def generate(config, mesh, latents):
    def start(params, index, cond):
      assert len(index) == len(cond['label']) == 8
      done.append(f'begin {index[0]}')
      return lambda: np.zeros((8, 8, 8, 1), np.float32)

    return PerImage(start)

  def write_part(path, *rest):
    done.append(f'write {int(path.stem)}')
    write(path, *rest)

  family, write = families.of(smoke()), sample.write_part
  family = family._replace(generate=generate)
  monkeypatch.setattr(families, 'of', lambda config: family)
  monkeypatch.setattr(sample, 'write_part', write_part)
  fields = {'num_samples': 20, 'batch_size': 8, 'name': 'one_ahead'}
  fields = {f'sampling.{name}': value for name, value in fields.items()}
  PROGRAMS['sample'](smoke(**fields), str(run))
  assert done == [
    'begin 0', 'begin 8', 'write 0', 'begin 16', 'write 8', 'write 16',
  ]  # fmt: skip
  assert len(samples(run, 'one_ahead')['arr_0']) == 20
