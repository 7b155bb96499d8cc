"""Networks take the inputs that their fields say, besides x and noise, and refuse others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.networks.embeddings import with_inputs
from diffusion_jax.networks.inputs import Inputs, Text
from tests.networks.literal import randomised, shapes, taken
from tests.networks.test_options import NETWORKS, NOISELESS
from tests.transcribed import transcribes

EVERY = Inputs(
  num_classes=3,
  text=Text(),
  image_channels=1,
  self_conditioning=True,
  augment_dim=9,
  elapsed=True,
  guidance_scale=True,
  context=(5,),
)
ONE, LABEL = jnp.ones(2), jnp.zeros(2, int)
NEEDED = {'label': LABEL, 'elapsed': ONE, 'guidance_scale': ONE}


def test_an_example_has_what_is_needed_and_more_is_known():
  found = EVERY.example(2)
  sizes = {name: (2,) for name in NEEDED}
  sizes |= {'text': (2, 1), 'context': (2, 5)}
  assert jax.tree.map(jnp.shape, found) == sizes
  more = dict.fromkeys(('image', 'x0', 'augment', 'text_mask'), ONE)
  more['context_code'] = ONE
  EVERY.check(found | more)
  Inputs(image_channels=1).check({'image': ONE, 'drop': ONE})
  Inputs().check({'own': ONE}, 'own')


@pytest.mark.parametrize('name', [n for n in NETWORKS if n not in NOISELESS])
def test_a_network_refuses_other_inputs(name):
  with pytest.raises(ValueError, match=r"has no condition \['label'\]"):
    shapes(NETWORKS[name](), 4, cond={'label': LABEL})
  if name == 'classifier':
    return
  with pytest.raises(ValueError, match=' has no input [a-z0]+: it takes label'):
    NETWORKS[name](inputs=EVERY)


FIRST = {'unet': 'conv_in', 'ddpmpp': 'conv_in', 'dit': 'patch_embedding', 'mlp': 'dense_in'}


@transcribes('Palette (Saharia et al. 2022)', 'the network takes the known pixels as input')
@pytest.mark.parametrize('name', FIRST)
def test_estimate_and_image_are_more_channels(name):
  """The first layer takes them after x; the image is 0 if it is dropped."""
  inputs = Inputs(self_conditioning=True, image_channels=2)
  has_levels = name in ('unet', 'ddpmpp')
  options = {'attention_resolutions': ()} if has_levels else {}
  network, wide = (NETWORKS[name](**options, **k) for k in ({'inputs': inputs}, {}))
  p, noise = randomised(shapes(network, 4)), np.ones(2)
  rng = np.random.default_rng(1)
  x, x0 = rng.standard_normal((2, 2, 4, 4, 3), np.float32)
  image = rng.standard_normal((2, 4, 4, 2), np.float32)
  shown = image * np.array([1, 0], np.float32)[:, None, None, None]
  given = {'x0': x0, 'image': image, 'drop': np.array([False, True])}

  @jax.jit
  def both(variables):
    every = jnp.concatenate([x, x0, shown], axis=-1)
    calls = (network, x, noise, given), (wide, every, noise)
    return [taken(n, FIRST[name], 0, variables, *args) for n, *args in calls]

  found, expected = both({'params': p})
  assert_array_equal(found, expected)
  none = np.concatenate([x, 0 * x, 0 * image], axis=-1)
  assert_array_equal(with_inputs(inputs, x, {}), none)
  with pytest.raises(ValueError, match=r'has shape \[1, 2, 2, 2\], but'):
    shapes(network, 4, cond={'image': np.ones((1, 2, 2, 2))})
