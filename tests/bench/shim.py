"""What the shim costs a program without a route: connects, and the program's start."""
import os, subprocess


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
