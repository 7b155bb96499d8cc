"""A UNet2DModel of diffusers is refused by name where our network lacks a part."""

import pytest

from diffusion_jax.interop import diffusers
from tests import refusals
from tests.interop.stored_folders import folder_with

WRONG = [
  (dict(_class_name='UNet2DConditionModel'), 'is a folder of the class UNet2DConditionModel'),
  (dict(_class_name=None), 'is a folder of the class None: give'),
  (dict(center_input_sample=True), 'center_input_sample=True has no counterpart'),
  (dict(time_embedding_type='fourier'), "time_embedding_type='fourier' has no counterpart"),
  (dict(act_fn='gelu'), "act_fn='gelu' ... it can be 'silu'"),
  (dict(class_embed_type='timestep'), "class_embed_type='timestep' has no counterpart"),
  (dict(mid_block_scale_factor=2), 'mid_block_scale_factor=2 has no counterpart'),
  (dict(time_embedding_dim=7), 'time_embedding_dim=7 has no counterpart'),
  (dict(freq_shift=0.5), 'freq_shift=0.5 has no counterpart'),
  (dict(attn_norm_num_groups=4), 'attn_norm_num_groups=4 has no counterpart'),
  (dict(in_channels=3), 'out_channels=1 has no counterpart'),
  (dict(sample_size=None), 'sample_size=None must be the size'),
  (dict(brand_new=3), 'unknown options of UNet2DModel: brand_new; known are'),
  (dict(down_block_types=['DownBlock2D', 'Skip']), '= ... Skip ... the types can be DownBlock2D,'),
  (dict(up_block_types=['UpBlock2D', 'AttnUpBlock2D']), '= ... at other levels on the way down'),
  (
    dict(down_block_types=['ResnetDownsampleBlock2D', 'AttnDownBlock2D']),
    'by residual blocks at some levels and by convolutions at othe',
  ),
  (dict(down_block_types=['DownBlock2D']), 'has 1 blocks, and block_out_channels 2'),
  (dict(block_out_channels=[8, 16]), 'shape: ... (12,) for ... (16,)'),
  (dict(layers_per_block=2), 'the network of config.json: missing: ... and 54 more'),
]


@pytest.mark.parametrize('error, changes, message', [*refusals.rows(ValueError, WRONG)])
def test_what_we_lack_is_refused_by_name(tmp_path, error, changes, message):
  with refusals.one_line(error=error, match=message):
    diffusers.load(folder_with(tmp_path, **changes))
