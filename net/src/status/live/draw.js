// Elements, sparklines and the time line.

const SVG = "http://www.w3.org/2000/svg";

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Sets only what changed: an untouched node costs no layout.
function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A sparkline: an area and a line over the last minute.
function spark() {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg(
    "svg",
    { viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  return { node, area, line };
}

// `points`: [milliseconds ago, value], oldest first. `floor`: whether a hole is zero or a break.
function drawSpark(to, points, floor) {
  const most = Math.max(...points.map((p) => p[1]), 1e-9);
  const x = (ago) => (100 * (1 - ago / WINDOW_MS)).toFixed(1);
  const y = (value) => (24.5 - (22 * value) / most).toFixed(1);
  let line = "";
  let area = "";
  let before = null;
  for (const [ago, value] of points) {
    if (ago > WINDOW_MS) continue;
    const hole = before !== null && before - ago > 3500;
    if (before === null || (hole && !floor)) line += `M${x(ago)} ${y(value)}`;
    else if (hole) line += `L${x(before)} ${y(0)}L${x(ago)} ${y(0)}L${x(ago)} ${y(value)}`;
    else line += `L${x(ago)} ${y(value)}`;
    before = ago;
  }
  if (floor && before !== null && before > 2500) line += `L${x(before)} ${y(0)}L100 ${y(0)}`;
  if (floor && line) {
    const first = points.find((p) => p[0] <= WINDOW_MS);
    area = `${line}L${before > 2500 ? 100 : x(before)} 26L${x(first[0])} 26Z`;
  }
  attribute(to.line, "d", line);
  attribute(to.area, "d", area);
}

const LINE_MS = 600000;

// The session's life so far, at most its last ten minutes, as a strip.
function drawTimeline(node, session, now) {
  const age = Math.max(1000, now - session.started);
  const from = Math.max(0, age - LINE_MS);
  const span = age - from;
  const x = (at) => (1000 * (Math.max(at, from) - from)) / span;
  const parts = [];
  for (const piece of pieces(session.events, age)) {
    if (piece.to < from) continue;
    // A pause shorter than a pixel is still to be seen.
    const width = Math.max(x(piece.to) - x(piece.from), piece.mood === "gap" ? 5 : 1);
    const rect = svg("rect", {
      x: x(piece.from).toFixed(1),
      y: piece.mood === "gap" ? 1 : 3,
      width: width.toFixed(1),
      height: piece.mood === "gap" ? 12 : 8,
      rx: 1.5,
    });
    if (piece.mood === "up") rect.style.fill = serverColour(piece.server ?? session.server);
    else rect.setAttribute("class", `seg-${piece.mood}`);
    if (piece.mood === "gap") parts.push(rect);
    else parts.unshift(rect); // Pauses lie above what they interrupt.
  }
  for (const event of folded(session.events)) {
    if (event.at_ms < from || !STAYS.has(event.what)) continue;
    parts.push(
      svg("rect", {
        class: "mark-stay",
        x: (x(event.at_ms) - 3).toFixed(1),
        y: 4,
        width: 6,
        height: 6,
        rx: 3,
      }),
    );
  }
  node.replaceChildren(...parts);
  const { count, longest } = pauses(session.events);
  const paused = count ? `${plural(count, "pause")}, the longest ${duration(longest)}` : "no pause";
  attribute(node, "aria-label", `${duration(age)} old, ${paused}`);
}
