"""Paths of orders, and scores of labels, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax

import diffusion_jax as dj
from diffusion_jax.metrics import of_labelled

SCHEDULE, MASKED = dj.CosineSchedule(), dj.PolynomialMasking()


def grids(levels):
  return {'x': levels, 'label': MASKED(levels.t)}


def test_a_path_ends_at_the_decoder_of_x_and_at_a_known_label():
  found = of_labelled.until(SCHEDULE, 0.05, grids)
  x, label = (np.asarray(found[name].t) for name in ('x', 'label'))
  assert len(x) == len(label) and x[0] == label[0] == 1.0
  assert np.all(np.diff(x)[:-1] <= 0.0) and np.all(np.diff(label) <= 0.0)
  assert_allclose(x[-2:], 0.05, rtol=1e-6)
  assert label[-1] == 0.0
  assert_array_equal(label[:-1], x[:-1])


def test_parts_of_an_order_join_and_others_stay():
  path = of_labelled.until(SCHEDULE, 0.05, grids)
  for groups in of_labelled.ORDERS.values():
    parts = [*of_labelled.parts_of(path, groups)]
    assert len(parts) == len(groups)
    for group, part in zip(groups, parts, strict=True):
      for name, level in part.items():
        t = np.asarray(level.t)
        assert (t.max() > t.min()) == (name in group)
    for one, two in zip(parts[:-1], parts[1:], strict=True):
      for name in one:
        assert one[name].t[-1] == two[name].t[0]


def test_scores_of_labels_by_hand():
  logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
  labels = np.arange(50) % 4

  class Model:
    def label_logits(self, params, x0):
      return jnp.asarray(logits)

  metric = of_labelled.label_accuracy()
  arrays = metric.measure(Model())({}, None, jnp.zeros((50, 1)), {'label': jnp.asarray(labels)})
  found = {
    x.name: x.estimate for x in metric.compute({n: np.asarray(a) for n, a in arrays.items()})
  }
  log_p = log_softmax(np.float64(logits), axis=1)[np.arange(50), labels]
  right = logits.argmax(1) == labels
  assert_allclose(found['labels'].value, right.mean())
  assert_allclose(found['labels'].error, right.std(ddof=1) / 50**0.5)
  assert_allclose(found['labels_drawn'].value, np.exp(log_p).mean(), rtol=1e-5)
  assert_allclose(found['labels_nats'].value, -log_p.mean(), rtol=1e-5)


def test_a_time_of_the_decoder_that_is_no_noise_is_refused():
  with pytest.raises(ValueError, match='t_min=0'):
    of_labelled.joint_elbo(t_min=0.0)
