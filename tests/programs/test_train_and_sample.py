"""The programs end to end, on the real digits, with a tiny network."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import sources
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, sample, train
from diffusion_jax.runs import sample_inputs
from diffusion_jax.training import checkpoints
from tests.programs.conftest import smoke


def metrics(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def parameters(workdir, ema=True):
  return checkpoints.restore_params(workdir, ema)[0]


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished digits:smoke run."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits-smoke'
  PROGRAMS['train'](smoke(), str(workdir))
  return workdir


def test_a_run_leaves_what_the_docs_promise(run):
  stored = json.loads((run / 'config.json').read_text())
  assert stored['network']['channels'] == 8
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2', '4']
  assert list(run.glob('events.out.*'))
  with Image.open(run / 'samples' / 'step_00000004.png') as image:
    assert image.mode == 'L' and image.size[0] > 8 * 10
  found = metrics(run)
  trained = [line for line in found if 'loss' in line]
  assert [line['step'] for line in trained] == [1, 2, 3, 4]
  for line in trained:
    assert line['loss'] > 0 and line['grad_norm'] > 0
    assert any(f'loss_quarter_{q}' in line for q in range(1, 5))
    assert {'learning_rate'} <= set(line)
  assert 'images_per_second' in trained[-1]
  assert found[-1]['test_loss'] > 0


QUIET = {'training.sample_every': 0, 'training.evaluate_every': 0}


def test_a_finished_run_says_so(run, capsys):
  before = (run / 'metrics.jsonl').read_bytes()
  PROGRAMS['train'](smoke(), str(run))
  assert 'this run is finished: it has 4 of 4 steps' in capsys.readouterr().out
  assert (run / 'metrics.jsonl').read_bytes() == before


def test_six_steps_are_three_and_a_restart_and_three(tmp_path):
  """Bit for bit: parameters, average, optimiser and metrics."""
  fields = QUIET | {
    'optimizer.decay': 'constant',
    'optimizer.decay_steps': 0,
    'training.checkpoint_every': 3,
  }
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  six = {'training.num_steps': 6}
  PROGRAMS['train'](smoke(**fields, **six), str(whole))
  PROGRAMS['train'](smoke(**fields, **{'training.num_steps': 3}), str(parts))
  assert [line['step'] for line in metrics(parts)] == [1, 2, 3]
  jax.clear_caches()  # as a new process would start
  PROGRAMS['train'](smoke(**fields, **six), str(parts))
  for ema in (True, False):
    assert_same(parameters(whole, ema), parameters(parts, ema))
  drop = lambda line: {
    k: v for k, v in line.items() if k != 'images_per_second'
  }
  assert list(map(drop, metrics(whole))) == list(map(drop, metrics(parts)))


def test_a_killed_run_continues_from_its_last_checkpoint(run, tmp_path):
  """Checkpoint 4 lost, the lines of steps 3 and 4 written: all is redone."""
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints' / '4')
  PROGRAMS['train'](smoke(**QUIET), str(copy))
  assert_same(parameters(run), parameters(copy))
  steps = [line['step'] for line in metrics(copy) if 'loss' in line]
  assert steps == [1, 2, 3, 4]


def test_an_interrupted_run_finishes_the_checkpoint_it_writes(
  run, tmp_path, monkeypatch
):
  def interrupt(self, step, scalars):
    if step == 3:
      raise KeyboardInterrupt

  fields = QUIET | {'training.checkpoint_every': 2}
  with monkeypatch.context() as patch:
    patch.setattr(train.MetricWriter, 'write_scalars', interrupt)
    with pytest.raises(KeyboardInterrupt):
      PROGRAMS['train'](smoke(**fields), str(tmp_path))
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']
  PROGRAMS['train'](smoke(**fields), str(tmp_path))
  assert_same(parameters(run), parameters(tmp_path))


def test_a_damaged_checkpoint_is_named_and_done_again(run, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  files = (copy / 'checkpoints' / '4').rglob('d/*')
  path = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  message = 'checkpoint 4 in .* is damaged .*: take checkpoint=2, which is good'
  with pytest.raises(UserError, match=message):
    PROGRAMS['sample'](smoke(), str(copy))
  PROGRAMS['sample'](smoke(**{'sampling.checkpoint': '2'}), str(copy))
  PROGRAMS['train'](smoke(**QUIET), str(copy))
  said = capsys.readouterr()
  assert 'warning: checkpoint 4 is damaged (' in said.err
  assert f'{copy}: step 2 of 4' in said.out
  assert_same(parameters(run), parameters(copy))
  shutil.move(copy / 'checkpoints' / '2', copy / 'elsewhere')
  path = copy / 'checkpoints' / '4' / 'config' / 'metadata'
  path.unlink()
  with pytest.raises(UserError, match='no checkpoint of .* is good, all were'):
    PROGRAMS['train'](smoke(**QUIET), str(copy))
  assert {p.name for p in (copy / 'damaged').iterdir()} == {'4', '4-2'}


def test_another_config_is_refused_unless_forced(run, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  changed = QUIET | {
    'optimizer.learning_rate': 1e-3,
    'training.num_steps': 5,
    'optimizer.decay_steps': 4,
  }
  with pytest.raises(UserError, match='learning_rate is 0.004, 0.001 now'):
    PROGRAMS['train'](smoke(**changed), str(copy))
  assert_same(parameters(run), parameters(copy))  # nothing was lost
  PROGRAMS['train'](smoke(**changed, **{'training.resume': 'force'}), str(copy))
  assert (copy / 'checkpoints' / '5').is_dir()
  stored = json.loads((copy / 'config.json').read_text())
  assert stored['optimizer']['learning_rate'] == 1e-3


def test_intervals_may_change(run, capsys):
  free = {
    'training.log_every': 2,
    'training.checkpoint_every': 3,
    'sampling.num_steps': 2,
    'training.evaluate_every': 1,
  }
  PROGRAMS['train'](smoke(**free), str(run))
  assert 'finished' in capsys.readouterr().out


def test_the_place_of_the_data_may_change_but_not_the_data(run):
  free = {'data.data_dir': '/elsewhere', 'data.num_threads': 3}
  PROGRAMS['train'](smoke(**free), str(run))
  with pytest.raises(UserError, match='data.random_flip is False, True now'):
    PROGRAMS['train'](smoke(**{'data.random_flip': True}), str(run))


def test_samples_are_data_to_train_on(run, tmp_path):
  PROGRAMS['sample'](smoke(**{'sampling.name': 'more'}), str(run))
  fields = QUIET | {
    'data.name': 'npz',
    'data.path': str(run / 'samples' / 'more.npz'),
    'data.num_levels': 256,
    'optimizer.decay': 'constant',
    'optimizer.decay_steps': 0,
    'training.num_steps': 1,
  }
  PROGRAMS['train'](smoke(**fields), str(tmp_path))
  assert metrics(tmp_path)[0]['loss'] > 0


def test_a_folder_of_pictures_resumes_bit_for_bit(tmp_path):
  """Through the threads: six steps are three and a restart and three."""
  rng = np.random.default_rng(0)
  for i in range(10):
    picture = rng.integers(0, 256, (12, 10), np.uint8)
    (tmp_path / 'pictures' / str(i)).mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / 'pictures' / str(i) / 'a.png')
  fields = QUIET | {
    'data.name': 'folder',
    'data.path': str(tmp_path / 'pictures'),
    'data.num_levels': 256,
    'data.random_flip': True,
    'optimizer.decay': 'constant',
    'optimizer.decay_steps': 0,
    'training.checkpoint_every': 3,
  }
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  six = {'training.num_steps': 6}
  PROGRAMS['train'](smoke(**fields, **six), str(whole))
  PROGRAMS['train'](smoke(**fields, **{'training.num_steps': 3}), str(parts))
  one = {'data.num_threads': 1}
  PROGRAMS['train'](smoke(**fields, **six, **one), str(parts))
  assert_same(parameters(whole), parameters(parts))


def test_a_checkpoint_of_another_network_is_refused(run, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  wide = {'network.channels': 12}
  message = 'another network: network/conv_in/bias is .8. there, .12. here'
  with pytest.raises(UserError, match=message):
    PROGRAMS['train'](smoke(**wide, **{'training.resume': 'force'}), str(copy))
  stored = json.loads((copy / 'config.json').read_text())
  stored['network']['channels'] = 12
  (copy / 'config.json').write_text(json.dumps(stored))
  with pytest.raises(UserError, match=message):
    PROGRAMS['sample'](smoke(), str(copy))


def samples(workdir, name='samples'):
  with np.load(workdir / 'samples' / f'{name}.npz') as file:
    return {key: file[key] for key in file}


def test_sample_writes_images_of_all_classes_in_turn(run, capsys):
  fields = {'sampling.num_samples': 23, 'sampling.batch_size': 10}
  PROGRAMS['sample'](smoke(**fields), str(run))
  found = samples(run)
  assert found['arr_0'].shape == (23, 8, 8, 1)
  assert found['arr_0'].dtype == np.uint8
  np.testing.assert_array_equal(found['labels'], np.arange(23) % 10)
  # 17 grey levels stretched over 0..255
  levels = found['arr_0'] * (16 / 255)
  np.testing.assert_allclose(levels, np.rint(levels), atol=0.04)
  assert (run / 'samples' / 'samples.png').exists()
  assert 'samples.npz: 23 images of 8x8x1' in capsys.readouterr().out


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


def test_image_i_does_not_depend_on_the_batch(run):
  for name, size in (('a', 10), ('b', 4)):
    fields = {
      'sampling.num_samples': 10,
      'sampling.batch_size': size,
      'sampling.name': name,
    }
    PROGRAMS['sample'](smoke(**fields), str(run))
  a, b = (samples(run, name)['arr_0'].astype(int) for name in 'ab')
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


def test_any_sampler_takes_the_levels_of_any_schedule(run):
  fields = {'sampling.num_samples': 4, 'sampling.sampler': 'heun'}
  fields['sampling.name'] = 'own'
  PROGRAMS['sample'](smoke(**fields), str(run))
  own = samples(run, 'own')['arr_0']
  fields |= {'sampling.schedule': 'flow', 'sampling.name': 'flow'}
  PROGRAMS['sample'](smoke(**fields), str(run))
  other = samples(run, 'flow')['arr_0']
  assert other.shape == own.shape and (other != own).any()
  euler = {'sampling.sampler': 'euler_maruyama', 'sampling.schedule': 'flow'}
  euler['sampling.name'] = 'euler'
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


def test_the_network_is_that_of_the_run_whatever_the_config_says(run):
  fields = {'network.channels': 16, 'sampling.name': 'as_trained'}
  PROGRAMS['sample'](smoke(**fields), str(run))


def test_a_config_without_data_cannot_be_trained(tmp_path):
  from configs import noise_photo

  with pytest.raises(UserError, match='is another --mode meant'):
    PROGRAMS['train'](noise_photo.get_config('smoke'), str(tmp_path / 'x'))
  assert not (tmp_path / 'x').exists()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(UserError, match='cannot write in the workdir .*file'):
    PROGRAMS['train'](smoke(), str(tmp_path / 'file' / 'run'))


def test_the_training_set_is_the_train_split(run):
  """No picture of the test split is ever seen in training."""
  train, test = sources.digits('train'), sources.digits('test')
  seen = {image.tobytes() for image in train.images}
  assert not any(image.tobytes() in seen for image in test.images)
