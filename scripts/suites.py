"""Runs other projects' suites bare and with the shim, and prints what differs.

scripts/suites prepares what it needs and calls it.
"""

import collections, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, time
import xml.etree.ElementTree as xml

LTP = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
recvmsg send sendfile sendmmsg sendmsg sendto setsockopt shutdown socket socketpair sockioctl
epoll_create1 epoll_ctl epoll_pwait epoll_wait poll ppoll select
""".split()
# A dot and a module select that part of a package.
PYTHON = """
test_socket test_ssl test_asyncio.test_base_events test_asyncio.test_buffered_proto
test_asyncio.test_events test_asyncio.test_selector_events test_asyncio.test_sendfile
test_asyncio.test_server test_asyncio.test_sock_lowlevel test_asyncio.test_ssl
test_asyncio.test_sslproto test_asyncio.test_streams test_asyncio.test_unix_events test_select
test_selectors test_epoll test_poll test_httplib test_httpservers test_urllib2_localnet
test_ftplib test_smtplib test_poplib test_imaplib test_nntplib test_telnetlib test_xmlrpc
test_docxmlrpc test_socketserver test_asyncore test_asynchat
""".split()
WAYS = ("bare", "preloaded", "routed")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SECONDS_MAX = 400


class Place:
    """The library and a relay in a directory that every user may read, one relay per user."""

    def __init__(self, target):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="session-suites-"))
        self.dir.chmod(0o755)
        debug = target / "debug"
        self.library = shutil.copy(debug / "libsession.so", self.dir)
        self.relay = shutil.copy(debug / "examples/shim-relay", self.dir)
        self.relays = {}

    def environment(self, way, nobody=False):
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SESSION_", "LD_PRELOAD", "XDG_"))
        }
        env |= {
            "LC_ALL": "C.UTF-8",
            "RES_OPTIONS": "attempts:0",
            "UV_TEST_TIMEOUT_MULTIPLIER": "4",
            "LTP_COLORIZE_OUTPUT": "n",
        }
        if way != "bare":
            env["LD_PRELOAD"] = str(self.library)
            env["SESSION_DIR"] = str(
                self.routed(nobody) if way == "routed" else self.dir / "no-broker"
            )
        return env

    def routed(self, nobody):
        if nobody not in self.relays:
            home = self.dir / ("nobody" if nobody else "root")
            home.mkdir()
            if nobody:
                os.chown(home, 65534, 65534)
            relay = subprocess.Popen(
                (NOBODY if nobody else []) + [self.relay, home / "b"], stdin=subprocess.DEVNULL
            )
            self.relays[nobody] = relay, home / "b"
            end = time.monotonic() + 10
            while not (home / "b/routes").exists():
                if time.monotonic() > end or relay.poll() is not None:
                    sys.exit("error: the relay does not start")
                time.sleep(0.05)
        return self.relays[nobody][1]

    def close(self):
        for relay, _ in self.relays.values():
            relay.terminate()
            relay.wait()
        shutil.rmtree(self.dir)


def run(command, env, cwd, seconds=SECONDS_MAX):
    """Output of a program, and whether it ended by itself; whatever it started ends with it."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        end_session(process.pid)
        process.wait()
        out.seek(0)
        return out.read().decode(errors="replace"), ended


def end_session(leader):
    """Kills what a session leader has left; process groups do not hold it all."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rsplit(")", 1)[1].split()[3] == str(leader):
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def python(place, work, way, name):
    """One of CPython's files: its tests and what became of each."""
    scratch = pathlib.Path(tempfile.mkdtemp(dir=work))
    report = scratch / "report.xml"
    package, _, module = name.partition(".")
    command = [
        "/usr/bin/python3",
        "-m",
        "test",
        "-u",
        "network",
        "--timeout",
        "120",
        "--junit-xml",
        report,
        "-i",
        "*VSOCK*",
        *(["-m", f"test.{name}.*"] if module else []),
        package,
    ]
    text, ended = run(command, place.environment(way), scratch)
    found = {}
    if report.exists():
        for case in xml.parse(report).iter("testcase"):
            kinds = [
                kind for kind in ("error", "failure", "skipped") if case.find(kind) is not None
            ]
            found[case.get("name").removeprefix("test.")] = kinds[0] if kinds else "ok"
    if not found:
        found[name] = ("did not end: " if not ended else "no report: ") + text[-300:]
    shutil.rmtree(scratch, ignore_errors=True)
    return found


def libuv(place, work, way, name):
    home = work / "libuv"
    subprocess.run(["chown", "-R", "65534:65534", home], check=True)
    text, ended = run(
        [*NOBODY, home / "build/uv_run_tests"], place.environment(way, nobody=True), home
    )
    found = {}
    for word, test, skip in re.findall(r"^(ok|not ok) \d+ - (\w+)(.*SKIP)?", text, re.M):
        found[test] = "skipped" if skip else word
    return found if ended else found | {"all": "did not end"}


def libevent(place, work, way, name):
    home = work / "libevent/build"
    text, ended = run([home / "bin/regress", "--timeout", "60"], place.environment(way), home)
    found = {}
    for test, outcome in re.findall(
        r"^([\w+]+/[\w+/]+): (?:\[forking\] )?.*?(OK|SKIPPED|FAILED|DISABLED)?$", text, re.M
    ):
        found[test] = outcome or "FAILED"
    for test in re.findall(r"\[([\w+]+(?:/[\w+]+)?) FAILED\]", text):
        for known in [known for known in found if known.endswith(test)]:
            found[known] = "FAILED"
    return found if ended else found | {"all": "did not end"}


def ltp(place, work, way, name):
    tree = pathlib.Path(os.environ["LTP"])
    home = tree / "testcases/kernel/syscalls" / name
    scratch = pathlib.Path(tempfile.mkdtemp(dir=work))
    found = {}
    for program in sorted(home.iterdir()):
        if not (program.is_file() and os.access(program, os.X_OK) and program.suffix == ""):
            continue
        text, ended = run(
            [program],
            place.environment(way) | {"TMPDIR": str(scratch), "LTPROOT": str(tree)},
            scratch,
            60,
        )
        seen = collections.Counter()
        for outcome, said in re.findall(r"\b(TPASS|TFAIL|TBROK|TCONF)\b\s*:? *(.*)", text):
            said = re.sub(r"0x[0-9a-f]+|\d+", "N", said)
            seen[said] += 1
            found[f"{program.name} {seen[said]}: {said}"] = outcome
        if not ended:
            found[program.name] = "did not end"
    shutil.rmtree(scratch, ignore_errors=True)
    if not found:
        sys.exit(f"error: nothing is built in {home}: run ./configure in {tree}, then make there")
    return found


SUITES = {
    "python": (python, PYTHON),
    "libuv": (libuv, ["all"]),
    "libevent": (libevent, ["all"]),
    "ltp": (ltp, LTP),
}


def difference(bare, other):
    return {test for test in bare.keys() | other.keys() if bare.get(test) != other.get(test)}


def explained(root):
    """Rows of the table: (suite, way, pattern)."""
    rows = []
    for line in (root / "tests/suites/README.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[0] in SUITES:
            rows.append((cells[0], cells[1], re.compile(re.escape(cells[2]).replace(r"\*", ".*"))))
    return rows


def main():
    root, target, names = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    work, rows, bad = target / "suites", explained(root), 0
    place = Place(target)
    try:
        for name in names:
            suite, _, part = name.partition(":")
            unit, parts = SUITES[suite]
            parts = [part] if part else parts
            totals, differences = collections.Counter(), {}
            for part in parts:
                bare = unit(place, work, "bare", part)
                totals["bare"] += len(bare)
                for way in WAYS[1:]:
                    other = unit(place, work, way, part)
                    totals[way] += len(other)
                    differing = difference(bare, other)
                    if differing:
                        # What differs from run to run in the same way is not of the shim's making.
                        again, bare_again = (
                            unit(place, work, way, part),
                            unit(place, work, "bare", part),
                        )
                        differing &= (
                            difference(bare, again)
                            & difference(bare_again, again)
                            & difference(bare_again, other)
                        )
                        other = again
                    for test in differing:
                        differences[test, way] = (
                            bare.get(test, "missing"),
                            other.get(test, "missing"),
                        )
                print(f"  {suite} {part}: {len(bare)} tests", file=sys.stderr, flush=True)
            print(
                f"{suite}: "
                + ", ".join(f"{way} {totals[way]} results" for way in WAYS)
                + f", {len(differences)} differ"
            )
            for (test, way), (was, now) in sorted(differences.items()):
                known = any(row[:2] == (suite, way) and row[2].fullmatch(test) for row in rows)
                bad += not known
                word = "explained  " if known else "UNEXPLAINED"
                print(f"  {word} {way}: {test}: bare {was}, with the shim {now}", flush=True)
    finally:
        place.close()
    sys.exit(1 if bad else 0)


if sys.argv[1:] == ["--ltp-directories"]:
    print(*LTP)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
