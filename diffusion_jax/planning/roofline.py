"""The time below which no step of a program can be.

A device that did its products at the published rate, read its memory at the
published bandwidth, and sent what others need over all of its links would
still take the longest of the three (Williams et al. 2009). Real programs take
longer: these are bounds, not estimates of a measurement.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

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
  """What one device has and does in a program.

  flops: of its products, by dtype; traffic: bytes of its memory that it reads
  and writes, and beyond_cache those that no cache can hold; unknown: loops
  whose number of repetitions is not known, which count once.
  """

  memory: Memory
  flops: dict[str, float]
  traffic: float
  beyond_cache: float
  collectives: list[Collective]
  unknown: int


def measure(compiled: Any, jaxpr: Any, topology: Topology, n: int) -> Measured:
  """Measures a compiled program, whose trace is `jaxpr`, on n devices."""
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
  """Seconds that one run of a program takes at least, by what limits it."""

  arithmetic: float
  memory: float
  network: float

  @property
  def seconds(self) -> float:
    """The bound: the longest of the three."""
    return max(self)

  @property
  def binding(self) -> str:
    """The name of the longest."""
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
  """Returns the seconds of the links that the most has to go over, by rings.

  Between machines a device sends over its links and its adapter together.
  """
  within = between = 0.0
  for one in collectives:
    apart = rates.between if one.machines > 1 else 0.0
    within += wire_bytes(one) / (rates.link + apart)
    between += between_bytes(one) / rates.between
  return max(within, between)
