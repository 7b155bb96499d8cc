"""The conditions of --mode=edit."""

import numpy as np

from diffusion_jax.app import models
from diffusion_jax.app.modes import edit
from tests.app.conftest import smoke


def chosen_label(**changes):
  model = models.make(smoke(**{'edit.num_samples': 2} | changes), 'nowhere')
  section = model.config.edit.make()
  return edit.choose_label(model, section, section.count())


def test_the_label_is_that_of_all_samples():
  np.testing.assert_array_equal(chosen_label(**{'edit.label': 3}), [3, 3])
  assert chosen_label() is None  # the null class
