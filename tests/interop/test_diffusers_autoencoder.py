"""Folders of diffusers' AutoencoderKL are read, and compute what diffusers does."""

import functools

import jax
import pytest

from diffusion_jax.interop import diffusers
from tests import refusals
from tests.interop.literal import assert_close
from tests.interop.stored_folders import STORED, WEIGHTS, folder_with, loaded


def test_the_autoencoder_computes_what_theirs_does(tmp_path):
  found, expected = loaded('autoencoder')

  @jax.jit
  def apply(params, x, mean):
    run = functools.partial(found.network.apply, {'params': params})
    return *run(x, method='encode'), run(mean, method='decode')

  ours = apply(found.params, expected['x'], expected['mean'])
  for array, name in zip(ours, ('mean', 'log_variance', 'output'), strict=True):
    assert_close(array, expected[name])
  assert found.sections['decoding']['scale'] == 0.18215

  diffusers.save(tmp_path / 'ours', *found[:4])
  written = (tmp_path / 'ours' / WEIGHTS).read_bytes()
  assert written == (STORED / 'autoencoder' / WEIGHTS).read_bytes()


WRONG = [
  (dict(shift_factor=0.1), 'shift_factor=0.1 has no counterpart'),
  (dict(use_quant_conv=False), 'use_post_quant_conv=True has no counterpart'),
  (
    dict(up_block_types=['UpDecoderBlock2D', 'AttnUp']),
    'up_block_types= ... AttnUp ... has no count',
  ),
  (dict(layers_per_block=0), 'num_blocks must be an integer of at least 1'),
]


@pytest.mark.parametrize('error, changes, message', [*refusals.rows(ValueError, WRONG)])
def test_what_we_lack_is_refused_by_name(tmp_path, error, changes, message):
  with refusals.one_line(error=error, match=message):
    diffusers.load(folder_with(tmp_path, 'autoencoder', **changes))
