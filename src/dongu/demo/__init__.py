"""The demonstration: a paraphrase dataset that the package writes itself."""
