"""Where results go and what their tables look like."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).parent / "results"


def markdown(title, table):
    """A table of dicts as Markdown."""
    columns = list(dict.fromkeys(key for row in table.values() for key in row))
    lines = [f"## {title}", "", "| | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in table.items():
        cells = [str(row.get(column, "")) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(name, report, text):
    """Writes the JSON and the Markdown, and prints the latter."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def three_digits(value):
    """A number as a reader wants it: 0.0123, 1.23, 12.3, 123."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
