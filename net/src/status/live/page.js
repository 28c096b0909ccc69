// The page: hears `/events`, asks `/status`, draws at most four times a second.

const byId = (id) => document.getElementById(id);
const rows = new Map();
const DRAW_MS = 250;
const BRIEF_MS = 2000;
const WHOLE_MS = 60000;

let words = [];
let source = null;
let heard = 0;
let wholeAt = 0;
let scheduled = false;
let drawnAt = 0;

// --- what comes in

function listen() {
  source?.close();
  source = new EventSource("/events");
  const json = (take) => (event) => {
    heard = Date.now();
    take(JSON.parse(event.data), heard);
    schedule();
  };
  source.addEventListener(
    "status",
    json((status, now) => {
      wholeAt = now;
      takeStatus(status, now);
      live(true);
    }),
  );
  source.addEventListener(
    "sample",
    json((sample, now) => {
      if (!takeSample(sample, now)) askSoon();
    }),
  );
  source.addEventListener(
    "happening",
    json((event, now) => {
      takeHappening(event, now);
      askSoon();
    }),
  );
  source.addEventListener(
    "ended",
    json((event, now) => {
      takeEnded(event, now);
    }),
  );
  source.addEventListener("missed", () => ask(true));
  source.onopen = () => live(true);
  source.onerror = () => {
    live(false);
    // A name server has no events; and a browser gives up on an answer that is not a stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}

function live(on) {
  const lamp = byId("live");
  const polled = !on && Date.now() - heard < 2 * BRIEF_MS;
  attribute(lamp, "class", `live ${on || polled ? "on" : "lost"}`);
  text(lamp, on ? "live" : polled ? "every 2 s" : "no answer");
}

let asking = null;
function askSoon() {
  asking ??= setTimeout(() => {
    asking = null;
    ask(false);
  }, 150);
}

async function ask(whole) {
  try {
    const answer = await fetch(whole ? "/status" : "/status?brief", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const status = await answer.json();
    const now = Date.now();
    heard = now;
    const before = model.sessions.size;
    if (status.ended !== undefined) wholeAt = now;
    takeStatus(status, now);
    // Only a broker tells of ends; from others they are fetched when a session is missed.
    if (!whole && model.kind !== "broker" && model.sessions.size < before && now - wholeAt > 3000)
      ask(true);
    schedule();
  } catch {
    live(false);
  }
}

// --- what goes out

let token = null;
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    // Out of the address line, and of what the browser remembers.
    history.replaceState(null, "", location.pathname);
    keepToken(given);
  } else {
    token = sessionStorage.getItem("token");
  }
  lock();
}
function keepToken(given) {
  token = given;
  if (given) sessionStorage.setItem("token", given);
  else sessionStorage.removeItem("token");
  lock();
}
function lock() {
  text(byId("unlock"), token ? "Lock buttons" : "Unlock buttons");
}

async function unlock() {
  const dialog = byId("ask");
  byId("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("token").focus();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  const given = byId("token").value.trim();
  byId("token").value = "";
  if (dialog.returnValue === "ok" && given) keepToken(given);
  return token !== null;
}

async function sure(title, what, button) {
  const dialog = byId("sure");
  text(byId("sure-title"), title);
  text(byId("sure-text"), what);
  text(byId("sure-ok"), button);
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue === "ok";
}

async function act(id, what, server) {
  const session = model.sessions.get(id);
  const name = session
    ? `${session.app?.comm ?? session.service} (session ${id})`
    : `session ${id}`;
  if (!token && !(await unlock())) return;
  if (
    what === "close" &&
    !(await sure(
      "Close this session?",
      `${name} gets an error. This cannot be undone.`,
      "Close it",
    ))
  )
    return;
  if (
    what === "drain" &&
    !(await sure(
      "Drain this server?",
      "It refuses new sessions, asks every session to go to another server, and then ends.",
      "Drain",
    ))
  )
    return;
  const path = what === "drain" ? "/drain" : `/sessions/${encodeURIComponent(id)}/${what}`;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(server ? { server } : {}),
    });
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) say(`${name}: ${what}${server ? ` to ${server}` : ""}`);
    else say(`${name}: ${told.error ?? answer.statusText}`);
    if (answer.status === 401) keepToken(null);
  } catch {
    say("the daemon does not answer");
  }
  askSoon();
}

let saying = null;
function say(what) {
  text(byId("said"), what);
  clearTimeout(saying);
  saying = setTimeout(() => text(byId("said"), ""), 5000);
}

// --- what is shown

function schedule() {
  if (scheduled) return;
  scheduled = true;
  const wait = Math.max(0, drawnAt + DRAW_MS - Date.now());
  setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw() {
  scheduled = false;
  const now = (drawnAt = Date.now());
  drawHead(now);
  drawTiles(now);
  drawRows(now);
  drawLog();
  drawEnded();
  drawMore();
  const map = byId("map");
  map.hidden = !(model.kind === "broker" || model.kind === "server");
  if (!map.hidden) drawPicture(byId("picture"), now);
}

function drawHead() {
  const { status, kind } = model;
  const head = status[kind] ?? {};
  const titles = {
    broker: "Session",
    server: `STP server ${head.name ?? ""}`,
    sns: `Name server ${head.name ?? ""}`,
  };
  const title = titles[kind] ?? "Session";
  text(byId("title"), title);
  const without = [...model.sessions.values()].filter((s) => s.mood === "gap").length;
  const mark = without ? `(${without} without a link) ` : "";
  if (document.title !== mark + title) document.title = mark + title;
  const about = [
    `${kind ?? ""} ${head.version ?? ""}`,
    `process ${head.pid ?? "?"}`,
    `up ${duration((head.uptime_s ?? 0) * 1000)}`,
  ];
  if (head.cluster) about.push(`cluster ${head.cluster}`);
  if (head.draining) about.push("draining");
  if (status.gateway?.address) about.push(`gateway ${status.gateway.address}`);
  text(byId("about"), about.join(" · "));
}

function tile(name, value, mood) {
  return { name, value, mood };
}

function tilesOf(now) {
  const { counters = {}, sizes = {} } = model.status;
  const all = [...model.sessions.values()];
  if (model.kind === "sns") {
    const sum = (map) => Object.values(map ?? {}).reduce((a, b) => a + b, 0);
    return [
      ...["endpoints", "services", "servers_there", "users", "files", "links"].map((name) =>
        tile(name.replace("_there", " there"), String(sizes[name] ?? 0)),
      ),
      tile("requests", String(sum(model.status.asked))),
      tile("refused", String(sum(model.status.refused))),
      tile(
        "store",
        model.status.sns?.store_works ? "works" : "does not work",
        model.status.sns?.store_works ? "" : "bad",
      ),
    ];
  }
  const gaps = all
    .map((s) => pauses(s.events).longest)
    .concat(model.ended.map((s) => pauses(s.events ?? []).longest));
  const longest = Math.max(0, ...gaps);
  const without = all.filter((s) => s.mood === "gap").length;
  const shared = [
    tile("sessions now", String(all.length)),
    tile("without a link", String(without), without ? "bad" : ""),
    tile("both ways", rate(all.reduce((sum, s) => sum + rateNow(s, now), 0)), "rate"),
  ];
  if (model.kind === "server") {
    return [
      ...shared,
      tile("opened", String(counters.sessions_opened ?? 0)),
      tile("taken over", String(counters.sessions_transferred ?? 0)),
      tile("resumed", String(counters.sessions_resumed ?? 0)),
      tile("refused", String(Object.values(model.status.refused ?? {}).reduce((a, b) => a + b, 0))),
    ];
  }
  return [
    ...shared,
    tile("resumed", String(counters.resumed ?? 0)),
    tile("moved", String(counters.transferred ?? 0)),
    tile("longest pause", longest ? duration(longest) : "none"),
    tile("opened so far", String(counters.sessions_opened ?? 0)),
  ];
}

const totalSpark = spark();
function drawTiles(now) {
  const box = byId("tiles");
  const second = Math.floor(now / 1000);
  if (model.totals.at(-1)?.[0] !== second) {
    model.totals.push([
      second,
      [...model.sessions.values()].reduce((sum, s) => sum + rateNow(s, now), 0),
    ]);
    if (model.totals.length > 62) model.totals.shift();
  }
  tilesOf(now).forEach(({ name, value, mood }, k) => {
    let one = box.children[k];
    if (!one) {
      one = el("div", { class: "tile" }, el("b"), el("span"));
      box.append(one);
    }
    attribute(one, "class", `tile ${mood ?? ""}`);
    text(one.children[0], value);
    text(one.children[1], name);
    if (mood === "rate" && !one.contains(totalSpark.node)) one.append(totalSpark.node);
  });
  drawSpark(
    totalSpark,
    model.totals.map(([at, sum]) => [now - at * 1000, sum]),
    true,
  );
}

function drawRows(now) {
  byId("sessions").hidden = model.kind === "sns" || model.kind === null;
  const box = byId("rows");
  const wanted = [...model.sessions.values()]
    .filter((session) => matches(session, words))
    .sort(
      (a, b) =>
        b.started - a.started || String(b.id).localeCompare(String(a.id), "en", { numeric: true }),
    );
  const shown = new Set(wanted.map((session) => session.id));
  for (const [id, row] of rows) {
    if (shown.has(id)) continue;
    Row.watch.unobserve(row.node);
    row.node.remove();
    rows.delete(id);
  }
  wanted.forEach((session, k) => {
    let row = rows.get(session.id);
    if (!row) {
      row = new Row(session);
      rows.set(session.id, row);
    }
    if (box.children[k] !== row.node) box.insertBefore(row.node, box.children[k] ?? null);
    if (row.visible) row.draw(session, now);
  });
  text(
    byId("shown"),
    words.length ? `${wanted.length} of ${model.sessions.size}` : String(model.sessions.size),
  );
  const none = byId("none");
  none.hidden = wanted.length > 0;
  text(
    none,
    words.length
      ? "No session matches."
      : model.kind === "server"
        ? "No session now."
        : "No session now. Start one: session run -- curl -O URL",
  );
}

const logged = new Map();
function drawLog() {
  byId("log-panel").hidden = model.kind === "sns" || model.kind === null;
  const box = byId("log");
  if (model.log.length === 0 && !box.children.length)
    box.append(el("li", { class: "muted" }, "Nothing has happened since this page was opened."));
  for (const entry of [...model.log].reverse()) {
    let item = logged.get(entry.key);
    if (!item) {
      if (logged.size === 0) box.replaceChildren();
      item = el("li", { class: entry.what === "ended" ? "" : colour(entry) });
      logged.set(entry.key, item);
      box.prepend(item);
      entry.changed = true;
    }
    if (!entry.changed) continue;
    entry.changed = false;
    const when = new Date(entry.when);
    const who = `${entry.app ? `${entry.app} ` : ""}#${entry.id}`;
    item.replaceChildren(
      el("time", { datetime: when.toISOString() }, clock(when)),
      el("b", {}, who),
      ` ${sentence(entry)}`,
    );
  }
  const kept = new Set(model.log.map((entry) => entry.key));
  for (const [key, item] of logged)
    if (!kept.has(key)) {
      item.remove();
      logged.delete(key);
    }
}

let endedKey = "";
function drawEnded() {
  const panel = byId("history");
  panel.hidden = model.kind === "sns" || model.ended.length === 0;
  if (panel.hidden) return;
  const wanted = model.ended.filter((session) => matches(session, words)).slice(0, 100);
  const newest = model.ended[0];
  const key = [words, wanted.length, model.ended.length, newest.id, newest.reason].join(" ");
  if (key === endedKey) return;
  endedKey = key;
  text(
    byId("history-shown"),
    words.length ? `${wanted.length} of ${model.ended.length}` : `the last ${wanted.length}`,
  );
  const broker = model.kind === "broker";
  const heads = broker
    ? ["#", "app", "destination", "server", "lasted", "to the app", "from the app", "pauses", "how"]
    : ["#", "service", "client", "lasted", "how"];
  const numbers = new Set(["lasted", "to the app", "from the app"]);
  const cells = (session) => {
    const { count, longest } = pauses(session.events ?? []);
    const lasted = duration(session.lasted_ms ?? (session.lived_s ?? 0) * 1000);
    return broker
      ? [
          session.id ?? "–",
          session.app?.comm ?? "",
          session.destination ?? "",
          session.server ?? "–",
          lasted,
          bytes(session.positions?.dlv),
          bytes(session.positions?.end),
          count ? `${count}, longest ${duration(longest)}` : "none",
          session.reason ?? "",
        ]
      : [session.id, session.service, session.client ?? "", lasted, session.reason ?? ""];
  };
  const head = el(
    "tr",
    {},
    ...heads.map((name) => el("th", { scope: "col", class: numbers.has(name) ? "num" : "" }, name)),
  );
  const body = wanted.map((session) =>
    el(
      "tr",
      {},
      ...cells(session).map((cell, k) =>
        el("td", { class: numbers.has(heads[k]) ? "num" : "" }, String(cell)),
      ),
    ),
  );
  byId("ended").replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
}

// Plain tables: what a server or name server has beside sessions.
let moreKey = "";
function drawMore() {
  const { status, kind } = model;
  const tables = [];
  const counts = (map) =>
    Object.entries(map ?? {}).map(([name, count]) => [name.replaceAll("_", " "), String(count)]);
  if (kind === "sns") {
    tables.push([
      "Servers that are there",
      ["name", "addresses", "services"],
      (status.servers ?? []).map((s) => [
        s.server,
        (s.addresses ?? []).join(" "),
        (s.services ?? []).join(" "),
      ]),
    ]);
    tables.push(["Requests", ["kind", "times"], counts(status.asked)]);
  }
  if (Object.keys(status.refused ?? {}).length)
    tables.push(["Refused", ["why", "times"], counts(status.refused)]);
  if (kind === "broker" && status.routes?.length)
    tables.push([
      "Routes",
      ["destination", "service"],
      status.routes.map((route) => [route.to, route.service]),
    ]);
  const key = JSON.stringify(tables) + kind;
  if (key === moreKey) return;
  moreKey = key;
  const panels = tables.map(([title, heads, body]) =>
    el(
      "section",
      { class: "panel" },
      el("h2", {}, title),
      el(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
          el(
            "tbody",
            {},
            ...body.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell)))),
          ),
        ),
      ),
    ),
  );
  if (kind === "server") {
    panels.push(
      el(
        "section",
        { class: "panel" },
        el("h2", {}, "This server"),
        el(
          "p",
          { class: "muted" },
          "Drain: refuse what is new, ask every session to go elsewhere, then end.",
        ),
        el("p", {}, el("button", { type: "button", onclick: () => act("", "drain") }, "Drain")),
      ),
    );
  }
  byId("more").replaceChildren(...panels);
}

// --- keys, colours, the beginning

function setTheme(choice) {
  const dark =
    choice === "dark" || (choice === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  text(byId("theme"), { auto: "Auto", light: "Light", dark: "Dark" }[choice]);
  if (choice === "auto") localStorage.removeItem("theme");
  else localStorage.setItem("theme", choice);
}
const theme = () => localStorage.getItem("theme") ?? "auto";

function focused() {
  const row = document.activeElement?.closest?.(".row");
  return row ? Row.of.get(row) : null;
}

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]"))
    return;
  if (event.target === byId("search")) {
    if (event.key === "Escape") {
      byId("search").value = "";
      search();
      byId("search").blur();
    }
    return;
  }
  const step = { j: 1, k: -1 }[event.key];
  if (event.key === "/") byId("search").focus();
  else if (step) {
    const all = [...byId("rows").children];
    const at = all.indexOf(focused()?.node);
    const next = at < 0 ? all[step > 0 ? 0 : all.length - 1] : all[at + step];
    next?.querySelector("button")?.focus();
  } else if (["s", "r", "m"].includes(event.key) && focused()) {
    act(focused().id, { s: "suspend", r: "resume", m: "move" }[event.key]);
  } else return;
  event.preventDefault();
}

function search() {
  words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  schedule();
}

setTheme(theme());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(theme()));
byId("theme").addEventListener("click", () =>
  setTheme({ auto: "light", light: "dark", dark: "auto" }[theme()]),
);
byId("unlock").addEventListener("click", () => (token ? keepToken(null) : unlock()));
byId("search").addEventListener("input", search);
document.addEventListener("keydown", key);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ask(true);
});
new ResizeObserver(schedule).observe(byId("picture"));
takeToken();
listen();
setInterval(() => {
  if (document.hidden) return;
  ask(Date.now() - wholeAt > WHOLE_MS);
  if (source.readyState !== EventSource.OPEN) live(false);
}, BRIEF_MS);
setInterval(schedule, 1000);
