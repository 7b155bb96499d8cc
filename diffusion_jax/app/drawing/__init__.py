"""Programs that draw samples, and sheets of them."""
