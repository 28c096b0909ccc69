// The rows of the sessions: built once, then only what changed is touched.

const STATE_WORDS = { up: "linked", gap: "no link", off: "suspended", wait: "opening" };

class Row {
  constructor(session) {
    this.id = session.id;
    this.open = false;
    this.visible = true;
    this.name = el("span", { class: "cut" });
    this.no = el("span", { class: "no" });
    this.toggle = el(
      "button",
      { type: "button", "aria-expanded": "false", onclick: () => this.expand(!this.open) },
      this.name,
      this.no,
    );
    this.to = el("span", { class: "muted cut" });
    this.server = el("span", { class: "server" });
    this.via = el("span", { class: "via" });
    this.state = el("span", { class: "state" });
    this.pause = el("span", { class: "muted" });
    this.rate = spark();
    this.rtt = spark();
    this.rateText = el("b");
    this.rttText = el("b");
    this.line = svg("svg", { viewBox: "0 0 1000 14", preserveAspectRatio: "none", role: "img" });
    this.buttons = this.actions();
    this.detail = el("div", { class: "detail", hidden: true });
    this.node = el(
      "div",
      { class: "row", role: "listitem", "data-id": session.id },
      el("div", { class: "who" }, this.toggle, this.to),
      el("div", { class: "where" }, this.server, this.via, this.state, this.pause),
      el(
        "div",
        { class: "spark" },
        el("figure", {}, el("figcaption", {}, "rate ", this.rateText), this.rate.node),
        el(
          "figure",
          { class: "rtt" },
          el("figcaption", {}, "round trip ", this.rttText),
          this.rtt.node,
        ),
      ),
      el("div", { class: "act" }, ...Object.values(this.buttons)),
      el("div", { class: "time" }, this.line),
      this.detail,
    );
    Row.watch.observe(this.node);
    Row.of.set(this.node, this);
  }

  actions() {
    const button = (label, what) =>
      el(
        "button",
        {
          type: "button",
          "data-act": what,
          onclick: (event) => act(this.id, event.currentTarget.dataset.act),
        },
        label,
      );
    if (model.kind === "server") return { close: button("Close", "close") };
    return {
      suspend: button("Suspend", "suspend"),
      move: button("Move", "move"),
      close: button("Close", "close"),
    };
  }

  expand(open) {
    this.open = open;
    this.detail.hidden = !open;
    attribute(this.toggle, "aria-expanded", String(open));
    this.dirty = true;
    schedule();
  }

  draw(session, now) {
    const broker = model.kind !== "server";
    const who = broker ? `${session.app?.comm ?? "?"}` : (session.service ?? "?");
    text(this.name, who);
    text(this.no, broker ? `#${session.id} · pid ${session.app?.pid ?? "?"}` : `#${session.id}`);
    text(this.to, broker ? (session.destination ?? "") : (session.client ?? ""));
    attribute(
      this.toggle,
      "aria-label",
      `${who}, session ${session.id}, to ${session.destination ?? session.service}, details`,
    );
    text(this.server, session.server ?? "no server");
    this.server.style.setProperty("--c", serverColour(session.server));
    text(this.via, session.via ? `through ${session.via}` : "");
    const mood = session.mood;
    text(this.state, STATE_WORDS[mood]);
    attribute(this.state, "class", `state ${mood === "up" ? "" : mood}`);
    attribute(this.node, "data-mood", mood);
    const { count, longest } = pauses(session.events);
    const paused = count ? `, ${plural(count, "pause")}, longest ${duration(longest)}` : "";
    text(this.pause, `${duration(now - session.started)}${paused}`);
    const ago = (moment) => now + (model.clock ?? 0) - moment.at_ms;
    drawSpark(
      this.rate,
      session.series.map((m) => [ago(m), m.rate]),
      true,
    );
    drawSpark(
      this.rtt,
      session.series.map((m) => [ago(m), m.rtt_ms]),
      false,
    );
    text(this.rateText, rate(rateNow(session, now)));
    text(this.rttText, mood === "up" ? roundTrip(session.rtt_ms) : "–");
    drawTimeline(this.line, session, now);
    this.drawButtons(session);
    if (this.open) this.drawDetail(session, now);
    this.dirty = false;
  }

  drawButtons(session) {
    const { suspend, move } = this.buttons;
    if (suspend) {
      const off = session.mood === "off";
      text(suspend, off ? "Resume" : "Suspend");
      attribute(suspend, "data-act", off ? "resume" : "suspend");
    }
    if (move) {
      const servers = serversOf(session.service);
      move.disabled =
        servers.length < 2 ||
        (session.transferable !== undefined && session.transferable !== "yes");
      attribute(
        move,
        "title",
        servers.length < 2
          ? "its service has one server"
          : move.disabled
            ? `not now: ${session.transferable}`
            : "to the nearest other server",
      );
    }
  }

  drawDetail(session, now) {
    const facts = [
      ["service", session.service],
      ["link", session.link ?? "none"],
      ["age", duration(now - session.started)],
      ["to the app", bytes(session.positions?.dlv)],
      ["from the app", bytes(session.positions?.end)],
      ["unacknowledged", bytes(session.unacknowledged)],
      ["can move", session.transferable ?? "–"],
      ["checkpoint", session.last_checkpoint ?? "–"],
    ];
    if (model.kind === "server")
      facts.splice(
        3,
        2,
        ["sent", bytes(session.positions?.end)],
        ["received", bytes(session.positions?.rcv)],
      );
    const list = el("dl");
    for (const [name, value] of facts)
      list.append(el("dt", {}, name), el("dd", {}, String(value ?? "–")));
    const others =
      model.kind === "broker"
        ? serversOf(session.service).filter((server) => server.name !== session.server)
        : [];
    if (others.length) {
      const buttons = others.map((server) =>
        el(
          "button",
          { type: "button", onclick: () => act(this.id, "move", server.name) },
          server.name,
        ),
      );
      list.append(el("dt", {}, "move to"), el("dd", { class: "others" }, ...buttons));
    }
    const story = el("ol", { class: "story", tabindex: "0", "aria-label": "What happened to it" });
    for (const event of folded(session.events).reverse()) {
      const when = new Date(session.started + event.at_ms);
      story.append(
        el(
          "li",
          { class: colour(event) === "gap" ? "gap" : "" },
          el("time", { datetime: when.toISOString() }, clock(when)),
          sentence(event),
          event.at_byte
            ? el("span", { class: "muted" }, ` · at byte ${event.at_byte.toLocaleString("en")}`)
            : "",
        ),
      );
    }
    const key = list.textContent + story.textContent;
    // Rebuilding would take the focus from a button in it.
    if (key !== this.told && !this.detail.contains(document.activeElement)) {
      this.told = key;
      this.detail.replaceChildren(list, story);
    }
  }
}

Row.of = new WeakMap();
// Only rows in sight are drawn.
Row.watch = new IntersectionObserver(
  (seen) => {
    for (const one of seen) {
      const row = Row.of.get(one.target);
      row.visible = one.isIntersecting;
      row.dirty = true;
    }
    schedule();
  },
  { rootMargin: "120px" },
);

const clock = (when) => when.toLocaleTimeString("en-GB");
const serversOf = (name) =>
  (model.status.services ?? []).find((service) => service.name === name)?.servers ?? [];
