"""The format of a file of weights is recognised by its content."""

import importlib

import numpy as np
import pytest

from diffusion_jax.interop import formats, weight_files


def test_a_format_is_recognised_by_what_the_file_has(tmp_path):
  for name, tensors, config, expected in (
    ('ours', {'a': np.zeros(2)}, {'config': '{}'}, 'safetensors'),
    ('edm', {'a': np.zeros(2)}, {}, 'edm'),
    ('edm2', {'unet.out_gain': np.zeros(2)}, {}, 'edm2'),
  ):
    path = tmp_path / f'{name}.safetensors'
    path.with_suffix('.json').write_text('{}')
    weight_files.write_safetensors(path, tensors, **config)
    assert formats.recognise(path) == expected
  weight_files.write_safetensors(tmp_path / 'x.safetensors', {'a': np.zeros(2)})
  with pytest.raises(ValueError, match='is ambiguous: give --config.convert.format=diffusers|'):
    formats.recognise(tmp_path / 'x.safetensors')
  weight_files.write_safetensors(tmp_path / 'l.safetensors', {'a.lora_A': np.zeros(2)})
  for use in (formats.recognise, lambda path: formats.load('edm', path, '', {})):
    with pytest.raises(ValueError, match='holds adapters'):
      use(tmp_path / 'l.safetensors')


@pytest.mark.parametrize('name', ['edm', 'edm2', 'openai', 'score_sde'])
def test_no_option_is_a_parameter_of_a_reader_by_accident(name, tmp_path):
  """An option with the name of a parameter is unknown, too; a TypeError is a fault of ours."""
  module = importlib.import_module(f'diffusion_jax.interop.{name}')
  path, models = tmp_path / 'a.safetensors', getattr(module, 'MODELS', {'': {}})
  weight_files.write_safetensors(path, {'a': np.zeros(2)})
  path.with_suffix('.json').write_text('{"img_resolution": 8}')
  for option in 'path', 'tensors', 'options', 'given', 'flags':
    with pytest.raises(ValueError, match=f'unknown options of .*: {option}; known are'):
      formats.load(name, path, next(iter(models)), {option: 1})
  with pytest.raises(ValueError, match='model=a and options with model=b: give one'):
    formats.load(name, path, 'a', {'model': 'b'})
