"""Runs and recipes side by side."""
