"""Lower bounds of a program's time, from published rates.

A device takes at least the longest of three times: its products at the
published rate, its memory traffic at the published bandwidth, and the bytes it
sends over all of its links (Williams et al. 2009). Real programs take longer:
these are bounds, not estimates of a measurement.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled

from diffusion_jax.planning.programs import (
  Collective,
  Memory,
  Program,
  between_bytes,
  find,
  flops,
  memory,
  traffic,
  wire_bytes,
)
from diffusion_jax.planning.topologies import Rates, Topology


class Measured(NamedTuple):
  """The figures of a program on one device.

  flops: FLOP of products, by dtype. traffic: bytes read from and written to
  memory; beyond_cache: the part that no cache can hold. unknown: the number of
  loops with an unknown number of repetitions, which count once.
  """

  memory: Memory
  flops: dict[str, float]
  traffic: float
  beyond_cache: float
  collectives: list[Collective]
  unknown: int


def measure(
  compiled: Compiled, jaxpr: ClosedJaxpr, topology: Topology, n: int
) -> Measured:
  """Measures a compiled program on n devices; jaxpr is its trace."""
  program = Program(compiled.as_text() or '')
  cache = topology.rates.cache if topology.rates else 0.0
  products = {dtype: count / n for dtype, count in flops(jaxpr).items()}
  return Measured(
    memory(compiled),
    products,
    traffic(program),
    traffic(program, cache),
    find(program, n, topology.machine),
    program.unknown,
  )


class Bounds(NamedTuple):
  """Lower bounds of the seconds of one run of a program."""

  arithmetic: float
  memory: float
  network: float

  @property
  def seconds(self) -> float:
    """Returns the longest of the three."""
    return max(self)

  @property
  def binding(self) -> str:
    """Returns the name of the longest."""
    return self._fields[self.index(max(self))]


def bounds(measured: Measured, rates: Rates) -> Bounds:
  """Returns the bounds of a program on devices with these rates."""
  return Bounds(
    arithmetic_seconds(measured.flops, rates),
    measured.beyond_cache / rates.bandwidth,
    network_seconds(measured.collectives, rates),
  )


def arithmetic_seconds(products: Mapping[str, float], rates: Rates) -> float:
  """Returns the seconds of products, {dtype: FLOP}, at the published rates."""
  return sum(
    count / (rates.flops_float32 if dtype == 'float32' else rates.flops)
    for dtype, count in products.items()
  )


def network_seconds(collectives: Iterable[Collective], rates: Rates) -> float:
  """Returns the seconds of the slower network, with the ring algorithm.

  A collective between machines uses a device's links and its adapter together.
  """
  within = between = 0.0
  for one in collectives:
    apart = rates.between if one.machines > 1 else 0.0
    within += wire_bytes(one) / (rates.link + apart)
    between += between_bytes(one) / rates.between
  return max(within, between)
