"""Drawings of the page, in SVG."""
