"""The report of a smoke run: what is drawn for it, and what cannot be."""

import json

import numpy as np
import pytest

from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, report
from diffusion_jax.report import page, record
from diffusion_jax.report.record import Curve
from diffusion_jax.runs import sessions
from tests.programs.conftest import smoke
from tests.report.test_page import Page


def test_a_training_ends_with_a_report(run):
  found = Page((run / 'report.html').read_text())
  assert found.text['h1'] == ['digits-smoke']
  sections = [section['id'] for section in found.all('section')]
  assert sections == [
    'samples', 'trajectory', 'curves', 'neighbours', 'config', 'environment',
  ]  # fmt: skip
  labels = [image['alt'] for image in found.all('img')]
  assert labels[0].endswith('step 4') and 'step 4 of 4' in labels[1]
  assert 'of 200 test images' in labels[2]
  assert not list(run.glob('*.tmp'))
  events = [entry['event'] for entry in sessions.read(run)]
  assert events == ['start', 'end']


def test_fields_that_the_config_sets_are_the_differences(run):
  """Against the base config with the defaults of what it chooses."""
  rows = page.config_parts(
    report.read(run), record.flat(report.base_config.with_choices_of(smoke()))
  )[0].rows
  fields = {name: (now, base) for name, now, base in rows[1:]}
  assert fields['network.channels'] == ('8', '16')  # of SmallNetwork
  assert fields['data.name'] == ("'digits'", "''")
  assert fields['sampling.sampler'] == ("'ddim'", "'ancestral'")
  same = {'seed', 'schedule.name', 'schedule.start', 'optimizer.b1'}
  assert not same & set(fields)


def test_what_cannot_be_drawn_is_a_line(run, capsys, monkeypatch):
  """No picture of a missing data set, no second run that is not there."""
  config = smoke(**{
    'report.trajectory_seconds': 0.0,
    'sampling.name': 'others',
  })  # fmt: skip
  (run / 'samples' / 'others.npz').write_bytes(b'damaged')
  PROGRAMS['report'](config, str(run))
  said = capsys.readouterr().out.splitlines()
  assert said[0].startswith('the report has no neighbours: ')
  assert said[1:] == [f'wrote {run}/report.html']
  text = (run / 'report.html').read_text()
  assert 'id="neighbours"' not in text and 'id="trajectory"' not in text

  config.report.runs = (f'{run},{run}-lost',)
  with pytest.raises(UserError, match='there is no run in .*-lost'):
    PROGRAMS['report'](config, str(run))

  def fail(*args):
    raise RuntimeError('no\nmemory')

  config.report.after_training = True
  config.report.runs = ()
  monkeypatch.setattr(report, 'write', fail)
  report.after_training(config, str(run))
  said = capsys.readouterr().out
  assert said == 'no report: no memory. --mode=report writes one\n'


def test_neighbours_are_the_nearest_of_all_parts():
  """Against all distances in float64; a copy has distance 0."""
  generator = np.random.default_rng(0)
  levels = generator.integers(0, 17, (50, 3, 3, 1), np.uint8)
  source = type('Source', (), {
    '__len__': lambda self: 50,
    'read': lambda self, index: (levels[index], None),
  })()  # fmt: skip
  samples = generator.integers(0, 256, (6, 3, 3, 1), np.uint8)
  samples[0] = np.rint(levels[33] * (255 / 16))
  found, distance = report.search(samples, source, 17, size=7)
  a, b = samples.astype(float) / 127.5 - 1, levels.astype(float) / 8 - 1
  pairs = ((a[:, None] - b[None]) ** 2).mean(axis=(2, 3, 4)) ** 0.5
  index = pairs.argmin(axis=1)
  assert index[0] == 33
  np.testing.assert_allclose(distance, pairs.min(axis=1), atol=2e-3)
  expected = np.rint(levels[index] * (255 / 16))
  np.testing.assert_array_equal(found, expected)


def test_runs_of_one_name_have_the_folder_above():
  assert report.unique_names(['runs/a', 'b/']) == ['a', 'b']
  assert report.unique_names(['x/a', 'y/a', 'b'])[:2] == ['x/a', 'y/a']
  assert report.unique_names(['x/a', 'x/a']) == ['a', 'a']


def test_the_time_of_a_trajectory_is_that_of_its_calls():
  """100 steps of 10 images at 20 training images, or 60 calls, a second."""
  config = smoke(**{'sampling.num_steps': 100})
  found = record.Run('', {}, {}, [], [], [])
  assert report.estimate(config, found) is None
  found = found._replace(
    curves={'images_per_second': Curve([1, 2, 3], [1.0, 20.0, 30.0])}
  )
  assert report.estimate(config, found) == pytest.approx(1000 / 60)
  config.sampling.guidance_scale = 2.0
  assert report.estimate(config, found) == pytest.approx(2000 / 60)


def test_the_film_of_a_gif_is_used_where_drawing_takes_long(tmp_path):
  (tmp_path / 'samples').mkdir()
  frames = [np.full((8, 8, 1), 50 * i, np.uint8) for i in range(4)]
  images.write_gif(tmp_path / 'samples' / 'samples.gif', frames)
  final, film = report.draw_trajectory(
    smoke(), tmp_path, record.Run('', {}, {}, [], [], [])
  )
  assert final is None and len(film.frames) == 4


def test_the_lines_of_sessions_are_whole(tmp_path):
  sessions.write_start(tmp_path, 0, 5)
  sessions.write_end(tmp_path, 9)
  with (tmp_path / 'sessions.jsonl').open('a') as file:
    file.write('{"event": "sta')
  first, last = sessions.read(tmp_path)
  assert first['parameters'] == 5 and first['versions']['numpy']
  assert last == {'event': 'end', 'step': 9, 'time': last['time']}
  json.dumps(first)
  first['time'], last['time'] = '2026-01-01T10:00:00', '2026-01-01T11:02:03'
  assert sessions.seconds([first, last]) == 3723.0
  assert page.duration(3723.0) == '1 h 2 min'
  assert sessions.seconds([first]) is None
  assert sessions.seconds([{**first, 'step': 3}, last]) is None
