"""Lower bounds of a program's time, from published rates.

A device takes at least the longest of three times: its products at the
published rate, the least bytes that its memory moves at the published
bandwidth, and the least bytes that it sends over all of its links (Williams et
al. 2009). Real programs take longer: these are bounds, not estimates.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr
from jax.stages import Compiled

from diffusion_jax.planning.programs import Memory, bytes_accessed, flops, memory
from diffusion_jax.planning.topologies import Rates, rates_of


class Measured(NamedTuple):
  """The figures of a program on one device.

  flops: FLOP of products, by dtype. traffic: bytes that operations read and
  write. sent: the least bytes that a device sends; between: of them, to other
  machines.
  """

  memory: Memory
  flops: dict[str, float]
  traffic: float
  sent: float
  between: float


def measure(
  compiled: Compiled, jaxpr: ClosedJaxpr, mesh: Sequence[int], machine: int, weights: float
) -> Measured:
  """Measures a compiled program; jaxpr is its trace, for all devices.

  mesh: (data, fsdp); machine: the devices of one machine; weights: bytes of
  what is trained, 0 if nothing is.
  """
  data, fsdp = mesh
  n = data * fsdp
  products = {dtype: count / n for dtype, count in flops(jaxpr).items()}
  return Measured(
    memory(compiled),
    products,
    bytes_accessed(compiled),
    sent(weights, data, fsdp),
    sent(weights, max(n // machine, 1), 1) / machine,
  )


def sent(weights: float, data: int, fsdp: int) -> float:
  """Returns the least bytes that a device sends in a training step, by rings.

  (fsdp - 1) / fsdp of the weights are gathered and as much of their gradients
  scattered; 2 (data - 1) / data of a device's gradients are summed.
  """
  return 2 * weights * ((fsdp - 1) / fsdp + (data - 1) / data / fsdp)


class Bounds(NamedTuple):
  """Lower bounds of the seconds of one run of a program."""

  arithmetic: float
  memory: float
  network: float

  @property
  def seconds(self) -> float:
    """Returns the longest of the three times."""
    return max(self)

  @property
  def binding(self) -> str:
    """Returns the name of the longest time."""
    return self._fields[self.index(max(self))]


def bounds(measured: Measured, rates: Rates) -> Bounds:
  """Returns the bounds of a program on devices with these rates.

  Arguments are read and results written; temporaries that no cache holds are
  written and read. Between machines a device uses links and adapter together.
  """
  m = measured.memory
  moved = m.arguments + m.results + 2 * max(m.temporaries - rates.cache, 0.0)
  apart = rates.between if measured.between else 0.0
  within = measured.sent / (rates.link + apart)
  return Bounds(
    arithmetic_seconds(measured.flops, rates),
    moved / rates.bandwidth,
    max(within, measured.between / rates.between),
  )


def arithmetic_seconds(products: Mapping[str, float], rates: Rates) -> float:
  """Returns the seconds of products, {dtype: FLOP}, at the published rates."""
  return sum(
    count / (rates.flops_float32 if dtype == 'float32' else rates.flops)
    for dtype, count in products.items()
  )


def achieved(flop_per_second: float, kind: str) -> dict[str, float]:
  """Returns `tflops`, in 10^12 FLOP per second of one device, and its `mfu`.

  kind: JAX's name of the device. mfu is the part of its published rate in
  bfloat16, and is left out for devices whose rate is unknown.
  """
  rates = rates_of(kind)
  mfu = {} if rates is None else {'mfu': flop_per_second / rates.flops}
  return {'tflops': flop_per_second / 1e12, **mfu}
