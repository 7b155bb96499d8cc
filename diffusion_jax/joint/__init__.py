"""Several variables, each with a process of its own, of one network.

    from diffusion_jax import joint

x is a dict of arrays [B, ...], as numbers with Gaussian noise and states with transitions. Each
variable is noised by itself, at levels of its own, a dict of grids [N+1] in sampling. So the
grids alone say what is drawn: a variable that is clean throughout is a condition, one that
stays at noise is integrated out (UniDiffuser, Bao et al. 2023).
"""

from diffusion_jax.joint.directions import directions as directions, geodesic as geodesic
from diffusion_jax.joint.geodesics import (
  Manifold as Manifold,
  circle as circle,
  rotations as rotations,
  sphere as sphere,
)
from diffusion_jax.joint.holding import (
  draw_prior as draw_prior,
  held as held,
  hold_known as hold_known,
  in_turn as in_turn,
  level_grids as level_grids,
)
from diffusion_jax.joint.network import (
  JointDenoiser as JointDenoiser,
  JointNetwork as JointNetwork,
  given_others as given_others,
)
from diffusion_jax.joint.objectives import (
  Clock as Clock,
  common_clock as common_clock,
  denoising as denoising,
  geodesic_flow as geodesic_flow,
  own_clocks as own_clocks,
  some_held as some_held,
)
from diffusion_jax.joint.path_loss import path_loss as path_loss
from diffusion_jax.joint.sampler import joint_sampler as joint_sampler
from diffusion_jax.joint.variables import (
  Variable as Variable,
  gaussian as gaussian,
  states as states,
)
