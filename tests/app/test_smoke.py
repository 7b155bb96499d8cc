"""`:smoke` of every config: a few small steps on data that are at hand."""

import json
from typing import Any

import jax
import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.data.sources import pictures
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import ALL
from tests.app.conftest import read


@pytest.mark.parametrize('name, variant', ALL)
def test_every_config_shrinks(name, variant):
  config = read(f'{name}:{variant}' if variant else name)
  before = config.to_dict()
  trial = shrunk(config)
  assert config.to_dict() == before
  more = {*folder.flat(trial.to_dict())} - {*folder.flat(before)}
  more -= {'sampling.corrector'}  # None there
  assert {n.partition('.')[0] for n in more} <= {'data'}
  if config.data is None:
    assert trial.data is None
    return
  assert datasets.stated_facts(trial.data) is None
  assert trial.data.name != 'folder'
  assert trial.training.num_steps == 4 and trial.training.batch_size == 8
  assert trial.sampling.num_samples == 16
  stored = store.stored(json.loads(json.dumps(folder.plain(trial))), 'x', ())
  assert stored.to_dict() == trial.to_dict()


@pytest.mark.parametrize(
  'name, facts',
  [
    ('cifar10', pictures((32, 32, 3), 10)),
    ('mnist', pictures((28, 28, 1), 10)),
    ('imagenet64', pictures((64, 64, 3), 1000)),
  ],
)
def test_data_to_download_are_replaced_by_images_of_their_size(name, facts):
  trial = shrunk(read(name))
  assert trial.data.name == 'synthetic'
  model: Any = make_model(trial, RunFolder.at('x'))
  assert model.facts == facts
  assert sum(x.size for x in jax.tree.leaves(model.shapes())) < 400_000


def test_what_is_large_becomes_small():
  flags = [('network.stem_channels', '128'), ('network.head_channels', '64')]
  network = shrunk(store.with_flags(read('imagenet64'), flags)).network
  assert (network.head_channels, network.stem_channels) == (4, 4)
  data = shrunk(read('mnist_bits:binary_vae')).data
  assert (data.name, data.source.name) == ('binarized', 'synthetic')
  assert data.source.image_shape == (28, 28, 1)
  # A Langevin step of an untrained network is too long.
  assert read('cifar10_vp:ve').sampling.corrector is not None
  assert shrunk(read('cifar10_vp:ve')).sampling.corrector is None
