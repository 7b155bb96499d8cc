"""Writes stored/: python -m tests.interop.make_stored; needs diffusers."""

from pathlib import Path
from typing import Any

import diffusers as package
import numpy as np
import safetensors.torch
import torch

diffusers: Any = package
FOLDER = Path(__file__).parent / 'stored'

LEVELS = dict(
  sample_size=4,
  in_channels=1,
  out_channels=1,
  block_out_channels=(8, 12),
  layers_per_block=1,
  norm_num_groups=2,
)
UNET = LEVELS | dict(
  down_block_types=('DownBlock2D', 'AttnDownBlock2D'), up_block_types=('AttnUpBlock2D', 'UpBlock2D')
)
UNETS = {
  # as google/ddpm-cifar10-32, with its names of attention
  'ho': UNET
  | dict(
    attention_head_dim=None,
    downsample_padding=0,
    freq_shift=1,
    flip_sin_to_cos=False,
    norm_eps=1e-6,
  ),
  'labels': UNET
  | dict(num_class_embeds=3, attention_head_dim=4, resnet_time_scale_shift='scale_shift'),
}
AUTOENCODER = LEVELS | dict(
  down_block_types=['DownEncoderBlock2D'] * 2, up_block_types=['UpDecoderBlock2D'] * 2
)
DIT = dict(
  num_attention_heads=2,
  attention_head_dim=4,
  in_channels=1,
  out_channels=2,
  num_layers=2,
  sample_size=4,
  patch_size=2,
  num_embeds_ada_norm=3,
  norm_eps=1e-6,
)
LEGACY = {'.to_q.': '.query.', '.to_k.': '.key.', '.to_v.': '.value.', '.to_out.0.': '.proj_attn.'}


def main():
  torch.manual_seed(0)
  for name, options in UNETS.items():
    model = perturb(diffusers.UNet2DModel(**options))
    x = torch.randn(3, 1, 4, 4)
    t = torch.tensor([0, 40, 999])
    label = torch.tensor([2, 0, 1]) if name == 'labels' else None
    arrays = {'x': x, 't': t, 'output': model(x, t, label).sample}
    if label is not None:
      arrays['label'] = label
    write(name, model, arrays)
  rename(FOLDER / 'ho' / 'diffusion_pytorch_model.safetensors')
  diffusers.DDPMScheduler(variance_type='fixed_large', num_train_timesteps=1000).save_pretrained(
    FOLDER / 'ho'
  )

  model = equal_embeddings(perturb(diffusers.DiTTransformer2DModel(**DIT)))
  x, t, label = torch.randn(3, 1, 4, 4), torch.tensor([0, 40, 400]), [2, 3, 1]
  output = model(x, t, torch.tensor(label)).sample
  arrays = {'x': x, 't': t, 'label': torch.tensor(label), 'output': output}
  write('dit', model, arrays)

  model = perturb(diffusers.AutoencoderKL(**AUTOENCODER))
  x = torch.randn(3, 1, 4, 4)
  q = model.encode(x).latent_dist
  output = model.decode(q.mean).sample
  parts = {'mean': q.mean, 'log_variance': q.logvar, 'output': output}
  write('autoencoder', model, {'x': x} | parts)


def equal_embeddings(model):
  first = model.transformer_blocks[0].norm1.emb.state_dict()
  for block in model.transformer_blocks:
    block.norm1.emb.load_state_dict(first)
  return model


@torch.no_grad()
def perturb(model):
  """Adds noise to all parameters, also those that begin at 0 or 1."""
  for parameter in model.parameters():
    parameter.add_(0.2 * torch.randn(parameter.shape))
  return model.eval()


def write(name, model, arrays):
  model.save_pretrained(FOLDER / name)
  arrays = {n: x.numpy() for n, x in arrays.items()}
  arrays = {n: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for n, x in arrays.items()}
  np.savez(FOLDER / name / 'expected.npz', **arrays)


def rename(path):
  tensors = safetensors.torch.load_file(path)
  for new, old in LEGACY.items():
    tensors = {n.replace(new, old): x for n, x in tensors.items()}
  safetensors.torch.save_file(tensors, path, {'format': 'pt'})


if __name__ == '__main__':
  with torch.no_grad():
    main()
