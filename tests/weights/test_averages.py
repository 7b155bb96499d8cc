"""Files of snapshots, which are kept, and how a training continues."""

import hashlib
import json
import os

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.interop.weight_files import read_tensors, write_safetensors
from diffusion_jax.runtime.files import read_summed, sha256
from diffusion_jax.weights import averages, checksums
from tests.damage import flip
from tests.refusals import one_line


def two_widths(value):
  tree = {'network': {'kernel': np.full((2, 3), value, np.float32)}}
  return {'sigma_rel_0.05': tree, 'sigma_rel_0.1': tree, '0.999': tree}


def train(workdir, start, stop, every=10, keep=8, size=64):
  """Writes and thins snapshots as a training does."""
  more_steps = averages.begin(workdir, start, size)
  for step in range(start + 1, stop + 1):
    if step % every == 0:
      averages.write(workdir, step, two_widths(step))
      averages.thin(workdir, step, every, keep)
  return more_steps


def contents(workdir):
  return {path.name: path.read_bytes() for path in (workdir / 'snapshots').iterdir()}


def test_dense_at_first_then_every_second_and_no_more_than_asked(tmp_path):
  start = 0
  for end, kept in {
    40: [10, 20, 30, 40],
    80: list(range(10, 81, 10)),
    90: [20, 40, 60, 80, 90],  # and the latest
    170: [*range(20, 161, 20), 170],
    180: [40, 80, 120, 160, 180],
    640: list(range(80, 641, 80)),
  }.items():
    train(tmp_path, start, end)
    assert averages.steps(tmp_path) == kept
    start = end
  # a snapshot at another step than a multiple stays
  averages.begin(tmp_path, 645, 64)
  averages.write(tmp_path, 645, two_widths(0))
  train(tmp_path, 645, 800)
  assert 645 in averages.steps(tmp_path)


def test_killed_and_continued_leaves_the_same_files(tmp_path):
  """A training killed as it writes step 170 and continued after step 85 leaves the same files."""
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train(whole, 0, 200)
  train(parts, 0, 160)
  (parts / 'snapshots' / '00000170.safetensors.draft.tmp').write_bytes(b'half')
  sums = parts / 'snapshots' / 'SHA256SUMS'
  sums.write_text(sums.read_text() + f'{"0" * 64}  00000170.safetensors\n')
  averages.begin(parts, 85, 64)
  assert averages.steps(parts) == [20, 40, 60, 80]
  train(parts, 85, 200)
  assert contents(whole) == contents(parts)
  # as `sha256sum -c SHA256SUMS` reads it
  for line in sums.read_text().splitlines():
    digest, name = line.split('  ')
    data = (parts / 'snapshots' / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
  averages.check(parts, 200)


def test_images_are_counted_where_the_batch_size_changes(tmp_path):
  train(tmp_path, 0, 30)
  assert train(tmp_path, 20, 40, size=128) == 20 * 64 / 128 - 20
  # it is killed at 40, and continued after 30 with a third batch size
  assert train(tmp_path, 30, 50, size=16) == 80 + 80 - 30
  counts = [averages.read_images(tmp_path, s) for s in (20, 30, 40, 50)]
  assert counts == [1280, 2560, 2720, 2880]
  found = read_summed(tmp_path / 'snapshots' / 'batches.json')
  assert found == {'batches': [[0, 64], [20, 128], [30, 16]]}


def test_a_start_that_wrote_no_snapshot_leaves_no_batch_size(tmp_path):
  """A start that is killed at once, before a snapshot, leaves no batch size."""
  train(tmp_path, 0, 20)
  for size in (128, 32):
    averages.begin(tmp_path, 20, size)
  found = read_summed(tmp_path / 'snapshots' / 'batches.json')
  assert found == {'batches': [[0, 64], [20, 32]]}


def test_a_snapshot_is_there_when_its_sum_is(tmp_path, monkeypatch):
  """A kill before the sum is written leaves a draft, which does not count as a snapshot."""
  train(tmp_path, 0, 10)

  def killed(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(averages.checksums, 'write_sums', killed)
    averages.write(tmp_path, 20, two_widths(20))
  assert averages.steps(tmp_path) == [10]
  train(tmp_path, 10, 20)
  averages.check(tmp_path, 20)


def test_damage_is_noticed(tmp_path):
  train(tmp_path, 0, 20)
  path = averages.path_of(tmp_path, 10)
  flip(path, -2)
  assert averages.read_images(tmp_path, 10) == 640
  averages.check(tmp_path, 20)
  with pytest.raises(ValueError, match='10.safetensors is damaged .SHA256SUMS'):
    averages.check(tmp_path, 10)
  write_safetensors(path, {}, snapshot='[' * 200_000)
  for _ in range(2):
    with pytest.raises(ValueError, match='10.safetensors is damaged'):
      averages.read_images(tmp_path, 10)
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
  'text',
  [
    '[' * 200_000,
    '{"batches": [[0, 1' + '0' * 400 + ']]}',
    '{"batches": 3}',
    '{"batches": [[0]]}',
    '[]',
    '{}',
  ],
)
def test_damaged_sizes_of_batches_are_one_line(text, tmp_path):
  (tmp_path / 'snapshots').mkdir()
  (tmp_path / 'snapshots' / 'batches.json').write_text(text)
  with one_line('batches.json cannot be read', error=UserError):
    averages.begin(tmp_path, 10, 64)


def test_snapshots_are_in_the_run(tmp_path):
  """A linked folder is refused, and a pipe that safetensors would wait for."""
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'snapshots').symlink_to(tmp_path)
  with pytest.raises(UserError, match='snapshots, which leads out of'):
    averages.begin(tmp_path / 'run', 0, 64)
  (tmp_path / 'run' / 'snapshots').unlink()
  averages.begin(tmp_path / 'run', 0, 64)
  os.mkfifo(averages.path_of(tmp_path / 'run', 10))
  with pytest.raises(UserError, match='10.safetensors is a link, a pipe or a'):
    averages.steps(tmp_path / 'run')


@pytest.mark.parametrize('images', [0, -1, 640 * 3])
def test_numbers_of_images_that_do_not_increase_are_refused(images, tmp_path):
  """A stranger's snapshot with a right sum; the formula would give no numbers, or wrong ones."""
  train(tmp_path, 0, 30)
  path = averages.path_of(tmp_path, 10)
  record = json.dumps({'step': 10, 'images': images})
  write_safetensors(path, read_tensors(path), snapshot=record)
  checksums.write_sums(
    tmp_path / 'snapshots', {x.name: sha256(x) for x in path.parent.glob('*.safetensors')}
  )
  message = rf'are of \[{images}, 1280, 1920\] images, which do not increase'
  with pytest.raises(ValueError, match=message):
    averages.make(tmp_path, 0.07, None, two_widths(0)['0.999'])
