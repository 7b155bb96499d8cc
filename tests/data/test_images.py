import io

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import images


@pytest.mark.parametrize('num_levels', [2, 17, 256])
def test_scale_and_quantize_are_inverse(num_levels):
  levels = np.arange(num_levels, dtype=np.uint8)
  x = images.scale(levels, num_levels)
  assert x[0] == -1.0 and x[-1] == pytest.approx(1.0, abs=1e-6)
  np.testing.assert_array_equal(images.quantize(x, num_levels), levels)


def test_quantize_rounds_to_the_nearest_and_clips():
  x = np.array([-3.0, -0.9, -0.06, 0.06, 0.95, 7.0])
  np.testing.assert_array_equal(images.quantize(x, 3), [0, 0, 1, 1, 2, 2])


def test_to_uint8_keeps_the_grey_levels_apart():
  x = images.scale(np.arange(17, dtype=np.uint8), 17)
  shown = images.to_uint8(x, 17)
  assert shown[0] == 0 and shown[-1] == 255
  np.testing.assert_array_equal(np.rint(shown * (16 / 255)), np.arange(17))


def test_png_and_back(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  images.write_png(tmp_path / 'a.png', picture)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), picture)
  grey = picture[..., :1]
  images.write_png(tmp_path / 'b.png', grey)
  found = images.read_image(tmp_path / 'b.png')
  np.testing.assert_array_equal(found, np.repeat(grey, 3, axis=-1))


def test_photos_are_turned_as_their_exif_says(tmp_path):
  picture = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held upright
  picture.save(tmp_path / 'a.jpg', exif=exif)
  assert images.read_image(tmp_path / 'a.jpg').shape == (6, 4, 3)


def test_files_that_are_no_images_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no image .*none.png'):
    images.read_image(tmp_path / 'none.png')
  (tmp_path / 'text.png').write_text('not a picture')
  with pytest.raises(ValueError, match='text.png is not an image'):
    images.read_image(tmp_path / 'text.png')
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(buffer, 'PNG')
  (tmp_path / 'cut.png').write_bytes(buffer.getvalue()[:2000])
  with pytest.raises(ValueError, match='cut.png is damaged'):
    images.read_image(tmp_path / 'cut.png')
  data = bytearray(buffer.getvalue())
  data[11] = 12  # the length of the header, 13
  (tmp_path / 'head.png').write_bytes(data)
  with pytest.raises(ValueError, match='head.png is damaged'):
    images.read_image(tmp_path / 'head.png')


def test_fit_crops_the_centre_or_stretches():
  wide = np.zeros((20, 60, 3), np.uint8)
  wide[:, 20:40] = 200  # the middle third
  assert (images.fit(wide, 10, 'crop') == 200).all()
  stretched = images.fit(wide, 12, 'scale')
  assert stretched.shape == (12, 12, 3)
  assert (stretched[:, [0, 11]] < 20).all() and (stretched[:, 5:7] > 180).all()
  with pytest.raises(ValueError, match="'pad' is not one of"):
    images.fit(wide, 10, 'pad')


def test_grid_places_images_row_by_row():
  pictures = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1) * 40
  sheet = images.grid(np.broadcast_to(pictures, (5, 2, 2, 1)), 3)
  assert sheet.shape == (1 + 2 * 3, 1 + 3 * 3, 1)
  centres = sheet[1::3, 1::3, 0]
  np.testing.assert_array_equal(centres, [[40, 80, 120], [160, 200, 32]])
  assert images.grid(pictures, 5, zoom=4).shape == (12, 44, 1)


def test_gif_has_its_frames(tmp_path):
  frames = [np.full((4, 4, 3), v, np.uint8) for v in (0, 100, 255)]
  images.write_gif(tmp_path / 'a.gif', frames)
  with Image.open(tmp_path / 'a.gif') as gif:
    assert gif.n_frames == 3 and gif.info['loop'] == 0
