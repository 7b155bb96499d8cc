"""An edit takes one label for all its samples."""

from numpy.testing import assert_array_equal

from diffusion_jax.app.edit import mode as edit
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import smoke


def cond_of(**changes):
  model = make_model(smoke(**{'edit.num_samples': 2} | changes), RunFolder.at('nowhere'))
  section = model.config.edit.make()
  return edit.choose_cond(model, section, section.count())


def test_the_label_is_that_of_all_samples():
  assert_array_equal(cond_of(**{'edit.label': 3})['label'], [3, 3])
  assert cond_of() == {}  # the null class
