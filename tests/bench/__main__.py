"""Benchmarks over loopback. Started by scripts/bench, which installs and builds what this needs."""
import argparse, json, pathlib, signal, sys

import against, load, shim, table, way
from lab import Lab

ROOT = pathlib.Path(__file__).parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("bin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=5000, help="idle sessions")
    parser.add_argument(
        "--quick", action="store_true", help="1 GiB, 2 rounds, 500 requests, 500 idle sessions"
    )
    parser.add_argument(
        "--https", action="store_true", help="instead: a service of kind https beside nginx's TLS"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--hooks", action="store_true", help="instead: hooked calls with and without the shim"
    )
    parser.add_argument(
        "--against", metavar="REV", help="build REV as well and print paired ratios"
    )
    parser.add_argument("--other-bin", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.gib, args.requests, args.sessions = 2, 1, 500, 500
    return args


def main():
    args = arguments()
    lab = Lab(ROOT)
    try:
        if args.hooks:
            figures = by_call(lab, args)
        elif args.https:
            figures = by_tls(lab, args, way.nginx(lab, args.gib))
        elif args.against:
            figures = against.run(lab, args, way.nginx(lab, args.gib))
        else:
            figures = everything(lab, args, way.nginx(lab, args.gib))
    except BaseException:
        lab.show_logs()
        raise
    finally:
        lab.stop()
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def everything(lab, args, direct):
    one, two = way.haproxy(lab, direct, 1), way.haproxy(lab, direct, 2)
    session = way.Session(lab, direct, args.bin)
    ways = {
        w.name: w
        for w in (direct, session, one, two, way.relay(lab, direct), way.stunnel(lab, direct))
    }
    rounds = table.Rounds()
    load.bulk(direct, args.gib)  # The first one reads the file from the disk.
    for _ in range(args.rounds):
        for name, each in ways.items():
            rounds.add("bulk", name, load.bulk(each, args.gib))
        for how in ("new", "second", "at-once"):
            for name, each in ways.items():
                rounds.add(how, name, load.requests(args.bin, each, args.requests, how))
    figures = table.ratios(rounds, session.name, one.name, two.name)
    table.show_head(args.gib, args.rounds)
    table.show_bulk(rounds, ways, args.gib)
    table.show_small(rounds, ways)
    shim.show(shim.cost(lab, session))
    figures |= by_call(lab, args)
    figures |= idle_and_silent(lab, args, direct)
    table.show_goals(figures)
    return figures


def by_call(lab, args):
    """What hooked calls cost a program without a route."""
    found = shim.hooks(lab, pathlib.Path(args.bin) / "libsession.so", 3 * args.rounds)
    shim.show_hooks(found)
    return shim.hooks_added(found)


def by_tls(lab, args, direct):
    """The app's TLS: at nginx, at a stunnel before it, and at a service of kind https."""
    nginx = way.nginx_by_tls(lab, direct)
    session = way.Session(lab, direct, args.bin, tls=nginx)
    ways = {w.name: w for w in (nginx, session, way.stunnel_by_tls(lab, direct))}
    rounds = table.Rounds()
    load.bulk(nginx, args.gib)
    for _ in range(args.rounds):
        for name, each in ways.items():
            rounds.add("bulk", name, load.bulk(each, args.gib))
        for name, each in ways.items():
            rounds.add("new", name, load.handshakes(each, args.requests))
    table.show_head(args.gib, args.rounds)
    table.show_bulk(rounds, ways, args.gib)
    table.show_handshakes(rounds, ways)
    return {
        "https_bulk_cpu_over_direct": sum(rounds.cpu(session.name).values())
        / sum(rounds.cpu(nginx.name).values()),
        "https_new_over_direct": rounds.paired("new", session.name, nginx.name),
    }


def idle_and_silent(lab, args, direct):
    """What is not compared with others: idle sessions, a restart, a server that falls silent."""
    session, figures = way.Session(lab, direct, args.bin, "idle"), {}
    kib, busy = load.idle(session, args.sessions, 0)
    for daemon in kib:
        figures[f"idle_kib_{daemon}"] = kib[daemon]
        # The kernel counts in hundredths of a second: with few sessions that is too coarse.
        if args.sessions >= 2000:
            figures[f"idle_cpu_{daemon}"] = busy[daemon] * 10_000 / args.sessions
    used, _ = load.idle(way.Session(lab, direct, args.bin, "used"), min(args.sessions, 500), 2)
    figures |= {f"idle_kib_{daemon}_used": kib for daemon, kib in used.items()}
    figures["opening_over_tcp"] = load.opening(session, args.sessions) / load.opening(
        direct, args.sessions
    )
    figures["restart_s"] = load.restart(session, args.sessions)
    figures["silent_gap_s"] = load.silent_gap(
        way.Session(lab, direct, args.bin, "silent", servers=2)
    )
    return figures


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
