"""Sampling from a run of the real digits with a tiny network."""

import json

import numpy as np
import pytest
from jax.profiler import ProfileData
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from diffusion_jax.app.modes import MODES
from diffusion_jax.runtime.profiling import FOLDER
from tests.app import toy_parts
from tests.app.conftest import (
  DIGITS,
  arrays_of,
  drawing_of,
  of_run,
  printed_by,
  refused,
  smoke,
  untrained,
)
from tests.app.fields import typed, within


def of_sampling(**fields):
  return smoke(**within('sampling', **{'name': 'samples'} | fields))


@pytest.fixture(scope='module')
def printed(run):
  """Returns what is printed for 23 samples in batches of ten."""
  return printed_by(MODES['sample'], of_sampling(num_samples=23, batch_size=10), run)


def test_sample_writes_images_of_all_classes_in_turn(run, printed):
  arrays = arrays_of(run)
  assert arrays['arr_0'].shape == (23, 8, 8, 1)
  assert arrays['arr_0'].dtype == np.uint8
  assert_array_equal(arrays['labels'], np.arange(23) % 10)
  # 17 grey levels stretched over 0..255
  levels = arrays['arr_0'] * (16 / 255)
  assert_allclose(levels, np.rint(levels), atol=0.04)
  assert (run / 'samples' / 'samples.png').exists()
  assert 'samples.npz: 23 images of 8x8x1' in printed


def test_sample_by_label_seed_and_sampler(run):
  fields = {'labels': (3, 7), 'num_samples': 4, 'num_steps': 3, 'sampler': 'ancestral'}
  MODES['sample'](of_sampling(name='', **fields), run)
  name = 'samples-labels=3,7,num_samples=4,num_steps=3,sampler=ancestral'
  first = arrays_of(run, name)
  assert first['labels'].tolist() == [3, 7, 3, 7]
  MODES['sample'](of_sampling(name='seed1', seed=1, **fields), run)
  assert (arrays_of(run, 'seed1')['arr_0'] != first['arr_0']).any()


@pytest.mark.parametrize(
  'name, fields',
  [
    ('sampler=feynman_kac', {'particles': 4}),
    *(
      pytest.param(*row, marks=pytest.mark.slow)
      for row in (
        ('guidance=adaptive_projected', {'max_norm': 1.0}),
        ('guidance=cfg_zero_star', {'zero_above': 10.0}),
        ('sampler=cfg_plus_plus', {'scale': 0.6}),
      )
    ),
  ],
)
def test_each_guidance_draws_an_image_of_its_own_label(name, fields, tmp_path, capsys):
  """The image is another than without guidance, and the same in any batch."""
  section, _, choice = name.partition('=')
  guidance = within(f'sampling.{section}', choice, **{'scale': 3.0} | fields)
  config = smoke(
    **typed('sampling.name=samples sampling.num_samples=7 sampling.batch_size=4') | guidance
  )
  run = untrained(config, tmp_path, deviation=0.5)
  MODES['sample'](config, run)
  drawing, plain = (drawing_of(c, run) for c in (config, of_sampling()))
  index = np.array([5, 0, 1, 2])
  own, other = (DIGITS.x.decode(f(index, {'label': index}))[0] for f in (drawing, plain))
  arrays = arrays_of(run)
  assert_array_equal(arrays['arr_0'][5], own)
  assert (own != other).any()
  assert ('lowest_ess' in arrays) == (choice == 'feynman_kac')
  if choice == 'feynman_kac':  # of an untrained network, in both parts
    assert arrays['lowest_ess'].shape == (7,)
    least = arrays['lowest_ess'].min()
    line = f'least effective number of particles: {least:.3g} of 4'
    warns = 'so the samples are not reliable: take more particles, or more steps'
    printed = capsys.readouterr().out
    assert line in printed and (warns in printed) == (least < 1.5)


def test_a_sampler_of_ones_own_draws_by_jax_random(run):
  """Image i is the same in any batch, and by `draw_normal`."""
  images, own = [], {'num_samples': 7, 'sampler': f'{toy_parts.__name__}:fresh'}
  for draw, size in (('normal', 4), ('draw_normal', 7)):
    name = f'{draw}_{size}'
    fields = {'name': name, 'sampler.draw': draw, 'batch_size': size}
    MODES['sample'](of_sampling(**own | fields), run)
    images.append(arrays_of(run, name)['arr_0'])
  assert len({image.tobytes() for image in images[0]}) == 7
  assert_array_equal(*images)


def test_any_sampler_takes_the_levels_of_any_schedule(run, printed):
  own = arrays_of(run)['arr_0'][:4]
  flow = {'num_samples': 4, 'schedule': 'flow'}
  MODES['sample'](of_sampling(name='flow', **flow), run)
  other = arrays_of(run, 'flow')['arr_0']
  assert other.shape == own.shape and (other != own).any()
  euler = of_sampling(name='euler', sampler='euler_maruyama', **flow)
  message = 'samples are nan: sampling.sampler=euler_maruyama may not'
  refused(message, MODES['sample'], euler, run)


def test_sample_trajectory_is_a_gif_from_noise_to_image(run):
  config = of_sampling(trajectory=True, num_samples=10, batch_size=10, name='path')
  MODES['sample'](config, run)
  with Image.open(run / 'samples' / 'path.gif') as gif:
    # the noise and four steps
    assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
    gif.seek(4)
    last = np.asarray(gif.convert('L')).astype(int)
  with Image.open(run / 'samples' / 'path.png') as png:
    final = np.asarray(png).astype(int)
  assert np.abs(last - final).max() <= 2


def test_a_profile_is_a_trace_of_a_batch_and_changes_no_sample(run, printed):
  """A profile changes neither the name nor the settings of samples: they are there already."""
  before = arrays_of(run)
  config = of_sampling(num_samples=23, batch_size=10, profile=True)
  said = printed_by(MODES['sample'], config, run)
  assert 'samples.npz is there already' in said and 'xprof server --logdir=' in said
  (path,) = (run / FOLDER / 'samples').iterdir()
  events = {
    event.name
    for plane in ProfileData.from_file(str(path)).planes
    for line in plane.lines
    for event in line.events
  }
  assert any('images' in name for name in events)  # the program's name
  assert (arrays_of(run)['arr_0'] == before['arr_0']).all()


def test_a_run_in_float32_is_sampled_in_bfloat16(tmp_path):
  """A flag sets it, and the samples' settings record it."""
  fields = typed('sampling.num_samples=10 sampling.batch_size=10')
  run = untrained(smoke(**fields), tmp_path)
  arrays = []
  for name, flags in (('as_stored', {}), ('short', {'network.dtype': 'bfloat16'})):
    MODES['sample'](of_run(run, **flags | fields | {'sampling.name': name}), run)
    arrays.append(arrays_of(run, name))
  settings = [json.loads(str(x['settings'])) for x in arrays]
  assert settings[1].pop('computed_by') == {'network.dtype': 'bfloat16'}
  assert settings[0] == settings[1]
  first, second = (x['arr_0'].astype(int) for x in arrays)
  assert 0 < (first != second).mean() < 0.2
  assert np.abs(first - second).max() < 0.1 * 255
