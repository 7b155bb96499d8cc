"""Exported adapters in PEFT, and in diffusers' own loader."""

import jax
import numpy as np
import pytest

from diffusion_jax.interop import diffusers as interop, weight_files
from diffusion_jax.training.lora import lora_init, lora_merge

torch = pytest.importorskip('torch')
theirs = pytest.importorskip('diffusers')
peft = pytest.importorskip('peft')
make_stored = pytest.importorskip('tests.interop.make_stored')
PeftAdapterMixin = theirs.loaders.peft.PeftAdapterMixin

RANK, SCALE = 2, 0.5
MODELS = {
  'unet': (theirs.UNet2DModel, make_stored.UNETS['labels'], True),
  'transformer': (theirs.DiTTransformer2DModel, make_stored.DIT, False),
}


@pytest.mark.parametrize('prefix', MODELS)
def test_exported_adapters_are_the_merged_network(prefix, tmp_path):
  kind, options, convolutions = MODELS[prefix]
  network = make_stored.perturb(kind(**options))
  if prefix == 'transformer':
    make_stored.equal_embeddings(network)
  network.save_pretrained(tmp_path / 'base')
  found = interop.load(tmp_path / 'base')
  adapters = jax.device_get(lora_init(jax.random.key(0), found.params, RANK, convolutions))
  rng = np.random.default_rng(0)
  adapters['lora_B'] = jax.tree.map(
    lambda b: rng.normal(0.0, 0.1, b.shape).astype(np.float32), adapters['lora_B']
  )
  tensors = interop.adapters_of(found.network, adapters, SCALE, (4, 4, 1))
  path = tmp_path / 'lora.safetensors'
  weight_files.write_safetensors(path, tensors, format='pt')
  params = jax.device_get(lora_merge(found.params, adapters, SCALE))
  interop.save(tmp_path / 'merged', found.network, params, *found[2:4])
  expected = run(kind.from_pretrained(tmp_path / 'merged' / prefix))
  assert np.abs(run(network) - expected).max() > 0.01 * np.abs(expected).max()

  class Loadable(kind, PeftAdapterMixin):
    pass

  loaded = Loadable.from_pretrained(tmp_path / 'base')
  loaded.load_lora_adapter(str(path), prefix=prefix)
  own = {n.removeprefix(f'{prefix}.'): x for n, x in tensors.items()}
  modules = sorted({name.partition('.lora_')[0] for name in own})
  config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=modules)
  peft.inject_adapter_in_model(config, network)
  arrays = {name: torch.from_numpy(x) for name, x in own.items()}
  assert not peft.set_peft_model_state_dict(network, arrays).unexpected_keys
  for each in (loaded, network):
    assert np.abs(run(each) - expected).max() < 1e-5 * np.abs(expected).max()


def run(network):
  x = np.random.default_rng(1).standard_normal((3, 1, 4, 4), np.float32)
  steps, labels = torch.tensor([3, 250, 999]), torch.tensor([0, 1, 2])
  with torch.no_grad():
    out = network.eval()(torch.from_numpy(x), timestep=steps, class_labels=labels)
  return out.sample.numpy()
