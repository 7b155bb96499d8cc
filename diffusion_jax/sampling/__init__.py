"""From noise to images: an algebra of samplers and denoisers."""
