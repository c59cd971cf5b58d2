"""Certified training: recipes, methods, and the runner."""
