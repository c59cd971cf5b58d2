"""VNN-LIB files: what they mean, in both versions, and what is said of files that are wrong."""

from __future__ import annotations

import gzip
import os
from fractions import Fraction
from itertools import pairwise, product
from operator import eq, ge, gt, le, lt, ne

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import ibpc
from ibpc.errors import PropertyError
from ibpc.verify.properties import Row
from ibpc.verify.vnnlib import tokens
from ibpc.verify.vnnlib.lexer import SourceText
from ibpc.verify.vnnlib.reading import property_from

SCALARS = "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)\n"
UNIT = "(assert (and (<= 0 X_0) (<= X_0 1) (>= X_1 -1) (<= X_1 1)))\n"
TENSORS = (
    "(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))\n"
)


def parsed(text: str):
    return property_from(SourceText("p.vnnlib", text))


def rows_of(text: str) -> list[Row]:
    (case,) = parsed(SCALARS + UNIT + text).cases
    (rows,) = case.disjuncts
    return list(rows)


# ── meaning ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_constraints_on_single_inputs_make_the_box_exactly():
    (case,) = parsed(SCALARS + "(assert (<= 0.1 X_0)) (assert (< (* 3 X_0) 1)) (assert (= X_1 1e-3))").cases
    assert case.box.lower == (Fraction(1, 10), Fraction(1, 1000))
    assert case.box.upper == (Fraction(1, 3), Fraction(1, 1000))
    assert (case.box.open_lower, case.box.open_upper) == (frozenset(), frozenset({0}))
    assert case.disjuncts == ((Row((), (), Fraction()),),)


def test_the_tightest_of_several_ends_counts_and_open_beats_closed():
    (case,) = parsed(SCALARS + UNIT + "(assert (< X_0 1)) (assert (> X_1 -0.5)) (assert (>= X_1 -0.75))").cases
    assert case.box.upper[0] == 1 and case.box.open_upper == frozenset({0})
    assert case.box.lower[1] == Fraction(-1, 2) and case.box.open_lower == frozenset({1})


def test_linear_arithmetic_becomes_a_row():
    text = "(assert (>= (+ (* 2 Y_0) (- Y_1) (- X_0 X_1 0.5) 1) (* (+ 1 2) Y_1 0.5)))"
    (row,) = rows_of(text)
    assert row == Row(
        ((0, Fraction(-2)), (1, Fraction(5, 2))), ((0, Fraction(-1)), (1, Fraction(1))), Fraction(1, 2), False
    )


@pytest.mark.parametrize(
    ("operator", "rows"),
    [
        ("<=", {(1, 0, False)}),
        ("<", {(1, 0, True)}),
        (">=", {(-1, 0, False)}),
        (">", {(-1, 0, True)}),
        ("==", {(1, 0, False), (-1, 0, False)}),
    ],
)
def test_comparisons(operator, rows):
    found = rows_of(f"(assert ({operator} Y_0 0))")
    assert {(int(row.outputs[0][1]), int(row.bound), row.strict) for row in found} == rows


def test_unequal_is_either_side():
    (case,) = parsed(SCALARS + UNIT + "(assert (!= Y_0 Y_1))").cases
    assert len(case.disjuncts) == 2
    assert all(row.strict for (row,) in case.disjuncts)


def test_alternatives_are_grouped_by_their_boxes():
    text = "(assert (or (and (<= X_0 0.5) (>= Y_0 1)) (and (<= X_0 0.5) (>= Y_1 1)) (and (>= X_0 0.5) (>= Y_1 2))))"
    low, high = parsed(SCALARS + UNIT + text).cases
    assert (low.box.upper[0], len(low.disjuncts)) == (Fraction(1, 2), 2)
    assert (high.box.lower[0], len(high.disjuncts)) == (Fraction(1, 2), 1)


def test_what_contradicts_itself_has_no_counterexample():
    assert parsed(SCALARS + UNIT + "(assert (<= X_0 -1)) (assert (<= Y_0 0))").is_vacuous
    assert parsed(SCALARS + UNIT + "(assert (< 1 1))").is_vacuous
    assert parsed(SCALARS + UNIT + "(assert (and (< X_0 0.5) (> X_0 0.5)))").is_vacuous
    assert parsed(SCALARS + UNIT + "(assert (and (< X_0 0.5) (>= X_0 0.5)))").is_vacuous


def test_version_two_names_elements_of_tensors():
    text = (
        '(vnnlib-version <2.0>) (declare-network N (declare-input A Real [2,2] "first") (declare-input B float32 [])'
        " (declare-output Y float64 [1,3]))"
        "(assert (and (>= A[0,0] 0) (<= A[0,0] 1) (== A[0,1] 1) (== A[1,0] 2) (== A [ 1 , 1 ] 3) (== B 4)))"
        "(assert (> Y[0,2] (+ A[1,1] B)))"
    )
    prop = parsed(text)
    assert [(t.name, t.shape, t.onnx_name) for t in prop.inputs] == [("A", (2, 2), "first"), ("B", (), "")]
    (case,) = prop.cases
    assert case.box.lower == (0, 1, 2, 3, 4) and case.box.upper == (1, 1, 2, 3, 4)
    assert case.disjuncts == ((Row(((2, Fraction(-1)),), ((3, Fraction(1)), (4, Fraction(1))), Fraction(), True),),)


def test_both_versions_mean_the_same():
    first = parsed(SCALARS + UNIT + "(assert (or (>= Y_0 Y_1) (<= Y_0 0.25)))")
    renamed = (UNIT + "(assert (or (>= Y_0 Y_1) (<= Y_0 0.25)))").replace("_0", "[0,0]").replace("_1", "[0,1]")
    second = parsed(TENSORS + renamed)
    assert (first.cases[0].box.lower, first.cases[0].disjuncts) == (
        second.cases[0].box.lower,
        second.cases[0].disjuncts,
    )


def test_commands_of_smt_lib_are_passed_over():
    assert parsed("(set-logic QF_LRA)" + SCALARS.replace("declare-const X_0", "declare-fun X_0 ()") + UNIT).cases
    assert parsed(SCALARS + UNIT + "; a comment (\n(check-sat)(get-model)").cases
    assert parsed('(set-info :source |by "hand" (or not)|)' + SCALARS + UNIT).cases
    assert parsed((SCALARS + UNIT).replace("\n", "\r\n")).cases


@pytest.mark.parametrize("end", ["(exit)", "(check-sat)", "(check-sat)(get-model)"])
@pytest.mark.parametrize("command", ["(assert (<= Y_0 0))", "(check-sat)", "(declare-const X_2 Real)"])
def test_what_stands_behind_the_question_is_refused(end, command):
    with pytest.raises(PropertyError, match="nothing but get-model and exit behind check-sat"):
        parsed(SCALARS + UNIT + "(assert (>= Y_0 1))" + end + command)


def test_later_versions_without_breaking_changes_are_read():
    box = UNIT.replace("_0", "[0,0]").replace("_1", "[0,1]")
    for version in ("<2.1>", "<1.0>"):
        text = TENSORS.replace("<2.0>", version).replace("float32", "real")
        assert parsed(text + box).cases


# ── an independent reading: truth at points ─────────────────────────────────────────────────────────────────────
_NUMBERS = st.integers(-4, 4).map(lambda value: Fraction(value, 4))
_SPELLINGS = st.sampled_from(
    [
        lambda value: str(float(value)),
        lambda value: f"{float(1000 * value)}e-3",
        lambda value: f"(/ {value.numerator} {value.denominator})",
        lambda value: f"(- {float(-value)})",
        lambda value: f"(- 1 0.25 {float(Fraction(3, 4) - value)})",
        lambda value: f"(* 0.5 {float(4 * value)} (/ 3 2 3))",
    ]
)
_PRODUCTS = st.sampled_from(
    [
        "(* {number} {name})",
        "(* {name} 2 {number} 0.5)",
        "(/ (* 3 {number} {name}) 3)",
        "(- (* -1 {number} {name}))",
        "(+ (* {number} {name}) {name} (- {name}))",
    ]
)
_VARIABLES = st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])
_TERMS = st.tuples(_NUMBERS, _VARIABLES, _SPELLINGS, _PRODUCTS)
_SUMS = st.tuples(st.lists(_TERMS, max_size=3), _NUMBERS)
_ATOMS = st.one_of(
    st.tuples(st.sampled_from(["<=", "<", ">=", ">", "==", "="]), st.lists(_SUMS, min_size=2, max_size=3)),
    st.tuples(st.just("!="), st.lists(_SUMS, min_size=2, max_size=2)),
)
_COMPARED = {"<=": le, "<": lt, ">=": ge, ">": gt, "==": eq, "=": eq, "!=": ne}
_CONNECTED = {
    "and": all,
    "or": any,
    "not": lambda parts: not parts[0],
    "=>": lambda parts: not parts[0] or parts[1],
}
_FORMULAS = st.recursive(
    _ATOMS,
    lambda parts: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(parts, min_size=1, max_size=3)),
        st.tuples(st.just("not"), st.lists(parts, min_size=1, max_size=1)),
        st.tuples(st.just("=>"), st.lists(parts, min_size=2, max_size=2)),
    ),
    max_leaves=7,
)


def written(formula) -> str:
    operator, parts = formula
    return f"({operator} {' '.join(map(written if operator in _CONNECTED else summed, parts))})"


def summed(linear) -> str:
    terms, constant = linear
    texts = [product.format(number=spell(value), name=name) for value, name, spell, product in terms]
    return f"(+ {' '.join(texts)} {float(constant)})"


def true_at(formula, values) -> bool:
    operator, parts = formula
    if operator in _CONNECTED:
        return _CONNECTED[operator]([true_at(part, values) for part in parts])
    sides = [sum((value * values[name] for value, name, *_ in terms), constant) for terms, constant in parts]
    return all(_COMPARED[operator](left, right) for left, right in pairwise(sides))


@settings(max_examples=150, deadline=None)
@given(st.lists(_FORMULAS, min_size=1, max_size=3))
def test_a_point_is_a_counterexample_exactly_where_the_formulas_are_true(formulas):
    try:
        prop = parsed(SCALARS + UNIT + "".join(f"(assert {written(formula)})" for formula in formulas))
    except PropertyError as error:
        assert "spells out to too many cases" in str(error)
        reject()
    grid = [Fraction(value, 2) for value in (-1, 1, 2)]
    for point in product([Fraction(0), *grid[1:]], grid, grid, grid):
        values = dict(zip(("X_0", "X_1", "Y_0", "Y_1"), point, strict=True))
        x, y = torch.tensor([float(value) for value in point]).split(2)
        assert prop.violated(x, y) == all(true_at(formula, values) for formula in formulas)


# ── files that are wrong ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("(assert", ":4:1", "the file ends"),
        ("(assert (<= Y_0 0)", "", "the file ends"),
        ("(assert (<= Y_0 0)))", ":3:20", "')'"),
        ("(asert (<= Y_0 0))", ":3:2", "assert"),
        ("(assert (<= Y_0))", ":3:16", "')'"),
        ("(assert (=> Y_0 0))", ":3:13", "'('"),
        ("(assert (xor (<= Y_0 0) (<= Y_1 0)))", ":3:10", "one of and, or, not"),
        ("(assert (<= Y_7 0))", ":3:13", "Y_7 is not declared"),
        ("(assert (<= (* Y_0 Y_1) 0))", ":3:14", "product of two variables"),
        ("(assert (<= (/ 2 Y_0) 0))", ":3:14", "division by a variable"),
        ("(assert (<= (/ Y_0 (- 1 1)) 0))", ":3:14", "division by 0"),
        ("(assert (<= (/ 2) 0))", ":3:14", "at least two"),
        ("(assert (<= (mod Y_0 2) 0))", ":3:14", "+, -, * or /"),
        ("(assert (!= Y_0 1 2))", ":3:19", "')'"),
        ("(assert (<= Y_0 0x10))", ":3:17", "a number or a declared variable"),
        ("(assert (<= Y_0 1e999999))", ":3:17", "a number"),
        ("(declare-const X_0 Real)", ":3:16", "is declared at 1:16"),
        ("(declare-const Z Real)", ":3:16", "X_0, X_1"),
        ("(declare-const X_2 String)", ":3:20", "element types"),
        ("(declare-const X_5 Real)", ":3:16", "X_2 is not"),
        ("(assert (<= Y_0 \x01))", ":3:17", "character"),
        ("(assert (and))", ":3:13", "'('"),
    ],
)
def test_mistakes_are_shown_by_line_and_column(text, where, what):
    with pytest.raises(PropertyError) as caught:
        parsed(SCALARS + UNIT + text + "\n" if text == "(assert" else SCALARS + UNIT + text)
    (problem,) = caught.value.problems
    assert f"p.vnnlib{where}" in str(problem) and what in str(problem)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('(declare-network N (declare-input X Real [2]) (declare-hidden H Real [2] "h"))', "hidden"),
        (TENSORS + "(assert (<= X[0,2] 0))", "an element of shape [1,2]"),
        (TENSORS + "(assert (<= X[0] 0))", "an element of shape [1,2]"),
        (TENSORS + "(assert (<= X 0))", "an element of shape [1,2]"),
        (TENSORS + "(assert (<= Q[0] 0))", "a declared tensor"),
        (TENSORS + "(declare-const X_0 Real)", "declared already"),
        (TENSORS + "(declare-network M (declare-input Z Real [1]))", "one network"),
        ("(declare-network N (declare-input X Real [0]))", "at least 1"),
        ("(declare-network N (declare-input X Real [99999999,99999999]))", "elements"),
        ("(vnnlib-version <3.0>)", "<2.0>"),
        ("(declare-network N (declare-input X Real [1] initialized))", "leave this input out"),
        ("(declare-network N (declare-input X float16 [1]))", "element types"),
        ("", "declares no input"),
        (SCALARS, "has no lower bound"),
        (SCALARS + UNIT.replace(" 1)", " 1e60)"), "float32 range"),
    ],
)
def test_mistakes_of_version_two_and_of_meaning(text, what):
    with pytest.raises(PropertyError) as caught:
        parsed(text)
    assert what in str(caught.value)


def test_bombs_are_refused_in_bounded_time():
    deep = "(assert " + "(and " * 100_000 + ")" * 100_001
    sums = "(assert (<= " + "(+ " * 100_000
    many = "".join("(assert (or (<= Y_0 0) (>= Y_0 1)))" for _ in range(10_000))
    factor = "(assert (<= (* " + "9e999 " * 2_000 + "Y_0) 0))"
    long = "(assert (<= Y_0 " + "1" * 10_000 + "))"
    primes = "(assert (<= (+ " + "".join(f"(/ 1 {number})" for number in range(1, 20_000)) + ") Y_0))"
    for text in (deep, sums, many, factor, long, primes):
        with pytest.raises(PropertyError):
            parsed(SCALARS + UNIT + text)


def test_a_short_file_about_a_huge_input_is_refused_in_bounded_memory():
    with pytest.raises(PropertyError, match="33,554,423 more of the kind"):
        parsed(f"(declare-network N (declare-input X Real [{2**24 - 2}]) (declare-output Y Real [1]))")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("(<= {total} 0)", "lower bound"),
        ("(<= " + "(- " * 99 + "{total}" + ")" * 99 + " 0)", r"p\.vnnlib:1:\d+: too many numbers and variables"),
        ("(and " + "(<= X[0] 1)" * 500 + ")", r"p\.vnnlib:1:\d+: too many numbers and variables"),
    ],
)
def test_what_reading_costs_is_bounded(monkeypatch, text, what):
    """A sum below many signs is gone through once for each."""
    monkeypatch.setattr(tokens, "MOST_WORK", 2_000)
    total = "(+ " + " ".join(f"X[{index}]" for index in range(100)) + ")"
    network = "(declare-network N (declare-input X Real [100]) (declare-output Y Real []))"
    with pytest.raises(PropertyError, match=what):
        parsed(f"{network}(assert {text.format(total=total)})")


def test_files_gzipped_or_not_and_damaged(tmp_path):
    text = (SCALARS + UNIT + "(assert (>= Y_0 Y_1))").encode()
    plain, zipped, cut = (tmp_path / name for name in ("p.vnnlib", "p.vnnlib.gz", "cut.vnnlib.gz"))
    plain.write_bytes(text)
    zipped.write_bytes(gzip.compress(text))
    cut.write_bytes(gzip.compress(text)[:-9])
    assert ibpc.load_vnnlib(plain).cases[0].disjuncts == ibpc.load_vnnlib(zipped).cases[0].disjuncts
    bomb = tmp_path / "bomb.vnnlib.gz"
    bomb.write_bytes(gzip.compress(bytes(2**28), 1))
    binary = tmp_path / "b.vnnlib"
    binary.write_bytes(b"(assert \xff)")
    for path, what in ((cut, "damaged"), (bomb, "unpack"), (binary, "UTF-8"), (tmp_path / "none.vnnlib", "no such")):
        with pytest.raises(PropertyError, match=what):
            ibpc.load_vnnlib(path)


def test_every_property_that_others_made_parses(shared):
    files = sorted(path for path in (shared / "nets").rglob("*.vnnlib*"))
    assert len(files) > 70
    for path in files[:: 1 if os.environ.get("IBPC_LONG") else 6]:
        prop = ibpc.load_vnnlib(path)
        assert prop.cases and prop.input_count and prop.output_count


# ── fuzz ────────────────────────────────────────────────────────────────────────────────────────────────────────
_SYMBOLS = ("(", ")", "[", "]", ",", "<=", ">=", "<", "==", "!=", "+", "-", "*", '"', ";", "\n", "0", "1", "-1", ".5")
_NAMES = ("and", "or", "assert", "X_0", "X_1", "Y_0", "Y_1", "X", "Y", "1e3", "Real", "<2.0>")
_COMMANDS = ("declare-const", "declare-network", "declare-input", "declare-output", "vnnlib-version")
_WORDS = st.sampled_from((*_SYMBOLS, *_NAMES, *_COMMANDS))


@settings(max_examples=300, deadline=None)
@given(st.lists(_WORDS, max_size=40), st.sampled_from(["", SCALARS, SCALARS + UNIT, TENSORS]))
def test_any_text_parses_or_is_refused_in_one_clear_way(words, head):
    try:
        prop = parsed(head + " ".join(words))
    except PropertyError as error:
        assert all(str(problem).startswith("p.vnnlib") for problem in error.problems)
    else:
        assert prop.input_count > 0 and prop.output_count > 0
