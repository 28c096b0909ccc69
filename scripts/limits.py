#!/usr/bin/env python3
"""Writes docs/limits.md: every time, size and count by which what ships is bounded.

    scripts/limits.py          writes it
    scripts/limits.py --check  says whether it is as the code is; exit code 1 if not

The rows are the constants of the shipped crates that are a `Duration`, or a number whose name says
that it bounds something, and the defaults of the structs in `DEFAULTS`. What a row says comes from
the comment above the constant.
"""

import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CRATES = ["broker", "cli", "drive", "keeper", "lookup", "net", "proto", "server", "shim", "sns"]
BOUNDS = re.compile(
    r"(^|_)(MAX|MIN|EVERY|AFTER|AGE|LEEWAY|SPAN|PIECE|ROOM|INBOX|KEPT|PLACES|BACKLOG|SLOTS|TRIES"
    r"|LATELY|BLOCK|ASKED|AT_ONCE|PART|DOUBLINGS|PORT|QUESTIONS|MS|S)$|_(MAX|MIN|EVERY)_"
)
# Structs whose defaults are limits, and where their fields are told.
DEFAULTS = {
    "proto/src/session/limit.rs": "Limits",
    "proto/src/course/pacing.rs": "Pace",
    "proto/src/rise.rs": "Rule",
}
CONST = re.compile(
    r"^ *(?:pub(?:\([^)]*\))? )?const ([A-Z][A-Z0-9_]*): ([\w<>]+) =\s*([^;]+);", re.M
)
HEAD = """# Limits and constants

Made by `scripts/limits.py` from the code; `scripts/tidy.py` checks that it is up to date. The ones
that matter to an operator stand in [ARCHITECTURE.md](../ARCHITECTURE.md) with their rules; those
with a key in the configuration can be changed there.

| constant | value | |
|---|--:|---|
"""


def value(text):
    """A value as a person reads it."""
    text = " ".join(text.split()).rstrip(",")
    match = re.fullmatch(r"Duration::from_(secs|millis|micros)\((.+)\)", text)
    unit = ""
    if match:
        unit = {"secs": " s", "millis": " ms", "micros": " µs"}[match[1]]
        text = match[2]
    if re.fullmatch(r"[\d_ *<()+]+", text):
        number = eval(text.replace("_", ""))  # noqa: S307 - digits and signs only
        return f"{number:,}{unit}"
    return f"`{text.replace('|', chr(92) + '|')}`{unit}"


def told(lines, number):
    """The comment above a line, or above the lines like it that stand together."""
    above = number - 1
    while above >= 0 and re.match(r"\s*(#\[|(pub(\([^)]*\))? )?const )", lines[above]):
        above -= 1
    words = []
    while above >= 0 and re.match(r"\s*//[/ ]", lines[above]):
        words.insert(0, lines[above].strip().lstrip("/").strip())
        above -= 1
    text = " ".join(words).replace("|", "\\|")
    text = re.sub(r"\[(`[^`]+`)\]", r"\1", text)
    return text


def constants(name, text):
    shipped = re.split(r"^#\[cfg\(test\)\]", text, flags=re.M)[0]
    lines = shipped.splitlines()
    for match in CONST.finditer(shipped):
        const, kind, what = match.groups()
        if kind != "Duration" and not (kind[0] in "ui" and BOUNDS.search(const)):
            continue
        number = shipped.count("\n", 0, match.start(1))
        yield f"`{const}`", value(what), told(lines, number)


def defaults(text, struct):
    fields = text.partition(f"pub struct {struct} {{")[2].partition("\n}")[0].splitlines()
    made = text.partition(f"impl Default for {struct} ")[2].partition("\n}")[0]
    for match in re.finditer(r"^ {12}(\w+): (.+?),$", made, re.M):
        place = next((n for n, line in enumerate(fields) if f"pub {match[1]}:" in line), None)
        yield f"`{match[1]}`", value(match[2]), "" if place is None else told(fields, place)


def page():
    out = [HEAD]
    for crate in CRATES:
        for path in sorted((TOP / crate / "src").rglob("*.rs")):
            name = str(path.relative_to(TOP))
            if "tests" in path.parts or path.name == "tests.rs":
                continue
            text = path.read_text()
            rows = list(constants(name, text))
            if name in DEFAULTS:
                rows += defaults(text, DEFAULTS[name])
            if rows:
                out.append(f"| **`{name}`** | | |\n")
                out += [f"| {const} | {what} | {why} |\n" for const, what, why in rows]
    return "".join(out)


def is_current():
    path = TOP / "docs/limits.md"
    return path.exists() and path.read_text() == page()


if __name__ == "__main__":
    if "--check" in sys.argv:
        if not is_current():
            sys.exit("docs/limits.md is not as the code is: run scripts/limits.py")
    else:
        (TOP / "docs/limits.md").write_text(page())
