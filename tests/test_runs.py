"""`dj.open_run`: what it takes, and what it refuses."""

import re

import diffusion_jax as dj
from diffusion_jax.app.config import trust
from tests.app.conftest import SMALL, refused


def test_fields_of_sampling_are_arguments(digits_run):
  few = dj.open_run(digits_run, [SMALL], num_steps=2, sampler='heun', bound=None)
  assert few.levels.t.shape == (3,)
  config = few.model.config.sampling
  assert config.sampler.name == 'heun' and config.bound is None
  refused('there is no field steps', dj.open_run, digits_run, steps=2)
  refused('there is no run in', dj.open_run, digits_run / 'samples')


def test_a_strangers_run_needs_your_word(digits_run, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))  # which remembers an earlier word
  monkeypatch.setattr(trust, '_allowed', set())
  refused(re.escape(f"pass allow=['{SMALL}']"), dj.open_run, digits_run)
  dj.open_run(digits_run, allow=[SMALL])
