"""The output of the command line: tables and lines, printed by rich."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import isfinite, prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ibpc.data import Dataset, listed
from ibpc.hints import INEXACT, NARROWED
from ibpc.ir import format_shape
from ibpc.network import Network
from ibpc.ops import operators
from ibpc.ops.rules import call_of
from ibpc.passes import EVALUATION
from ibpc.report.wording import format_eps
from ibpc.training.methods import reads
from ibpc.training.runner import TrainingRun
from ibpc.training.sweep import Outcome
from ibpc.verify.certificates.certificate import Claim
from ibpc.verify.decide import Decision
from ibpc.verify.properties import Property
from ibpc.verify.radius import Radius
from ibpc.verify.results import Robustness
from ibpc.verify.verdicts import Verdict

if TYPE_CHECKING:
    # It draws: no other command has to wait for matplotlib.
    from ibpc.report.demonstration import Demonstration


def console() -> Console:
    """Return the console for results; brackets in names are not taken for markup."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def _error_console() -> Console:
    """Return the console for notes, on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _table(title: str | None = None) -> Table:
    return Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)


def show_network(network: Network) -> None:
    """Print one row per node: name, operator, shape of a sample, parameters, multiply-accumulates."""
    table = _table(network.name)
    for heading in ("node", "operator", "reads", "shape"):
        table.add_column(heading, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    total_macs = 0
    for node in network.graph.order():
        trainable = operators()[node.operator].trainable
        arrays = network.graph.parameters_of(node.name)
        owned = (role for role in arrays if role in trainable and f"{node.name}.{role}" in network.graph.state)
        count = sum(prod(arrays[role].shape) for role in owned)
        macs = operators()[node.operator].macs(call_of(network.graph, node))
        total_macs += macs
        table.add_row(
            node.name,
            " ".join([node.operator, *(f"@{constraint}" for constraint in node.constraints)]),
            ", ".join(network.graph.operands(node.name)),
            format_shape(node.shape),
            f"{count:,}" if count else "",
            f"{macs:,}" if macs else "",
        )
    table.add_section()
    table.add_row("total", "", "", "", f"{network.parameter_count():,}", f"{total_macs:,}", style="bold")
    console().print(table)


def show_operators() -> None:
    """Print one row per operator: its rules, the layers that name it, and the ONNX versions it is read from."""
    table = _table()
    for heading in ("operator", "rules", "layers in specs", "ONNX (operator versions)", "what it is"):
        table.add_column(heading, overflow="fold")
    for name, operator in sorted(operators().items()):
        kind = "affine" if operator.is_affine else "planes"
        imports = "; ".join(f"{read.type} {', '.join(map(str, read.versions))}" for read in operator.reads)
        layers = ", ".join(layer.name for layer in operator.layers)
        table.add_row(name, f"nominal interval {kind}", layers, imports, operator.summary)
    console().print(table)


def show_compilation(network: Network) -> None:
    """Print the notes of the frontend, and what each pass of the evaluation pipeline changed and refused."""
    out = console()
    for note in network.notes:
        out.print(Text(f"import: {note}"))
    _, reports = EVALUATION.run(network.snapshot())
    for report in reports:
        out.print(Text(str(report)))


def show_compiled(network: Network, path: Path) -> None:
    """Print one line about a written artifact, and notes that verdicts depend on.

    These are on double precision, which is lost, and on an inexact constant, which rules verdicts out.
    """
    count = network.parameter_count()
    size = f" → {path}/ ({len(network.graph)} nodes, {count:,} parameters)"
    console().print(Text.assemble("compiled ", (network.name, "bold"), size))
    doubtful = network.graph.hints.get(INEXACT)
    for note in network.notes:
        if note == NARROWED or (doubtful is not None and note.startswith(f"{doubtful} ")):
            console().print(Text(f"  {note}", style="yellow"))


def show_radii(model: Path, method: str, radii: Sequence[tuple[str, Radius]]) -> None:
    """Print the radius up to which each input is certified, and the one from which it is falsified."""
    table = _table(f"{model}: certified radius in pixels of [0, 1] ({method})")
    table.add_column("")
    for name in ("certified up to", "falsified from", "decisions"):
        table.add_column(name, justify="right")
    for name, radius in radii:
        table.add_row(name, _decimal(radius.certified, ROUND_FLOOR), _falsified(radius), str(radius.decisions))
    if len(radii) > 1:
        mean = sum(radius.certified for _, radius in radii) / len(radii)
        wrong = sum(radius.falsified == 0 for _, radius in radii)
        note = f"{wrong} misclassified, as 0" if wrong else ""
        table.add_row("mean", f"{mean:.4f}", note, "", style="bold")
    console().print(table)


def _falsified(radius: Radius) -> str:
    if radius.falsified is None:
        return ""
    return "misclassified" if radius.falsified == 0 else _decimal(radius.falsified, ROUND_CEILING)


def _decimal(radius: float, rounding: str) -> str:
    """Return a radius with four decimals, or more if it is small, rounded in the direction that claims less."""
    written = Decimal(repr(radius))
    return str(written.quantize(Decimal(1).scaleb(min(-4, written.adjusted() - 3)), rounding))


# From this many images per class on, a missing class is suspicious.
_TELLING: Final = 3


def show_robustness(model: Path, network: Network, dataset: Dataset, result: Robustness) -> None:
    """Print the three accuracies and how they were obtained."""
    which = "test images" if result.chosen is None else "chosen test images"
    table = _table(f"{model} on {dataset.name}, {len(result.examples):,} {which}, ε = {format_eps(result.eps)}")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("images", justify="right")
    table.add_column("meaning", style="dim")
    falsified = sum(example.verdict is Verdict.FALSIFIED for example in result.examples)
    verified = sum(example.verdict is Verdict.VERIFIED for example in result.examples)
    correct = sum(example.predicted == example.label for example in result.examples)
    rows = (
        ("nominal", correct, "classified as their label"),
        ("attack", len(result.examples) - falsified, "no counterexample found: at most this could be certified"),
        ("certified", verified, f"proved for the whole box ({result.method}, {result.arithmetic.value} arithmetic)"),
    )
    for name, count, meaning in (*rows, *_shares_of_methods(result)):
        table.add_row(name, f"{count / len(result.examples):.2%}", f"{count:,}", meaning)
    out = console()
    out.print(table)
    if result.chosen is not None:
        out.print(f"images {listed(result.chosen)}", style="dim")
    present, classes = ({*labels} for labels in (_labels(result), dataset.test.labels.tolist()))
    if len(present) < len(classes) and len(result.examples) >= _TELLING * len(classes):
        seen = f"these images are of only {len(present)} of {len(classes)} classes"
        out.print(f"{seen}: the test images are sorted; --images random:N takes a sample", style="yellow")
    if dataset.classes < network.classes:
        out.print(f"the data have {dataset.classes} classes, the network {network.classes}", style="yellow")
    if result.unbounded:
        out.print(f"{result.unbounded:,} images have no bound: {_undefined('the network')}", style="dim")
    alone = [example.seconds for example in result.examples if example.seconds is not None]
    text = f"{result.seconds:.1f} s"
    if alone:
        text += f"; tried one by one: {len(alone):,}, median {median(alone):.1f} s, at most {max(alone):.1f} s"
    out.print(text, style="dim")


def _labels(result: Robustness) -> list[int]:
    return [example.label for example in result.examples]


def _shares_of_methods(result: Robustness) -> list[tuple[str, int, str]]:
    """Return a row for each method with the number of images it proved, if the plan has several methods."""
    counts = Counter(example.method for example in result.examples if example.verdict is Verdict.VERIFIED)
    if set(counts) <= {result.method}:
        return []
    return [(f"  {name}", count, "of these") for name, count in counts.most_common()]


_STYLES: Final = {
    Verdict.VERIFIED: "bold green",
    Verdict.FALSIFIED: "bold red",
    Verdict.UNKNOWN: "bold yellow",
    Verdict.TIMEOUT: "bold yellow",
}


def show_decision(model: Path, prop: Property, decision: Decision) -> None:
    """Print the verdict on one property, and the evidence for it."""
    out = console()
    verdict = Text(decision.verdict.value, style=_STYLES[decision.verdict])
    out.print(Text.assemble(verdict, f"  {model}, property {prop.name}, {decision.seconds:.1f} s"))
    if prop.is_vacuous:
        out.print("  its constraints contradict each other: there is no counterexample in any network", style="dim")
    if decision.undefined is not None:
        out.print(f"  {_undefined(decision.undefined)}", style="dim")
        return
    margins = [margin for margins in decision.margins for margin in margins]
    if decision.counterexample is not None:
        outputs = ", ".join(f"{value:.6g}" for value in decision.counterexample.outputs[:10])
        out.print(f"  counterexample, replayed in {decision.counterexample.judge}: outputs {outputs}", style="dim")
        if prop.leaves_outputs_free:
            out.print("  a disjunct constrains no output: any network has counterexamples to it", style="dim")
    if margins:
        refuted = sum(margin > 0 for margin in margins)
        # A search that excludes a disjunct shows that there is no counterexample, but gives no margin.
        least = f", least margin {min(margins):.6g}" if all(map(isfinite, margins)) else ""
        out.print(
            f"  {refuted:,} of {len(margins):,} disjuncts excluded{least} "
            f"({decision.method}, {decision.arithmetic.value} arithmetic)",
            style="dim",
        )


def _undefined(node: str) -> str:
    return f"{node} may be NaN, beyond the range of its type, or rounded differently by runtimes, so bounds say nothing"


def show_claims(path: Path, claims: Sequence[Claim]) -> None:
    """Print `confirmed`, or every claim of a certificate that is not."""
    out = console()
    failed = [claim for claim in claims if not claim.holds]
    about = next((claim.detail for claim in claims if claim.name == "images" and claim.holds), None)
    if not failed:
        counted = "1 claim" if len(claims) == 1 else f"{len(claims):,} claims"
        out.print(Text.assemble(("confirmed", "bold green"), f"  {path}, {counted}"))
        if about is not None:
            out.print(f"  {about}", style="dim")
    for claim in failed:
        out.print(Text.assemble(("not confirmed", "bold red"), f"  {path}, {claim.name}: {claim.detail}"))


def show_run(run: TrainingRun, data: str | None) -> None:
    """Print where a run is saved, its accuracies on the held-out images, and the command to run next."""
    out = console()
    where = f" → {run.out}/ in {run.receipt['seconds']:.0f} s"
    out.print(Text.assemble("trained ", (run.network.name, "bold"), where))
    if run.validation:
        out.print(
            f"on {run.validation.images:,} held-out images: nominal {run.validation.nominal:.2%}, "
            f"certified at ε = {format_eps(run.validation.eps)} {run.validation.certified:.2%} (IBP, real arithmetic)"
        )
    if run.is_at_chance:
        hint = "a longer schedule.warmup or schedule.ramp, or a lower optimizer.learning_rate, may help"
        out.print(f"its accuracy is about that of chance: {hint}", style="yellow")
    given = "" if data is None else f" --data {data}"
    # Networks that are trained against an attack are made for tighter bounds than those of intervals.
    tighter = " --method crown" if reads(run.recipe.method, "attack") else ""
    out.print(f"next: ibpc certify {run.out} --eps {format_eps(run.recipe.eps)}{given}{tighter}", style="dim")


def show_notes(notes: Iterable[str]) -> None:
    """Print what is worth knowing of a run before it starts, on standard error."""
    err = _error_console()
    for text in notes:
        err.print(f"note: {text}")


def show_outcome(outcome: Outcome) -> None:
    """Print one line about a finished trial of a sweep."""
    if outcome.nominal is None or outcome.certified is None:
        reached = outcome.problem
    else:
        reached = f"nominal {outcome.nominal:.2%}, certified {outcome.certified:.2%}"
    console().print(Text(f"trial {outcome.number}: {_settings(outcome)}: {reached}"))


def _settings(outcome: Outcome) -> str:
    values = (f"{value:.4g}" if isinstance(value, float) else value for value in outcome.values.values())
    return ", ".join(f"{key} {value}" for key, value in zip(outcome.values, values, strict=True))


def show_sweep(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Print the trials that no other beats in both accuracies, and how many trials failed."""
    front = sorted((outcome for outcome in outcomes if outcome.on_front), key=lambda outcome: outcome.nominal or 0.0)
    table = _table("trials that no other beats in both")
    for heading in ("nominal", "certified"):
        table.add_column(heading, justify="right")
    for heading in ("run", "values"):
        table.add_column(heading, overflow="fold")
    for outcome in front:
        table.add_row(f"{outcome.nominal:.2%}", f"{outcome.certified:.2%}", str(outcome.folder), _settings(outcome))
    failed = sum(outcome.nominal is None for outcome in outcomes)
    out = console()
    out.print(table)
    trials = "1 trial" if len(outcomes) == 1 else f"{len(outcomes)} trials"
    out.print(f"{trials}, {failed} failed; figure {folder / 'front.svg'}", style="dim")


def show_demonstration(shown: Demonstration) -> None:
    """Print the results of the demonstration and the paths of its files."""
    show_robustness(shown.run.out, shown.run.network, shown.dataset, shown.result)
    console().print(f"artifact {shown.run.out}/, verdicts {shown.verdicts}, figure {shown.figure}")
