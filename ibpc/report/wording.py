"""How numbers are written for people."""

from __future__ import annotations


def format_eps(eps: float) -> str:
    """Return a radius as people write it: in 255ths where it is a whole number of them."""
    steps = round(eps * 255)
    return f"{steps}/255" if 0 < steps < 255 and abs(steps / 255 - eps) < 1e-12 else f"{eps:g}"
