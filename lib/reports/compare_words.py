"""What a comparison says to people."""

import statistics

from lib.answers.intervals import signed
from lib.reports.compare import Comparison, Pair


def lines(comparison: Comparison) -> list[str]:
    """What differs, each pair, and a table where there are more than two sides."""
    said = [f"{letter}  {path}" for letter, paths in comparison.runs.items() for path in paths]
    rows = [["what differs", *comparison.runs]]
    for section, facts in comparison.differing.items():
        rows += [[section], *([f"  {key}", *values] for key, values in facts.items())]
    said += ["", *columns(rows), f"equal: {', '.join(comparison.equal) or 'nothing'}", ""]
    for pair in comparison.pairs:
        said += [*_of_pair(pair), ""]
    if len(comparison.runs) > 2:
        said += columns(_table(comparison))
    if comparison.all_seeds:
        said.append(f"{len(comparison.all_seeds)} seeds of one experiment: {_spread(comparison.all_seeds)}")
    return said


def _of_pair(pair: Pair) -> list[str]:
    a, b, name = pair.first, pair.other, next(iter(pair.scores))
    table = [[f"{b} against {a}", a, b, f"{b} - {a}"]]
    table += [
        [f"  {score}", str(scored.first), str(scored.other), signed(scored.difference)]
        for score, scored in pair.scores.items()
    ]
    said = columns(table)
    if pair.seeds is not None:
        for letter, values in ((a, pair.seeds.first), (b, pair.seeds.other)):
            said.append(f"seeds of {letter}: {len(values)}, {name} {_spread(values)}")
        if pair.seeds.difference is not None:
            said.append(f"{b} - {a} over seeds (Welch): {signed(pair.seeds.difference)}")
    size = f"{pair.num_rows:,} rows in {pair.num_groups:,} groups"
    said.append(f"verdict by {name} on {size}, {b} against {a}: {pair.verdict}{pair.why}")
    return said + [f"mind: {note}" for note in pair.notes]


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}, spread unknown"
    return f"mean {statistics.mean(values):.4f}, standard deviation {statistics.stdev(values):.4f}"


def _table(comparison: Comparison) -> list[list[str]]:
    a, *others = comparison.runs
    names = {letter: f"{letter} {paths[0].rpartition('/')[2]}" for letter, paths in comparison.runs.items()}
    of_pair = {pair.other: pair for pair in comparison.pairs}
    table = [["run", f"first score, {comparison.split}", f"difference to {a}", "verdict"]]
    if comparison.pairs:
        table.append([names[a], str(next(iter(comparison.pairs[0].scores.values())).first), "-", "-"])
    for letter in others:
        if letter in of_pair:
            scored = next(iter(of_pair[letter].scores.values()))
            cells = [str(scored.other), signed(scored.difference), of_pair[letter].verdict]
        else:
            cells = ["-", "-", "not comparable"]
        table.append([names[letter], *cells])
    return table


def columns(rows: list[list[str]]) -> list[str]:
    """Left-aligned columns, two blanks between."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows]
