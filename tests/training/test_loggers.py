"""Loggers continue a run, keep the lines of earlier starts, and cannot stop a training."""

# The classes of tensorboardX.proto are made when it is imported:
# pyright: reportAttributeAccessIssue=false
import contextlib
import json
import time
from unittest import mock

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from diffusion_jax.runtime.files import read_json_lines, summed_line
from diffusion_jax.training import loggers
from diffusion_jax.training.loggers import MetricWriter
from tests.damage import full_disk
from tests.runtime.test_files import PLANTED, planted

PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


def spy(fails=''):
  """Returns a logger that remembers its calls, and raises at one method."""
  logger = mock.Mock()
  logger.return_value = logger  # it is made
  if fails:
    method = logger if fails == 'make' else getattr(logger, fails)
    method.side_effect = ConnectionError('no route to\nthe server')
  return logger


def write_all(workdir, start, makers, steps=(1, 2)):
  writer = MetricWriter(workdir, start, loggers=makers)
  writer.write_config(start, {'seed': 1, 'data': {'name': 'digits'}}, {'seed': 1})
  for step in steps:
    writer.write_scalars(step, {'loss': 10.0 * step, 'none': float('nan')})
    writer.write_images(step, {'samples': PICTURE})
  writer.close()


METHODS = 'make', 'write_config', 'write_scalars', 'write_images', 'close'


@pytest.mark.parametrize('fails', METHODS)
def test_a_logger_that_raises_is_left_out(fails, tmp_path, capsys):
  bad, good = spy(fails), spy()
  write_all(tmp_path, 0, {'wandb': bad, 'my:logger': good})
  names = [name or 'make' for name, _, _ in good.mock_calls]
  steps = ['write_scalars', 'write_images'] * 2
  assert names == ['make', 'write_config', *steps, 'close']
  assert good.mock_calls[2] == mock.call.write_scalars(1, {'loss': 10.0})
  # It gets the same calls until the first that fails.
  assert bad.mock_calls == good.mock_calls[: 1 + names.index(fails)]
  assert capsys.readouterr().out.splitlines() == [
    'wandb failed, and the training goes on without it: ConnectionError: no route to'
  ]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_other_processes_have_no_loggers(tmp_path):
  logger = spy()
  writer = MetricWriter(tmp_path, 0, False, {'my:logger': logger})
  writer.write_scalars(1, {'loss': 1.0})
  writer.close()
  assert not logger.mock_calls and not any(tmp_path.iterdir())


def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
  """wandb writes ./wandb by default, and Python could import this folder."""
  monkeypatch.setattr(loggers, '_PACKAGES', {'wandb': 'a_logger'})
  assert loggers.missing(['tensorboard', 'wandb']) == ['wandb']
  (tmp_path / 'a_logger').mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  assert loggers.missing(['wandb']) == ['wandb']
  (tmp_path / 'a_logger' / '__init__.py').touch()
  assert loggers.missing(['wandb']) == []


def records(path):
  """Reads the records of a .wandb file, the format of LevelDB's logs."""
  from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

  data, i = path.read_bytes(), 7
  while i < len(data):
    size, kind = int.from_bytes(data[i + 4 : i + 6], 'little'), data[i + 6]
    assert kind == 1  # whole: these files are smaller than a block
    yield Record.FromString(data[i + 7 : i + 7 + size])
    i += 7 + size


def finished(path):
  """Waits until the process of wandb has written all records."""
  for _ in range(600):
    with contextlib.suppress(Exception):  # half a record
      content = [*records(path)]
      if any(row.HasField('exit') for row in content):
        return content
    time.sleep(0.05)
  raise TimeoutError(path)


def test_wandb_offline_continues_the_same_run(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  starts = [(0, (1, 2)), (2, (3, 4)), (0, (1,))]
  ids, losses, configs = [], [], []
  for start, steps in starts:
    time.sleep(1.0 - time.time() % 1.0)  # its folders are named by the second
    write_all(tmp_path, start, {'wandb': loggers.Wandb}, steps)
    place = sorted(tmp_path.glob('wandb/offline-run-*'))[-1]
    [path] = place.glob('*.wandb')
    content = finished(path)
    assert len(list(place.rglob('*.png'))) == len(steps)
    rows = [
      {tuple(x.nested_key): json.loads(x.value_json) for x in row.history.item}
      for row in content
      if row.HasField('history')
    ]
    losses.append([(x['_step',], x['loss',]) for x in rows])
    configs.append(
      {
        x.nested_key[0] if x.nested_key else x.key: json.loads(x.value_json)
        for row in content
        for x in row.config.update
      }
    )
    ids += {row.run.run_id for row in content if row.HasField('run')}
  assert losses == [[(1, 10.0), (2, 20.0)], [(3, 30.0), (4, 40.0)], [(1, 10.0)]]
  for config in configs:
    assert config['seed'] == 1 and config['data'] == {'name': 'digits'}
  assert len(ids) == 3 and ids[0] == ids[1] != ids[2]
  kept = json.loads((tmp_path / loggers.IDS).read_text())
  assert kept == {'wandb': ids[2]}


def lines(folder):
  return [*read_json_lines(folder / 'metrics.jsonl')]


def events(folder):
  """Reads TensorBoard's records: length, checksum, event, checksum."""
  found = []
  for path in sorted(folder.glob('events.out.*')):
    data, i = path.read_bytes(), 0
    while i < len(data):
      size = int.from_bytes(data[i : i + 8], 'little')
      found.append(event_pb2.Event.FromString(data[i + 12 : i + 12 + size]))
      i += 16 + size
  return found


def values(folder):
  """Returns {tag: (step, value)} of TensorBoard's records."""
  return {v.tag: (e.step, v) for e in events(folder) for v in e.summary.value}


def write(folder, losses, start=0):
  """Writes the losses of some steps."""
  writer = MetricWriter(folder, start)
  for step, loss in losses.items():
    writer.write_scalars(step, {'loss': loss})
  writer.close()


def test_scalars_go_to_both_files(tmp_path):
  """TensorBoard also has pictures, the config, and fields as its hparams."""
  fields = {'seed': 1, 'optimizer.decay': 'cosine', 'network.remat': False}
  writer = MetricWriter(tmp_path)
  writer.write_scalars(5, {'loss': np.float32(0.5), 'nothing': float('nan')})
  writer.write_images(5, {'samples': np.zeros((4, 4, 3), np.uint8)})
  writer.write_config(0, {'seed': 1}, fields)
  writer.close()
  assert lines(tmp_path) == [{'step': 5, 'loss': 0.5}]
  found = values(tmp_path)
  step, loss = found['loss']
  assert step == 5 and loss.simple_value == 0.5
  assert found['samples'][1].image.height == 4
  assert 'nothing' not in found
  [text] = found['config/text_summary'][1].tensor.string_val
  assert json.loads(text.decode().strip('`')) == {'seed': 1}
  plugin = found['_hparams_/session_start_info'][1].metadata.plugin_data
  assert plugin.plugin_name == 'hparams'
  hparams = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
  assert hparams['seed'].number_value == 1.0
  assert hparams['optimizer.decay'].string_value == 'cosine'
  assert hparams['network.remat'].WhichOneof('kind') == 'bool_value'


def shown(folder):
  """Returns [(tag, step)] that TensorBoard shows after SessionLog.START."""
  left = []
  for event in events(folder):
    if event.session_log.status == event_pb2.SessionLog.START:
      left = [(tag, step) for tag, step in left if step < event.step]
    left += [(value.tag, event.step) for value in event.summary.value]
  return left


@pytest.mark.parametrize('last', [0, 2])
def test_tensorboard_shows_no_step_twice(tmp_path, last, monkeypatch):
  """The restart is in the same second, at step 0, before the first checkpoint, or at step 2."""
  monkeypatch.setattr(time, 'time', lambda: 1000.0)
  for start, stop in ((0, 3), (last, 4)):
    writer = MetricWriter(tmp_path, start)
    writer.write_config(start, {}, {})
    for step in range(start + 1, stop + 1):
      writer.write_scalars(step, {'loss': 1.0})
    writer.close()
  assert len(list(tmp_path.glob('events.out.*'))) == 2
  found = shown(tmp_path)
  assert [step for tag, step in found if tag == 'loss'] == [1, 2, 3, 4]
  texts = [step for tag, step in found if tag == 'config/text_summary']
  assert texts == sorted({0, last})


def test_metrics_of_an_earlier_start_are_kept(tmp_path, capsys):
  for i in range(3):
    write(tmp_path, {1: i})
  for i, name in enumerate(('metrics.1', 'metrics.2', 'metrics')):
    [line] = (tmp_path / f'{name}.jsonl').read_text().splitlines()
    assert json.loads(line)['loss'] == i
  assert 'is kept as metrics.2.jsonl' in capsys.readouterr().out


@pytest.mark.parametrize('start', [0, 2])
@pytest.mark.parametrize('how', PLANTED)
def test_metrics_are_appended_to_a_file_of_the_run(how, start, tmp_path):
  text = '{"step": 1, "loss": 1.0}\n'
  with planted(how, tmp_path, 'metrics.jsonl', text=text) as run:
    write(run, {3: 3}, start)
  path = run / 'metrics.jsonl'
  assert not path.is_symlink() and path.stat().st_nlink == 1
  kept = [1] * bool(start and how in ('link', 'hard link'))
  assert [line['step'] for line in lines(run)] == [*kept, 3]


def test_damaged_lines_are_dropped_and_the_others_kept(tmp_path, capsys):
  good = [summed_line({'step': i, 'loss': 1.0}).encode() for i in (1, 2, 3)]
  flipped = good[1].replace(b'1.0', b'3.0')
  damaged = [b'{"step": 2, \xff}\n', b'3\n', b'{"loss": 1.0}\n', b'\0\0\n', flipped]
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(good[0] + b''.join(damaged) + good[1] + good[2][:9])
  write(tmp_path, {3: 1.0}, 2)
  assert path.read_bytes() == b''.join(good)
  assert capsys.readouterr().out.endswith(' after step 2 and 6 damaged\n')


def test_a_full_disk_is_noticed_at_once_and_blocks_nothing(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.write_scalars(0, {'loss': 0.0})
  [events] = writer._open.values()  # it is left out when it fails
  with full_disk(3000), pytest.raises(OSError):
    for step in range(1, 1000):
      writer.write_scalars(step, {f'loss_{i}': i for i in range(20)})
  assert step < 20
  events.close()
  writer.close()
