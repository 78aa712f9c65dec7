"""The page of a run: each part of it, and what it is drawn with."""
