"""Schedules of every kind, which hypothesis draws for tests of properties."""

from hypothesis import settings, strategies as st

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
ZERO_SNR = dj.DiscreteSchedule.from_betas(dj.zero_terminal_snr(dj.linear_betas(1000)))
# What the constructors of the table need. A learned one of the program has no parameters yet.
GIVEN = {
  'alphas': {'values': (0.99, 0.9, 0.5, 0.1)},
  'shifted': {'schedule': dj.CosineSchedule(), 'shift': 2.0},
  'zero_terminal_snr': {'schedule': DDPM},
}
EXAMPLES = {
  **{n: make(**GIVEN.get(n, {})) for n, make in choices.SCHEDULES.items() if n != 'learned'},
  'learned': dj.LearnedSchedule(10.0, lambda slope, t: slope * t - 5.0),
}


def cubic(params, t):
  """An increasing gamma that is not a line."""
  return params['low'] + params['span'] * t**3 + params['slope'] * t


def learned(low, span, slope):
  params = {'low': low, 'span': span, 'slope': slope}
  return dj.LearnedSchedule(params, cubic)


def sigmoid_schedule(start, span, tau):
  return dj.SigmoidSchedule(start, start + span, tau)


def of_floats(make, *intervals):
  return st.builds(make, *(st.floats(*interval) for interval in intervals))


PLAIN_VP = st.one_of(
  st.sampled_from([DDPM, ZERO_SNR]),
  of_floats(dj.CosineSchedule, (-20.0, -2.0), (2.0, 20.0)),
  of_floats(dj.LinearVPSchedule, (0.01, 1.0), (2.0, 30.0)),
  of_floats(sigmoid_schedule, (-3.0, 0.0), (3.0, 6.0), (0.3, 1.5)),
  of_floats(learned, (-15.0, -3.0), (0.5, 9.0), (3.0, 12.0)),
)
VP = PLAIN_VP | st.builds(dj.ShiftedSchedule, PLAIN_VP, st.floats(0.2, 5.0))
# Those with alpha < 1, which end at t = 1.
ENDING = st.one_of(
  VP,
  of_floats(dj.SubVPSchedule, (0.01, 1.0), (2.0, 30.0)),
  of_floats(dj.RectifiedFlowSchedule, (0.2, 5.0)),
)
EVERY = st.one_of(
  ENDING,
  of_floats(dj.GeometricVESchedule, (1e-3, 0.1), (1.0, 100.0)),
  of_floats(dj.KarrasSchedule, (1e-3, 0.1), (1.0, 100.0), (1.0, 9.0)),
)
anything = settings(max_examples=40, deadline=None, derandomize=True)
