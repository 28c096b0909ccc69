// The picture: this machine and its interfaces, relays, servers, and what goes where.

const sides = (link) => {
  const parts = String(link ?? "").split(/\s*(?:→|->)\s*/);
  return parts.length === 2 ? parts : [null, null];
};
const host = (address) => (address ? address.replace(/:\d+$/, "") : null);

// Nodes in three columns and flows between them, from a broker's status.
function graphOfBroker(now) {
  const nodes = new Map();
  const flows = new Map();
  const node = (key, column, props) => {
    if (!nodes.has(key)) nodes.set(key, { key, column, sessions: 0, ...props });
    return nodes.get(key);
  };
  for (const service of model.status.services ?? []) {
    for (const server of service.servers ?? []) {
      const one = node(`s:${server.name}`, 2, {
        name: server.name,
        colour: serverColour(server.name),
        state: server.state,
      });
      const rtt = typeof server.rtt_ms === "number" ? `${roundTrip(server.rtt_ms)}, ` : "";
      one.sub =
        server.state === "ok" || !server.state
          ? `${rtt}${server.address ?? ""}`
          : `${server.state}${server.why ? `: ${server.why}` : ""}`;
      one.lamp =
        server.state === "ok" || !server.state
          ? ""
          : server.state === "overloaded"
            ? "full"
            : "away";
    }
  }
  for (const session of model.sessions.values()) {
    const local = host(sides(session.link)[0]) ?? "no link";
    const from = { gap: "no link", off: "suspended" }[session.mood] ?? local;
    const lamp = { "no link": "away", suspended: "idle" }[from] ?? "";
    const near = node(`i:${from}`, 0, { name: from, sub: "", lamp });
    near.sessions += 1;
    if (!session.server) continue;
    const far = node(`s:${session.server}`, 2, {
      name: session.server,
      colour: serverColour(session.server),
      sub: "",
    });
    far.sessions += 1;
    const stops = [near.key, far.key];
    if (session.via) {
      node(`r:${session.via}`, 1, {
        name: session.via,
        colour: serverColour(session.via),
        sub: "relay",
      }).sessions += 1;
      stops.splice(1, 0, `r:${session.via}`);
    }
    for (let k = 0; k + 1 < stops.length; k += 1) {
      const key = `${stops[k]} ${stops[k + 1]}`;
      const flow = flows.get(key) ?? {
        from: stops[k],
        to: stops[k + 1],
        rate: 0,
        sessions: 0,
        linked: 0,
        colour: serverColour(session.server),
      };
      flow.rate += rateNow(session, now);
      flow.sessions += 1;
      flow.linked += session.mood === "up" ? 1 : 0;
      flows.set(key, flow);
    }
  }
  for (const one of nodes.values()) if (one.column === 0) one.sub = plural(one.sessions, "session");
  if (![...nodes.values()].some((one) => one.column === 0))
    node("i:", 0, { name: "this machine", sub: "no session", lamp: "idle" });
  return {
    nodes: [...nodes.values()],
    flows: [...flows.values()],
    heads: ["this machine", "relays", "servers"],
  };
}

// The same from a server's status: clients, itself, and what is behind it.
function graphOfServer(now) {
  const nodes = new Map();
  const flows = new Map();
  const own = model.status.server?.name ?? "this server";
  nodes.set("own", {
    key: "own",
    column: 1,
    name: own,
    sub: model.status.server?.listen ?? "",
    colour: serverColour(own),
    sessions: 0,
    lamp: model.status.server?.draining ? "full" : "",
  });
  for (const service of model.status.services ?? []) {
    nodes.set(`t:${service.name}`, {
      key: `t:${service.name}`,
      column: 2,
      name: service.name,
      sub: `${service.kind} ${service.to}`,
      sessions: 0,
    });
  }
  const flow = (from, to, session) => {
    const key = `${from} ${to}`;
    const one = flows.get(key) ?? {
      from,
      to,
      rate: 0,
      sessions: 0,
      linked: 0,
      colour: serverColour(own),
    };
    one.rate += rateNow(session, now);
    one.sessions += 1;
    one.linked += session.mood === "up" ? 1 : 0;
    flows.set(key, one);
  };
  const counted = new Map();
  for (const session of model.sessions.values()) {
    const client = host(sides(session.link)[1]) ?? "no link";
    counted.set(client, (counted.get(client) ?? 0) + 1);
  }
  const most = [...counted.entries()]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 7)
    .map(([client]) => client);
  for (const session of model.sessions.values()) {
    const client = host(sides(session.link)[1]) ?? "no link";
    const shown = most.includes(client) ? client : "others";
    const key = `c:${shown}`;
    if (!nodes.has(key))
      nodes.set(key, {
        key,
        column: 0,
        name: shown === "no link" ? "without a link" : shown,
        sessions: 0,
        lamp: shown === "no link" ? "away" : "",
      });
    nodes.get(key).sessions += 1;
    flow(key, "own", session);
    if (nodes.has(`t:${session.service}`)) flow("own", `t:${session.service}`, session);
  }
  for (const one of nodes.values()) if (one.column === 0) one.sub = plural(one.sessions, "session");
  return {
    nodes: [...nodes.values()],
    flows: [...flows.values()],
    heads: ["clients", "this server", "services"],
  };
}

function flowWords(flow, from) {
  if (flow.linked > 0) return flow.rate > 1024 ? rate(flow.rate) : `${flow.sessions} idle`;
  return from === "suspended" ? from : "no link";
}

const NODE_HIGH = 46;
const NODE_GAP = 14;

function drawPicture(box, now) {
  const graph = model.kind === "server" ? graphOfServer(now) : graphOfBroker(now);
  const wide = Math.max(300, Math.min(1240, box.clientWidth || 900));
  const nodeWide = Math.min(230, Math.round(wide * (wide < 560 ? 0.38 : 0.24)));
  const columns = [0, 1, 2].map((column) =>
    graph.nodes.filter((node) => node.column === column).sort((a, b) => a.key.localeCompare(b.key)),
  );
  const high = Math.max(...columns.map((nodes) => nodes.length)) * (NODE_HIGH + NODE_GAP) + 22;
  const lefts = [1, (wide - nodeWide) / 2, wide - nodeWide - 1];
  const parts = [];
  const place = new Map();
  columns.forEach((nodes, column) => {
    const top = 22 + (high - 22 - nodes.length * (NODE_HIGH + NODE_GAP)) / 2;
    nodes.forEach((node, k) =>
      place.set(node.key, {
        x: lefts[column],
        y: top + k * (NODE_HIGH + NODE_GAP) + NODE_GAP / 2,
        node,
      }),
    );
  });
  const shown = graph.flows
    .filter((flow) => place.has(flow.from) && place.has(flow.to))
    .sort((a, b) => a.rate - b.rate);
  for (const flow of shown) {
    const a = place.get(flow.from);
    const b = place.get(flow.to);
    const [x1, y1, x2, y2] = [a.x + nodeWide, a.y + NODE_HIGH / 2, b.x, b.y + NODE_HIGH / 2];
    const bend = Math.max(30, (x2 - x1) / 2);
    const width = 1.6 + Math.min(6, Math.log2(1 + flow.rate / 65536));
    const d = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
    const path = (mood, across) => {
      const node = svg("path", { class: `flow ${mood}`, d, "stroke-width": across.toFixed(1) });
      node.style.stroke = flow.colour;
      parts.push(node);
    };
    path(flow.linked === 0 ? "idle" : "", width);
    if (flow.linked > 0 && flow.rate > 1024) path("busy", Math.max(2, width * 0.6));
    if (wide >= 560 || shown.length === 1) {
      const label = svg("text", {
        class: "flow-label",
        x: (x1 + x2) / 2,
        y: (y1 + y2) / 2 - 7,
        "text-anchor": "middle",
      });
      label.textContent = flowWords(flow, place.get(flow.from).node.name);
      parts.push(label);
    }
  }
  const room = Math.floor((nodeWide - 34) / 7.2);
  const short = (string, most) =>
    string.length > most ? `${string.slice(0, Math.max(1, most - 1))}…` : string;
  for (const { x, y, node } of place.values()) {
    const group = svg("g", { class: `node ${node.lamp ?? ""}` });
    const lamp = svg("circle", { class: "lamp", cx: x + 15, cy: y + 17, r: 4.5 });
    const name = svg("text", { x: x + 27, y: y + 21 });
    name.textContent = short(node.name, room);
    const sub = svg("text", { class: "sub", x: x + 27, y: y + 37 });
    sub.textContent = short(node.sub ?? "", Math.floor(room * 1.12));
    const title = svg("title");
    title.textContent = `${node.name} ${node.sub ?? ""}`;
    group.append(
      title,
      svg("rect", { x, y, width: nodeWide, height: NODE_HIGH, rx: 10 }),
      lamp,
      name,
      sub,
    );
    if (node.colour) {
      const stripe = svg("rect", {
        x: x + nodeWide - 7,
        y: y + 11,
        width: 3,
        height: NODE_HIGH - 22,
        rx: 1.5,
      });
      stripe.style.fill = node.colour;
      stripe.style.stroke = "none";
      group.append(stripe);
    }
    parts.push(group);
  }
  graph.heads.forEach((head, column) => {
    if (columns[column].length === 0) return;
    const label = svg("text", { class: "flow-label", x: lefts[column] + 2, y: 14 });
    label.textContent = head;
    parts.push(label);
  });
  const words = graph.flows.map(
    (flow) =>
      [place.get(flow.from)?.node.name, "to", place.get(flow.to)?.node.name].join(" ") +
      `, ${plural(flow.sessions, "session")}, ${rate(flow.rate)}`,
  );
  const picture = svg("svg", {
    viewBox: `0 0 ${wide} ${high}`,
    role: "img",
    "aria-label": words.join("; ") || "nothing goes anywhere now",
  });
  picture.append(...parts);
  // The dashes go on where they were: a new picture must not make them jump.
  const style = -(now % 1100) / 1000;
  for (const path of picture.querySelectorAll(".busy")) path.style.animationDelay = `${style}s`;
  box.replaceChildren(picture);
}
