"""Benchmarks over loopback. Started by scripts/bench, which installs and builds what this needs."""
import argparse, os, pathlib, resource, signal, socket, statistics, subprocess, sys, tempfile, time

TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"error: nothing listens on port {port} after {seconds} s")


def cpu_of(pids):
    """User and system seconds of processes and of their children alive now."""
    total = 0
    for pid in pids:
        for task in [pid] + [int(c) for c in children(pid)]:
            try:
                fields = pathlib.Path(f"/proc/{task}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
            except FileNotFoundError:
                pass
    return total / TICK


def children(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


class Lab:
    def __init__(self, bin_dir, gib):
        self.bin, self.gib, self.processes = pathlib.Path(bin_dir), gib, []
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="session-bench-"))
        self.dir.chmod(0o755)

    def start(self, name, *command, **kwargs):
        log = open(self.dir / f"{name}.log", "wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **kwargs)
        self.processes.append(process)
        return process.pid

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run(["rm", "-rf", str(self.dir)], check=True)

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return str(path)

    def nginx(self):
        root = self.dir / "www"
        root.mkdir()
        (root / "small").write_bytes(b"x" * 1024)
        with open(root / "big", "wb") as f:
            f.truncate(self.gib << 30)
        self.port = free_port()
        conf = self.write("nginx.conf", f"""
            daemon off; worker_processes 1; pid {self.dir}/nginx.pid; error_log {self.dir}/nginx.err;
            events {{ worker_connections 4096; }}
            http {{ access_log off; sendfile on; tcp_nodelay on;
              client_body_temp_path {self.dir}/t1; proxy_temp_path {self.dir}/t2; fastcgi_temp_path {self.dir}/t3;
              uwsgi_temp_path {self.dir}/t4; scgi_temp_path {self.dir}/t5;
              server {{ listen 127.0.0.1:{self.port} backlog=4096; listen 127.0.0.2:{self.port} backlog=4096; root {root}; }} }}""")
        user = [] if os.getuid() else ["-g", "user root;"]
        pid = self.start("nginx", "/usr/sbin/nginx", "-c", conf, *user)
        wait_port(self.port)
        return {"nginx": [pid]}

    def haproxy(self):
        port = free_port()
        conf = self.write("haproxy.cfg", f"""
global
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen l
    bind 127.0.0.1:{port}
    server s 127.0.0.1:{self.port}
""")
        pid = self.start("haproxy", "/usr/sbin/haproxy", "-db", "-f", conf)
        wait_port(port)
        return port, {"haproxy": [pid]}

    def stunnel(self):
        near, far = free_port(), free_port()
        cert = self.dir / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=bench", "-keyout", str(cert), "-out", str(self.dir / "c.pem")], check=True, stderr=subprocess.DEVNULL)
        with open(cert, "ab") as f:
            f.write((self.dir / "c.pem").read_bytes())
        server = self.write("s.conf", f"foreground=yes\npid=\ncert={cert}\n[s]\naccept=127.0.0.1:{far}\nconnect=127.0.0.1:{self.port}\n")
        client = self.write("c.conf", f"foreground=yes\npid=\nclient=yes\n[c]\naccept=127.0.0.1:{near}\nconnect=127.0.0.1:{far}\n")
        pids = {"stunnel (far)": [self.start("stunnel-far", "stunnel", server)],
                "stunnel (near)": [self.start("stunnel-near", "stunnel", client)]}
        wait_port(near), wait_port(far)
        return near, pids

    def session(self):
        port, status = free_port(), free_port()
        self.socket_dir = self.dir / "session"
        self.socket_dir.mkdir(mode=0o700)
        subprocess.run([self.bin / "stp-server", "--new-cluster-key", self.dir / "cluster.key"], check=True, stdout=subprocess.DEVNULL)
        server = self.write("server.toml", f"""
name = "bench"
listen = "127.0.0.1:{port}"
key_file = "{self.dir}/server.key"
cluster = "bench"
cluster_key_file = "{self.dir}/cluster.key"
status = "127.0.0.1:{status}"
clients = "any"
[[service]]
name = "www.bench@localhost"
kind = "http"
to = "127.0.0.1:{self.port}"
""")
        key = subprocess.run([self.bin / "stp-server", "--config", server, "--print-key"], check=True, capture_output=True, text=True).stdout.strip()
        pid_server = self.start("stp-server", self.bin / "stp-server", "--config", server)
        wait_port(port)
        broker = self.write("broker.toml", f"""
status = "127.0.0.1:{free_port()}"
key_file = "{self.dir}/client.key"
[[service]]
name = "www.bench@localhost"
[[service.server]]
address = "127.0.0.1:{port}"
key = "{key}"
[[route]]
to = "127.0.0.1:{self.port}"
service = "www.bench@localhost"
""")
        pid_broker = self.start("stp-broker", self.bin / "stp-broker", "--config", broker, "--socket-dir", self.socket_dir)
        end = time.monotonic() + 10
        while not (self.socket_dir / "broker.sock").exists():
            if time.monotonic() > end:
                sys.exit((self.dir / "stp-broker.log").read_text())
            time.sleep(0.02)
        self.env = dict(os.environ, LD_PRELOAD=str(self.bin / "libsession.so"), SESSION_DIR=str(self.socket_dir))
        return {"stp-server": [pid_server], "stp-broker": [pid_broker]}

    def bulk(self, port, pids, env=None):
        """One download; returns seconds and CPU seconds by process."""
        before = {name: cpu_of(p) for name, p in pids.items()}
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        out = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", f"http://127.0.0.1:{port}/big"],
                             env=env, capture_output=True, text=True)
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if out.returncode or int(float(out.stdout)) != self.gib << 30:
            sys.exit(f"error: curl ended with {out.returncode}: {out.stderr} after {out.stdout} bytes; logs in {self.dir}")
        cpu = {name: cpu_of(p) - before[name] for name, p in pids.items()}
        cpu["curl"] = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        return seconds, cpu

    def shim(self):
        """What the shim costs who has no route: connects, and the start of a program; bare, with an empty library, with it."""
        source = pathlib.Path(__file__).parent.parent / "tests/shim/cost.c"
        cost, empty = self.dir / "cost", self.dir / "empty.so"
        subprocess.run(["cc", "-O2", "-o", cost, source], check=True)
        subprocess.run(["cc", "-shared", "-o", empty, "-x", "c", "/dev/null"], check=True)
        (self.dir / "no-broker").mkdir()
        bare = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SESSION_DIR")}
        ways = {
            "bare": bare,
            "an empty library": dict(bare, LD_PRELOAD=str(empty)),
            "the shim, no broker": dict(bare, LD_PRELOAD=str(self.bin / "libsession.so"), SESSION_DIR=str(self.dir / "no-broker")),
            "the shim, no such route": self.env,
        }
        found = {way: [] for way in ways}
        for _ in range(3):
            for way, env in ways.items():
                numbers = []
                # A destination beside the routed one: nginx listens there as well.
                for arguments in (["127.0.0.2", str(self.port)], ["start"]):
                    out = subprocess.run([cost, *arguments], env=env, capture_output=True, text=True, check=True)
                    numbers += map(float, out.stdout.split())
                found[way].append(numbers)
        return {way: [min(column) for column in zip(*rounds)] for way, rounds in found.items()}

    def small(self, port, count, env=None):
        out = subprocess.run([self.bin / "request-latency", "127.0.0.1", str(port), "/small", str(count)],
                             env=env, capture_output=True, text=True)
        if out.returncode:
            sys.exit(f"error: request-latency: {out.stderr}; logs in {self.dir}")
        return [float(x) for x in out.stdout.split()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="1 GiB, 2 rounds, 500 requests")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.gib, args.requests = 2, 1, 500
    lab = Lab(args.bin, args.gib)
    try:
        run(lab, args)
    finally:
        lab.stop()


def run(lab, args):
    nginx = lab.nginx()
    haproxy_port, haproxy = lab.haproxy()
    stunnel_port, stunnel = lab.stunnel()
    ours = lab.session()
    ways = {
        "direct": (lab.port, nginx, None),
        "session": (lab.port, nginx | ours, lab.env),
        "haproxy (plain, one hop)": (haproxy_port, nginx | haproxy, None),
        "stunnel pair": (stunnel_port, nginx | stunnel, None),
    }
    bulk, cpu, small = ({w: [] for w in ways} for _ in range(3))
    for _ in range(args.rounds):
        for way, (port, pids, env) in ways.items():
            seconds, used = lab.bulk(port, pids, env)
            bulk[way].append(seconds)
            cpu[way].append(used)
        for way, (port, _, env) in ways.items():
            small[way].append(lab.small(port, args.requests, env))

    print(f"\n{os.cpu_count()} cores, {args.gib} GiB from nginx over loopback, medians of {args.rounds} interleaved rounds\n")
    print(f"{'bulk':<26}{'GiB/s':>8}{'ratio':>8}{'CPU s/GiB':>12}   by process")
    for way in ways:
        ratio = statistics.median(d / s for d, s in zip(bulk["direct"], bulk[way]))
        each = {n: statistics.median(c[n] for c in cpu[way]) / args.gib for n in cpu[way][0]}
        print(f"{way:<26}{args.gib / statistics.median(bulk[way]):>8.2f}{ratio:>8.2f}{sum(each.values()):>12.2f}   "
              + ", ".join(f"{n} {v:.2f}" for n, v in each.items()))
    print(f"\n{'1 KiB, new connection':<26}{'p50 µs':>8}{'p99 µs':>8}{'added p50':>12}{'added p99':>12}")
    p50, p99 = ({w: statistics.median(s[i] for s in small[w]) for w in ways} for i in (0, 1))
    for way in ways:
        print(f"{way:<26}{p50[way]:>8.0f}{p99[way]:>8.0f}{p50[way] - p50['direct']:>12.0f}{p99[way] - p99['direct']:>12.0f}")

    cost = lab.shim()
    base, none = cost["bare"], cost["an empty library"]
    print(f"\n{'not routed, the least':<26}{'connect ns':>11}{'added':>8}{'TCP µs':>9}{'added/TCP':>11}{'start µs':>10}{'added to empty':>16}")
    for way, (small_ns, tcp_ns, start_ns) in cost.items():
        added = small_ns - base[0]
        print(f"{way:<26}{small_ns:>11.0f}{added:>8.0f}{tcp_ns / 1e3:>9.1f}{added / base[1]:>11.2%}{start_ns / 1e3:>10.0f}{(start_ns - none[2]) / 1e3:>16.0f}")


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
