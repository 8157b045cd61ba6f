"""Creates one Markdown page from the output of benches/run: a JSON file and a command for each benchmark.

    python3 benches/report.py target/bench
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time


def first_line(path, key):
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def sync_milliseconds(folder):
    """The median time of one durable write of 4 KiB: the minimum for every acknowledged group of events."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def machine(folder):
    memory = int(first_line("/proc/meminfo", "MemTotal").split()[0] or 0) / 2**20
    system = output_of("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"')
    return (
        f"{first_line('/proc/cpuinfo', 'model name') or platform.machine()}, {os.cpu_count()} threads, {memory:.0f} GiB, "
        f"{system}, Linux {platform.release()}; fdatasync of 4 KiB: {sync_milliseconds(folder):.2f} ms; "
        f"{output_of('rustc', '--version')}; Python {platform.python_version()}; "
        f"commit {output_of('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}"
        f"{' with changes' if output_of('git', 'status', '--porcelain', '-uno') else ''}"
    )


def format_value(value):
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return "" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return json.dumps(value)


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def comparison_table(rows):
    """The table of a benchmark that compares Inroad with a reference, round by round."""

    def line(row):
        verdict = {True: "met", False: "**missed**", None: ""}[row.get("met")]
        # A quick round may be shorter than the resolution of the clock: then there is no ratio.
        numbers = [row["ratio"], row["ratio_low"], row["ratio_high"]]
        spread = "–" if None in numbers else "{:.3f} ({:.3f} – {:.3f})".format(*numbers)
        ours, reference = (f"{format_value(float(row[side]))} {row['unit']}" for side in ("inroad", "floor"))
        return [row["what"], ours, reference, spread, row.get("target") or "", verdict]

    yield from table(["", "Inroad", "reference", "ratio (quartiles)", "target", ""], map(line, rows))


def other_figures(figures):
    """All other figures: lists of objects as tables, the rest by name."""
    plain = {}
    for name, value in figures.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            head = list(dict.fromkeys(key for item in value for key in item))
            yield from table(head, [[format_value(item.get(key)) for key in head] for item in value])
        elif name not in ("bench", "notes"):
            plain[name] = value
    if plain:
        yield from table(["", ""], [[name, format_value(value)] for name, value in plain.items()])


def section(path):
    yield f"## {path.stem}"
    yield ""
    yield f"`{path.with_suffix('.command').read_text().strip()}`"
    yield ""
    # Long benchmarks may print progress before the figures.
    lines = [line for line in path.read_text().splitlines() if line.startswith(("{", "["))]
    try:
        figures = json.loads(lines[-1]) if lines else json.loads(path.read_text())
    except ValueError:
        yield f"Failed. See `{path.with_suffix('.log')}`."
        yield ""
        return
    figures = figures if isinstance(figures, dict) else {"rows": figures}
    rows = figures.get("rows")
    if isinstance(rows, list) and rows and all("ratio_low" in row for row in rows):
        yield from comparison_table(rows)
    else:
        yield from other_figures(figures)
    for note in figures.get("notes", []):
        yield note
        yield ""


def main():
    folder = pathlib.Path(sys.argv[1])
    now = datetime.datetime.now(datetime.timezone.utc)
    print("# Benchmarks of Inroad\n")
    print(f"{now:%Y-%m-%d %H:%M} UTC. {machine(folder)}.\n")
    if "--quick" in sys.argv:
        print("**Quick rounds: these figures only show that the benchmarks run.**\n")
    for path in sorted(folder.glob("*.json"), key=lambda path: path.with_suffix(".command").stat().st_mtime):
        print("\n".join(section(path)))


main()
