"""The programs that draw samples."""

from diffusion_jax.app import devices
from diffusion_jax.app.drawing.generate import generate
from tests.app.models.test_diffusion import model_of


def test_more_levels_than_steps_are_noted_before_they_are_visited(capsys):
  model = model_of(**{'sampling.num_steps': 5000})
  generate(model, devices.make_mesh(model.config))
  said = capsys.readouterr().out
  assert 'note: sampling.num_steps=5000 is more than the 1,000 steps' in said
  assert ': 1,000 distinct steps are visited, and 4,000 levels between' in said
  model = model_of(**{'sampling.num_steps': 1000})
  generate(model, devices.make_mesh(model.config))
  assert not capsys.readouterr().out
