"""The format of a file, and the options of its reader."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion_jax.interop import formats

STORED = Path(__file__).parent / 'stored'


@pytest.mark.parametrize(
  'names, metadata, settings, expected',
  [
    (['unet.out_gain', 'a'], None, True, 'edm2'),
    (['model.map_layer0.weight'], None, True, 'edm'),
    (['a'], {'config': '{}'}, False, 'safetensors'),
    (['a'], None, False, 'is ambiguous: give --config.convert.format='),
    (['unet.lora_A.weight'], None, False, 'holds adapters'),
  ],
)
def test_a_file_has_the_format_of_its_names(names, metadata, settings, expected, tmp_path):
  path = tmp_path / 'weights.safetensors'
  save_file({name: np.zeros(2, np.float32) for name in names}, path, metadata)
  if settings:
    path.with_suffix('.json').write_text('{}')
  if expected in (formats.OURS, *formats.OTHERS):
    assert formats.recognise(path) == expected
    return
  with pytest.raises(ValueError, match=expected):
    formats.recognise(path)


def test_a_folder_of_diffusers_is_recognised():
  assert formats.recognise(STORED / 'ho') == 'diffusers'
  with pytest.raises(ValueError, match='not a folder of diffusers'):
    formats.recognise(STORED)


def test_options_are_numbers_or_words():
  assert formats.options_of("a=1 --b='x y' c=True") == {'a': 1, 'b': 'x y', 'c': True}
