"""DINOv2 against transformers' Dinov2Model, with random weights from a file."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.interop import dinov2
from diffusion_jax.networks.dinov2 import interpolate_positions, preprocess


@pytest.fixture
def case(tmp_path):
  transformers = pytest.importorskip('transformers')
  import torch

  sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
  config = transformers.Dinov2Config(**sizes, image_size=518, patch_size=14)
  network = transformers.Dinov2Model(config).eval()
  with torch.no_grad():  # the scales of layers begin at 1, the biases at 0
    for name, x in network.named_parameters():
      if 'layer_scale' in name or 'norm' in name and name.endswith('weight'):
        x.uniform_(0.5, 1.5)
      elif name.endswith('bias') or 'token' in name:
        x.normal_(0.0, 0.2)
      elif 'weight' in name:
        x.mul_(3.0)
  network.save_pretrained(tmp_path)
  return network, tmp_path


@pytest.mark.parametrize('side', [32, 300])
def test_features_are_those_of_transformers(case, side):
  import torch

  network, folder = case
  images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
  ours, params, _ = dinov2.read(folder / 'model.safetensors')
  ours = dataclasses.replace(ours, position_offset=0.0)
  found = ours.apply({'params': params}, preprocess(images))['features']
  # EDM2's preprocessing
  x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)
  x = torch.nn.functional.interpolate(x, size=(224, 224), mode='bicubic', antialias=True)
  mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
  deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
  with torch.no_grad():
    expected = network((x / 255 - mean) / deviation).pooler_output.numpy()
  scale = np.abs(expected).max()
  assert expected.std(axis=0).max() > 0.02 * scale
  assert np.abs(found - expected).max() < 1e-4 * scale


@pytest.mark.parametrize('offset', [0.1, 0.0])
def test_positions_are_interpolated_as_by_torch(offset):
  torch = pytest.importorskip('torch')
  grid = np.random.default_rng(0).standard_normal((37, 37, 5), np.float32)
  how = {'scale_factor': ((16 + offset) / 37, (12 + offset) / 37)} if offset else {'size': (16, 12)}
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(grid).permute(2, 0, 1)[None], mode='bicubic', align_corners=False, **how
  )[0]
  found = interpolate_positions(grid, (16, 12), offset)
  assert_allclose(found, expected.permute(1, 2, 0), atol=1e-5)
