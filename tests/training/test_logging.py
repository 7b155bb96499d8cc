import json

import numpy as np
from tensorboardX.proto import event_pb2

from diffusion_jax.training.logging import MetricWriter


def lines(folder):
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def events(folder):
  """TensorBoard's records: length, checksum, event, checksum."""
  found = []
  for path in sorted(folder.glob('events.out.*')):
    data, i = path.read_bytes(), 0
    while i < len(data):
      size = int.from_bytes(data[i : i + 8], 'little')
      found.append(event_pb2.Event.FromString(data[i + 12 : i + 12 + size]))
      i += 16 + size
  return found


def test_scalars_go_to_both_files(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.write_scalars(5, {'loss': np.float32(0.5), 'nothing': float('nan')})
  writer.write_images(5, {'samples': np.zeros((4, 4, 3), np.uint8)})
  writer.write_hparams({'seed': 1})
  writer.close()
  assert lines(tmp_path) == [{'step': 5, 'loss': 0.5}]
  values = {
    v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value
  }
  step, loss = values['loss']
  assert step == 5 and loss.simple_value == 0.5
  assert values['samples'][1].image.height == 4
  assert 'nothing' not in values


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
  writer = MetricWriter(tmp_path)
  for step in (1, 2, 3, 4):
    writer.write_scalars(step, {'loss': step})
  writer.close()
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 5, "lo')  # killed here
  writer = MetricWriter(tmp_path, start_step=2)
  writer.write_scalars(3, {'loss': 30})
  writer.close()
  assert [(x['step'], x['loss']) for x in lines(tmp_path)] == [
    (1, 1.0),
    (2, 2.0),
    (3, 30.0),
  ]
