"""Points of a sweep; tests/laws/test_alone_is_in_a_table.py has the scores of its cells."""

from diffusion_jax.app.evaluate.cells import sweep
from diffusion_jax.app.run.provenance import title
from diffusion_jax.app.run.weights import Run
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import smoke


def test_each_point_of_a_sweep_is_a_complete_config(tmp_path):
  config = smoke(
    **{'evaluation.sweep': 'sampler=ddim,ancestral guidance.scale=1,2', 'sampling.sampler.eta': 0.5}
  )
  points = [*sweep(Run.open(config, RunFolder.at(tmp_path)))]
  assert [changes for changes, _ in points] == [
    {'sampler': sampler, 'guidance.scale': scale}
    for sampler in ('ddim', 'ancestral')
    for scale in (1.0, 2.0)
  ]
  assert title(points[0][0]) == 'sampler=ddim,guidance.scale=1.0'
  assert title({'labels': ('1', '#2')}) == 'labels=1,#2'
  samplers = [point.sampling.sampler for _, point in points]
  assert [x.name for x in samplers] == ['ddim'] * 2 + ['ancestral'] * 2
  assert [x.get('eta') for x in samplers] == [0.5, 0.5, None, None]
  guidance = [point.sampling.guidance for _, point in points]
  assert [x.scale for x in guidance] == [1.0, 2.0, 1.0, 2.0]
  assert {x.name for x in guidance} == {'classifier_free'}
