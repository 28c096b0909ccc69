"""Two builds side by side: paired ratios of this tree over another revision, interleaved."""
import load, table, way


def run(lab, args, direct):
    """Prints the median of the rounds' ratios by load: below 1, this tree needs less."""
    builds = {"this tree": args.bin, args.against: args.other_bin}
    sessions = {name: way.Session(lab, direct, at, name) for name, at in builds.items()}
    rounds = table.Rounds()
    load.bulk(direct, args.gib)
    for k in range(args.rounds):
        # Whoever is first has the colder caches, so the order alternates.
        for name, session in sorted(sessions.items(), reverse=k % 2 == 1):
            rounds.add("bulk", name, load.bulk(session, args.gib))
            for how in ("new", "second", "at-once"):
                rounds.add(how, name, load.requests(args.bin, session, args.requests, how))
    now, then = builds
    cpu = [[sum(each.values()) for each in rounds.of("bulk", name, 1)] for name in (now, then)]
    rows = {
        "bulk, seconds": rounds.paired("bulk", now, then),
        "bulk, CPU seconds": table.median(a / b for a, b in zip(*cpu)),
        "1 KiB, new connection, p50": rounds.paired("new", now, then),
        "1 KiB, new connection, p99": rounds.paired("new", now, then, 1),
        "1 KiB, second request, p50": rounds.paired("second", now, then),
        "connections a second, 64 at once": rounds.paired("at-once", now, then),
    }
    # Fresh daemons: those that have moved bytes give memory back at moments of their own.
    idle = {
        name: load.idle(way.Session(lab, direct, at, name), args.sessions, 0)[0]
        for name, at in builds.items()
    }
    for daemon in ("broker", "server"):
        rows[f"idle session, KiB in the {daemon}"] = idle[now][daemon] / max(
            idle[then][daemon], 0.1
        )
    print(f"\n{'this tree / ' + args.against:<40}{'ratio':>8}")
    for what, ratio in rows.items():
        print(f"{what:<40}{ratio:>8.3f}")
    return rows
