r"""MeanFlow on the digits (Geng et al. 2025), in its improved form.

The network learns the average velocity between two times, in one run without a
teacher; it begins with the weights of flow matching, where the two times are
equal. The error is squared (p = 0), and a quarter of the examples has t = 1.
Measured: 9 minutes of CPU time, 43 on 2 busy cores; of 1,437 samples 98.2 % +-
0.4 are classified as the requested class with one call, 98.6 % with four
(docs/few_steps.md).

  python launch.py --config=configs/digits_flow.py:unscaled
  python launch.py --config=configs/digits_meanflow.py
  python launch.py --config=configs/digits_meanflow.py --mode=sample
"""

from configs import base, digits_distilled, digits_flow
from configs.base import section


def get_config():
  config = digits_distilled.few_steps(digits_flow.get_config('unscaled'))
  config.objective = section(
    'mean_flow',
    two_times=section('independent', times='uniform', p_equal=0.25, p_t1=0.25, p_s0=0.15),
  )
  config.training.num_steps = 3000
  return base.as_flow_map(config)
