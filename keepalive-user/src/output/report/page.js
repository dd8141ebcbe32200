"use strict";
// `data` contains text from processes: it is inserted as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Numbers and times in words.
const grouped = (number) => number.toLocaleString("en-US");
const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
const tenths = (value, unit) => `${Math.floor(value * 10) / 10} ${unit}`;

function millis(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 600000) return tenths(ms / 1000, "s");
  if (ms < 7200000) return `${Math.floor(ms / 60000)} min`;
  const minutes = Math.floor(ms / 60000) % 60;
  return `${Math.floor(ms / 3600000)} h${minutes ? ` ${minutes} min` : ""}`;
}

function micros(us) {
  if (us < 1000) return `${us} µs`;
  return us < 1000000 ? tenths(us / 1000, "ms") : millis(us / 1000);
}

/** The time of day for milliseconds since the trace began. */
function clock(ms, digits = 0) {
  const step = (data.clock_steps ?? []).findLast(([since]) => since <= ms);
  const iso = new Date(data.epoch_ms + ms + (step ? step[1] : 0)).toISOString();
  return iso.slice(11, digits ? 20 + digits : 19);
}

// Marks: a shape and a colour for each kind of event.
const MARKS = data.marks.map((mark) => mark.name);
const OUTCOMES = data.outcomes.map((outcome) => outcome.name);

function use(name, x, y, scale = 1) {
  const transform = `translate(${x} ${y})${scale === 1 ? "" : ` scale(${scale})`}`;
  return draw("use", { href: `#m-${name}`, class: `f-${name}`, transform });
}

function icon(name) {
  return draw("svg", { class: "mark", viewBox: "-8 -8 16 16", "aria-hidden": "true" }, use(name, 0, 0));
}

const outcomeOf = (socket) => data.outcomes[OUTCOMES.indexOf(socket.outcome)];
const path = (socket) => `${socket.local} → ${socket.peer}`;

// The theme: the system's, until the user chooses one.
const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
const showTheme = () => (byId("theme").textContent = isDark() ? "☀ light" : "☾ dark");
byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// The head.
const TONES = { bad: "timed_out", odd: "another_probe", good: "answer" };
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function piece(headline) {
  const text = capital(headline.text);
  const words = headline.outcome ? make("button", { type: "button", click: () => onlyOutcome(headline.outcome) }, text) : text;
  return make("span", {}, words, headline.owners ? make("span", { class: "owners" }, `   ${headline.owners}`) : null);
}

byId("first").append(piece(data.headlines[0]));
byId("headlines").append(
  ...data.headlines.slice(1).map((headline) => make("li", {}, icon(TONES[headline.tone]), piece(headline))),
);
byId("facts").append(
  ...data.facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
);
byId("legend").append(
  ...data.marks.filter((mark) => mark.seen).reverse().map((mark) =>
    make("li", {}, icon(mark.name), make("div", {}, make("b", {}, mark.label), make("span", {}, ` ${mark.meaning}`)))),
);

const markOf = (letter) => (letter && letter !== "." ? MARKS[letter.charCodeAt(0) - 97] : null);

byId("worst").hidden = data.sockets.length === 0;

// The table.
const COLUMNS = [
  { name: "Outcome", key: (it) => OUTCOMES.indexOf(it.outcome) * 1e6 + it.order, text: (it) => it.verdict },
  { name: "Owner", key: (it) => it.owner, text: (it) => it.owner },
  { name: "Local", key: (it) => it.local, text: (it) => it.local },
  { name: "Peer", key: (it) => it.peer, text: (it) => it.peer },
  { name: "Timers", down: true, key: (it) => it.timers, text: (it) => grouped(it.timers) },
  { name: "Probes", down: true, key: (it) => it.probes, text: (it) => grouped(it.probes) },
  { name: "Answered", down: true, key: (it) => it.answers, text: (it) => grouped(it.answers) },
  { name: "Unanswered", down: true, key: (it) => it.unanswered, text: (it) => grouped(it.unanswered) },
  { name: "Worst RTT", down: true, key: (it) => it.rtt ?? -1, text: (it) => (it.rtt === null ? "–" : micros(it.rtt)) },
  { name: "Silence", down: true, key: (it) => it.silence ?? -1, text: (it) => (it.silence === null ? "–" : millis(it.silence)) },
  { name: "Over time", key: (it) => it.from, strip: true },
];
const PAGE = 50;
const table = { column: 0, reverse: false, page: 0, outcomes: new Set(), shown: [] };
data.sockets.forEach((socket, order) => {
  socket.order = order;
  socket.text = [socket.owner, socket.local, socket.peer, socket.place, socket.verdict, socket.settings].join(" ").toLowerCase();
});

function compare(one, other) {
  const order = typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
  return order;
}

/** Selects the sockets that match the filter and the chips, and sorts them. */
function select() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const { key, down } = COLUMNS[table.column];
  const sign = table.reverse !== Boolean(down) ? -1 : 1;
  table.shown = data.sockets
    .filter((it) => (!table.outcomes.size || table.outcomes.has(it.outcome)) && words.every((word) => it.text.includes(word)))
    .sort((one, other) => sign * compare(key(one), key(other)) || one.order - other.order);
  table.page = 0;
  showRows();
}

function showRows() {
  const { shown, page } = table;
  const rows = shown.slice(page * PAGE, (page + 1) * PAGE).map(tableRow);
  const none = make("tr", {}, make("td", { class: "none", colspan: COLUMNS.length }, "no such socket"));
  byId("rows").replaceChildren(...(rows.length ? rows : [none]));
  const left = data.left_out ? `, ${grouped(data.left_out)} more only in the totals` : "";
  byId("counted").textContent = `${grouped(shown.length)} of ${plural(data.sockets.length, "socket")}${left}`;
  const pages = Math.ceil(shown.length / PAGE);
  byId("pages").hidden = pages < 2;
  byId("page").textContent = `${page + 1} of ${pages}`;
  byId("back").disabled = page === 0;
  byId("next").disabled = page + 1 >= pages;
  COLUMNS.forEach((column, index) => {
    const head = byId("columns").children[index];
    const ascending = table.reverse === Boolean(column.down);
    if (index === table.column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
    const arrow = ascending ? " ↑" : " ↓";
    head.firstChild.textContent = column.name + (index === table.column ? arrow : "");
  });
}

function tableRow(socket) {
  const open = () => (location.hash = `socket-${socket.id}`);
  const cells = COLUMNS.map((column, index) => {
    if (column.strip) return make("td", { class: "strip" }, strip(socket));
    const text = column.text(socket);
    const mark = index === 0 ? icon(outcomeOf(socket).mark) : null;
    return make("td", { class: column.down ? "number" : null, title: text }, mark, text);
  });
  return make("tr", { tabindex: 0, "data-id": socket.id, click: open, keydown: (event) => rowKey(event, open) }, ...cells);
}

function rowKey(event, open) {
  const row = event.currentTarget;
  if (event.key === "Enter") open();
  else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
  else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
  else return;
  event.preventDefault();
}

/** The worst mark of each bucket of time; worse marks are higher. */
function strip(socket) {
  const cells = [...socket.strip].map((letter, bucket) => {
    const mark = markOf(letter);
    if (!mark) return null;
    const height = 4 + (16 * (letter.charCodeAt(0) - 97)) / MARKS.length;
    return draw("rect", { x: bucket, y: 20 - height, width: 0.86, height, class: `f-${mark}` });
  });
  const attributes = { viewBox: `0 0 ${data.buckets} 20`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return draw("svg", attributes, draw("rect", { x: 0, y: 18.5, width: data.buckets, height: 1, class: "f-line" }), ...cells);
}

byId("columns").append(
  ...COLUMNS.map((column, index) => {
    const sort = () => {
      table.reverse = table.column === index && !table.reverse;
      table.column = index;
      select();
    };
    return make("th", { scope: "col", class: column.down ? "number" : null }, make("button", { type: "button", click: sort }, column.name));
  }),
);
byId("filter").addEventListener("input", select);
byId("back").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));

function turn(by) {
  table.page += by;
  showRows();
  byId("sockets").scrollIntoView();
}

// Chips: one for each outcome.
byId("chips").append(
  ...data.outcomes.map((outcome) => {
    const number = data.sockets.filter((it) => it.outcome === outcome.name).length;
    const flip = () => {
      if (!table.outcomes.delete(outcome.name)) table.outcomes.add(outcome.name);
      showChips();
    };
    const attributes = { type: "button", "data-outcome": outcome.name, "aria-pressed": "false", hidden: number === 0, click: flip };
    return make("button", attributes, icon(outcome.mark), outcome.label, make("small", {}, grouped(number)));
  }),
);

function showChips() {
  for (const chip of byId("chips").children) chip.setAttribute("aria-pressed", table.outcomes.has(chip.dataset.outcome));
  select();
}

function onlyOutcome(outcome) {
  table.outcomes = new Set([outcome]);
  byId("filter").value = "";
  showChips();
  byId("sockets").scrollIntoView();
}

// Findings, by rule.
const SEVERITIES = ["critical", "warning", "info"];
const AT_ONCE = 50;

function finding(found) {
  return make("div", { class: "finding" },
    make("p", {}, make("b", {}, found.who)), make("p", {}, capital(found.evidence)),
    make("p", {}, `→ ${found.consequence}`), make("p", { class: "soft" }, `Remedy: ${found.remedy}`));
}

function rule([name, severity, number]) {
  const found = data.findings.filter((it) => it.rule === name);
  const list = make("div");
  let shown = 0;
  const more = make("button", { type: "button", class: "more", click: () => show() });
  const show = () => {
    list.append(...found.slice(shown, shown + AT_ONCE).map(finding));
    shown = Math.min(shown + AT_ONCE, found.length);
    const kept = number - found.length ? `, ${grouped(number - shown)} in all` : "";
    more.hidden = shown === found.length;
    more.textContent = `${grouped(found.length - shown)} more${kept}`;
  };
  const head = make("summary", {}, make("span", { class: `badge ${severity}` }, severity), make("b", {}, name), make("span", {}, grouped(number)));
  return make("details", { toggle: () => shown || show(), open: severity === "critical" }, head, list, more);
}

byId("audit").hidden = data.rules.length === 0;
byId("findings").append(
  ...data.rules.sort((one, other) => SEVERITIES.indexOf(one[1]) - SEVERITIES.indexOf(other[1])).map(rule),
);
