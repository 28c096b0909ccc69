"""What a run comes to: the tables, and the figures that have a goal."""
import os
from statistics import median

# The key in the JSON, what it is, and the goal: at most, or at least.
GOALS = {
    "small_added_over_two_hops": ("1 KiB, new connection, added p50 / two haproxy hops", "<=", 1.2),
    "small_added_over_one_hop": ("1 KiB, new connection, added p50 / one haproxy hop", "<=", 3),
    "small_p99_over_two_hops": ("1 KiB, new connection, p99 / two haproxy hops", "<=", 1),
    "kept_added_over_two_hops": ("second request, added p50 / two haproxy hops", "<=", 0.8),
    "connections_over_two_hops": ("connections a second, 64 at once / two haproxy hops", ">=", 0.8),
    "bulk_cpu_over_two_hops": ("bulk, CPU s/GiB / two haproxy hops", "<=", 0.8),
    "bulk_throughput_over_two_hops": ("bulk, throughput / two haproxy hops", ">=", 1),
    "idle_kib_broker": ("idle session, KiB in the broker", "<=", 12),
    "idle_kib_server": ("idle session, KiB in the server", "<=", 12),
    "idle_kib_broker_used": ("the same after 2 MiB have passed, broker", "<=", 12),
    "idle_kib_server_used": ("the same after 2 MiB have passed, server", "<=", 12),
    "idle_cpu_broker": ("10,000 idle sessions, share of a core, broker", "<=", 0.02),
    "idle_cpu_server": ("10,000 idle sessions, share of a core, server", "<=", 0.02),
    "opening_over_tcp": ("opening sessions from one program / TCP", "<=", 2),
    "restart_s": ("server killed and restarted, all sessions back, s", "<=", 5),
    "silent_gap_s": ("a server falls silent in a download, pause, s", "<=", 1),
}


class Rounds:
    """The numbers of the interleaved rounds, by kind of load and way."""

    def __init__(self):
        self.found = {}

    def add(self, load, way, numbers):
        self.found.setdefault(load, {}).setdefault(way, []).append(numbers)

    def of(self, load, way, column=0):
        return [numbers[column] for numbers in self.found[load][way]]

    def median(self, load, way, column=0):
        return median(self.of(load, way, column))

    def paired(self, load, way, other, column=0):
        """The median of the ratios of each round: what changes between rounds cancels out."""
        return median(
            a / b for a, b in zip(self.of(load, way, column), self.of(load, other, column))
        )

    def added(self, load, way, other):
        """How much `way` adds to the direct connection, over what `other` adds."""

        def more(name):
            return self.median(load, name) - self.median(load, "direct")

        return more(way) / more(other) if more(other) > 0 else None

    def cpu(self, way):
        """CPU seconds of a download by process."""
        each = self.of("bulk", way, 1)
        return {name: median(cpu[name] for cpu in each) for name in each[0]}


def ratios(rounds, session, one, two):
    """The figures with a goal that come from the interleaved rounds."""
    cpu = {way: sum(rounds.cpu(way).values()) for way in (session, two)}
    return {
        "small_added_over_two_hops": rounds.added("new", session, two),
        "small_added_over_one_hop": rounds.added("new", session, one),
        "small_p99_over_two_hops": rounds.paired("new", session, two, 1),
        "kept_added_over_two_hops": rounds.added("second", session, two),
        "connections_over_two_hops": rounds.paired("at-once", session, two),
        "bulk_cpu_over_two_hops": cpu[session] / cpu[two],
        "bulk_throughput_over_two_hops": 1 / rounds.paired("bulk", session, two),
    }


def show_bulk(rounds, ways, gib):
    print(f"\n{'bulk':<34}{'GiB/s':>8}{'ratio':>8}{'CPU s/GiB':>12}   by process")
    for way in ways:
        each = {name: seconds / gib for name, seconds in rounds.cpu(way).items()}
        print(
            f"{way:<34}{gib / rounds.median('bulk', way):>8.2f}"
            f"{1 / rounds.paired('bulk', way, 'direct'):>8.2f}"
            f"{sum(each.values()):>12.2f}   " + ", ".join(f"{n} {v:.2f}" for n, v in each.items())
        )


def show_small(rounds, ways):
    print(
        f"\n{'1 KiB':<34}{'new p50 µs':>11}{'p99':>8}{'added':>8}{'second p50':>12}{'p99':>8}"
        f"{'added':>8}"
        f"{'64 at once, 1/s':>17}"
    )
    for way in ways:
        row = f"{way:<34}"
        for load, width in (("new", 11), ("second", 12)):
            p50, p99 = rounds.median(load, way), rounds.median(load, way, 1)
            row += f"{p50:>{width}.0f}{p99:>8.0f}{p50 - rounds.median(load, 'direct'):>8.0f}"
        print(f"{row}{rounds.median('at-once', way):>17.0f}")


def show_handshakes(rounds, ways):
    print(f"\n{'1 KiB, new connection, TLS 1.3':<34}{'p50 µs':>10}{'p99':>8}{'ratio':>8}")
    for way in ways:
        p50, p99 = rounds.median("new", way), rounds.median("new", way, 1)
        print(f"{way:<34}{p50:>10.0f}{p99:>8.0f}{rounds.paired('new', way, 'direct'):>8.2f}")


def show_goals(figures):
    print(f"\n{'goals':<60}{'found':>9}{'goal':>9}")
    for key, (what, sign, goal) in GOALS.items():
        found = figures.get(key)
        if found is None:
            continue
        reached = found <= goal if sign == "<=" else found >= goal
        print(f"{what:<60}{found:>9.3g}{sign + ' ' + str(goal):>9}{'' if reached else '  missed'}")


def show_head(gib, rounds):
    print(
        f"\n{os.cpu_count()} cores, {gib} GiB from nginx over loopback, "
        f"medians of {rounds} interleaved rounds"
    )
