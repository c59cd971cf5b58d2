"""Tests lie as the package does; those of its own modules here, those about the repository in `project`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
