"""Which format a file of weights has."""

import numpy as np
import pytest

from diffusion_jax.interop import files, formats


def test_a_format_is_recognised_by_what_the_file_has(tmp_path):
  for name, tensors, config, expected in (
    ('ours', {'a': np.zeros(2)}, {'config': '{}'}, 'safetensors'),
    ('edm', {'a': np.zeros(2)}, {}, 'edm'),
    ('edm2', {'unet.out_gain': np.zeros(2)}, {}, 'edm2'),
  ):
    path = tmp_path / f'{name}.safetensors'
    path.with_suffix('.json').write_text('{}')
    files.write_safetensors(path, tensors, **config)
    assert formats.recognise(path) == expected
  files.write_safetensors(tmp_path / 'x.safetensors', {'a': np.zeros(2)})
  with pytest.raises(ValueError, match='is ambiguous: give --config.convert.format=diffusers|'):
    formats.recognise(tmp_path / 'x.safetensors')
  files.write_safetensors(tmp_path / 'l.safetensors', {'a.lora_A': np.zeros(2)})
  for use in (formats.recognise, lambda path: formats.load('edm', path, '', {})):
    with pytest.raises(ValueError, match='holds adapters'):
      use(tmp_path / 'l.safetensors')
