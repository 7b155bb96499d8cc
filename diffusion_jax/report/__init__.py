"""A run as one HTML page: what a run folder has is read, drawn and written."""
