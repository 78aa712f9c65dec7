"""The way out: a run as one plain script."""
