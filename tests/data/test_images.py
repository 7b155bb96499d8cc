"""Pictures of every mode and depth are read as people see them."""

import re
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from diffusion_jax.data import drawings, images, set_files
from tests.data import encoded


def test_png_and_back(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  drawings.write_png(tmp_path / 'a.png', picture)
  assert_array_equal(images.read_image(tmp_path / 'a.png'), picture)
  grey = picture[..., :1]
  drawings.write_png(tmp_path / 'b.png', grey)
  assert_array_equal(images.read_image(tmp_path / 'b.png'), np.repeat(grey, 3, axis=-1))


def test_photos_are_turned_as_their_exif_says(tmp_path):
  picture = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held upright
  picture.save(tmp_path / 'a.jpg', exif=exif)
  assert images.read_image(tmp_path / 'a.jpg').shape == (6, 4, 3)


LEVELS = np.array([[0, 128, 32768], [65535, 1000, 40000]], np.uint16)
GREY = np.array([[0, 0, 128], [255, 4, 156]])  # 255 / 65535 of them, rounded
OPAQUE = np.array([[0, 255, 128], [255, 255, 0]], np.uint8)
COLOURS = np.uint8(
  [[[1, 2, 3], [10, 20, 30], [100, 0, 200]], [[255, 255, 255], [0, 0, 0], [9, 9, 9]]]
)


def read_grey(path):
  found = images.read_image(path)
  assert (found == found[..., :1]).all()
  return found[..., 0]


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'big_endian.tif', 'a.pgm'])
def test_grey_of_16_bits_is_scaled_to_8(name, tmp_path):
  levels = LEVELS.astype('>u2') if name.startswith('big') else LEVELS
  Image.fromarray(levels).save(tmp_path / name)
  assert_array_equal(read_grey(tmp_path / name), GREY)


def test_grey_is_scaled_by_its_depth_and_meaning(tmp_path):
  """Files are PGM of 10 bits, TIFF with white as 0, and transparent grey."""
  values = LEVELS >> 6
  (tmp_path / 'ten.pgm').write_bytes(b'P5 3 2 1023\n' + values.astype('>u2').tobytes())
  assert_allclose(read_grey(tmp_path / 'ten.pgm'), values * (255 / 1023), atol=0.51)
  path = tmp_path / 'negative.tif'
  Image.fromarray(LEVELS).save(path, tiffinfo={262: 0})
  assert_array_equal(read_grey(path), np.rint(255 - LEVELS / 257))
  Image.fromarray(LEVELS).save(tmp_path / 'clear.png', transparency=1000)
  expected = np.where(LEVELS == 1000, 255, GREY)
  assert_array_equal(read_grey(tmp_path / 'clear.png'), expected)


# A TIFF of a row of 12 bits, two pixels in three bytes (TIFF 6.0, 3): nine tags and the row.
TWELVE = """
49492a00080000000900
000103000100000004000000
010103000100000001000000
02010300010000000c000000
030103000100000001000000
060103000100000001000000
110103000100000086000000
150103000100000001000000
160103000100000001000000
170103000100000006000000
00000000000000000000000000000000000fff800010
"""


def test_grey_of_12_bits_is_scaled_to_8(tmp_path):
  (tmp_path / 'a.tif').write_bytes(bytes.fromhex(TWELVE))
  expected = np.rint(np.array([0, 4095, 2048, 16]) * (255 / 4095))
  assert_array_equal(read_grey(tmp_path / 'a.tif'), [expected])


@pytest.mark.parametrize('name', ['grey.png', 'grey.tif', 'colour.png'])
def test_a_part_of_16_bits_is_nearly_one_colour(name, tmp_path, capsys, monkeypatch):
  """Levels of 12 bits become 0..15; the first such picture is named."""
  monkeypatch.setattr(set_files, '_SAID', set())
  for top, printed in ((65535, 0), (4095, 1), (4095, 0)):
    levels = np.linspace(0, top, 24).astype(np.uint16).reshape(4, 6)
    if name == 'colour.png':
      (tmp_path / name).write_bytes(encoded.png_of(np.repeat(levels[..., None], 3, axis=-1)))
    else:
      Image.fromarray(levels).save(tmp_path / name)
    assert_allclose(read_grey(tmp_path / name), levels / 257, atol=1)
    line = f'{tmp_path / name} has 16 bits and keeps levels 0..1[56] of 0..255'
    assert len(re.findall(line, capsys.readouterr().out)) == printed


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp'])
@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparent_pixels_lie_on_white(mode, name, tmp_path):
  """Transparent colours are hidden; half transparent ones are half white."""
  picture = Image.fromarray(COLOURS).convert(mode[:-1])
  picture.putalpha(Image.fromarray(OPAQUE))
  options = {'lossless': True} if 'webp' in name else {}
  picture.save(tmp_path / name, **options)
  colours = np.asarray(picture.convert('RGBA'))[..., :3]
  found = images.read_image(tmp_path / name)
  weight = OPAQUE[..., None] / 255
  assert_allclose(found, colours * weight + 255 * (1 - weight), atol=1)
  assert (found[OPAQUE == 0] == 255).all()
  assert_array_equal(found[OPAQUE == 255], colours[OPAQUE == 255])
  assert_array_equal(images.read_alpha(tmp_path / name), OPAQUE[..., None])


@pytest.mark.parametrize('name', ['a.png', 'a.gif'])
def test_palettes_have_their_colours_and_a_clear_one(name, tmp_path):
  picture = Image.fromarray(np.array([[0, 1, 2], [3, 0, 1]], np.uint8), 'P')
  palette = np.array([[1, 2, 3], [40, 50, 60], [7, 8, 9], [100, 110, 120]])
  picture.putpalette(palette.astype(np.uint8).tobytes())
  picture.save(tmp_path / name)
  expected = palette[[[0, 1, 2], [3, 0, 1]]]
  assert_array_equal(images.read_image(tmp_path / name), expected)
  assert images.read_alpha(tmp_path / name) is None
  picture.save(tmp_path / name, transparency=1)
  expected[[0, 1], [1, 2]] = 255
  assert_array_equal(images.read_image(tmp_path / name), expected)
  clear = images.read_alpha(tmp_path / name)[..., 0] == 0
  assert_array_equal(clear, [[0, 1, 0], [0, 0, 1]])


def test_black_and_white_and_cmyk(tmp_path):
  bits = np.array([[True, False, True], [False, False, True]])
  for name in ('bits.png', 'bits.tif', 'bits.bmp'):
    Image.fromarray(bits).save(tmp_path / name)
    assert_array_equal(read_grey(tmp_path / name), bits * 255)
  inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0]]], np.uint8)
  for name in ('inks.tif', 'inks.jpg'):
    Image.fromarray(inks.repeat(8, 0).repeat(8, 1), 'CMYK').save(tmp_path / name)
    found = images.read_image(tmp_path / name)[4, 4::8].astype(int)
    expected = [[255, 255, 255], [0, 255, 255], [255, 0, 255]]
    assert_allclose(found, expected, atol=12 if 'jpg' in name else 0)


def test_large_pictures_are_silent_or_refused(tmp_path, monkeypatch, recwarn):
  Image.new('L', (10, 10)).save(tmp_path / 'a.png')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 60)
  assert images.read_image(tmp_path / 'a.png').shape == (10, 10, 3)
  assert not recwarn
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 49)
  with pytest.raises(ValueError, match='a.png cannot .* limit of 98 pixels'):
    images.read_image(tmp_path / 'a.png')


@pytest.fixture(scope='module')
def bomb():
  """Compresses more than Pillow reads, to 64 KiB."""
  return zlib.compress(bytes(2**26 + 2**20))


@pytest.mark.parametrize('kind', [b'iCCP', b'zTXt', b'iTXt'])
def test_intact_pngs_with_large_texts_are_read(kind, bomb, tmp_path):
  """Pillow refuses more than 1 MiB after decompression."""
  text = zlib.compress(bytes(2**21))
  head = {b'iCCP': b'icc\0\0', b'zTXt': b'Raw\0\0', b'iTXt': b'Raw\0\1\0\0\0'}
  data = encoded.png_of(COLOURS, (kind, head[kind] + text))
  (tmp_path / 'a.png').write_bytes(data)
  for found in (images.read_image(tmp_path / 'a.png'), images.decode_image(data, 'a')):
    assert_array_equal(found, COLOURS)
  data = encoded.png_of(COLOURS, (kind, head[kind] + bomb))
  with pytest.raises(ValueError, match='a cannot be read as an image: .*arge'):
    images.decode_image(data, 'a')


def test_fit_crops_the_centre_or_stretches():
  """The middle third of a wide, and the middle fifth of a tall picture stay."""
  wide, tall = np.zeros((20, 60, 3), np.uint8), np.zeros((50, 20, 3), np.uint8)
  wide[:, 20:40] = tall[20:30] = 200
  assert (images.fit(wide, 10) == 200).all()
  for picture, shape in ((wide, (10, 10, 3)), (tall, (5, 10, 3))):
    assert (images.resized([picture], shape) == 200).all()
  stretched = images.fit(wide, 12, 'scale')
  assert stretched.shape == (12, 12, 3)
  assert (stretched[:, [0, 11]] < 20).all() and (stretched[:, 5:7] > 180).all()


def test_colours_become_grey_as_luma_and_grey_is_repeated():
  colours = np.full((8, 9, 3), (10, 200, 30), np.uint8)
  luma = round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)  # ITU-R BT.601
  for picture, level in ((colours, luma), (colours[..., :1], 10)):
    grey = images.resized([picture], (8, 8, 1))
    assert grey.shape == (1, 8, 8, 1) and (grey == level).all()
  found = images.resized([colours[..., :1], colours], (8, 8, 3))
  assert_array_equal(found[0], np.full((8, 8, 3), 10))
  assert_array_equal(found[1], colours[:, :8])
