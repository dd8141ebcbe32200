
// One socket: its timeline, which can be zoomed, and its events as sentences.
const GAP = 34, SILENCE = 150, ANSWERS = 84, SIDE = 116, WIDTH = 1184;
let one = null;

/** The sentence of an event, with its numbers in the placeholders. */
function sentence(event) {
  let next = 5;
  return data.sentences[event[4]].replaceAll("\u0001", () => event[next++]);
}

function open(socket) {
  const from = socket.from, to = Math.max(socket.to, from + 1);
  one = { socket, from, to, whole: [from, to] };
  const { shown } = table;
  const place = shown.indexOf(socket);
  const walk = (by, label) => {
    const other = place < 0 ? null : shown[place + by];
    return make("button", { type: "button", disabled: !other, "data-walk": by, click: () => (location.hash = `socket-${other.id}`) }, label);
  };
  const counted = place < 0 ? null : make("span", { class: "soft" }, `${grouped(place + 1)} of ${grouped(shown.length)}`);
  const facts = [
    ["Keepalive", socket.settings],
    ["Timer runs", grouped(socket.timers)],
    ["Probes", `${grouped(socket.probes)}, ${grouped(socket.answers)} answered, ${grouped(socket.unanswered)} unanswered`],
    ["Slowest answer", socket.rtt === null ? "–" : micros(socket.rtt)],
    ["Longest silence", socket.silence === null ? "–" : millis(socket.silence)],
    ["Watched", `${clock(from)} – ${clock(socket.to)}${socket.partial ? ", earlier events only in the totals" : ""}`],
    ["Where", socket.place],
  ];
  byId("one").replaceChildren(
    make("nav", { class: "walk" },
      make("button", { type: "button", id: "all", click: () => (location.hash = "") }, "← all sockets"),
      make("span", { class: "space" }), counted, walk(-1, "← previous"), walk(1, "next →")),
    make("h1", { tabindex: -1 }, icon(outcomeOf(socket).mark), capital(socket.end ?? socket.verdict)),
    make("p", { class: "path" }, `${socket.owner}   ${path(socket)}`),
    make("dl", { class: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    make("section", { class: "card" },
      make("div", { class: "head" }, make("h2", {}, "Over time"), zoomTools()),
      make("div", { id: "time", tabindex: 0, role: "application", "aria-label": "Timeline: + and - zoom, arrows move, 0 shows all", keydown: timeKey })),
    ...socket.findings.map((index) => make("section", { class: "card" }, make("h2", {}, `Audit: ${data.findings[index].rule}`), finding(data.findings[index]))),
    make("section", { class: "card" }, make("h2", {}, "Events"), log(socket)),
  );
  showTime();
}

function log(socket) {
  const lines = socket.events.map((event) =>
    make("li", { "data-at": event[0] }, make("time", {}, clock(event[0], 3)), icon(MARKS[event[1]]), make("span", {}, sentence(event))));
  if (socket.missing) {
    const text = `… and ${plural(socket.missing, "event")} more in between, not kept individually`;
    lines.splice(socket.gap, 0, make("li", { class: "left-out" }, text));
  }
  return make("ol", { id: "log" }, ...lines);
}

// Zoom.
function zoomTools() {
  const button = (label, title, click) => make("button", { type: "button", title, "aria-label": title, click }, label);
  return make("div", { class: "zoom" }, make("p", { id: "span" }),
    button("−", "Zoom out", () => zoom(2)), button("+", "Zoom in", () => zoom(0.5)), button("all", "Show all", () => look(...one.whole)));
}

function look(from, to) {
  const [first, last] = one.whole;
  const length = Math.min(Math.max(to - from, 20), last - first);
  one.from = Math.min(Math.max(from, first), last - length);
  one.to = one.from + length;
  showTime();
}

function zoom(factor, around = (one.from + one.to) / 2) {
  look(around - (around - one.from) * factor, around + (one.to - around) * factor);
}

function timeKey(event) {
  const step = (one.to - one.from) / 5;
  const keys = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => look(...one.whole),
    ArrowLeft: () => look(one.from - step, one.to - step), ArrowRight: () => look(one.from + step, one.to + step),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
  keys[event.key]();
  event.preventDefault();
  event.stopPropagation();
}

// The chart: redrawn whenever the visible span of time changes.
const text = (x, y, kind, words) => draw("text", { x, y, class: kind }, words);
const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });

// Zoomed in, the axis has finer steps than that of the whole trace.
const STEPS_MS = [5, 10, 20, ...data.steps_ms];

/** The axis, with ticks at round times of day. */
function timeAxis([from, to], [left, right], y) {
  const length = to - from, most = Math.max(Math.floor((right - left) / 92), 1);
  const step = STEPS_MS.find((it) => length / it <= most) ?? Math.ceil(length / most / 864e5) * 864e5;
  const midnight = data.epoch_ms % 864e5;
  const parts = [line(left, y, right, y, "grid l-line")];
  for (let tick = Math.ceil((midnight + from) / step) * step - midnight; tick <= to; tick += step) {
    const x = left + ((tick - from) / (to - from)) * (right - left);
    // The label of a tick at the edge stays within the picture.
    const [at, kind] = x < left + 30 ? [left, "s f-soft"] : x > right - 30 ? [right, "s f-soft e"] : [x, "s f-soft m"];
    parts.push(line(x, y, x, y + 5, "grid l-soft"), text(at, y + 18, kind, clock(tick, step < 1000 ? 3 : 0)));
  }
  return parts;
}

const hatch = (x, y, width, height) =>
  draw("rect", { x, y, width, height, fill: "url(#hatch)", "fill-opacity": 0.45 });

/** The least important mark first, so that more important ones are drawn above it. */
const inOrder = (events) => [...events].sort((one, other) => one[1] - other[1]);

/** Bars where events are missing: the worst mark of each bucket of time. */
function bars(socket, x, y) {
  const [first, last] = [socket.events[socket.gap - 1][0], socket.events[socket.gap][0]];
  const bars = [];
  for (let bucket = Math.floor(first / data.bucket_ms); bucket * data.bucket_ms <= last; bucket++) {
    const mark = markOf(socket.strip[bucket]);
    const from = Math.max(bucket * data.bucket_ms, first), to = Math.min((bucket + 1) * data.bucket_ms, last);
    if (!mark || to <= from) continue;
    const width = Math.max(x(to) - x(from) - 0.5, 0.5);
    bars.push(draw("rect", { x: x(from), y: y - 3, width, height: 6, class: `f-${mark}` }));
  }
  return bars;
}

const xOf = (ms) => SIDE + ((ms - one.from) / (one.to - one.from)) * (WIDTH - SIDE - 12);
const isSeen = (ms) => ms >= one.from && ms <= one.to;

function showTime() {
  const { socket } = one;
  const events = socket.events.filter((event) => isSeen(event[0]));
  const trips = events.filter((event) => event[3] !== null);
  const lane = 20 + SILENCE + GAP, answers = lane + 30 + GAP;
  const hasTrips = socket.events.some((event) => event[3] !== null);
  const bottom = hasTrips ? answers + ANSWERS : lane + 24;
  const clip = draw("clipPath", { id: "seen" }, draw("rect", { x: SIDE - 7, y: 0, width: WIDTH - SIDE + 7, height: bottom }));
  const behind = draw("g", { "clip-path": "url(#seen)" }), inside = draw("g", { "clip-path": "url(#seen)" });
  for (const [from, to] of socket.phases) {
    behind.append(hatch(xOf(from), 20, Math.max(xOf(to) - xOf(from), 2), bottom - 20));
    inside.append(text(Math.max(xOf(from), SIDE) + 4, 14, "s f-window_probe l-card halo", "zero window"));
  }
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${bottom + 34}`, role: "img", "aria-label": "Silence, events and answers over time" },
    draw("defs", {}, clip), behind, ...silence(socket, inside), text(0, lane + 4.5, "t f-ink", "events"), line(SIDE, lane, WIDTH - 12, lane, "grid l-line"), inside);
  if (socket.missing) {
    const middle = (xOf(socket.events[socket.gap - 1][0]) + xOf(socket.events[socket.gap][0])) / 2;
    inside.append(text(middle, 20 + SILENCE / 2, "s f-soft m l-card halo", `${plural(socket.missing, "event")} not kept individually`), ...bars(socket, xOf, lane));
  }
  for (const event of inOrder(events)) inside.append(shown(event, lane));
  if (hasTrips) picture.append(...roundTrips(trips, answers));
  const last = socket.events[socket.events.length - 1];
  if (socket.end && last) inside.append(line(xOf(last[0]), 20, xOf(last[0]), bottom, `thin l-${MARKS[last[1]]}`));
  picture.append(...timeAxis([one.from, one.to], [SIDE, WIDTH - 12], bottom + 8));
  dragging(picture, bottom);
  byId("time").replaceChildren(picture);
  byId("span").textContent = `${millis(one.to - one.from)}${one.to - one.from < one.whole[1] - one.whole[0] ? "" : ", all"}`;
  for (const item of byId("log").children) {
    const at = Number(item.dataset.at);
    item.classList.toggle("near", item.dataset.at !== undefined && one.to - one.from < one.whole[1] - one.whole[0] && isSeen(at));
  }
}

function shown(event, lane) {
  const name = MARKS[event[1]];
  const mark = use(name, xOf(event[0]).toFixed(1), name === "answer" ? lane - 14 : lane, 1.15);
  mark.append(draw("title", {}, `${clock(event[0], 3)}  ${sentence(event)}`));
  return mark;
}

function silence(socket, inside) {
  const top = 20, bottom = 20 + SILENCE;
  const longest = socket.silence ?? 0;
  const limit = socket.limit !== null && socket.limit <= longest * 3 ? socket.limit : null;
  const unit = longest >= 1000 ? 1000 : 1;
  const ceiling = nice(Math.ceil(Math.max(limit ?? 0, longest, 1) / unit)) * unit;
  const y = (ms) => bottom - (ms / ceiling) * (bottom - top);
  const axis = [text(0, top + 4.5, "t f-ink", "silence")];
  for (const value of [0, ceiling / 2, ceiling]) {
    axis.push(line(SIDE, y(value), WIDTH - 12, y(value), "grid l-line"), text(SIDE - 8, y(value) + 4, "s f-soft e", value ? millis(value) : "0"));
  }
  for (const [from, to, ms] of rises(socket)) {
    const points = `${xOf(from)},${y(0)} ${xOf(to)},${y(ms)} ${xOf(to)},${y(0)}`;
    inside.append(draw("polygon", { points, class: "area f-probe" }), line(xOf(from), y(0), xOf(to), y(ms), "thick l-probe"));
  }
  if (limit !== null) {
    axis.push(line(SIDE, y(limit), WIDTH - 12, y(limit), "dash l-timed_out"), text(SIDE + 6, y(limit) - 5, "s f-timed_out l-card halo", `dead after ${millis(limit)}`));
  }
  return axis;
}

/** The periods of silence: start, end, and length at the end. */
function rises(socket) {
  const all = [];
  for (const [at, , silence] of socket.events) {
    if (silence === null) continue;
    const from = Math.max(at - silence, socket.from);
    const last = all[all.length - 1];
    // The same silence continues; a jiffy is up to 10 ms.
    if (last && from < last[1] && Math.abs(from - last[0]) < 40) [last[1], last[2]] = [at, at - from];
    else if (at > from) all.push([from, at, at - from]);
  }
  return all;
}

function roundTrips(trips, top) {
  const bottom = top + ANSWERS;
  const logs = trips.map((event) => Math.log10(Math.max(event[3], 1)));
  const low = Math.floor(Math.min(...logs, 9)), high = Math.max(Math.ceil(Math.max(...logs, 0)), low + 1);
  const parts = [text(0, top + 4.5, "t f-ink", "answers")];
  if (!trips.length) return parts;
  const y = (log) => bottom - ((log - low) / (high - low)) * ANSWERS;
  for (let decade = low; decade <= high; decade++) {
    parts.push(line(SIDE, y(decade), WIDTH - 12, y(decade), "grid l-line"), text(SIDE - 8, y(decade) + 4, "s f-soft e", micros(10 ** decade)));
  }
  trips.forEach((event, index) => {
    const x = xOf(event[0]);
    const title = draw("title", {}, `${clock(event[0], 3)}  ${micros(event[3])}`);
    parts.push(line(x, bottom, x, y(logs[index]), "thin l-answer"), draw("circle", { cx: x, cy: y(logs[index]), r: 3.2, class: "f-answer" }, title));
  });
  return parts;
}

function nice(most) {
  const digit = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 4, 6, 8, 10].map((step) => step * digit).find((ceiling) => ceiling >= most);
}

/** Zooms: drag over a span of time, double-click for all, Ctrl and wheel. */
function dragging(picture, height) {
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    return one.from + ((Math.min(Math.max(x, SIDE), WIDTH - 12) - SIDE) / (WIDTH - SIDE - 12)) * (one.to - one.from);
  };
  const pick = draw("rect", { class: "pick", y: 20, height: height - 20, width: 0, x: 0 });
  picture.append(pick);
  let start = null;
  const span = (event) => [Math.min(start, at(event)), Math.max(start, at(event))];
  picture.addEventListener("pointerdown", (event) => {
    start = at(event);
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const [from, to] = span(event).map(xOf);
    pick.setAttribute("x", from);
    pick.setAttribute("width", to - from);
  });
  picture.addEventListener("pointerup", (event) => {
    const [from, to] = start === null ? [0, 0] : span(event);
    start = null;
    pick.setAttribute("width", 0);
    if (xOf(to) - xOf(from) > 6) look(from, to);
  });
  picture.addEventListener("dblclick", () => look(...one.whole));
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, at(event));
  }, { passive: false });
}

// The fragment of the address selects the overview or one socket.
function route() {
  const id = Number(/^#socket-(\d+)$/.exec(location.hash)?.[1]);
  const socket = data.sockets.find((it) => it.id === id);
  const wasOne = one !== null;
  byId("overview").hidden = Boolean(socket);
  byId("one").hidden = !socket;
  if (socket) {
    if (!wasOne) route.scroll = scrollY;
    open(socket);
    scrollTo(0, 0);
    byId("one").querySelector("h1").focus({ preventScroll: true });
  } else {
    const last = one?.socket.id;
    one = null;
    byId("one").replaceChildren();
    if (wasOne) scrollTo(0, route.scroll ?? 0);
    document.querySelector(`tr[data-id="${last}"]`)?.focus({ preventScroll: true });
  }
}

addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping && !one) {
    event.preventDefault();
    byId("filter").focus();
  } else if (event.key === "Escape") {
    if (one) location.hash = "";
    else if (isTyping) {
      byId("filter").value = "";
      select();
    }
  } else if (one && !isTyping && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const by = event.key === "ArrowLeft" ? -1 : 1;
    byId("one").querySelector(`[data-walk="${by}"]`)?.click();
  }
});
select();
if (data.open && !location.hash) location.hash = `socket-${data.open}`;
route();
