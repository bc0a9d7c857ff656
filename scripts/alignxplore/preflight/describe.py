"""A preflight as text: what was measured, what was calculated, what was neither, and what is wrong."""

from collections.abc import Iterable, Sequence

from alignxplore.preflight.flight import Flight, Work
from alignxplore.training import memory_table
from alignxplore.workflow.config import variants

GB = 1e9


def describe(flight: Flight) -> str:
    """All sections, the errors last."""
    sections = [_work(flight), _calculated(flight), _not_measured(flight), _errors(flight)]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _work(flight: Flight) -> list[str]:
    rows = [["work", "number", "s each", "s to start", "memory, GB", "hours at most", "hours calculated"]]
    for work in [*flight.questions, *flight.trainings]:
        one = work.measured
        unit = "prompts" if work in flight.questions else "steps"
        number = "unknown" if work.number is None else f"{work.number:,.0f}{'+' if work.uncounted else ''} {unit}"
        figures = [f"{one.seconds:,.3g}", f"{one.loading:.1f}", _memory(work)] if one else ["", "", "not measured"]
        open_end = [None] * min(work.uncounted, 1)
        hours = [_hours([value, *open_end]) for value in (work.hours, work.calculated)]
        rows.append([work.name, number, *figures, *hours])
    everything = [*flight.questions, *flight.trainings]
    open_end = [None] * min(sum(work.uncounted for work in everything), 1)
    totals = [
        _hours([*(work.hours for work in everything), *open_end]),
        _hours([*(work.calculated for work in everything), *open_end]),
    ]
    rows.append(["all, one after another", "", "", "", "", *totals])
    return _aligned(rows)


def _hours(values: Sequence[float | None]) -> str:
    """The sum of those that are known; + says that some are not."""
    known = [value for value in values if value is not None]
    return f"{sum(known):,.2f}{'+' if len(known) < len(values) else ''}" if known else ""


def _memory(work: Work) -> str:
    """What the fullest card or process held, of how much."""
    held, size = max(work.memory, key=lambda pair: pair[0] / pair[1])
    return f"{held / GB:.1f} of {size / GB:.0f}" + (f" x {len(work.memory)}" if len(work.memory) > 1 else "")


def _calculated(flight: Flight) -> list[str]:
    """The memory function line by line, for what cards will run."""
    lines = []
    trained = {work.key.rpartition(".")[2] for work in flight.trainings if work.gpus}
    jobs = {name: job for name, job in flight.trained.items() if name in trained}
    if jobs:
        lines += [
            "Calculated for each training (docs/scale.md):",
            "",
            memory_table.table(flight.config, jobs, flight.card),
        ]
    on_cards = {work.key.removeprefix("models."): work.gpus for work in flight.questions if work.gpus}
    asked = {name: needs for name, needs in flight.asked.items() if name in on_cards}
    if asked:
        parts = {name: needs.parts() for name, needs in asked.items()}
        names = list(next(iter(parts.values())))
        rows = [["model", *(f"{name}, GB" for name in names), "all, GB", f"fits {flight.card / GB:.1f} GB"]]
        for model, values in parts.items():
            total = sum(values.values())
            shown = [f"{value / GB:.1f}" for value in (*values.values(), total)]
            rows.append([model, *shown, "yes" if asked[model].fits(flight.card) else "no"])
        lines += ["", "Calculated for each model that is asked, on each of its cards:", "", *_aligned(rows)]
    return lines


def _not_measured(flight: Flight) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for work in [*flight.questions, *flight.trainings]:
        if work.measured is None:
            reasons.setdefault(work.why_not, []).append(work.name)
    lines = [f"Not measured: {reason}: {', '.join(dict.fromkeys(names))}" for reason, names in reasons.items()]
    return [*lines, *dict.fromkeys(flight.notes)]


def _errors(flight: Flight) -> list[str]:
    found = list(dict.fromkeys(flight.errors))
    if not found:
        return ["Nothing is wrong." if variants(flight.config) or flight.questions else "Nothing to try."]
    return [f"{len(found)} mistake{'s' if len(found) > 1 else ''}:", *(f"  {error}" for error in found)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    return [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
