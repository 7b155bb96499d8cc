r"""Angles, directions or rotations: flow matching along geodesics (Chen & Lipman 2023).

Two torsions in degrees, like a protein's, from a mixture of wrapped normals; directions and
rotations: such a mixture on the sphere and of rotations; labelled: torsions given their component.
A perceptron, for 2 angles 281,474 parameters.

  python launch.py --config=configs/directions.py
  python launch.py --config=configs/directions.py:rotations
  python launch.py --config=configs/directions.py --config.data=npz \
    --config.data.path=torsions.npz --config.data.kind=angles --config.data.period=360 \
    --config.data.test_fraction=0.1
  python launch.py --config=runs/directions --mode=sample
"""

from configs import base
from configs.base import section

VARIANTS = 'directions', 'rotations', 'labelled'


def get_config(arg=''):
  config = base.short(3000, 1000, 1e-3, batch_size=256, steps_per_call=50, log_every=250)
  kind = arg if arg in ('directions', 'rotations') else 'angles'
  config.data = section('wrapped_normals', kind=kind, labelled=arg == 'labelled')
  config.schedule = section('flow')
  config.noise_input = section('time', scale=1000.0)
  config.objective = section('geodesic_flow')
  config.conditioning = section(context='if_any')
  config.network = section('mlp', channels=128, num_blocks=3)
  config.sampling.update(num_samples=1000, batch_size=1000, num_steps=100)
  if not arg:
    config.training.band = 'configs/bands/directions.json'
  return config
