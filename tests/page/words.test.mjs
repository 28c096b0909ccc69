// The page's words and its reading of events, without a browser: the very files that are shipped.
import assert from "node:assert/strict";
import fs from "node:fs";
import test from "node:test";
import vm from "node:vm";

const live = new URL("../../net/src/status/live/", import.meta.url);
const context = vm.createContext({});
for (const part of ["words.js", "model.js"]) {
  vm.runInContext(fs.readFileSync(new URL(part, live), "utf8"), context, { filename: part });
}
// What a file declares at its top is not a property of the context, so it is asked for by name.
const shipped = (name) => vm.runInContext(name, context);
// Objects of another context have other prototypes; only what they hold is compared.
const plain = (value) => JSON.parse(JSON.stringify(value));

test("numbers are short", () => {
  const [bytes, duration] = [shipped("bytes"), shipped("duration")];
  assert.equal(bytes(999), "999 B");
  assert.equal(bytes(1536), "1.5 KiB");
  assert.equal(bytes(5 * 2 ** 30), "5.0 GiB");
  assert.equal(duration(180), "180 ms");
  assert.equal(duration(4800), "4.8 s");
  assert.equal(duration(7300000), "2 h");
  assert.equal(duration(undefined), "–");
});

test("repeated decisions to stay are one line", () => {
  const asked = (at_ms) => ({ at_ms, what: "asked to leave", cause: "RTT 80 ms" });
  const stays = (at_ms) => ({ at_ms, what: "stays", cause: "no better server" });
  const events = [
    { at_ms: 0, what: "connected", to_server: "a" },
    asked(5),
    stays(6),
    asked(9),
    stays(10),
  ];
  const folded = plain(shipped("folded")(events));
  assert.equal(folded.length, 2);
  assert.equal(folded[1].times, 2);
  assert.equal(shipped("sentence")(folded[1]), "stays, asked 2 times: no better server");
});

test("a pause begins when the link fell silent, not when that was noticed", () => {
  const events = [
    { at_ms: 0, what: "connected", to_server: "a" },
    { at_ms: 8000, what: "lost", cause: "link silent" },
    { at_ms: 8200, what: "transferred", gap_ms: 3200, from_server: "a", to_server: "b" },
  ];
  assert.deepEqual(plain(shipped("pieces")(events, 10000)), [
    { from: 0, to: 5000, mood: "up", server: "a" },
    { from: 5000, to: 8200, mood: "gap", server: "a" },
    { from: 8200, to: 10000, mood: "up", server: "b" },
  ]);
});

test("what happens before a status names the session is not lost", () => {
  const happening = { session: 7, at_ms: 3, what: "connected", to_server: "a", at_byte: 0 };
  assert.equal(shipped("takeHappening")(happening, 1000), false);
  shipped("takeStatus")({ broker: {}, sessions: [{ id: 7, age_ms: 50 }] }, 1050);
  const session = shipped("model").sessions.get("7");
  assert.equal(session.mood, "up");
  assert.equal(session.events.length, 1);
});
