"""The example of a rollout trains, continues a beginning, and draws its picture."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image

from examples import rollout


def test_it_runs_and_draws_its_picture(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(rollout, 'BATCH', 8)
  rollout.main(['--steps=2', '--draws=4', f'--out={tmp_path}/x.png'])
  assert re.search(r'by step: [\d.]+ to [\d.]+\n', capsys.readouterr().out)
  with Image.open(tmp_path / 'x.png') as image:
    assert image.size > (300, 200)


def test_a_beginning_stays_and_later_numbers_do_not_change_it():
  params = rollout.train(0)
  rows = jnp.broadcast_to(jnp.arange(8.0)[:, None], (2, 8, 1))
  draw = jax.jit(rollout.continued, static_argnums=2)
  x = np.asarray(draw(params, rows, 40, jax.random.key(0)))
  assert x.shape == (2, 48, 1) and np.isfinite(x).all()
  assert_array_equal(x[:, :8], rows)
