"""benchmarks.against_torch measures what it says, on a tiny network."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import against_torch, cases, curves
from benchmarks.turns import Case

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('diffusers')
  folder = tmp_path_factory.mktemp('bench')
  # The benchmark's processes import it first: `torch_packages` for them too.
  (folder / 'sitecustomize.py').write_text(
    'from benchmarks import torch_packages\ntorch_packages.declare_operators()\n'
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', f'{folder}{os.pathsep}{ROOT}')
    yield folder


@pytest.fixture(scope='module')
def measured(folder):
  out = folder / 'result.json'
  against_torch.main(['--smoke', f'--out={out}'])
  return json.loads(out.read_text())


@pytest.mark.slow
def test_both_sides_learn_the_same_from_the_same_weights_and_images(folder):
  """JAX and PyTorch begin with the loss of a network that returns 0: E |eps|^2 = 1."""
  images, out = folder / 'images.npz', folder / 'curves.json'
  shades = np.linspace(0, 255, 64, dtype=np.uint8)
  np.savez(images, images=np.ones((64, 16, 16, 3), np.uint8) * shades[:, None, None, None])
  curves.main(
    [
      '--network=smoke',
      f'--images={images}',
      f'--out={out}',
      '--steps=40',
      '--seeds=2',
      '--rate=2e-3',
    ]
  )
  found = json.loads(out.read_text())['losses']
  ours, theirs = (np.array(found[name]) for name in ('ours', 'diffusers'))
  for losses in (ours, theirs):
    assert losses.shape == (2, 40)
    assert_allclose(losses[:, 0], 1.0, atol=0.03)
    assert losses[:, -10:].mean() < 0.8
  assert_allclose(ours[:, -10:].mean(), theirs[:, -10:].mean(), rtol=0.1)


@pytest.mark.slow
def test_every_task_is_measured_on_both_sides(measured):
  records = measured['records']
  assert [(r['network'], r['task']) for r in records] == [
    (name, task) for name, network in cases.SMOKE.items() for task in network.tasks
  ]
  for r in records:
    assert 'error' not in r
    for side in ('ours', 'torch'):
      times = [wall for wall, _ in r['times'][side]]
      assert len(times) == 2 and min(times) > 0.0
      assert r[side]['seconds'] == np.median(times)
      assert r['peak_bytes'][side] > 1e7
    pairs = zip(r['times']['torch'], r['times']['ours'], strict=True)
    assert r['ratio']['median'] == pytest.approx(np.median([a / b for (a, _), (b, _) in pairs]))
    assert {'jax', 'diffusion_jax'} <= set(r['facts']['ours']['versions'])
    assert {'torch', 'diffusers'} <= set(r['facts']['torch']['versions'])


@pytest.mark.slow
def test_both_sides_compute_the_same_network(measured):
  width, labels = 16, 10 + 1
  more = {
    # The second block has its own embedding.
    'smoke_dit': 257 * width + width * (width + 1) + labels * width,
    'smoke_edm2': -2 * width,  # frequencies and phases are buffers
  }
  for record in measured['records']:
    assert record['difference'] < 1e-5
    ours, torch = (record['facts'][s]['parameters'] for s in ('ours', 'torch'))
    assert torch == ours + more.get(record['network'], 0)


@pytest.mark.parametrize('network', cases.SMOKE)
def test_flop_of_products_are_those_that_torch_counts(network):
  pytest.importorskip('diffusers')
  torch = pytest.importorskip('torch')
  counter = pytest.importorskip('torch.utils.flop_counter')
  from benchmarks import jax_side, torch_side

  side = torch_side.Side(Case(network, 2))
  x, noise = torch.zeros(2, 3, 16, 16), torch.tensor([3.0, 4.0])
  # As products, which alone it counts.
  plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
  with counter.FlopCounterMode(display=False) as found, torch.no_grad(), plain:
    side.output(side.model.eval(), x, noise, side.labels)
  expected = found.get_total_flops()
  if network == 'smoke_dit':  # every block computes the embedding again
    expected -= 2 * 2 * 2 * (256 * 16 + 16 * 16)
  assert jax_side.Side(Case(network, 2)).forward_flop() == pytest.approx(expected, rel=1e-3)
