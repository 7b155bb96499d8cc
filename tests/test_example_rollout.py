"""The example of a rollout trains, continues a beginning, and draws its picture."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from examples import rollout


@pytest.mark.docs
def test_it_runs_and_draws_its_picture(tmp_path, capsys, monkeypatch):
  """A smaller network draws fewer numbers; each line of the picture begins with what is given."""
  lines, plot = [], rollout.plt.plot
  monkeypatch.setattr(rollout, 'BATCH', 8)
  monkeypatch.setattr(rollout, 'FURTHER', 40)
  monkeypatch.setattr(rollout, 'dit', rollout.dit.clone(num_blocks=1))
  monkeypatch.setattr(
    rollout.plt, 'plot', lambda *args, **kw: lines.append(args) or plot(*args, **kw)
  )
  rollout.main(['--steps=2', '--draws=4', f'--out={tmp_path}/x.png'])
  assert re.search(r'by step: [\d.]+ to [\d.]+\n', capsys.readouterr().out)
  with Image.open(tmp_path / 'x.png') as image:
    assert image.size > (300, 200)
  (draws,), (_, beginning, _) = lines
  assert draws.shape == (48, 4) and np.isfinite(draws).all()
  assert_allclose(draws[:8], np.broadcast_to(beginning[:, None], (8, 4)), rtol=1e-6)
  assert (np.ptp(draws[8:], axis=1) > 0.0).all()
