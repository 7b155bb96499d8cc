"""What a model reads: data, conditions."""
