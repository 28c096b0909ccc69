"""What the shim costs a program without a route: connects, its start, and hooked calls."""
import os, subprocess
from statistics import median


def cost(lab, session):
    """The least of three rounds by way, nanoseconds: a connect, a connect over TCP, a start."""
    program, empty = lab.compile("tests/shim/cost.c"), lab.dir / "empty.so"
    subprocess.run(["cc", "-shared", "-o", empty, "-x", "c", "/dev/null"], check=True)
    (lab.dir / "no-broker").mkdir()
    shim = session.env["LD_PRELOAD"]
    bare = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SESSION_DIR")}
    ways = {
        "bare": bare,
        "an empty library": dict(bare, LD_PRELOAD=str(empty)),
        "the shim, no broker": dict(bare, LD_PRELOAD=shim, SESSION_DIR=str(lab.dir / "no-broker")),
        "the shim, no such route": session.env,
    }
    found = {way: [] for way in ways}
    for _ in range(3):
        for way, env in ways.items():
            numbers = []
            # A destination beside the routed one: nginx listens there as well.
            for arguments in (["127.0.0.2", str(session.port)], ["start"]):
                out = subprocess.run(
                    [program, *arguments], env=env, capture_output=True, text=True, check=True
                )
                numbers += map(float, out.stdout.split())
            found[way].append(numbers)
    return {way: [min(column) for column in zip(*rounds)] for way, rounds in found.items()}


def show(found):
    base, none = found["bare"], found["an empty library"]
    print(
        f"\n{'not routed, the least':<26}{'connect ns':>11}{'added':>8}{'TCP µs':>9}"
        f"{'added/TCP':>11}"
        f"{'start µs':>10}{'added to empty':>16}"
    )
    for way, (small_ns, tcp_ns, start_ns) in found.items():
        added = small_ns - base[0]
        print(
            f"{way:<26}{small_ns:>11.0f}{added:>8.0f}{tcp_ns / 1e3:>9.1f}{added / base[1]:>11.2%}"
            f"{start_ns / 1e3:>10.0f}{(start_ns - none[2]) / 1e3:>16.0f}"
        )


def hooks(lab, library, rounds):
    """Nanoseconds of hooked calls by call and way, each round's: the ways take turns."""
    program, empty = lab.compile("tests/shim/cost.c"), lab.dir / "nothing.so"
    subprocess.run(["cc", "-shared", "-o", empty, "-x", "c", "/dev/null"], check=True)
    (lab.dir / "no-broker-here").mkdir()
    bare = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SESSION_DIR")}
    ways = {
        "bare": dict(bare, LD_PRELOAD=str(empty)),
        "again": dict(bare, LD_PRELOAD=str(empty)),
        "shim": dict(bare, LD_PRELOAD=str(library), SESSION_DIR=str(lab.dir / "no-broker-here")),
    }
    found = {}
    for round_ in range(rounds):
        # Nobody is always the first one.
        names = list(ways)[round_ % 3 :] + list(ways)[: round_ % 3]
        for way in names:
            out = subprocess.run(
                [program, "hooks"], env=ways[way], capture_output=True, text=True, check=True
            )
            for line in out.stdout.splitlines():
                call, ns = line.split("\t")
                found.setdefault(call, {}).setdefault(way, []).append(float(ns))
    return found


def show_hooks(found):
    """The medians, and the paired ratios: of the bare program over itself, and with the shim."""
    print(
        f"\n{'no route, nothing paused':<26}{'bare ns':>9}{'added':>8}"
        f"{'bare/bare':>22}{'shim/bare':>22}"
    )
    for call, ways in found.items():

        def ratio(way):
            each = sorted(a / b for a, b in zip(ways[way], ways["bare"]))
            low, high = each[len(each) // 4], each[-1 - len(each) // 4]
            return f"{median(each):.3f} ({low:.3f}-{high:.3f})"

        added = median(a - b for a, b in zip(ways["shim"], ways["bare"]))
        bare = median(ways["bare"])
        print(f"{call:<26}{bare:>9.1f}{added:>8.1f}{ratio('again'):>22}{ratio('shim'):>22}")


def hooks_added(found):
    """Nanoseconds that the shim adds, by call."""
    paired = {call: zip(ways["shim"], ways["bare"]) for call, ways in found.items()}
    return {f"hook_ns {call}": median(a - b for a, b in each) for call, each in paired.items()}
