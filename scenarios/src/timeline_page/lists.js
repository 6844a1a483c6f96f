// Everything around the canvas: verdict, what is chosen, records, events, filter. Text from the run goes into the page as text,
// never as markup.

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const button = (text, action) => {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
};

function choose(event) {
  const op = opOfEvent.get(event) ?? opOfEvent.get(parentOf[event]) ?? null;
  chosen = { event, op, t: timeOf[event] };
  const box = byId("chosen");
  box.replaceChildren(element("b", "", `${words(kindOf(event))} at ${seconds(timeOf[event])} s`));
  const list = element("dl");
  const line = (name, text) => list.append(element("dt", "", name), element("dd", "", text));
  if (laneOf[event] >= 0) line("node", nodes[laneOf[event]].name);
  const shape = shapes[rows[startOf[event]]];
  shape.fields.forEach(([name]) => line(words(name), shown(event, name)));
  if (op && op.event !== event) line("of", `${words(kindOf(op.event))} at ${seconds(op.begin)} s: ${details(op.event)}`);
  if (op && op.done >= 0 && op.done !== event) line("then", `${words(kindOf(op.done))} at ${seconds(op.end)} s: ${details(op.done)}`);
  if (op && op.done < 0 && op.state === "open") {
    line("then", op.end < data.end ? `nothing: the process died at ${seconds(op.end)} s` : "nothing until the end of the run");
  }
  box.append(list);
  const buttons = element("span", "buttons"), uid = raw(event, "uid") ?? op?.uid, queue = raw(event, "queue") ?? op?.queue ?? queueOfUid.get(uid);
  if (uid !== undefined) buttons.append(button("only this message", () => showMessage(uid)));
  if (queue !== undefined) {
    const at = { scroll: true, uid, offset: raw(event, "offset") };
    buttons.append(button(`records of ${queues[queue].name}`, () => showQueue(queue, at)));
  }
  const close = () => {
    chosen = null;
    box.replaceChildren();
    redraw();
    eventList.render();
  };
  buttons.append(button("in the list", () => eventList.showEvent(event)), button("close", close));
  box.append(buttons);
  redraw();
  eventList.render();
}

function jump(t, length = Math.min(0.6 * SECOND, whole.until - whole.from)) {
  moveTo(t - length / 2, t + length / 2);
}

function jumpToEvent(event) {
  const t = timeOf[event];
  if (t < view.from || t > view.until) jump(t, Math.min(view.until - view.from, 2 * SECOND));
  choose(event);
}

// ---- Lists: only the rows in sight are in the page -----------------------------------------------------------------------------

class List {
  constructor(section, fill) {
    this.box = section.querySelector(".list");
    this.spacer = element("div");
    this.rows = element("div", "rows");
    this.box.append(this.spacer, this.rows);
    this.fill = fill;
    this.length = 0;
    this.box.addEventListener("scroll", () => this.render());
  }
  // Row height follows the style sheet: one line, or several on a narrow screen.
  get step() { return matchMedia("(max-width: 640px)").matches ? this.tall : 24; }
  setLength(length) {
    this.length = length;
    this.render();
  }
  render() {
    const { step } = this, first = Math.max(0, Math.floor(this.box.scrollTop / step) - 3);
    const last = Math.min(this.length, first + Math.ceil(this.box.clientHeight / step) + 6), made = [];
    this.spacer.style.height = this.length * step + "px";
    for (let row = first; row < last; row++) made.push(this.fill(row));
    this.rows.style.transform = `translateY(${Math.min(first, this.length) * step}px)`;
    this.rows.replaceChildren(...made);
  }
  show(row) {
    this.box.scrollTop = Math.max(0, row * this.step - this.box.clientHeight / 2);
    this.render();
  }
}

const hits = new Set(data.violations.flatMap((violation) => violation.uids));

let listed = Int32Array.from({ length: count }, (_, event) => event);
const eventList = new List(byId("events"), (row) => {
  const event = listed[row], kind = kindOf(event), made = element("div", "event");
  if (chosen?.event === event) made.classList.add("chosen");
  if (hits.has(raw(event, "uid"))) made.classList.add("hit");
  const color = { send_fail: "fail", send_info: "unknown", commit_info: "unknown", fault: "later", recovered: "later", gap: "fail" }[kind] ?? "";
  made.append(element("span", "number", seconds(timeOf[event])), element("span", "faint", laneOf[event] >= 0 ? nodes[laneOf[event]].name : ""),
    element("span", color, words(kind)), element("span", "", details(event)));
  made.title = details(event);
  made.addEventListener("click", () => jumpToEvent(event));
  return made;
});
eventList.tall = 42;
eventList.showEvent = (event) => eventList.show(firstWhere(listed.length, (row) => listed[row] >= event));

function applyFilter(text) {
  const tokens = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!tokens.length) {
    matched = null;
    listed = Int32Array.from({ length: count }, (_, event) => event);
  } else {
    matched = new Uint8Array(count).fill(1);
    for (const token of tokens) {
      // A whole uid means this message, not those whose uids begin alike.
      const exact = strings.some((text) => text.toLowerCase() === token);
      const fits = (text) => (exact ? text.toLowerCase().split(", ").includes(token) : text.toLowerCase().includes(token));
      const inString = strings.map(fits), inQueue = queues.map((queue) => queue.name.toLowerCase().includes(token));
      const inLane = nodes.map((node) => fits(node.name)), inKind = shapes.map((shape) => shape.kind.includes(token) || words(shape.kind).includes(token));
      for (let event = 0; event < count; event++) {
        if (!matched[event]) continue;
        const start = startOf[event], { fields } = shapes[rows[start]];
        let fit = inKind[rows[start]] || (laneOf[event] >= 0 && inLane[laneOf[event]]);
        for (let place = 0; !fit && place < fields.length; place++) {
          const value = rows[start + 2 + place], type = fields[place][1];
          fit = type === "s" ? inString[value] : type === "q" ? inQueue[value] : false;
        }
        // What belongs to a delivery or a session says of which message or queue it is only there.
        const parent = parentOf[event];
        if (!fit && parent >= 0) {
          const uid = raw(parent, "uid"), queue = raw(parent, "queue");
          fit = (uid !== undefined && inString[uid]) || (queue !== undefined && inQueue[queue]);
        }
        matched[event] = fit ? 1 : 0;
      }
    }
    const some = [];
    for (let event = 0; event < count; event++) if (matched[event]) some.push(event);
    listed = Int32Array.from(some);
  }
  byId("events-note").textContent = matched ? `${listed.length} of ${count}` : `${count}`;
  eventList.setLength(listed.length);
  redraw();
}

function setFilter(text) {
  byId("filter").value = text;
  applyFilter(text);
}
// Filters by a message, and shows all of its sends and deliveries.
function showMessage(uid) {
  setFilter(strings[uid]);
  const own = ops.filter((op) => op.uid === uid);
  if (!own.length) return;
  const from = own.reduce((least, op) => Math.min(least, op.begin), Infinity), until = own.reduce((most, op) => Math.max(most, op.end), 0);
  const around = Math.max((until - from) * 0.15, 1e6);
  moveTo(from - around, until + around);
}

let waiting = 0;
byId("filter").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => applyFilter(event.target.value), 120);
});
byId("tools").addEventListener("submit", (event) => event.preventDefault());

// ---- Records of a queue ----------------------------------------------------------------------------------------------------------

let records = [];
const recordList = new List(byId("records"), (row) => {
  const record = records[row], made = element("div", "record");
  if (record.uid !== undefined && hits.has(record.uid)) made.classList.add("hit");
  made.append(element("span", "number", record.offset), element("span", "", record.uid === undefined ? "" : strings[record.uid]),
    element("span", record.acknowledgedAs === "SEND_OK" ? "" : "later", record.acknowledged), element("span", "", record.delivered),
    element("span", "faint", record.committed), element("span", record.color, record.scan));
  const uid = record.uid === undefined ? "" : strings[record.uid];
  const lines = [`offset ${record.offset}`, uid, record.acknowledged, record.delivered, record.committed, record.scan];
  made.title = lines.filter(Boolean).join("\n");
  made.addEventListener("click", () => jumpToEvent(record.event));
  return made;
});
recordList.tall = 82;

function showQueue(queue, at = {}) {
  byId("queue").value = queue;
  const { made, isScanned, isComplete } = recordsOf(queue);
  records = made;
  const missing = made.filter((record) => record.scan === "missing" && record.at !== null).length;
  const scan = isScanned ? `${missing} acknowledged and missing in the final scan` : "not in the final scan";
  byId("records-note").textContent = `${made.length} records, ${scan}` + (isScanned && !isComplete ? " (which is not complete)" : "");
  recordList.setLength(made.length);
  const row = made.findIndex((record) => (at.uid !== undefined ? record.uid === at.uid : record.offset === at.offset));
  recordList.show(Math.max(row, 0));
  if (at.scroll) byId("records").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

// ---- Verdict, head, legend -------------------------------------------------------------------------------------------------------

(function introduce() {
  const broken = [...new Set(data.violations.map(({ property }) => property))].join(", ");
  const title = `${data.seed === null ? data.source : "Seed " + data.seed}: ${data.verdict} ${broken}`.trim();
  document.title = "Orrery timeline: " + title;
  byId("title").textContent = title;
  const numbers = data.counts.filter(([, number]) => number).map(([name, number]) => `${number.toLocaleString("en")} ${name}`);
  const [before, after] = data.left_out;
  byId("about").textContent = [data.story, data.source, `${seconds(data.end - data.begin, 1)} s`, ...numbers].filter(Boolean).join(" · ") +
    (before + after ? ` · this page leaves out ${before} events before and ${after} after those shown; the history has them` : "");
  const place = byId("verdict");
  const card = (kind, name, text) => {
    const made = element("div", "card " + kind), line = element("p");
    line.append(element("b", kind === "violated" ? "broken" : "", name), text);
    made.append(line);
    place.append(made);
    return made;
  };
  if (data.verdict === "held") card("held", "held", "no property was broken");
  data.reasons.forEach((reason) => card("inconclusive", "inconclusive", reason));
  // The first of each property, and its others folded away.
  const folds = new Map();
  for (const violation of data.violations) {
    const { property, title, t, explanation } = violation, text = `at ${seconds(t)} s: ${explanation}`;
    const fold = folds.get(property);
    const made = fold ? element("p", "", text) : card("violated", `${property} ${title}`, text);
    const buttons = element("span", "buttons"), uid = violation.uids[0], queue = violation.queues[0] ?? queueOfUid.get(uid);
    buttons.append(button("show the moment", () => {
      jump(t);
      stage.scrollIntoView({ behavior: "smooth", block: "nearest" });
    }));
    if (uid !== undefined) buttons.append(button(`only ${strings[uid]}`, () => showMessage(uid)));
    if (queue !== undefined) buttons.append(button(`records of ${queues[queue].name}`, () => showQueue(queue, { scroll: true, uid })));
    if (!fold) {
      made.append(buttons);
      folds.set(property, { card: made, others: [] });
    } else {
      made.append(element("br"), buttons);
      fold.others.push(made);
    }
  }
  for (const { card, others } of folds.values()) {
    if (!others.length) continue;
    const details = element("details");
    details.append(element("summary", "", others.length === 1 ? "one more" : `${others.length} more`), ...others);
    card.append(details);
  }

  const legend = byId("legend");
  const entry = (color, text) => {
    const made = element("span"), swatch = element("i");
    swatch.style.background = `var(--${color})`;
    made.append(swatch, text);
    legend.append(made);
  };
  Object.entries({
    ok: "ok", later: "handed back, lesser status, recovered", unknown: "unknown; a change of a clock", fail: "failed", open: "never ended",
    own: "queue owned", lock: "queue lock held", fact: "fact of a broker", unsynced: "bytes not yet flushed",
    up: "up", down: "down", paused: "paused", fault: "fault", noeffect: "fault without effect",
  }).forEach(([color, text]) => entry(color, text));

  const heads = (kind, names) => document.querySelector(".head." + kind).append(...names.map((name, at) => element("span", at ? "" : "number", name)));
  heads("event", ["seconds", "node", "kind", "details"]);
  heads("record", ["offset", "uid", "acknowledged", "delivered", "committed", "final scan"]);
  const sizes = new Uint32Array(queues.length);
  for (let event = 0; event < count; event++) {
    const queue = raw(event, "queue");
    if (queue !== undefined) sizes[queue]++;
  }
  const order = queues.map((_, queue) => queue).sort((a, b) => (queues[a].name < queues[b].name ? -1 : 1));
  order.forEach((queue) => {
    const option = element("option", "", queues[queue].name);
    option.value = queue;
    byId("queue").append(option);
  });
  byId("queue").addEventListener("change", (event) => showQueue(Number(event.target.value)));
  const first = data.violations.find((violation) => violation.queues.length || violation.uids.some((uid) => queueOfUid.has(uid)));
  const question = first ? first.queues[0] ?? queueOfUid.get(first.uids[0]) : sizes.indexOf(sizes.reduce((most, size) => Math.max(most, size), 0));
  applyFilter("");
  if (queues.length) showQueue(question, { uid: first?.uids[0] });
  if (first) {
    const event = firstWhere(count, (event) => timeOf[event] >= first.t);
    eventList.show(event);
  }
})();

readColors();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColors();
  redraw();
});
addEventListener("resize", () => {
  layout();
  eventList.render();
  recordList.render();
});
layout();
// `#from=12.5&until=13&filter=client-1`: seconds, as in `orrery-sim replay`.
const wanted = new URLSearchParams(location.hash.slice(1));
if (wanted.has("from") || wanted.has("until")) {
  moveTo(wanted.has("from") ? Number(wanted.get("from")) * SECOND : whole.from, wanted.has("until") ? Number(wanted.get("until")) * SECOND : whole.until);
}
if (wanted.has("filter")) setFilter(wanted.get("filter"));
draw();
performance.mark("timeline-drawn");
