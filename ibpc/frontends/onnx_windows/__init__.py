"""Windows at positions that the network computes, as marks on whole tensors.

`x[a:b] = v` leaves exporters as Slice, Shape and Expand, for the indices as slices of Range, and as ScatterND. With
a computed a and b the shapes in between are known only when the network runs: where the window lies outside of x it
has no rows at all. Here such a window is the whole tensor that it was cut from, and along each cut axis a `Span`
that says which rows are in it. What moves elements or computes element by element acts on whole tensors. A shape is
a vector in which a span stands for the number of its rows. Only ScatterND asks which rows there are:

    Slice(x, a, b)        →  x, of which the rows a … b − 1 count
    ScatterND(x, i, v)    →  ScatterND(x, i, Where(marks, v, GatherND(x, i)))

The marks are comparisons of a and b with row numbers, so what follows is a network of static shapes.

    spans.py      what is known of windows and of their shapes
    positions.py  the numbers at which they start and end
    vectors.py    what nodes make of their shapes
    rewriting.py  what nodes make of them
    marks.py      which rows are in one
"""

from ibpc.frontends.onnx_windows.rewriting import Windows

__all__ = ["Windows"]
