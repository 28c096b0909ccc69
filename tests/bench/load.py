"""What is measured: each function does one thing once, over one way."""
import os, pathlib, resource, signal, subprocess, sys, time

from lab import anonymous_kib, cpu_of, wait_for

HERE = pathlib.Path(__file__).parent


def bulk(way, gib):
    """One download: seconds, and CPU seconds by process."""
    before = {name: cpu_of(pids) for name, pids in way.pids.items()}
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    out = subprocess.run(
        [
            "curl",
            "-sSk",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download}",
            f"{way.scheme}://127.0.0.1:{way.port}/big",
        ],
        env=way.env,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if out.returncode or int(float(out.stdout)) != gib << 30:
        sys.exit(
            f"error: curl over {way.name} ended with {out.returncode}: {out.stderr} "
            f"after {out.stdout} bytes"
        )
    cpu = {name: cpu_of(pids) - before[name] for name, pids in way.pids.items()}
    cpu["curl"] = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    return seconds, cpu


def requests(bin_dir, way, count, how):
    """Small requests, timed by `request-latency`; the numbers it prints."""
    program = pathlib.Path(bin_dir) / "request-latency"
    command = [program, "127.0.0.1", str(way.port), "/small", str(count), how]
    return numbers(way, f"request-latency {how}", command)


def handshakes(way, count):
    """Small requests on new connections in TLS, one after the other: p50 and p99, microseconds."""
    command = [sys.executable, HERE / "shake.py", str(way.port), str(count)]
    return numbers(way, "handshakes", command)


def numbers(way, what, command):
    """The numbers that a program prints; `what` is what it is called if it fails."""
    out = subprocess.run(command, env=way.env, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"error: {what} over {way.name}: {out.stderr}")
    return [float(x) for x in out.stdout.split()]


class Held:
    """Connections that a program holds open and leaves idle."""

    def __init__(self, way, count, mib=0):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "hold.py", str(way.port), str(count), str(mib)],
            env=way.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self.process.stdout.readline()
        if not told:
            self.process.wait()
            sys.exit(f"error: {count} connections over {way.name} could not be opened")
        self.seconds = float(told)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)


def opening(way, count):
    """Seconds that a program needs to open this many connections."""
    with Held(way, count) as held:
        return held.seconds


def idle(session, count, mib):
    """KiB of anonymous memory and CPU seconds a second that idle sessions cost, by daemon."""
    daemons = {"broker": session.broker, "server": session.servers[0]["pid"]}
    before = {name: anonymous_kib(pid) for name, pid in daemons.items()}
    with Held(session, count, mib):
        time.sleep(5)
        kib = {name: (anonymous_kib(pid) - before[name]) / count for name, pid in daemons.items()}
        used = {name: cpu_of([pid]) for name, pid in daemons.items()}
        time.sleep(10)
        busy = {name: (cpu_of([pid]) - used[name]) / 10 for name, pid in daemons.items()}
    return kib, busy


def restart(session, count):
    """Seconds from a server's death until, restarted at once, it has every idle session back."""
    server = session.servers[0]
    with Held(session, count):
        session.lab.kill(server["pid"])
        start = time.monotonic()
        session.start_server(server)
        session.pids["stp-server"] = [server["pid"]]
        back = lambda: len(session.status(server["name"])["sessions"]) >= count
        wait_for("every session is back after the server's restart", back, 120)
        return time.monotonic() - start


def silent_gap(session):
    """The longest pause that a download shows when its server falls silent in its middle."""
    process = subprocess.Popen(
        [sys.executable, HERE / "gap.py", str(session.port)],
        env=session.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if not process.stdout.readline():
        sys.exit("error: the download for the silent server did not begin")
    name = session.status()["sessions"][-1]["server"]
    pid = next(s["pid"] for s in session.servers if s["name"] == name)
    os.kill(pid, signal.SIGSTOP)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        os.kill(pid, signal.SIGCONT)
        process.kill()
    if process.returncode:
        sys.exit("error: the download did not survive a silent server")
    return float(out)
