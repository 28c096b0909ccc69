#!/usr/bin/env python3
"""What the house rules say of files, where no other tool looks.

    scripts/tidy.py           every file that git knows; exit code 1 if one breaks a rule
    scripts/tidy.py --long    prints the functions over 50 lines as well, and breaks for none

- A line of code, of a comment or of Markdown has at most 100 characters. Excepted are rows of
  tables, tables of TOML in one line, and addresses, which cannot be broken.
- README.md has at most 150 lines. A Rust file has at most 600 outside its tests.
- A doc comment is a sentence: `/// Why.` says nothing that the name does not say.
- A rule that is cited (R1, R20 …) is one of proto/PROTOCOL.md; a file that is cited is there.
- A crate uses only the crates that ARCHITECTURE.md lets it.
- A script that uses `target/` asks CARGO_TARGET_DIR first.
- docs/limits.md has every limit as the code has it; ARCHITECTURE.md names none that is not there.
"""

import re
import subprocess
import sys
from pathlib import Path

import limits

WIDTH, README_MAX, FILE_MAX = 100, 150, 600
TOP = Path(__file__).resolve().parent.parent
TEXT = {".rs", ".md", ".py", ".sh", ".toml", ".c", ".h", ".yml", ".service"}
# Files that other projects wrote, or that a program made.
FOREIGN = re.compile(r"^(LICENSE|Cargo\.lock|fuzz/Cargo\.lock|tests/fuzz/corpus/)|/table\.txt$")

# Which crate may use which; tests and fuzz may use all.
ARROWS = {
    "proto": set(),
    "net": set(),
    "shim": {"proto"},
    "drive": {"proto", "net"},
    "lookup": {"proto", "net"},
    "tls": {"proto"},
    "keeper": set(),
    # The broker serves destinations without a far end by a server of its own.
    "broker": {"proto", "net", "drive", "lookup", "keeper", "server"},
    "server": {"proto", "net", "drive", "lookup", "keeper", "tls"},
    "sns": {"proto", "net", "lookup"},
    "cli": {"proto", "net", "lookup"},
}

bad = []


def files():
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        path = TOP / name
        if FOREIGN.search(name) or not path.is_file():
            continue
        script = name.startswith("scripts/") and "." not in path.name
        if path.suffix in TEXT or script:
            yield name, path.read_text().splitlines()


def too_wide(name, line):
    """Whether a line is longer than it may be."""
    if len(line) <= WIDTH:
        return False
    if re.match(r"\s*(//[/!] )?\|", line):
        return False
    # A table of TOML in one line cannot be broken.
    if name.endswith(".toml") and re.search(r"[{] \w+ = ", line):
        return False
    # An address, or a link's target, cannot be broken: the rest of the line must still fit.
    without = re.sub(r"(https?://\S+|\]\([^)]*\))", "", line)
    return len(without) > WIDTH or without == line


def is_test(name):
    return "tests/" in name or name.endswith("tests.rs") or name.startswith("fuzz/")


def length_outside_tests(lines):
    for number, line in enumerate(lines):
        if line.startswith("#[cfg(test)]"):
            after = next((l for l in lines[number + 1 :] if not l.startswith("#[")), "")
            if re.match(r"mod \w+ \{", after):
                return number
    return len(lines)


def check_rules(name, lines, rules):
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        if too_wide(name, line):
            bad.append(f"{where}: {len(line)} characters, at most {WIDTH}")
        if name.endswith(".rs") and re.search(r"///\s+(Why|How|What|When|Where|Which)\.$", line):
            bad.append(f"{where}: a doc comment that says nothing: {line.strip()}")
        comment = line if name.endswith(".md") else line.partition("//")[2]
        for rule in re.findall(r"\bR(\d{1,2})\b", comment):
            if int(rule) not in rules and not name.endswith("tests/model/README.md"):
                bad.append(f"{where}: there is no rule R{rule} in proto/PROTOCOL.md")
        if name != "scripts/tidy.py" and re.search(r"\b(DESIGN|SHIM\.md|HTTPS-NOTES)\b", line):
            bad.append(f"{where}: cites what is not in this repository: {line.strip()}")
        if name.startswith("scripts/") and name != "scripts/tidy.py":
            if re.search(r"(^|[^\w/}])target/(release|debug)", line) and "#" not in line[:1]:
                if "CARGO_TARGET_DIR" not in line:
                    bad.append(f"{where}: target/ without CARGO_TARGET_DIR")


def check_links(name, lines):
    """A Markdown link to a file of this repository must lead to one."""
    for number, line in enumerate(lines, 1):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
            if (
                not re.match(r"[a-z]+:", target)
                and not (TOP / name).parent.joinpath(target).exists()
            ):
                bad.append(f"{name}:{number}: no file {target}")


def check_citations(name, lines):
    """A source file that a text names with its crate must exist."""
    for number, line in enumerate(lines, 1):
        for cited in re.findall(r"`([a-z]+/(?:src/)?[\w/]+\.(?:rs|md|toml|txt))`", line):
            near = [TOP / cited, (TOP / name).parent / cited]
            near += [TOP / crate / "src" / cited for crate in ARROWS]
            near += [TOP / "proto/src" / part / cited for part in ("session", "replay", "lookup")]
            near += [TOP / "net/src" / cited, TOP / "server/src" / cited, TOP / "sns/src" / cited]
            if not any(path.exists() for path in near):
                bad.append(f"{name}:{number}: no file {cited}")


def check_arrows():
    for manifest in sorted(TOP.glob("*/Cargo.toml")):
        crate, text = manifest.parent.name, manifest.read_text()
        if crate in ("tests", "fuzz"):
            continue
        shipped = text.partition("[dev-dependencies]")[0]
        used = set(re.findall(r"^stp-(\w+)", shipped, re.M))
        if crate not in ARROWS:
            bad.append(f"{crate}: scripts/tidy.py and ARCHITECTURE.md do not know this crate")
        for extra in sorted(used - ARROWS.get(crate, used)):
            bad.append(f"{crate}/Cargo.toml: {crate} must not use {extra}")


def check_limits():
    if not limits.is_current():
        bad.append("docs/limits.md is not as the code is: run scripts/limits.py")
    known = set(re.findall(r"`(\w+)`", (TOP / "docs/limits.md").read_text()))
    text = (TOP / "ARCHITECTURE.md").read_text()
    table = text.partition("## Limits\n")[2].partition("\n## ")[0]
    for named in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", table):
        if named not in known:
            bad.append(f"ARCHITECTURE.md: no limit {named} in docs/limits.md")


def functions(lines):
    """(line, name, length) of every function, by rustfmt's indentation."""
    for number, line in enumerate(lines):
        match = re.match(
            r"( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern \"C\" )*fn (\w+)", line
        )
        if not match:
            continue
        for end in range(number, len(lines)):
            if re.match(match.group(1) + r"\}", lines[end]):
                yield number + 1, match.group(2), end - number - 1
                break
            if end > number and lines[end].startswith(match.group(1) + "fn "):
                break


def main():
    rules = {
        int(rule)
        for rule in re.findall(r"^\*\*R(\d+)\*\*", (TOP / "proto/PROTOCOL.md").read_text(), re.M)
    }
    check_arrows()
    check_limits()
    for name, lines in files():
        check_rules(name, lines, rules)
        if name == "README.md" and len(lines) > README_MAX:
            bad.append(f"{name}: {len(lines)} lines, at most {README_MAX}")
        if name.endswith(".md"):
            check_links(name, lines)
            check_citations(name, lines)
        if name.endswith(".rs") and not is_test(name):
            length = length_outside_tests(lines)
            if length > FILE_MAX:
                bad.append(f"{name}: {length} lines outside its tests, at most {FILE_MAX}")
        if "--long" in sys.argv and name.endswith(".rs"):
            for number, function, length in functions(lines):
                if length > 50:
                    print(f"{name}:{number}: {function} has {length} lines")
    print("\n".join(bad), end="\n" if bad else "")
    sys.exit(1 if bad and "--long" not in sys.argv else 0)


if __name__ == "__main__":
    main()
