r"""Any conditional of parameters and observation, by one network (Simformer).

x is the vector (parameters, observation) of a task of configs/inference.py, and
in training some of its numbers are at the clean level (Gloeckler et al. 2024): a row
of sampling.context has NaN for what is drawn. docs/results.md has what was
measured, docs/inference.md the flags of a Transformer whose tokens are the
numbers.

  python launch.py --config=configs/joint.py:two_moons
  python launch.py --config=configs/joint.py:two_moons --mode=sample \
    --config.sampling.context=rows.npy
"""

from configs import inference
from configs.base import section

PARAMETERS = {'two_moons': 2, 'slcp': 5}
VARIANTS = (*PARAMETERS,)


def get_config(arg=''):
  task = arg or 'two_moons'
  config = inference.get_config(task)
  config.data.joint = True
  config.conditioning = section()
  config.objective.levels = section('subsets', parameters=PARAMETERS[task])
  return config
