"""Training end to end, on the real digits, with a tiny network."""

import collections
import dataclasses
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.data import sources
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, sample, train
from diffusion_jax.training import checkpoints
from tests.programs.conftest import SEEN, smoke


def metrics(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def parameters(workdir, ema=True):
  return checkpoints.restore_params(workdir, ema)[0]


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


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
  # the rate of the step: two of warm-up, then a cosine to 0 after four
  rates = [line['learning_rate'] for line in trained]
  np.testing.assert_allclose(rates, [0.0, 2e-3, 4e-3, 2e-3], atol=1e-9)
  assert 'images_per_second' in trained[-1]
  assert found[-1]['test_loss'] > 0


def test_a_preview_is_of_the_average_and_a_batch_of_its_step(
  tmp_path, monkeypatch
):
  seen, steps = [], []
  config = smoke(**{'training.sample_every': 2})
  family = families.of(config)

  def make_preview(*_):
    def preview(params):
      seen.append(jax.device_get(params))
      return np.zeros((8, 8, 1), np.uint8)

    return preview

  def make_encode(*args):
    def encode(kept, batch, key, i):
      steps.append(i)
      return family.make_encode(*args)(kept, batch, key, i)

    return encode

  spied = family._replace(make_encode=make_encode)
  monkeypatch.setattr(families, 'of', lambda config: spied)
  monkeypatch.setattr(train, 'make_preview', make_preview)
  PROGRAMS['train'](config, str(tmp_path))
  assert steps == [0, 1, 2, 3]
  for step, params in zip((2, 4), seen, strict=True):
    average, raw = (
      checkpoints.restore_params(tmp_path, ema, checkpoint=step)[0]
      for ema in (True, False)
    )
    assert_same(params, average)
    bias = lambda x: x['network']['conv_in']['bias']
    assert (bias(average) != bias(raw)).any()


def assert_same_training(a, b):
  """Bit for bit: parameters, average and metrics."""
  for ema in (True, False):
    assert_same(parameters(a, ema), parameters(b, ema))
  lines = (
    [
      {k: v for k, v in line.items() if k != 'images_per_second'}
      for line in metrics(workdir)
      if 'loss' in line
    ]
    for workdir in (a, b)
  )
  assert next(lines) == next(lines)


def test_a_finished_run_says_so(run, capsys):
  """Whatever the intervals are, and the place of the data; not the data."""
  before = (run / 'metrics.jsonl').read_bytes()
  free = {
    'training.log_every': 2,
    'training.checkpoint_every': 3,
    'training.evaluate_every': 1,
    'sampling.num_steps': 2,
    'data.data_dir': '/elsewhere',
    'data.num_threads': 3,
  }
  PROGRAMS['train'](smoke(**free), str(run))
  assert 'this run is finished: it has 4 of 4 steps' in capsys.readouterr().out
  assert (run / 'metrics.jsonl').read_bytes() == before
  with pytest.raises(UserError, match='data.random_flip is False, True now'):
    PROGRAMS['train'](smoke(**{'data.random_flip': True}), str(run))


def test_six_steps_are_three_and_a_restart_and_three(tmp_path):
  """Bit for bit, of flipped pictures of a folder, read by threads."""
  rng = np.random.default_rng(0)
  for i in range(10):
    picture = rng.integers(0, 256, (12, 10), np.uint8)
    (tmp_path / 'pictures' / str(i)).mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / 'pictures' / str(i) / 'a.png')
  fields = {
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
  assert [line['step'] for line in metrics(parts)] == [1, 2, 3]
  one = {'data.num_threads': 1}
  PROGRAMS['train'](smoke(**fields, **six, **one), str(parts))
  assert_same_training(whole, parts)


def test_a_killed_run_continues_from_its_last_checkpoint(run, tmp_path):
  """Checkpoint 4 lost, the lines of steps 3 and 4 written: all is redone.

  Also the preview and the evaluation, to the byte and the bit.
  """
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints' / '4')
  preview = copy / 'samples' / 'step_00000004.png'
  preview.unlink()
  seen = SEEN | {'report.after_training': False}
  PROGRAMS['train'](smoke(**seen), str(copy))
  assert_same_training(run, copy)
  steps = [line['step'] for line in metrics(copy) if 'loss' in line]
  assert steps == [1, 2, 3, 4]
  whole, parts = (
    [x for x in metrics(workdir) if 'test_loss' in x] for workdir in (run, copy)
  )
  assert len(whole) == 2 and whole == parts
  assert preview.read_bytes() == (run / preview.relative_to(copy)).read_bytes()


def test_a_killed_run_continues_with_other_calls(run, tmp_path):
  """Steps 3 and 4 in one dispatch; the log has the mean of their losses."""
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints' / '4')
  fields = {'training.steps_per_call': 3, 'training.log_every': 2}
  PROGRAMS['train'](smoke(**fields), str(copy))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, parameters(run), parameters(copy))
  alone, together = (
    [x for x in metrics(r) if 'loss' in x] for r in (run, copy)
  )
  assert [x['step'] for x in together] == [1, 2, 4]
  for name in ('loss', 'grad_norm'):
    mean = (alone[2][name] + alone[3][name]) / 2
    np.testing.assert_allclose(together[2][name], mean, rtol=1e-4)


def test_an_interrupted_run_finishes_the_checkpoint_it_writes(
  run, tmp_path, monkeypatch
):
  def interrupt(self, step, scalars):
    if step == 3:
      raise KeyboardInterrupt

  monkeypatch.setattr(train.MetricWriter, 'write_scalars', interrupt)
  with pytest.raises(KeyboardInterrupt):
    PROGRAMS['train'](smoke(), str(tmp_path))
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']
  for item in ('params', 'ema_params', 'state'):
    read = ocp.StandardCheckpointer().restore
    place = Path('checkpoints', '2', item)
    assert_same(read(run / place), read(tmp_path / place))


TRACED = collections.Counter()


def counting():
  """DDIM, and how often its step is traced."""
  inner = dj.ddim()

  def step(*args, **levels):
    TRACED['step'] += 1
    return inner.step(*args, **levels)

  return inner._replace(step=step)


def failing():
  """A sampler with a mistake that a call shows."""
  step = lambda key, x, state, denoise, **levels: ({}['nothing'], state)
  return dj.Sampler(dj.ddim().init, step)


def own_sampler(name, **changes):
  names = {'sampling.sampler': f'{__name__}:{name}', 'sampling.eta': None}
  return smoke(**names | changes)


SCORED = {
  'evaluation.metrics': ('fd',),
  'evaluation.features': 'digits',
  'training.metrics_images': 4,
  'sampling.batch_size': 4,
}


@pytest.mark.parametrize(
  'field, message',
  [
    ('training.sample_every', 'the preview cannot be computed: KeyError'),
    ('training.metrics_every', 'a sample cannot be computed: KeyError'),
  ],
)
def test_a_sampler_that_raises_is_refused_before_the_first_step(
  field, message, tmp_path
):
  config = own_sampler('failing', **SCORED | {field: 4})
  place = rf"'nothing'.* \({__file__}, line \d+\). --config.{field}=0 trains"
  with pytest.raises(UserError, match=f'{message}.*{place} without'):
    PROGRAMS['train'](config, str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


def test_a_test_loss_that_raises_is_refused_before_the_first_step(
  tmp_path, monkeypatch
):
  """Without a part of the user's own a bug keeps its traceback."""
  family = families.of(smoke())

  def objective(config, test=False):
    found = family.objective(config, test)
    if not test:
      return found
    return dataclasses.replace(found, draw=Mock(side_effect=ZeroDivisionError))

  spied = family._replace(objective=objective)
  monkeypatch.setattr(families, 'of', lambda config: spied)
  with pytest.raises(ZeroDivisionError):
    PROGRAMS['train'](smoke(**SEEN), str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


def test_what_is_tried_first_is_not_traced_again(tmp_path):
  TRACED.clear()
  config = own_sampler('counting', **{'training.sample_every': 2})
  PROGRAMS['train'](config, str(tmp_path))
  assert len(list((tmp_path / 'samples').glob('step_*.png'))) == 2
  assert TRACED['step'] == 1


@pytest.mark.parametrize(
  'what, fields',
  [
    ('make_preview', {}),
    ('make_evaluate', {'training.keep_best': 1}),
    ('make_measure', {'training.metrics_every': 4}),
  ],
)
def test_the_steps_are_saved_before_what_may_fail(
  what, fields, tmp_path, monkeypatch
):
  def fail(*args):
    raise RuntimeError('out of memory')

  monkeypatch.setattr(train, what, lambda *args: fail)
  every = {
    'training.checkpoint_every': 4,
    'training.sample_every': 4,
    'training.evaluate_every': 4,
  }
  with pytest.raises(RuntimeError, match='out of memory'):
    PROGRAMS['train'](smoke(**every | fields), str(tmp_path))
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['4']
  params, _ = checkpoints.restore_params(tmp_path)
  assert jax.tree.leaves(params)


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
  sample.restore(smoke(**{'sampling.checkpoint': '2'}), str(copy))
  PROGRAMS['train'](smoke(), str(copy))
  said = capsys.readouterr()
  assert 'warning: checkpoint 4 is damaged (' in said.err
  assert f'{copy}: step 2 of 4' in said.out
  assert_same(parameters(run), parameters(copy))
  shutil.move(copy / 'checkpoints' / '2', copy / 'elsewhere')
  path = copy / 'checkpoints' / '4' / 'config' / 'metadata'
  path.unlink()
  with pytest.raises(UserError, match='no checkpoint of .* is good, all were'):
    PROGRAMS['train'](smoke(), str(copy))
  assert {p.name for p in (copy / 'damaged').iterdir()} == {'4', '4-2'}


def test_another_config_is_refused_unless_forced(run, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  changed = {
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


def test_samples_are_data_to_train_on(run):
  """With their labels, to the bit."""
  PROGRAMS['sample'](smoke(**{'sampling.name': 'more'}), str(run))
  path = run / 'samples' / 'more.npz'
  fields = {'name': 'npz', 'path': str(path), 'num_levels': 256}
  config = smoke(**{f'data.{name}': value for name, value in fields.items()})
  train.check(config, build.build_mesh(config))
  source = build.build_source(config, 'train')
  batch = next(build.build_batches(config, source))
  with np.load(path) as made:
    levels = [x.tobytes() for x in made['arr_0']]
    labels = made['labels']
  assert len(source) == len(levels) == 16 and batch['image'].shape[0] == 8
  for x, label in zip(batch['image'], batch['label'], strict=True):
    place = levels.index(np.rint((x + 1) * 127.5).astype(np.uint8).tobytes())
    assert labels[place] == label


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
