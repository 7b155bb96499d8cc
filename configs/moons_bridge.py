r"""From one set to another: eight Gaussians to two moons, and back.

score and flow matching on Brownian bridges (Tong et al. 2023), whose pairs are
the entropic plan of each batch.

  python launch.py --config=configs/moons_bridge.py
  python launch.py --config=configs/moons_bridge.py --mode=sample
  python launch.py --config=configs/moons_bridge.py --mode=sample \
    --config.sampling.reverse=True --config.sampling.stochastic=True
  python launch.py --config=configs/moons_bridge.py --mode=evaluate
"""

from configs import base
from configs.base import section


def get_config():
  config = base.short(
    3000,
    learning_rate=1e-3,
    batch_size=256,
    steps_per_call=50,
    log_every=500,
    sample_every=1500,
  )
  config.data = section('between', x='moons', source='eight_gaussians')
  config.objective = section('bridge', diffusion=0.3)
  config.network = section('mlp', channels=128)
  config.sampling.update(num_samples=1000, batch_size=1000)
  config.evaluation.update(metrics=('sliced_w2', 'energy'), num_generated=1000, reference='test')
  return config
