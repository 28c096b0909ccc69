// The live page in Chromium over a real broker: a download is cut, the page shows it, its buttons
// act. With SHOTS=DIR the test leaves pictures there: light, dark, narrow, a server's page.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { open } from "./browser.mjs";
import { World, sleep, until } from "./world.mjs";

const bin = process.env.STP_BIN_DIR ?? new URL("../../target/debug", import.meta.url).pathname;
const shots = process.env.SHOTS;
let world;
let view;

const address = () => `http://127.0.0.1:${world.status}/`;
const row = (of = view) => of.page.locator(".row").first();
const shown = (words, ms = 10000, of = view) =>
  of.page.locator(".row .state", { hasText: words }).first().waitFor({ timeout: ms });

async function picture(name, of) {
  if (!shots) return;
  fs.mkdirSync(shots, { recursive: true });
  await of.page.screenshot({ path: path.join(shots, `${name}.png`) });
}

before(async () => {
  world = await World.start(bin);
  view = await open({ width: 1280, height: 1000 });
  await view.page.goto(address());
});

after(async () => {
  await view?.close();
  await world?.stop();
});

test("without sessions it says how to start one", async () => {
  await view.page.locator("#none", { hasText: "session run" }).waitFor();
  await view.page.locator("#live", { hasText: "live" }).waitFor();
});

test("a download that is cut shows within a second, and so does its return", async () => {
  world.download();
  await shown("linked");
  await view.page.locator(".row", { hasText: "mirror.example.org" }).waitFor();
  await until("it has a rate", async () =>
    /[1-9].* MiB\/s/.test(await row().locator(".spark").innerText()),
  );
  const home = (await world.sessions())[0].server;
  for (const server of world.servers) server.path.cut();
  const cut = Date.now();
  await shown("no link", 1000);
  assert.ok(Date.now() - cut < 1000, `shown after ${Date.now() - cut} ms`);
  assert.match(await view.page.title(), /1 without a link/);
  await sleep(1500);
  await picture("cut", view);
  const other = world.servers.find((server) => server.name !== home);
  other.path.mend();
  await shown("linked");
  const server = row().locator(".server");
  await until("the other server is shown", async () => (await server.innerText()) === other.name);
  await row().locator(".who button").click();
  await row()
    .locator(".story", { hasText: `went from ${home} to ${other.name}` })
    .waitFor();
  for (const one of world.servers) one.path.mend();
});

test("a button needs the token, suspends the session, and resumes it", async () => {
  const { page } = view;
  await row().getByRole("button", { name: "Suspend" }).click();
  await page.getByLabel("Token").fill("not-the-token-at-all");
  await page.locator("#ask").getByRole("button", { name: "Unlock" }).click();
  await page.locator("#said", { hasText: "token" }).waitFor();
  assert.equal((await world.sessions())[0].state, "active");
  // The browser tells of a request that is refused; nothing else may go wrong.
  view.wrong.splice(0, view.wrong.length, ...view.wrong.filter((line) => !line.includes("401")));

  await row().getByRole("button", { name: "Suspend" }).click();
  await page.getByLabel("Token").fill(world.token);
  await page.locator("#ask").getByRole("button", { name: "Unlock" }).click();
  await shown("suspended");
  await until("the broker says so", async () => (await world.sessions())[0].state === "suspended");
  await row().getByRole("button", { name: "Resume" }).click();
  await shown("linked");
});

test("it moves where it is told, is found by search, is closed after a question", async () => {
  const { page } = view;
  const from = await row().locator(".server").innerText();
  const to = world.servers.find((server) => server.name !== from).name;
  await row().locator(".others").getByRole("button", { name: to }).click();
  await until("it has moved", async () => (await row().locator(".server").innerText()) === to);
  await row().locator(".who button").focus();
  await page.keyboard.press("s");
  await shown("suspended");
  await page.keyboard.press("r");
  await shown("linked");
  await page.keyboard.press("/");
  await page.keyboard.type("nobody");
  await page.locator("#none", { hasText: "No session matches" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  await row().getByRole("button", { name: "Close" }).click();
  await page.locator("#sure").getByRole("button", { name: "Close it" }).click();
  await page.locator("#ended tr", { hasText: "mirror.example.org" }).waitFor();
  assert.equal((await world.sessions()).length, 0);
});

test("light, dark, 360 pixels, a server: all fit, none asks anybody else", async () => {
  const clients = [world.download(), world.download(), world.download()];
  await until("three sessions", async () => (await world.sessions()).length === 3);
  const home = (await world.sessions())[0].server;
  const there = world.servers.find((server) => server.name === home);
  const away = world.servers.find((server) => server.name !== home);
  const views = {
    light: [await open({ width: 1280, height: 1150 }), address()],
    dark: [await open({ width: 1280, height: 1150 }, "dark"), address()],
    narrow: [await open({ width: 360, height: 1600 }), address()],
    server: [await open({ width: 1100, height: 1000 }), `http://127.0.0.1:${away.status}/`],
  };
  for (const [of, where] of Object.values(views)) {
    await of.page.goto(`${where}#token=${world.token}`);
    assert.ok(!of.page.url().includes("token"), "the token stays out of the address line");
  }
  await sleep(4000);
  there.path.cut();
  await until("all have moved", async () =>
    (await world.sessions()).every((session) => session.server === away.name && session.link),
  );
  await sleep(3000);
  for (const [name, [of]] of Object.entries(views)) {
    await shown("linked", 10000, of);
    if (name !== "server") await row(of).locator(".who button").click();
    if (name === "light") await of.page.locator(".row").nth(1).getByText("Suspend").click();
    await sleep(1000);
    await picture(name, of);
    const width = await of.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(width[0] <= width[1], `${name}: ${width[0]} pixels in ${width[1]}`);
    assert.deepEqual([of.wrong, of.outside], [[], []], name);
    await of.close();
  }
  for (const client of clients) client.kill("SIGTERM");
  there.path.mend();
});

test("everything that can be pressed has a name, and the keyboard reaches it", async () => {
  const { page } = view;
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, a")]
      .filter(
        (one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length),
      )
      .map((one) => one.outerHTML),
  );
  assert.deepEqual(nameless, []);
  const out = await page.evaluate(
    () =>
      [...document.querySelectorAll("button, input, a")].filter((one) => one.tabIndex < 0).length,
  );
  assert.equal(out, 0);
});

test("200 sessions stay smooth", async () => {
  world.crowd(200);
  await until("200 sessions", async () => (await world.sessions()).length >= 200, 60000);
  await until("200 rows", async () => (await view.page.locator(".row").count()) >= 200, 20000);
  // How long this page keeps its own thread from anything else, over five seconds.
  const { busy, longest, frames } = await view.page.evaluate(
    () =>
      new Promise((done) => {
        const tasks = [];
        new PerformanceObserver((list) =>
          tasks.push(...list.getEntries().map((one) => one.duration)),
        ).observe({ entryTypes: ["longtask"] });
        const begun = performance.now();
        let frames = 0;
        const step = () => {
          frames += 1;
          if (performance.now() - begun < 5000) return requestAnimationFrame(step);
          done({ frames, busy: tasks.reduce((a, b) => a + b, 0), longest: Math.max(0, ...tasks) });
        };
        requestAnimationFrame(step);
      }),
  );
  console.log(
    `200 sessions: ${frames} frames in 5 s, long tasks ${busy} ms, the longest ${longest} ms`,
  );
  assert.ok(longest < 300, `a task of ${longest} ms`);
  assert.ok(frames > 60, `${frames} frames in 5 s`);
  await picture("crowd", view);
});

test("nothing went wrong in the page", () => {
  assert.deepEqual([view.wrong, view.outside], [[], []]);
});
