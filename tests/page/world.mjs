// A broker, two servers and nginx on loopback; each server behind a path that the test can cut.
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";

const SERVICE = "www.mirror@example.org";

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(what, true_, ms = 15000) {
  const end = Date.now() + ms;
  while (Date.now() < end) {
    const found = await true_();
    if (found) return found;
    await sleep(20);
  }
  throw new Error(`not after ${ms} ms: ${what}`);
}

export function freePort() {
  return new Promise((done) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

// A way to a port that can be cut: what goes over it is reset, and what comes is refused, until it
// is mended.
class Path {
  static async to(port) {
    const self = new Path();
    self.sockets = new Set();
    self.whole = true;
    self.server = net.createServer({ allowHalfOpen: true }, (near) => {
      if (!self.whole) return near.resetAndDestroy();
      const far = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      for (const [a, b] of [
        [near, far],
        [far, near],
      ]) {
        self.sockets.add(a);
        a.setNoDelay(true);
        a.on("error", () => b.destroy());
        a.on("close", () => {
          self.sockets.delete(a);
          b.destroy();
        });
        a.pipe(b);
      }
    });
    await new Promise((done) => self.server.listen(0, "127.0.0.1", done));
    self.port = self.server.address().port;
    return self;
  }

  cut() {
    this.whole = false;
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  mend() {
    this.whole = true;
  }
}

export class World {
  static async start(bin) {
    const world = new World();
    world.bin = bin;
    world.dir = fs.mkdtempSync(path.join(os.tmpdir(), "session-page-"));
    fs.chmodSync(world.dir, 0o755);
    world.processes = [];
    world.sockets = path.join(world.dir, "s");
    fs.mkdirSync(world.sockets, { mode: 0o700 });
    await world.nginx();
    world.run("stp-server", "--new-cluster-key", path.join(world.dir, "cluster.key"));
    world.servers = [await world.server("vienna"), await world.server("graz")];
    await world.broker();
    return world;
  }

  run(program, ...args) {
    return execFileSync(path.join(this.bin, program), args, { encoding: "utf8" }).trim();
  }

  launch(name, program, args, env = {}) {
    const log = fs.openSync(path.join(this.dir, `${name}.log`), "a");
    const child = spawn(program, args, {
      stdio: ["ignore", log, log],
      // What is killed here is to stay dead.
      env: { ...process.env, SESSION_NO_KEEPER: "1", ...env },
    });
    fs.closeSync(log);
    this.processes.push(child);
    return child;
  }

  write(name, text) {
    const file = path.join(this.dir, name);
    fs.writeFileSync(file, text);
    return file;
  }

  async listening(port) {
    await until(
      `port ${port} listens`,
      () =>
        new Promise((done) => {
          const socket = net.connect(port, "127.0.0.1");
          socket.on("connect", () => {
            socket.destroy();
            done(true);
          });
          socket.on("error", () => done(false));
        }),
    );
  }

  async nginx() {
    const root = path.join(this.dir, "www");
    fs.mkdirSync(root);
    fs.writeFileSync(path.join(root, "big.iso"), "");
    fs.truncateSync(path.join(root, "big.iso"), 1 << 30);
    this.web = await freePort();
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((what) => `${what}_temp_path ${this.dir}/${what};`)
      .join(" ");
    const conf = this.write(
      "nginx.conf",
      `
      daemon off; worker_processes 1; pid ${this.dir}/nginx.pid; error_log ${this.dir}/nginx.err;
      ${process.getuid() === 0 ? "user root;" : ""}
      events { worker_connections 2048; }
      http { access_log off; ${temporary}
        server { listen 127.0.0.1:${this.web}; root ${root};
          location /trickle/ { alias ${root}/; limit_rate 40k; } } }`,
    );
    this.launch("nginx", "/usr/sbin/nginx", ["-c", conf]);
    await this.listening(this.web);
  }

  async server(name) {
    const port = await freePort();
    const status = await freePort();
    const config = this.write(
      `${name}.toml`,
      `
      name = "${name}"
      listen = "127.0.0.1:${port}"
      key_file = "${this.dir}/${name}.key"
      cluster = "page"
      cluster_key_file = "${this.dir}/cluster.key"
      status = "127.0.0.1:${status}"
      clients = "any"
      [[service]]
      name = "${SERVICE}"
      kind = "http"
      to = "127.0.0.1:${this.web}"`,
    );
    const key = this.run("stp-server", "--config", config, "--print-key");
    this.launch(name, path.join(this.bin, "stp-server"), ["--config", config]);
    await this.listening(port);
    return { name, key, status, path: await Path.to(port) };
  }

  async broker() {
    this.status = await freePort();
    const servers = this.servers.map(
      ({ name, key, path: way }) =>
        `[[service.server]]\naddress = "127.0.0.1:${way.port}"\nkey = "${key}"\nname = "${name}"\n`,
    );
    const config = this.write(
      "broker.toml",
      `
      status = "127.0.0.1:${this.status}"
      key_file = "${this.dir}/client.key"
      [[service]]\nname = "${SERVICE}"\n${servers.join("")}
      [[route]]\nto = ["mirror.example.org:${this.web}", "127.0.0.1:${this.web}"]
      service = "${SERVICE}"`,
    );
    const program = path.join(this.bin, "stp-broker");
    this.launch("broker", program, ["--config", config, "--socket-dir", this.sockets]);
    await this.listening(this.status);
    this.token = fs.readFileSync(path.join(this.sockets, "token"), "utf8").trim();
  }

  get env() {
    return { LD_PRELOAD: path.join(this.bin, "libsession.so"), SESSION_DIR: this.sockets };
  }

  // A real download; it goes on until it is stopped.
  download(host = "mirror.example.org") {
    const url = `http://${host}:${this.web}/big.iso`;
    return this.launch(
      "curl",
      "curl",
      ["-sS", "--limit-rate", "4M", "-o", "/dev/null", url],
      this.env,
    );
  }

  // One program with many downloads, each a trickle.
  crowd(count) {
    const script = `
import socket, select
def one():
    s = socket.create_connection(("127.0.0.1", ${this.web}))
    s.sendall(b"GET /trickle/big.iso HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    return s
all = [one() for _ in range(${count})]
while True:
    for s in select.select(all, [], [])[0]: s.recv(65536)
`;
    return this.launch("crowd", "python3", ["-c", script], this.env);
  }

  async sessions() {
    return (await this.ask("/status?brief")).sessions;
  }

  async ask(what) {
    return (await fetch(`http://127.0.0.1:${this.status}${what}`)).json();
  }

  logs() {
    for (const file of fs.readdirSync(this.dir).filter((name) => name.endsWith(".log"))) {
      const lines = fs.readFileSync(path.join(this.dir, file), "utf8").trim().split("\n");
      console.error(`--- ${file}\n${lines.slice(-8).join("\n")}`);
    }
  }

  async stop() {
    for (const child of this.processes.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((done) => child.on("exit", done));
      child.kill("SIGTERM");
      if (!(await Promise.race([gone.then(() => true), sleep(4000)]))) child.kill("SIGKILL");
    }
    for (const { path: way } of this.servers ?? []) {
      way.cut();
      way.server.close();
    }
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}
