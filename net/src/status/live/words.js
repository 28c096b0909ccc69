// Numbers and happenings in words. Pure: no page, no clock.

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let value = Number(n) || 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

const rate = (n) => `${bytes(n)}/s`;

function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

const roundTrip = (ms) =>
  typeof ms === "number" ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : "–";

const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// What an event makes of the session: "up", "gap", "off", or nothing.
const MOODS = {
  connected: "up",
  resumed: "up",
  transferred: "up",
  moved: "up",
  attached: "up",
  lost: "gap",
  suspended: "off",
  "gave up": "gap",
};
const STAYS = new Set(["stays", "asked to leave", "asks to be left"]);

function colour(event) {
  if (MOODS[event.what] === "gap") return "gap";
  if (MOODS[event.what] === "up" && event.gap_ms !== undefined) return "good";
  return STAYS.has(event.what) ? "warn" : "";
}

const route = (event) =>
  `from ${event.from_server ?? "a server"} to ${event.to_server ?? "another"}`;

// One event as a sentence.
function sentence(event) {
  const cause = event.cause ? `: ${event.cause}` : "";
  const pause = event.gap_ms > 0 ? ` after ${duration(event.gap_ms)}` : "";
  const times = event.times > 1 ? ` ${event.times} times` : "";
  switch (event.what) {
    case "connected":
      return `connected to ${event.to_server ?? "a server"}${cause.replace(":", ",")}`;
    case "lost":
      return `lost${cause}`;
    case "resumed":
      return `back at ${event.to_server ?? "its server"}${pause}${cause}`;
    case "transferred":
      return `went ${route(event)}${pause}${cause}`;
    case "attached":
      return `linked${pause}${cause}`;
    case "asked to leave":
      return `asked to leave${times}${cause}`;
    case "asks to be left":
      return `asked its client to leave${times}${cause}`;
    case "stays":
      return `stays${times ? `, asked${times}` : ""}${cause}`;
    default:
      return `${event.what}${cause}`;
  }
}

// Events with each run of "asked to leave" and "stays" folded into the last decision.
function folded(events) {
  const out = [];
  for (const event of events) {
    const last = out[out.length - 1];
    if (last && STAYS.has(event.what) && STAYS.has(last.what)) {
      const asked = (last.asked ?? 0) + (event.what === "stays" ? 0 : 1);
      out[out.length - 1] = {
        ...event,
        what: event.what === "stays" ? "stays" : last.what,
        asked,
        times: Math.max(asked, 1),
        since_ms: last.since_ms ?? last.at_ms,
      };
    } else {
      out.push(STAYS.has(event.what) && event.what !== "stays" ? { ...event, asked: 1 } : event);
    }
  }
  return out;
}

// The pieces of a session's life from its events: `[{from, to, mood, server}]`, milliseconds.
function pieces(events, now) {
  const out = [];
  let at = 0;
  let mood = "wait";
  let server = null;
  const upTo = (to) => {
    if (to > at) out.push({ from: at, to, mood, server });
    at = Math.max(at, to);
  };
  for (const event of events) {
    const next = MOODS[event.what];
    if (!next) continue;
    if (
      out.length === 0 &&
      mood === "wait" &&
      event.what !== "connected" &&
      next !== "off" &&
      event.from_server
    ) {
      mood = "up"; // The beginning of a long history is not kept.
      server = event.from_server;
    }
    if (next === "up" && event.gap_ms > 0 && mood !== "off") {
      // A link that fell silent was dead before it was given up.
      const began = Math.max(0, event.at_ms - event.gap_ms);
      while (out.length && out[out.length - 1].mood === "up" && out[out.length - 1].to > began) {
        const piece = out.pop();
        if (piece.from < began) out.push({ ...piece, to: began });
        at = Math.min(at, Math.max(piece.from, began));
      }
      if (at < began) upTo(began);
      mood = "gap";
    }
    upTo(event.at_ms);
    mood = next;
    if (next === "up") server = event.to_server ?? server;
  }
  upTo(now);
  return out;
}

// The pauses among events: how many, and the longest.
function pauses(events) {
  const gaps = events.filter((e) => e.gap_ms > 0 && MOODS[e.what] === "up").map((e) => e.gap_ms);
  return { count: gaps.length, longest: gaps.length ? Math.max(...gaps) : 0 };
}
