"""Training end to end, on the real digits, with a tiny network."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app.kinds.model import make_encode
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import hooks, mode as train, setup
from diffusion_jax.runtime.compiling import Program
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Mean
from tests.app import toy_parts
from tests.app.conftest import (
  SEEN,
  assert_same,
  interrupted,
  lines_of,
  of_run,
  params_of,
  refuse_to_compile,
  refused,
  smoke,
  trial,
)
from tests.app.fields import typed, within
from tests.runtime.test_profiling import steps_in

UNSCALED: dict = dict.fromkeys(('mean', 'std', 'low', 'high'), [])


def test_a_run_leaves_what_the_docs_promise(run):
  stored = json.loads((run / 'config.json').read_text())
  assert stored['network']['channels'] == 8
  assert len(stored['facts'].pop('checksum')) == 16
  assert stored['facts'] == {
    'x': {'shape': [8, 8, 1], 'levels': 17, **UNSCALED},
    'num_classes': 10,
    'examples': 1437,
  }
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2', '4']
  assert list(run.glob('events.out.*'))
  with Image.open(run / 'samples' / 'step_00000004.png') as image:
    assert image.mode == 'L' and image.size[0] > 8 * 10
  lines = lines_of(run)
  trained = [line for line in lines if 'loss' in line]
  assert [line['step'] for line in trained] == [1, 2, 3, 4]
  for line in trained:
    assert line['loss'] > 0 and line['grad_norm'] > 0
    assert any(f'loss_quarter_{q}' in line for q in range(1, 5))
  # the rate of the step: two of warm-up, then a line to 0 after four
  rates = [line['learning_rate'] for line in trained]
  assert_allclose(rates, [0.0, 4e-3, 8e-3, 4e-3], atol=1e-9)
  assert 'images_per_second' in trained[-1]
  assert lines[-1]['test_loss'] > 0


def test_a_preview_is_of_the_average_and_a_batch_of_its_step(tmp_path, monkeypatch):
  seen, steps = [], []

  def draw(params, index, cond):
    seen.append(jax.device_get(params))
    return np.zeros((len(index), 8, 8, 1), np.float32), None, {}

  def spied(model, mesh):
    encode = make_encode(model, mesh)
    return lambda kept, batch, key, i: steps.append(i) or encode(kept, batch, key, i)

  monkeypatch.setattr(hooks, 'generate', lambda *args: Mock(side_effect=draw))
  monkeypatch.setattr(setup, 'make_encode', spied)
  MODES['train'](smoke(**{'training.sample_every': 2}), tmp_path)
  assert steps == [0, 1, 2, 3]
  for step, params in zip((2, 4), seen, strict=True):
    average, raw = (params_of(tmp_path, x, step=step) for x in ('average', 'raw'))
    assert_same(params, average)
    bias = lambda x: x['network']['conv_in']['bias']
    assert (bias(average) != bias(raw)).any()


def assert_same_training(a, b):
  """Compares parameters, averages and metrics bit for bit."""
  for which in ('average', 'raw'):
    assert_same(params_of(a, which), params_of(b, which))
  free = dict.fromkeys(('images_per_second', 'tflops'))
  ours, theirs = ([x | free for x in lines_of(run) if 'loss' in x] for run in (a, b))
  assert ours == theirs


def test_a_finished_run_says_so(run, capsys):
  """Intervals may change; the order of the data may not."""
  before = lines_of(run)
  free = within(
    'training', log_every=2, checkpoints__every=3, held_out__every=1, machine__num_threads=3
  )
  free |= within('sampling', num_steps=2)
  MODES['train'](smoke(**free), run)
  assert 'this run is finished: it has 4 of 4 steps' in capsys.readouterr().out
  assert lines_of(run) == before
  message = 'training.random_flip is False, True no'
  refused(message, MODES['train'], smoke(**{'training.random_flip': True}), run)


def test_a_killed_run_continues_from_its_last_checkpoint(run, tmp_path, capsys):
  """Checkpoint 4 is lost, and the lines of steps 3 and 4 are written again.

  The preview is the same to the byte, and the evaluation to the bit.
  """
  copy = interrupted(run, tmp_path / 'copy')
  preview = copy / 'samples' / 'step_00000004.png'
  preview.unlink()
  own = {'report.after_training': False, 'training.verbose': True}
  MODES['train'](smoke(**SEEN | own), copy)
  devices, data, step, *more = capsys.readouterr().out.splitlines()
  assert devices.startswith('devices: 1x1 cpu (data x fsdp); network: ')
  assert data.endswith('1,437 images of 8x8x1, 10 classes, 360 test images')
  assert step == f'{copy}: step 2 of 4'
  program = 'tracing the step .*, (from the cache|compilation) '
  assert re.search(program, '\n'.join(more))
  assert_same_training(run, copy)
  whole, parts = ([x for x in lines_of(workdir) if 'test_loss' in x] for workdir in (run, copy))
  assert len(whole) == 2 and whole == parts
  assert preview.read_bytes() == (run / preview.relative_to(copy)).read_bytes()


def test_six_steps_are_three_and_a_restart_and_three(tmp_path):
  """A restart after three steps changes no bit, with flipped pictures that threads read."""
  rng = np.random.default_rng(0)
  for i in range(10):
    picture = rng.integers(0, 256, (12, 10), np.uint8)
    (tmp_path / 'pictures' / str(i)).mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / 'pictures' / str(i) / 'a.png')
  fields = within('data', 'folder', path=str(tmp_path / 'pictures'))
  fields |= within('data', image_shape=(8, 8, 1), labelled=True)
  fields |= within('training', random_flip=True, checkpoints__every=3)
  fields |= within('optimizer', decay='constant')
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  six = {'training.num_steps': 6}
  MODES['train'](smoke(**fields, **six), whole)
  MODES['train'](smoke(**fields, **{'training.num_steps': 3}), parts)
  assert [line['step'] for line in lines_of(parts)] == [1, 2, 3]
  one = {'training.machine.num_threads': 1}
  MODES['train'](smoke(**fields, **six, **one), parts)
  assert_same_training(whole, parts)


def test_a_killed_run_continues_with_other_calls(run, tmp_path, monkeypatch):
  """Steps 3 and 4 are one dispatch, of a step in NumPy; the log has the mean of their losses.

  A trace of steps 2 to 4 has those that are left.
  """
  calls = []

  def steps(state, batches, key, count, frozen, rates):
    losses = np.array([x['x'].mean() for x in batches])
    calls.append((count, rates, losses[:count].mean()))
    metrics = {name: Mean(losses, np.ones(3)) for name in ('loss', 'grad_norm')}
    return state._replace(step=state.step + count), metrics

  monkeypatch.setattr(setup.compiling, 'in_place', lambda *args: Program(steps, lambda *_: None))
  copy = interrupted(run, tmp_path / 'copy')
  fields = {'training.steps_per_call': 3, 'training.log_every': 2}
  MODES['train'](smoke(**fields, **within('training.machine.trace', first=2, steps=3)), copy)
  assert steps_in(copy, 'steps_3-4') == [3]
  assert [x['step'] for x in lines_of(copy) if 'loss' in x] == [1, 2, 4]
  [(count, rates, mean)] = calls
  assert count == 2
  assert_allclose(rates, [8e-3, 4e-3, 0.0], atol=1e-9)
  assert_allclose(lines_of(copy, 'loss')[2], mean, rtol=1e-6)
  assert sorted(p.name for p in (copy / 'checkpoints').iterdir()) == ['2', '4']


def test_a_line_has_the_products_of_a_dense_network(tmp_path, monkeypatch):
  """Layers 2 -> 8 -> 1 at the 8 x 8 pixels of 8 images, 2 FLOP a term.

  The gradient takes as much for the kernels, and once more for the input of the
  second layer. The step is traced, and not compiled.
  """

  def in_place(jitted, shapes, what, read):
    def steps(state, *_):
      metrics = dict.fromkeys(('loss', 'grad_norm'), Mean(np.ones(2), np.ones(2)))
      return state._replace(step=state.step + 2), metrics

    return Program(steps, lambda *args: read(jitted.trace(shapes, *args).jaxpr))

  monkeypatch.setattr(setup.compiling, 'in_place', in_place)
  fields = within('training', steps_per_call=2, machine__accumulate=2, machine__mesh=(4, 1))
  fields |= within('training', log_every=2, sample_every=0)
  fields |= within('conditioning', labels=False, dropout=0)
  network = {'network': f'{toy_parts.__name__}:Network', 'network.width': 8}
  MODES['train'](trial(**network, **fields), tmp_path)
  line = lines_of(tmp_path)[-1]
  seconds = 8 / line['images_per_second']
  flop = 2 * (8 * 64) * (2 * (2 * 8 + 8 * 1) + 8 * 1)
  assert_allclose(line['tflops'] * 1e12 * seconds, flop / 4)
  assert 'mfu' not in line  # a CPU has no published rate


def test_ctrl_c_saves_the_step_after_the_checkpoint_that_is_written(
  run, tmp_path, monkeypatch, capfd, signals
):
  """Ctrl-C ends a training as SIGTERM does, with another exit code (test_survival.py)."""

  def interrupt(self, step, scalars):
    if step == 3:
      os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(train.MetricWriter, 'write_scalars', interrupt)
  message = 'stopped by Ctrl-C at step 3, saved; the same command continues'
  with pytest.raises(KeyboardInterrupt, match=message):
    MODES['train'](smoke(), tmp_path)
  assert 'Ctrl-C again ends at once' in capfd.readouterr().err
  names = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert names == ['2', '3']
  for item in ('params', 'ema_params', 'state'):
    read = ocp.StandardCheckpointer().restore
    place = Path('checkpoints', '2', item)
    assert_same(read(run / place), read(tmp_path / place))


def failing():
  """Returns a sampler whose step raises."""
  step = lambda key, x, state, denoise, **levels: ({}['nothing'], state)
  return dj.Sampler(dj.ddim().init, step)


SCORED = within('evaluation', metrics=('fd',), features='digits')
SCORED |= within('sampling', batch_size=4)


@pytest.mark.parametrize(
  'field, off, message',
  [
    ('training.sample_every', '=0', 'the preview cannot be computed: KeyError'),
    ('training.metrics', '=None', 'a sample cannot be computed: KeyError'),
  ],
)
def test_a_sampler_that_raises_is_refused_before_the_first_step(field, off, message, tmp_path):
  every = f'{field}.every' if off == '=None' else field
  own = {'sampling.sampler': f'{__name__}:failing', every: 4}
  place = rf"'nothing'.* \({__file__}, line \d+\). --config.{field}{off} trains"
  message = f'{message}.*{place} without'
  refused(message, MODES['train'], smoke(**SCORED | own), tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_the_steps_are_saved_if_the_metric_of_the_checkpoint_fails(tmp_path, monkeypatch, capsys):
  """tests/app/train/test_hooks.py has the order."""
  workdir = tmp_path / 'run'

  def act(step, state, frozen, log):
    log.manager.wait_until_finished()
    assert not [*(workdir / 'checkpoints').iterdir()]
    raise RuntimeError('out of memory')

  made = lambda model, mesh, every: hooks.Hook(every, act)
  monkeypatch.setattr(hooks, 'evaluating', made)
  fields = within('training', checkpoints__best__number=1, checkpoints__every=4, held_out__every=6)
  with pytest.raises(RuntimeError, match='out of memory'):
    MODES['train'](smoke(**fields), workdir)
  assert [p.name for p in (workdir / 'checkpoints').iterdir()] == ['4']
  assert jax.tree.leaves(params_of(workdir))
  note = 'note: training.checkpoints.best chooses among checkpoints, 4 steps apart'
  assert note in capsys.readouterr().out


# Mistakes that the folder shows: mode, what is done to a copy of a run, fields => message.
# tests/app/modes/test_refusals.py has refusals of a config.
FD = 'evaluation.metrics=fd evaluation.features=pixels'
PICTURES = 'data=folder data.image_shape=8,8,1 data.path='
INPAINT = 'edit=inpaint edit.image=half.png edit.mask=half.png'
MISTAKES = f"""
train new {PICTURES}pictures conditioning.labels=False conditioning.dropout=0
  training.held_out=None training.sample_every=0 => pictures/1.png cannot be read as an image
train samples => cannot write in the workdir .*samples
train copy {FD} training.metrics.every=4 seed=7 => holds a run with another config: .*seed
train new {FD} training.metrics.every=4 training.start.run=nowhere => start.run
sample samples => cannot write in the workdir .*samples
sample copy sampling.checkpoint=7 => contains no checkpoint 7
evaluate evaluation {FD} => cannot write in the workdir .*evaluation
evaluate copy {FD} sampling.checkpoint=7 => no checkpoint 7
evaluate copy {FD} {PICTURES}lost => config.data: folder lost not found
edit edits {INPAINT} => cannot write in the workdir .*edits
edit copy {INPAINT} sampling.checkpoint=7 => no checkpoint 7
"""


@pytest.mark.parametrize('row', re.split(r'\n(?=\S)', MISTAKES.strip()))
def test_a_mistake_is_refused_before_a_program_is_compiled(row, run, tmp_path, monkeypatch):
  fields, message = ' '.join(row.split()).split(' => ')
  mode, where, *fields = fields.split()
  fields = typed(' '.join(fields))
  monkeypatch.chdir(tmp_path)
  workdir, picture = Path('copy'), Path('pictures/1.png')
  picture.parent.mkdir()
  Image.fromarray(np.uint8(255 * np.tri(8))).save('half.png')
  picture.write_bytes(Path('half.png').read_bytes()[:60])
  if where != 'new':
    shutil.copytree(run, workdir)
  if where not in ('new', 'copy'):  # a file is in the way of a folder
    shutil.rmtree(workdir / where, ignore_errors=True)
    if mode == 'train':  # at step 0 again
      shutil.rmtree(workdir / 'checkpoints')
    (workdir / where).write_text('')
  refuse_to_compile(monkeypatch)
  config = smoke(**fields) if mode == 'train' else of_run(workdir, **fields)
  refused(message, MODES[mode], config, workdir)


def test_a_rate_that_decays_anew_is_said(run, capsys):
  """Two steps of warm-up and a line to 0 after 4 steps; then after 6."""
  parts = setup.prepare(smoke(**{'training.num_steps': 6}), RunFolder.at(run))
  assert_allclose(parts.rates[4:], [4e-3, 2e-3], atol=1e-9)
  train.announce_length(parts, 4)
  line = (
    'note: training.num_steps was 4, and is 6: the learning rate restarts its decay, '
    'from 0.004 after 0.004 at step 4'
  )
  assert line in capsys.readouterr().out
  constant = {'optimizer.decay': 'constant', 'training.resume': 'force'}
  train.announce_length(
    setup.prepare(smoke(**constant, **{'training.num_steps': 6}), RunFolder.at(run)), 4
  )
  assert not capsys.readouterr().out
