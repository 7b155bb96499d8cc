"""A table that is drawn, whose law is known: customers of a shop.

Regions have SHARES; a customer is a member with MEMBERS[region], comes a Poisson number of
times, of mean VISITS[member], and spends a log-normal amount each time, 0 without a visit. Ages
are 18 + Gamma(4, 8), rounded and at most 90; first dates are uniform over ten years; a log-normal
income rises with age, and the cells of UNKNOWN of the customers are empty.
"""

import datetime

import numpy as np

from diffusion_jax.data.cells import Held

REGIONS = 'north', 'south', 'east', 'west'
SHARES = 0.4, 0.3, 0.2, 0.1
MEMBERS = 0.7, 0.5, 0.3, 0.2
VISITS = 1.0, 4.0
UNKNOWN = 0.1


def drawn(count: int = 6000, seed: int = 0) -> dict[str, np.ndarray]:
  """Draws the columns of customers, [count] each; NaN where an income is empty."""
  rng = np.random.default_rng(seed)
  region = rng.choice(4, count, p=SHARES)
  member = rng.random(count) < np.array(MEMBERS)[region]
  visits = rng.poisson(np.array(VISITS)[member.astype(int)])
  age = np.minimum(90, 18 + np.rint(rng.gamma(4.0, 8.0, count)))
  spent = np.where(visits > 0, np.round(visits * rng.lognormal(3.0, 0.6, count), 2), 0.0)
  income = np.rint(rng.lognormal(10.0 + 0.01 * age, 0.3))
  income = np.where(rng.random(count) < UNKNOWN, np.nan, income)
  days = rng.integers(0, 3653, count)
  return {
    'region': np.array(REGIONS)[region],
    'member': np.where(member, 'yes', 'no'),
    'age': age,
    'since': days,
    'visits': visits,
    'spent': spent,
    'income': income,
  }


def rows() -> Held:
  """Returns the cells of the customers, as a CSV file has them."""
  columns = drawn()
  first = datetime.date(2015, 1, 1)
  texts = {name: columns[name].tolist() for name in ('region', 'member')}
  texts |= {name: [f'{x:.0f}' for x in columns[name].tolist()] for name in ('age', 'visits')}
  texts['since'] = [str(first + datetime.timedelta(x)) for x in columns['since'].tolist()]
  texts['spent'] = [f'{x:.2f}' for x in columns['spent'].tolist()]
  texts['income'] = [f'{x:.0f}' if x == x else '' for x in columns['income'].tolist()]
  return Held('customers', {name: texts[name] for name in columns})
