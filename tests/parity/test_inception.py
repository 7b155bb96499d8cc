"""The Inception network against torch-fidelity's, with preprocessing."""

import functools

import numpy as np
import pytest

from diffusion_jax.interop.features import load_features
from tests.parity.torch_packages import load


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
  extractor = load('torch_fidelity.feature_extractor_inceptionv3')
  import torch

  path = tmp_path_factory.mktemp('inception') / 'inception.pth'
  make = functools.partial(
    extractor.FeatureExtractorInceptionV3, 'inception', ['2048', 'logits_unbiased']
  )
  with pytest.MonkeyPatch.context() as patch:
    # The network begins without weights: nothing is downloaded.
    patch.setattr(extractor, 'load_state_dict_from_url', lambda *a, **k: {})
    patch.setattr(torch.nn.Module, 'load_state_dict', lambda *a, **k: None)
    network = make()
  randomise(network)
  torch.save(network.state_dict(), path)
  return make(feature_extractor_weights_path=path), load_features('inception', path, 4)


def randomise(network):
  """Sets weights that keep the scale of activations, and new statistics."""
  import torch

  torch.manual_seed(0)
  for name, x in network.state_dict().items():
    if name.endswith('conv.weight') or name == 'fc.weight':
      torch.nn.init.kaiming_normal_(x, nonlinearity='relu')
    elif name.endswith('running_var') or name.endswith('bn.weight'):
      x.uniform_(0.7, 1.3)
    elif name.endswith(('running_mean', 'bias')):
      x.normal_(0.0, 0.2)


def torch_features(network, images):
  import torch

  with torch.no_grad():
    parts = [network(part) for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(16)]
  return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def images(count, side, seed=0):
  """Smooth shapes and noise, of all grey levels."""
  rng = np.random.default_rng(seed)
  grid = np.linspace(0.0, 1.0, side)
  angle, phase = rng.uniform(0.0, 9.0, (2, count, 1, 1, 3))
  wave = np.sin(angle * grid[:, None, None] + phase * grid[None, :, None])
  noise = rng.uniform(0.0, 1.0, (count, side, side, 3))
  return np.uint8(255.0 * (0.4 * (wave + 1.0) + 0.2 * noise))


@pytest.mark.parametrize('side', [32, 224])
def test_features_and_logits_are_those_of_torch_fidelity(networks, side):
  theirs, ours = networks
  x = images(3, side)
  found = ours(x)
  features, logits = torch_features(theirs, x)
  for a, b in ((found['features'], features), (found['logits'], logits)):
    scale = np.abs(b).max()
    assert b.std(axis=0).max() > 0.02 * scale  # they do depend on the image
    assert np.abs(a - b).max() < 1e-4 * scale


def test_spatial_features_are_those_of_mixed_6_conv(networks):
  theirs, ours = networks
  x = images(3, 32)
  kept = []
  hook = theirs.Mixed_6d.branch1x1.register_forward_hook(
    lambda module, inputs, output: kept.append(output)
  )
  torch_features(theirs, x)
  hook.remove()
  expected = kept[0][:, :7].permute(0, 2, 3, 1).reshape(3, 2023).numpy()
  assert np.abs(ours(x)['spatial'] - expected).max() < 1e-4 * np.abs(expected).max()
