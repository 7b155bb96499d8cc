"""DiTTransformer2DModel of diffusers as our `DiT`: options and tensors.

diffusers keeps a copy of the embedding of noise and label in every block, and
queries, keys and values apart. Ours has one embedding, one product for the
three, and all blocks in one array.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax.interop import layers, names
from diffusion_jax.interop.diffusers_networks import complete, refuse
from diffusion_jax.networks.transformer import DiT

CLASS = 'DiTTransformer2DModel'
# The options of the class with their defaults, which a config.json may lack.
OPTIONS = {
  'num_attention_heads': 16,
  'attention_head_dim': 72,
  'in_channels': 4,
  'out_channels': None,
  'num_layers': 28,
  'dropout': 0.0,
  'norm_num_groups': 32,
  'attention_bias': True,
  'sample_size': 32,
  'patch_size': 2,
  'activation_fn': 'gelu-approximate',
  'num_embeds_ada_norm': 1000,
  'upcast_attention': False,
  'norm_type': 'ada_norm_zero',
  'norm_elementwise_affine': False,
  'norm_eps': 1e-5,
}
# Options that Transformer2DModel has beside these, without a use here: the
# class of DiT's files before diffusers 0.29.
OLDER = {
  'attention_type': 'default',
  'cross_attention_dim': None,
  'double_self_attention': False,
  'num_vector_embeds': None,
  'only_cross_attention': False,
  'use_linear_projection': False,
}
_HAS = {
  'attention_bias': (True,),
  'activation_fn': ('gelu-approximate',),
  'norm_type': ('ada_norm_zero',),
  'norm_elementwise_affine': (False,),
  'norm_eps': (1e-6, 1e-5),
} | {name: (value,) for name, value in OLDER.items()}
NORM_EPS = 1e-6  # of ours, and of DiT's release


def transformer_options(
  config: Mapping[str, Any], noise_embedding: str | None
) -> dict[str, Any]:
  """Returns the fields of `DiT` for the config.json of a DiT of diffusers."""
  c = complete(config, OPTIONS | OLDER, _HAS, CLASS)
  inputs, outputs = c['in_channels'], c['out_channels']
  outputs = inputs if outputs is None else outputs
  refuse(
    CLASS,
    c,
    out_channels=outputs in (inputs, 2 * inputs),
    num_embeds_ada_norm=bool(c['num_embeds_ada_norm']),
  )
  return {
    'channels': c['num_attention_heads'] * c['attention_head_dim'],
    'num_blocks': c['num_layers'],
    'num_heads': c['num_attention_heads'],
    'patch_size': c['patch_size'],
    'out_channels': outputs,
    'dropout': float(c['dropout']),
    'num_classes': c['num_embeds_ada_norm'],
    'null_class': True,
    'noise_embedding': noise_embedding or 'ho',
  }


def transformer_config(network: DiT, image_shape: tuple) -> dict[str, Any]:
  """Returns the config.json of a DiTTransformer2DModel.

  Raises ValueError for what it lacks.
  """
  height, width, channels = image_shape
  refuse(
    f'our DiT, which {CLASS} cannot be',
    vars(network) | {'sides': (height, width)},
    noise_embedding=network.noise_embedding == 'ho',
    positions=network.positions == 'sincos',
    norm=network.norm == 'layer',
    qk_norm=not network.qk_norm,
    mlp=network.mlp == 'gelu',
    bottleneck=not network.bottleneck,
    class_tokens=not network.class_tokens,
    dropout_blocks=network.dropout_blocks == 'all',
    text_width=not network.text_width,
    image_channels=not network.image_channels,
    self_conditioning=not network.self_conditioning,
    num_classes=network.num_classes > 0,
    null_class=network.null_class,
    sides=height == width,
  )
  return OPTIONS | {
    '_class_name': CLASS,
    'num_attention_heads': network.num_heads,
    'attention_head_dim': network.channels // network.num_heads,
    'in_channels': channels,
    'out_channels': network.out_channels,
    'num_layers': network.num_blocks,
    'dropout': network.dropout,
    'sample_size': height,
    'patch_size': network.patch_size,
    'num_embeds_ada_norm': network.num_classes,
    'norm_eps': NORM_EPS,
  }


def read(network: DiT, tensors: Mapping[str, Any], shapes: Any) -> dict:
  """Returns the parameters of a `DiT`, of the shapes of the tree `shapes`.

  Raises ValueError as `names.read`, and where the embeddings of the blocks
  are not the same.
  """
  apart = jax.eval_shape(separate, shapes)
  table = _entries(network, apart)

  def ignored(name):
    return bool(_COPY.fullmatch(name)) or name == _POSITIONS

  params = names.read(table, tensors, apart, ignored)
  for name in filter(_COPY.fullmatch, tensors):
    first = _COPY.sub(r'\g<1>0\g<3>', name)
    if not np.array_equal(tensors[name], tensors[first]):
      raise ValueError(
        f'{name} is not {first}: our network has one embedding of noise and '
        'label for all blocks'
      )
  return join(params)


def write(network: DiT, params: Any) -> dict[str, np.ndarray]:
  """Returns the tensors of a DiTTransformer2DModel."""
  apart = separate(params)
  tensors = names.write(_entries(network, apart), apart)
  first = f'{_BLOCK.format(0)}.{_EMBEDDINGS}.'
  copies = {
    name.replace(first, f'{_BLOCK.format(i)}.{_EMBEDDINGS}.'): array
    for name, array in tensors.items()
    if name.startswith(first)
    for i in range(1, network.num_blocks)
  }
  return tensors | copies


def separate(params: Any) -> dict:
  """Returns parameters with a branch for each block, and q, k and v apart."""

  def block(i):
    one = jax.tree.map(lambda leaf: leaf[i], params['blocks_0'])
    parts = {n: _thirds(leaf) for n, leaf in one['qkv'].items()}
    rest = {name: leaf for name, leaf in one.items() if name != 'qkv'}
    return rest | {
      name: {leaf: three[k] for leaf, three in parts.items()}
      for k, name in enumerate(_QKV)
    }

  rest = {name: x for name, x in params.items() if name != 'blocks_0'}
  return rest | {f'block_{i}': block(i) for i in range(_depth(params))}


def join(params: Any) -> dict:
  """Returns what `separate` was given."""
  rest = {n: x for n, x in params.items() if not n.startswith('block_')}
  blocks = []
  for i in range(len(params) - len(rest)):
    one = dict(params[f'block_{i}'])
    three = [one.pop(name) for name in _QKV]
    qkv = {
      leaf: np.concatenate([part[leaf] for part in three], axis=-1)
      for leaf in three[0]
    }
    blocks.append(one | {'qkv': qkv})
  return rest | {'blocks_0': jax.tree.map(lambda *x: np.stack(x), *blocks)}


def _thirds(leaf):
  width = leaf.shape[-1] // 3
  return [leaf[..., k * width : (k + 1) * width] for k in range(3)]


def _depth(params):
  return len(jax.tree.leaves(params['blocks_0'])[0])


def _entries(network, apart):
  # The table of names; `apart` as `separate` returns it.
  emb = f'{_BLOCK.format(0)}.{_EMBEDDINGS}'
  linear = layers.TORCH_LINEAR
  rows = [
    layers.Layer(
      'noise_dense_1',
      f'{emb}.timestep_embedder.linear_1',
      _waves(swapped=network.noise_embedding == 'ho'),
    ),
    layers.Layer('noise_dense_2', f'{emb}.timestep_embedder.linear_2', linear),
    layers.Layer(
      'label_embedding/table',
      f'{emb}.class_embedder.embedding_table',
      layers.TORCH_EMBEDDING,
    ),
    layers.Layer('patch_embedding', 'pos_embed.proj', _patches(network)),
    layers.Layer('modulation_out', 'proj_out_1', linear),
    layers.Layer('patch_out', 'proj_out_2', linear),
  ]
  block = [layers.Layer(*row, linear) for row in _LAYERS.items()]
  for i in range(network.num_blocks):
    rows += layers.within(f'block_{i}', _BLOCK.format(i), block)
  return layers.entries(rows, apart)


_BLOCK, _EMBEDDINGS = 'transformer_blocks.{}', 'norm1.emb'
# the embeddings of blocks after the first
_COPY = re.compile(r'(transformer_blocks\.)([1-9]\d*)(\.norm1\.emb\..*)')
_POSITIONS = 'pos_embed.pos_embed'  # a constant that older files hold
_QKV = 'query', 'key', 'value'
_LAYERS = {
  'modulation': 'norm1.linear',
  'query': 'attn1.to_q',
  'key': 'attn1.to_k',
  'value': 'attn1.to_v',
  'proj': 'attn1.to_out.0',
  'mlp_in': 'ff.net.0.proj',
  'mlp_out': 'ff.net.2',
}


def _with_bias(read_kernel, write_kernel):
  rule = names.Rule(read_kernel, write_kernel)
  return layers.Kind({'kernel': ('weight', rule), 'bias': ('bias', names.SAME)})


def _waves(swapped):
  # Their waves are [cos, sin]; those of our 'ho' are [sin, cos].
  if not swapped:
    return layers.TORCH_LINEAR
  return _with_bias(lambda x: _swap(x.T), lambda x: _swap(x).T)


def _swap(x):
  half = len(x) // 2
  return np.concatenate([x[half:], x[:half]])


def _patches(network):
  # A convolution [D, C, p, p] there, a product of [p p C, D] here.
  p, width = network.patch_size, network.channels
  return _with_bias(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, width),
    lambda x: x.reshape(p, p, -1, width).transpose(3, 2, 0, 1),
  )
