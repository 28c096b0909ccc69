// node:http with a kept connection, then fetch: URL FILE
import { createWriteStream } from "node:fs";
import http from "node:http";
import { pipeline } from "node:stream/promises";

const [url, path] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (method, headers) =>
  new Promise((resolve, reject) =>
    http.request(url, { agent, method, headers }, resolve).on("error", reject).end());

const head = await ask("HEAD", {});
const length = Number(head.headers["content-length"]);
head.resume();
const half = Math.floor(length / 2);
const file = createWriteStream(path);
await pipeline(await ask("GET", { Range: `bytes=0-${half - 1}` }), file, { end: false });
const rest = await fetch(url, { headers: { Range: `bytes=${half}-` } });
await pipeline(rest.body, file);
agent.destroy();
