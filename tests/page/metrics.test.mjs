// What `examples/prometheus` says, against a real Prometheus that scrapes a running broker, server
// and name server: every expression of the dashboard and of the alerts finds what it names.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { World, freePort, until } from "./world.mjs";

const bin = process.env.STP_BIN_DIR ?? new URL("../../target/debug", import.meta.url).pathname;
const examples = new URL("../../examples/prometheus/", import.meta.url).pathname;
let world;
let prometheus;

async function query(expression) {
  const url = `http://127.0.0.1:${prometheus}/api/v1/query?query=${encodeURIComponent(expression)}`;
  const answer = await (await fetch(url)).json();
  assert.equal(answer.status, "success", `${expression}: ${answer.error}`);
  return answer.data.result;
}

async function nameServer() {
  const [port, status] = [await freePort(), await freePort()];
  const config = world.write(
    "sns.toml",
    `listen = "127.0.0.1:${port}"
     key_file = "${world.dir}/sns.key"
     cluster = "page"
     cluster_key_file = "${world.dir}/cluster.key"
     status = "127.0.0.1:${status}"
     admin = "${world.dir}/admin.sock"
     [[domain]]
     name = "example.org"
     creators = []
     users = []
     [store]
     path = "${world.dir}/sns.redb"`,
  );
  world.launch("sns", path.join(bin, "stp-sns"), ["--config", config]);
  await world.listening(status);
  return status;
}

before(async () => {
  world = await World.start(bin);
  const sns = await nameServer();
  prometheus = await freePort();
  const jobs = {
    "session-broker": [world.status],
    "session-server": world.servers.map((one) => one.status),
    "session-sns": [sns],
  };
  const scraped = Object.entries(jobs).map(([job_name, ports]) => ({
    job_name,
    static_configs: [{ targets: ports.map((port) => `127.0.0.1:${port}`) }],
  }));
  // JSON is YAML as well.
  const settings = {
    global: { scrape_interval: "1s", evaluation_interval: "1s" },
    rule_files: [path.join(examples, "alerts.yml")],
    scrape_configs: scraped,
  };
  const config = world.write("prometheus.yml", JSON.stringify(settings));
  world.launch("prometheus", "prometheus", [
    `--config.file=${config}`,
    `--storage.tsdb.path=${world.dir}/tsdb`,
    `--web.listen-address=127.0.0.1:${prometheus}`,
  ]);
  await world.listening(prometheus);
  world.download();
  await until("all are scraped", async () => (await query("up == 1")).length === 4, 30000);
  await until("a session", async () => (await query("session_broker_sessions == 1")).length === 1);
});

after(() => world?.stop());

test("promtool finds no mistake in the examples", () => {
  execFileSync("promtool", ["check", "config", path.join(examples, "prometheus.yml")]);
});

test("every panel of the dashboard shows something", async () => {
  const dashboard = JSON.parse(fs.readFileSync(path.join(examples, "grafana-dashboard.json")));
  const all = dashboard.panels.flatMap((panel) => panel.targets.map((target) => target.expr));
  assert.ok(all.length > 15);
  for (const expression of all) {
    // With the window of the test's few seconds. Refusals and requests by kind may be none yet.
    const now = expression.replaceAll("[5m]", "[10s]");
    const few = /sum by|_refused_/.test(expression);
    const found = () => query(now).then((result) => few || result.length > 0);
    await until(`${expression} finds something`, found);
  }
});

test("no alert is up, and the one of a server's death comes up", async () => {
  const rules = async () => {
    const answer = await fetch(`http://127.0.0.1:${prometheus}/api/v1/rules`);
    return (await answer.json()).data.groups.flatMap((group) => group.rules);
  };
  const all = await rules();
  assert.equal(all.length, 5);
  await until("all are evaluated", async () => (await rules()).every((one) => one.health === "ok"));
  assert.deepEqual(
    (await rules()).filter((rule) => rule.state !== "inactive"),
    [],
  );
  const server = world.processes.find((child) => child.spawnargs.join(" ").includes("graz.toml"));
  server.kill("SIGKILL");
  const state = (name) => async () =>
    (await rules()).find((rule) => rule.name === name).state === "pending";
  await until("the alert is pending", state("SessionServerDown"), 20000);
});
