#!/usr/bin/env python3
"""No circles: modules of one crate import each other in one direction only.

    scripts/circles.py            every crate of the workspace; exit code 1 if one has a circle
    scripts/circles.py --self     checks itself first, on small crates whose answer is known
    scripts/circles.py --arrows   also prints who imports whom

A module is a file. An arrow leads from the file that names something to the file that defines it:
a path that begins with `crate`, `self`, `super` or `$crate`, with a child module, or with a module
that was imported. A name that another module passes on (`pub use`) leads to where it is defined,
so a `mod.rs` may gather what its children define. Code under `#[cfg(test)]` does not count.

Not seen: methods called on a value whose type is not named, and paths that a macro puts together.
What cannot be read (a `mod` without a file, a path to a module that is not there) is an error, so
that "no circle" is never said of files that were not looked at.
"""

import re
import sys
import tempfile
from pathlib import Path

IDENT = r"[A-Za-z_]\w*"


class Unreadable(Exception):
    """The sources have a construct that this script does not understand."""


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


LEXER = re.compile(
    r"//[^\n]*"
    r"|/\*.*?\*/"
    r'|b?c?r(?P<hash>\#*)".*?"(?P=hash)'
    r'|[bc]?"(?:\\.|[^"\\])*"'
    r"|b?'(?:\\x[0-9a-fA-F]{2}|\\u\{[^}]*\}|\\.|[^'\\\n])'",
    re.S,
)


def strip(text):
    """The code without comments, strings and characters; offsets and lines stay."""
    return LEXER.sub(blank, text)


def closing(code, at):
    """The offset behind the bracket that closes the one at `at`."""
    depth = 0
    for offset in range(at, len(code)):
        if code[offset] in "([{":
            depth += 1
        elif code[offset] in ")]}":
            depth -= 1
            if depth == 0:
                return offset + 1
    raise Unreadable("a bracket that is never closed")


def without_tests(code):
    """Blanks every item that stands under `#[cfg(test)]`."""
    for match in reversed(list(re.finditer(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]", code))):
        at = match.end()
        while other := re.match(r"\s*#\[", code[at:]):
            at = closing(code, at + other.end() - 1)
        end = at
        while code[end] not in ";{":
            end = closing(code, end) if code[end] in "([" else end + 1
        end = closing(code, end) if code[end] == "{" else end + 1
        code = code[: match.start()] + re.sub(r"[^\n]", " ", code[match.start() : end]) + code[end:]
    return code


def use_tree(text):
    """`a::{b, c as d, e::*}` as [(path, name)]; the name of a glob is `*`."""
    text = text.strip()
    if not text:
        return []
    brace = text.find("{")
    if brace >= 0:
        front = text[:brace].strip()
        parts, depth, begin = [], 0, brace + 1
        for offset in range(brace, len(text)):
            letter = text[offset]
            depth += (letter == "{") - (letter == "}")
            if (letter == "," and depth == 1) or depth == 0:
                parts.append(text[begin:offset])
                begin = offset + 1
            if depth == 0:
                break
        front = [part.strip() for part in front.split("::") if part.strip()]
        return [(front + path, name) for part in parts for path, name in use_tree(part)]
    path, _, alias = text.partition(" as ")
    path = [part.strip() for part in path.split("::") if part.strip()]
    name = alias.strip() or path[-1]
    if path[-1] == "self" and len(path) > 1:
        path, name = path[:-1], alias.strip() or path[-2]
    return [(path, name)]


DEFINITION = re.compile(
    rf"\b(?:struct|enum|union|trait|type|fn|const|static|macro_rules!)\s+(?:mut\s+)?({IDENT})"
)
MOD = re.compile(rf"(?:pub(?:\([^)]*\))?\s+)?\bmod\s+({IDENT})\s*([;{{])")
USE = re.compile(r"\buse\s+([^;]*);")
PATH = re.compile(rf"(?<![\w:.])(?:\$crate|{IDENT})(?:\s*::\s*{IDENT})+")


class Module:
    """A file or an inline module: what it defines, imports and names."""

    def __init__(self, crate, name, parent, file, folder, code):
        self.crate, self.name, self.parent, self.file = crate, name, parent, file
        self.children, self.bindings, self.globs = {}, {}, []
        code = self.take_modules(without_tests(code), folder)
        self.defined = set(DEFINITION.findall(code))
        for match in USE.finditer(code):
            for path, bound in use_tree(match.group(1)):
                if bound == "*":
                    self.globs.append(path[:-1])
                else:
                    self.bindings.setdefault(bound, path)
        self.uses = [path for match in USE.finditer(code) for path, _ in use_tree(match.group(1))]
        rest = USE.sub(blank, code)
        self.paths = [re.split(r"\s*::\s*", m.group(0)) for m in PATH.finditer(rest)]
        self.words = set(re.findall(IDENT, rest))
        crate.modules.append(self)

    def take_modules(self, code, folder):
        at = 0
        while match := MOD.search(code, at):
            name, end = match.group(1), match.end()
            attribute = re.search(r"#\[path\s*=[^\]]*\]\s*$", code[: match.start()])
            if match.group(2) == "{":
                end = closing(code, match.end() - 1)
                body = code[match.end() : end - 1]
                child = Module(self.crate, name, self, self.file, folder / name, body)
            elif attribute:
                raise Unreadable(f"{self.file}: mod {name} with #[path]")
            else:
                options = [folder / f"{name}.rs", folder / name / "mod.rs"]
                found = [option for option in options if option.exists()]
                if not found:
                    raise Unreadable(f"{self.file}: no file for mod {name}")
                text = strip(found[0].read_text())
                child = Module(self.crate, name, self, found[0], folder / name, text)
            self.children[name] = child
            code = (
                code[: match.start()]
                + re.sub(r"[^\n]", " ", code[match.start() : end])
                + code[end:]
            )
            at = end
        return code

    def resolve(self, path, seen=frozenset()):
        """The module that defines what `path` names; None when it is of another crate."""
        first, rest = path[0], path[1:]
        if first in ("crate", "$crate"):
            return self.crate.root.follow(rest, path, seen)
        if first == "self":
            return self.follow(rest, path, seen)
        if first == "super":
            if self.parent is None:
                raise Unreadable(f"{self.file}: `super` at the root")
            return self.parent.follow(rest, path, seen)
        if first in self.children:
            return self.children[first].follow(rest, path, seen)
        if first in self.bindings and (self, first) not in seen:
            bound = self.bindings[first]
            # `use std::fmt` binds itself; a path of one word is an item of this very scope.
            if bound != [first]:
                return self.resolve(bound + rest, seen | {(self, first)})
        return None

    def follow(self, rest, path, seen):
        """`rest` of `path`, from this module on."""
        if not rest or rest == ["*"]:
            return self
        first = rest[0]
        if first == "super":
            return self.resolve(["super", *rest[1:]], seen)
        if first in self.children:
            return self.children[first].follow(rest[1:], path, seen)
        if first in self.defined:
            return self
        if first in self.bindings and (self, first) not in seen:
            bound = self.bindings[first]
            outside = self.resolve(bound + rest[1:], seen | {(self, first)})
            return outside if bound[0] in ("crate", "self", "super") or outside else None
        for glob in self.globs:
            there = self.resolve(glob, seen)
            if there and there is not self and (there.has(first) or first in there.children):
                return there.follow(rest, path, seen)
        if len(rest) > 1 and first[0].islower() and not first.startswith("r#"):
            raise Unreadable(f"{self.file}: {'::'.join(path)} leads to no module")
        # A macro has made this name here.
        return self

    def has(self, name):
        return name in self.defined or name in self.bindings


class Crate:
    def __init__(self, root):
        self.modules = []
        folder = root.parent
        self.root = Module(self, "crate", None, root, folder, strip(root.read_text()))

    def arrows(self):
        """{file: {file it imports from}}."""
        arrows = {}
        for module in self.modules:
            targets = arrows.setdefault(module.file, set())
            named = module.paths + module.uses
            named += [glob + ["*"] for glob in module.globs]
            for path in named:
                there = module.resolve(path)
                if there is not None and there.file != module.file:
                    targets.add(there.file)
        return arrows


def circles(arrows):
    """The strongly connected components of more than one file (Tarjan)."""
    index, low, stack, found, count = {}, {}, [], [], 0

    def visit(node):
        nonlocal count
        index[node] = low[node] = count
        count += 1
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def check_itself():
    """Small crates whose circles are known."""
    cases = [
        (
            "two files that import each other",
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "use crate::b::B; pub struct A;",
                "b.rs": "use super::a::A; pub struct B;",
            },
            {"a.rs", "b.rs"},
        ),
        (
            "one direction",
            {"lib.rs": "mod a; mod b;", "a.rs": "use crate::b::B;", "b.rs": "pub struct B;"},
            set(),
        ),
        (
            "a parent that gathers what its children define",
            {
                "lib.rs": "mod a; mod b; pub use a::A; pub use b::B;",
                "a.rs": "use crate::B; pub struct A;",
                "b.rs": "pub struct B;",
            },
            set(),
        ),
        (
            "a parent that defines what its child uses, and uses its child",
            {"lib.rs": "mod a; use a::A; pub struct P(A);", "a.rs": "use super::P; pub struct A;"},
            {"lib.rs", "a.rs"},
        ),
        (
            "a path in the middle of the code",
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "fn f() { crate::b::g() }\npub fn h() {}",
                "b.rs": "use crate::a;\npub fn g() { a::h() }",
            },
            {"a.rs", "b.rs"},
        ),
        (
            "a name passed on by a glob",
            {
                "lib.rs": "mod a; mod b; pub use b::*;",
                "a.rs": "pub fn f(_: crate::B) {}",
                "b.rs": "pub struct B; impl B { fn g() { crate::a::f(B) } }",
            },
            {"a.rs", "b.rs"},
        ),
        (
            "tests, comments and strings do not count",
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": '// use crate::b::B;\nconst S: &str = "crate::b::B";\n'
                "#[cfg(test)]\nmod tests { use crate::b::B; }",
                "b.rs": "use crate::a::S; pub struct B;",
            },
            set(),
        ),
        (
            "a macro's own crate",
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "macro_rules! m { () => { $crate::b::B } }",
                "b.rs": "use crate::a::m; pub struct B;",
            },
            {"a.rs", "b.rs"},
        ),
    ]
    for name, sources, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in sources.items():
                Path(folder, file).write_text(text)
            found = circles(Crate(Path(folder, "lib.rs")).arrows())
        got = {file.name for group in found for file in group}
        if got != expected:
            sys.exit(f"scripts/circles.py is wrong about {name}: {got or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "lib.rs").write_text("mod missing;")
        try:
            Crate(Path(folder, "lib.rs"))
        except Unreadable:
            return
    sys.exit("scripts/circles.py takes a module without a file for read")


def main():
    if "--self" in sys.argv:
        check_itself()
    top = Path(__file__).resolve().parent.parent
    bad = 0
    for manifest in sorted(top.glob("*/Cargo.toml")):
        roots = [manifest.parent / "src" / name for name in ("lib.rs", "main.rs")]
        for root in filter(Path.exists, roots):
            arrows = Crate(root).arrows()
            if "--arrows" in sys.argv:
                for file in sorted(arrows):
                    targets = " ".join(str(to.relative_to(top)) for to in sorted(arrows[file]))
                    print(f"{file.relative_to(top)} -> {targets}")
            for group in circles(arrows):
                bad += 1
                print(f"circle of {len(group)} files:")
                for file in group:
                    targets = sorted(to for to in arrows[file] if to in group)
                    print(
                        f"  {file.relative_to(top)} -> "
                        + " ".join(str(to.relative_to(root.parent)) for to in targets)
                    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
