"""The ways to nginx that are compared: straight, through sessions, and through other programs."""
import dataclasses, json, os, pathlib, socket, subprocess

from lab import free_port, wait_for, wait_port

SERVICE = "www.bench@localhost"


@dataclasses.dataclass
class Way:
    """A port that leads to nginx, the processes on the way, and what a client must have set."""

    name: str
    port: int
    pids: dict
    env: dict | None = None
    scheme: str = "http"


def nginx(lab, gib):
    root = lab.dir / "www"
    root.mkdir()
    (root / "small").write_bytes(b"x" * 1024)
    with open(root / "big", "wb") as f:
        f.truncate(gib << 30)
    port = free_port()
    temporary = " ".join(
        f"{what}_temp_path {lab.dir}/{what};"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = lab.write(
        "nginx.conf",
        f"""
daemon off; worker_processes 1; pid {lab.dir}/nginx.pid; error_log {lab.dir}/nginx.err;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; {temporary}
  client_header_timeout 600s; keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.2:{port} backlog=4096; root {root};
    location /slow/ {{ alias {root}/; limit_rate 8m; }}
  }}
}}""",
    )
    user = [] if os.getuid() else ["-g", "user root;"]
    pid = lab.start("nginx", "/usr/sbin/nginx", "-c", conf, *user)
    wait_port(port)
    return Way("direct", port, {"nginx": [pid]})


def haproxy_hop(lab, name, to):
    port = free_port()
    conf = lab.write(
        f"{name}.cfg",
        f"""
global
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 600s
    timeout server 600s
listen l
    bind 127.0.0.1:{port} backlog 4096
    server s 127.0.0.1:{to}
""",
    )
    pid = lab.start(name, "/usr/sbin/haproxy", "-db", "-f", conf)
    wait_port(port)
    return port, pid


def haproxy(lab, direct, hops):
    """haproxy once, or twice as a proxy at each end would be."""
    port, pids = direct.port, dict(direct.pids)
    for hop in range(hops):
        name = f"haproxy {hop + 1}"
        port, pid = haproxy_hop(lab, name, port)
        pids[name] = [pid]
    return Way(f"haproxy, {'one hop' if hops == 1 else 'two hops'} (plain)", port, pids)


def relay(lab, direct):
    """Two relays of our own that only copy: about what two processes on the way must cost."""
    program, port, pids = lab.compile("tests/bench/relay.c"), direct.port, dict(direct.pids)
    for hop in (1, 2):
        to, port = port, free_port()
        pids[f"relay {hop}"] = [lab.start(f"relay-{hop}", program, str(port), str(to))]
        wait_port(port)
    return Way("copying relay, two hops (plain)", port, pids)


def certificate(lab):
    """A certificate for the loopback address, and one file with its key as well."""
    key, pem, both = lab.dir / "k.pem", lab.dir / "c.pem", lab.dir / "cert.pem"
    if both.exists():
        return key, pem, both
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=bench",
            "-keyout",
            str(key),
            "-out",
            str(pem),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    both.write_bytes(key.read_bytes() + pem.read_bytes())
    return key, pem, both


def nginx_by_tls(lab, direct):
    """The same files, in TLS."""
    key, pem, _ = certificate(lab)
    port = free_port()
    conf = lab.write(
        "nginx-tls.conf",
        f"""
daemon off; worker_processes 1; pid {lab.dir}/nginx-tls.pid; error_log {lab.dir}/nginx-tls.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000;
  client_body_temp_path {lab.dir}/tls-body; proxy_temp_path {lab.dir}/tls-proxy;
  fastcgi_temp_path {lab.dir}/tls-fastcgi; uwsgi_temp_path {lab.dir}/tls-uwsgi;
  scgi_temp_path {lab.dir}/tls-scgi;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096; root {lab.dir}/www;
    ssl_certificate {pem}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
    ssl_session_tickets off;
  }}
}}""",
    )
    user = [] if os.getuid() else ["-g", "user root;"]
    pid = lab.start("nginx-tls", "/usr/sbin/nginx", "-c", conf, *user)
    wait_port(port)
    return Way("direct", port, {"nginx": [pid]}, scheme="https")


def stunnel_by_tls(lab, direct):
    """The app's TLS ends at a stunnel in front of nginx."""
    port, both = free_port(), certificate(lab)[2]
    conf = lab.write(
        "t.conf",
        f"foreground=yes\npid=\nsslVersion=TLSv1.3\ncert={both}\n"
        f"[t]\naccept=127.0.0.1:{port}\nconnect=127.0.0.1:{direct.port}\n",
    )
    pid = lab.start("stunnel-tls", "stunnel", conf)
    wait_port(port)
    return Way("stunnel, one hop", port, direct.pids | {"stunnel": [pid]}, scheme="https")


def stunnel(lab, direct):
    near, far = free_port(), free_port()
    cert = certificate(lab)[2]
    common = "foreground=yes\npid=\n"
    server = lab.write(
        "s.conf",
        f"{common}cert={cert}\n[s]\naccept=127.0.0.1:{far}\n" f"connect=127.0.0.1:{direct.port}\n",
    )
    client = lab.write(
        "c.conf", f"{common}client=yes\n[c]\naccept=127.0.0.1:{near}\n" f"connect=127.0.0.1:{far}\n"
    )
    pids = {
        "stunnel (far)": [lab.start("stunnel-far", "stunnel", server)],
        "stunnel (near)": [lab.start("stunnel-near", "stunnel", client)],
    }
    wait_port(near), wait_port(far)
    return Way("stunnel pair, two hops", near, direct.pids | pids)


class Session(Way):
    """A broker and one server or more of a build of Session; `env` preloads its shim."""

    def __init__(self, lab, direct, bin_dir, name="session, two hops", servers=1, tls=None):
        self.lab, self.bin, self.target = lab, pathlib.Path(bin_dir), direct.port
        # The service's kind, and where apps believe it is.
        self.kind, self.front = "http", direct.port
        if tls:
            key, pem, _ = certificate(lab)
            self.kind = f'https"\ncertificate = "{pem}"\nkey = "{key}'
            self.front = tls.port
        self.dir = lab.dir / f"session-{free_port()}"
        self.socket_dir = self.dir / "broker"
        self.socket_dir.mkdir(mode=0o700, parents=True)
        self.run("stp-server", "--new-cluster-key", self.dir / "cluster.key")
        self.servers = [self.server(letter) for letter in "abcd"[:servers]]
        self.broker = self.start_broker()
        env = dict(
            os.environ, LD_PRELOAD=str(self.bin / "libsession.so"), SESSION_DIR=str(self.socket_dir)
        )
        pids = {"stp-server": [s["pid"] for s in self.servers], "stp-broker": [self.broker]}
        scheme = "https" if tls else "http"
        super().__init__(name, self.front, direct.pids | pids, env, scheme)

    def run(self, program, *arguments):
        done = subprocess.run(
            [self.bin / program, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def server(self, name):
        port = free_port()
        config = self.dir / f"server-{name}.toml"
        config.write_text(
            f"""
name = "{name}"
listen = "127.0.0.1:{port}"
key_file = "{self.dir}/server-{name}.key"
cluster = "bench"
cluster_key_file = "{self.dir}/cluster.key"
status = "unix:{self.dir}/{name}.sock"
clients = "any"
[[service]]
name = "{SERVICE}"
kind = "{self.kind}"
to = "127.0.0.1:{self.target}"
"""
        )
        key = self.run("stp-server", "--config", config, "--print-key")
        server = {"name": name, "port": port, "key": key, "config": config}
        self.start_server(server)
        return server

    def start_server(self, server):
        log = f"{self.dir.name}-{server['name']}"
        server["pid"] = self.lab.start(log, self.bin / "stp-server", "--config", server["config"])
        wait_port(server["port"])

    def start_broker(self):
        each = "".join(
            f'[[service.server]]\naddress = "127.0.0.1:{s["port"]}"\nkey = "{s["key"]}"\n'
            for s in self.servers
        )
        config = self.dir / "broker.toml"
        config.write_text(
            f"""
status = "off"
key_file = "{self.dir}/client.key"
[[service]]
name = "{SERVICE}"
{each}
[[route]]
to = "127.0.0.1:{self.front}"
service = "{SERVICE}"
"""
        )
        pid = self.lab.start(
            f"{self.dir.name}-broker",
            self.bin / "stp-broker",
            "--config",
            config,
            "--socket-dir",
            self.socket_dir,
        )
        wait_for("the broker is ready", (self.socket_dir / "broker.sock").exists)
        return pid

    def status(self, name=None):
        """What the broker says of itself, or a server of this name."""
        path = self.socket_dir / "status.sock" if name is None else self.dir / f"{name}.sock"
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            text = b"".join(iter(lambda: s.recv(1 << 20), b""))
        return json.loads(text.split(b"\r\n\r\n", 1)[1])
