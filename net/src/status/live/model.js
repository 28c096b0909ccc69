// What is known of the daemon: its last status, and every session with what was heard of it since.

const EVENTS_MAX = 64;
const SAMPLES_MAX = 64;
const LOG_MAX = 120;
const ENDED_MAX = 200;
const WINDOW_MS = 60000;

const model = {
  kind: null, // "broker", "server" or "sns"
  status: {},
  sessions: new Map(),
  ended: [],
  log: [],
  totals: [], // the sum of all rates, once a second
  clock: null, // the daemon's clock less ours, milliseconds
  early: new Map(), // what happened to sessions that no status has named yet
  servers: [], // the names met so far; the place is the colour
};

function serverColour(name) {
  if (!name) return "var(--off)";
  let place = model.servers.indexOf(name);
  if (place < 0) place = model.servers.push(name) - 1;
  return `var(--s${place % 6})`;
}

// A status, whole or brief: a brief one has no events, samples and ended sessions.
function takeStatus(status, now) {
  const whole = status.ended !== undefined;
  model.kind = ["broker", "server", "sns"].find((kind) => status[kind]) ?? null;
  model.status = whole ? status : { ...model.status, ...status };
  for (const service of status.services ?? []) {
    for (const server of service.servers ?? []) serverColour(server.name);
  }
  if (status.sessions) {
    const there = new Set();
    for (const told of status.sessions) {
      const id = String(told.id);
      there.add(id);
      const age = told.age_ms ?? (told.age_s ?? 0) * 1000;
      const known = model.sessions.get(id);
      const session = known ?? { id, events: [], series: [], started: now - age, seen: now };
      const { events, series, ...rest } = told;
      Object.assign(session, rest, { id });
      session.started = Math.min(session.started, now - age);
      if (events) session.events = events.slice(-EVENTS_MAX);
      else if (!known) session.events = model.early.get(id) ?? [];
      model.early.delete(id);
      if (series) session.series = series.slice(-SAMPLES_MAX);
      session.mood = moodOf(session);
      model.sessions.set(id, session);
    }
    for (const id of [...model.sessions.keys()]) if (!there.has(id)) model.sessions.delete(id);
  }
  if (whole) model.ended = [...status.ended].reverse().slice(0, ENDED_MAX);
  if (model.clock === null) {
    const last = Math.max(
      ...[...model.sessions.values()].flatMap((s) => s.series.slice(-1).map((m) => m.at_ms)),
    );
    if (Number.isFinite(last)) model.clock = last - now;
  }
}

function moodOf(session) {
  for (let k = session.events.length - 1; k >= 0; k -= 1) {
    const mood = MOODS[session.events[k].what];
    if (mood) return mood;
  }
  return session.state === "active" && session.link ? "up" : "wait";
}

// A moment of a session's path. False: the session is not known yet.
function takeSample(sample, now) {
  const session = model.sessions.get(String(sample.session));
  model.clock = sample.at_ms - now;
  if (!session) return false;
  session.series.push(sample);
  if (session.series.length > SAMPLES_MAX) session.series.shift();
  session.rtt_ms = sample.rtt_ms;
  return true;
}

// Something that happened. False: the session is not known yet.
function takeHappening(event, now) {
  const session = model.sessions.get(String(event.session));
  addToLog({
    ...event,
    id: String(event.session),
    app: session?.app?.comm ?? "",
    destination: session?.destination ?? "",
    when: now,
  });
  if (!session) {
    const id = String(event.session);
    model.early.set(id, [...(model.early.get(id) ?? []), event]);
    if (model.early.size > 256) model.early.delete(model.early.keys().next().value);
    return false;
  }
  session.events.push(event);
  if (session.events.length > EVENTS_MAX) session.events.shift();
  session.mood = moodOf(session);
  if (MOODS[event.what] === "up" && event.to_server) session.server = event.to_server;
  if (session.mood !== "up") {
    session.rate_in = 0;
    session.rate_out = 0;
  }
  return true;
}

function takeEnded(event, now) {
  const id = String(event.session);
  const session = model.sessions.get(id);
  addToLog({
    what: "ended",
    cause: event.reason,
    id,
    app: event.app ?? "",
    destination: event.destination ?? "",
    when: now,
  });
  if (!session) return;
  model.sessions.delete(id);
  model.ended.unshift({ ...session, reason: event.reason, lasted_ms: now - session.started });
  model.ended.length = Math.min(model.ended.length, ENDED_MAX);
}

function addToLog(entry) {
  // The same decision of the same session again is told once, with how often.
  const same = STAYS.has(entry.what) && model.log.find((old) => old.id === entry.id);
  if (same && STAYS.has(same.what)) {
    const asked = (same.asked ?? 1) + (entry.what === "stays" ? 0 : 1);
    Object.assign(same, entry, { asked, times: asked, changed: true });
    return;
  }
  model.log.unshift({ ...entry, key: (addToLog.next = (addToLog.next ?? 0) + 1) });
  model.log.length = Math.min(model.log.length, LOG_MAX);
}

// The rate of a session now: what its last sample said, unless that is old.
function rateNow(session, now) {
  if (session.mood !== "up") return 0;
  const last = session.series[session.series.length - 1];
  if (last && model.clock !== null && now + model.clock - last.at_ms < 3500) return last.rate;
  return (session.rate_in ?? 0) + (session.rate_out ?? 0);
}

function matches(session, words) {
  if (words.length === 0) return true;
  const text = [
    session.id,
    session.app?.comm,
    session.app?.pid,
    session.destination,
    session.service,
    session.server,
    session.via,
    session.state,
    session.client,
    session.reason,
    session.endpoint,
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}
