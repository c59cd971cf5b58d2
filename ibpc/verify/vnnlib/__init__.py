"""VNN-LIB files: `parser` reads the text into formulas, `reading` turns these into a property."""
