"""The speed of a training, against the published rate of its devices."""

# FLOP per second of dense products in bfloat16, by JAX's `device_kind`:
# cloud.google.com/tpu/docs and NVIDIA's data sheets.
_RATES = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA H100 80GB HBM3': 989.4e12,
  'NVIDIA H200': 989.4e12,
}


def achieved(flop_per_second: float, kind: str) -> dict[str, float]:
  """Returns `tflops`, in 10^12 FLOP per second of one device, and its `mfu`.

  kind: JAX's name of the device. mfu is the part of its published rate in
  bfloat16, and is left out for devices whose rate is unknown.
  """
  mfu = {'mfu': flop_per_second / _RATES[kind]} if kind in _RATES else {}
  return {'tflops': flop_per_second / 1e12, **mfu}


def as_text(speed: dict[str, float]) -> str:
  """Returns the result of `achieved` as text, such as 1.2 TFLOP/s, MFU 12%."""
  tera = speed['tflops']
  text = f'{tera:.3g} TFLOP/s' if tera >= 1 else f'{1000 * tera:.3g} GFLOP/s'
  return f'{text}, MFU {speed["mfu"]:.0%}' if 'mfu' in speed else text
