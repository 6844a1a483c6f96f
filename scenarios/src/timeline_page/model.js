// What happened, out of the payload: events, lanes, ops, messages, records. `canvas.js` draws it, `lists.js` lists it; the three are one script in the page.
//
// An `event` is a place in the history. An `op` is something with a begin and an end on a lane (a send, a delivery, a commit, a
// session, a lock) or at one moment (a fact). Lanes have sections, sections have tracks, the ops of a track are in order of time.

const data = JSON.parse(document.getElementById("payload").textContent);
document.getElementById("payload").textContent = "";
const byId = (id) => document.getElementById(id);
const SECOND = 1e9;

// ---- Events -----------------------------------------------------------------------------------------------------------------

const { rows, shapes, strings, queues, nodes, faults } = data;
for (const shape of shapes) {
  shape.at = {};
  shape.fields.forEach(([name], place) => { shape.at[name] = place + 2; });
}
let count = 0;
for (let at = 0; at < rows.length; at += 2 + shapes[rows[at]].fields.length) count++;
const startOf = new Int32Array(count), timeOf = new Float64Array(count);
const laneOf = new Int16Array(count).fill(-1), parentOf = new Int32Array(count).fill(-1);
for (let at = 0, event = 0, t = data.begin; event < count; event++) {
  t += rows[at + 1];
  startOf[event] = at;
  timeOf[event] = t;
  at += 2 + shapes[rows[at]].fields.length;
}
const kindOf = (event) => shapes[rows[startOf[event]]].kind;
// The packed value of a field; undefined if the event has no such field.
const raw = (event, name) => {
  const start = startOf[event], place = shapes[rows[start]].at[name];
  return place === undefined ? undefined : rows[start + place];
};
const shown = (event, name) => {
  const shape = shapes[rows[startOf[event]]], place = shape.at[name];
  if (place === undefined) return undefined;
  const value = rows[startOf[event] + place];
  return { n: () => String(value), s: () => strings[value], q: () => queues[value].name, b: () => (value ? "yes" : "no") }[shape.fields[place - 2][1]]();
};
const words = (text) => text.replaceAll("_", " ");
const seconds = (t, digits = 6) => (t / SECOND).toFixed(digits);
const span = (ns) => (ns >= SECOND ? (ns / SECOND).toFixed(3) + " s" : ns >= 1e6 ? (ns / 1e6).toFixed(3) + " ms" : (ns / 1e3).toFixed(1) + " µs");
const details = (event) => {
  const shape = shapes[rows[startOf[event]]];
  return shape.fields.filter(([name]) => name !== "crc").map(([name]) => words(name) + " " + shown(event, name)).join(", ");
};

// ---- Lanes and what is on them ------------------------------------------------------------------------------------------------

const SECTIONS = { send: "sends", deliver: "deliveries", commit: "commits", own: "queues, locks", fact: "log, answers", other: "other" };
const TRACKS = { send: 6, deliver: 8, commit: 3, own: 14, fact: 4, other: 2 };
const FACT_TRACK = { appended: 0, flushed: 1, acknowledged: 2 };
const laneByName = new Map(nodes.map((node, lane) => [node.name, lane]));
const laneOfString = strings.map((text) => laneByName.get(text) ?? -1);
const lanes = nodes.map((node) => ({
  name: node.name, role: node.role, sections: {}, down: [], paused: [], faults: [], clock: [], logTimes: [], logUnsynced: [],
}));

for (const fault of faults) {
  fault.struck = Object.values(fault.effect).some((number) => number > 0);
  for (const lane of fault.nodes) {
    const here = lanes[lane];
    here.faults.push(fault);
    if (fault.kind === "kill" || fault.kind === "power_loss") here.down.push([fault.begin, fault.end > fault.begin ? fault.end : data.end]);
    if (fault.kind === "restart") here.down.filter(([, until]) => until > fault.begin).forEach((down) => { down[1] = fault.begin; });
    if (fault.kind === "pause") here.paused.push([fault.begin, fault.end]);
    if (fault.by_ms) here.clock.push({ t: fault.begin, step: fault.by_ms * 1e6 });
    if (fault.parts_per_million) here.clock.push({ t: fault.begin, rate: fault.parts_per_million }, { t: fault.end, rate: 0 });
  }
}
lanes.forEach((lane) => lane.clock.sort((a, b) => a.t - b.t));
// How far a lane's wall clock is ahead at a time, and how much faster it runs.
const clockAt = (lane, t) => {
  let offset = 0, rate = 0, since = data.begin;
  for (const change of lane.clock) {
    if (change.t > t) break;
    offset += (rate * (change.t - since)) / 1e6 + (change.step ?? 0);
    rate = change.rate ?? rate;
    since = change.t;
  }
  return { offset: offset + (rate * (t - since)) / 1e6, rate };
};
const clockText = ({ offset, rate }) => {
  const parts = [];
  if (Math.abs(offset) >= 1e4) parts.push((offset > 0 ? "+" : "−") + span(Math.abs(offset)));
  if (rate) parts.push((rate > 0 ? "+" : "−") + Math.abs(rate) + " ppm");
  return parts.join(", ");
};
// When something unfinished on this lane ended for good: when its process died.
const deathAfter = (lane, t) => {
  const deaths = lane < 0 ? [] : lanes[lane].down.map(([from]) => from).filter((from) => from >= t);
  return deaths.length ? Math.min(...deaths) : data.end;
};

const ops = [];
const messages = [];
const addOp = (lane, section, begin, end, state, event, more) => {
  const op = { lane, section, begin, end, state, event, done: -1, ...more };
  ops.push(op);
  return op;
};
const slot = (queue, offset) => queue * 4294967296 + offset;
const marks = [];
const queueOfUid = new Map();

(function build() {
  const sends = new Map(), deliveries = new Map(), commits = new Map(), sessions = new Map(), locks = new Map(), answers = new Map(), answered = new Set();
  const log = lanes.map(() => ({ appended: 0, flushed: 0 }));
  const hasFetches = shapes.some((shape) => shape.kind === "fetch");
  const broker = (queue) => (queue === undefined ? -1 : queues[queue].node ?? -1);
  const finish = (op, event, state) => {
    if (!op) return;
    Object.assign(op, { end: timeOf[event], state, done: event });
    parentOf[event] = op.event;
    laneOf[event] = op.lane;
  };
  const text = (event, name) => strings[raw(event, name)];
  for (let event = 0; event < count; event++) {
    const t = timeOf[event], kind = kindOf(event), uid = raw(event, "uid"), queue = raw(event, "queue");
    const owner = raw(event, "client") ?? raw(event, "producer") ?? raw(event, "node") ?? raw(event, "broker");
    const lane = owner === undefined ? broker(queue) : laneOfString[owner];
    laneOf[event] = lane;
    if (uid !== undefined && queue !== undefined && !queueOfUid.has(uid)) queueOfUid.set(uid, queue);
    switch (kind) {
      case "send_invoke":
        sends.set(uid * 64 + raw(event, "attempt"), addOp(lane, "send", t, NaN, "open", event, { uid }));
        break;
      case "send_ok": case "send_fail": case "send_info": {
        const op = sends.get(uid * 64 + raw(event, "attempt"));
        const status = kind === "send_ok" ? (text(event, "status") === "SEND_OK" ? "ok" : "later") : kind === "send_fail" ? "fail" : "unknown";
        finish(op, event, status);
        if (op && queue !== undefined) {
          const answer = answers.get(slot(queue, raw(event, "offset")));
          answered.add(uid);
          op.peer = broker(queue);
          op.middle = answer >= op.begin && answer <= t ? answer : (op.begin + t) / 2;
        }
        break;
      }
      case "acknowledged":
        if (queue !== undefined) answers.set(slot(queue, raw(event, "offset")), t);
        break;
      case "deliver_start": {
        const op = addOp(lane, "deliver", t, NaN, "open", event, { uid });
        deliveries.set(raw(event, "delivery"), op);
        if (!hasFetches) messages.push({ from: broker(queue), to: lane, begin: t, end: t, op });
        break;
      }
      case "deliver_done":
        finish(deliveries.get(raw(event, "delivery")), event, text(event, "verdict") === "success" ? "ok" : "later");
        break;
      case "send_back_invoke": case "send_back_ok": case "send_back_info": {
        const op = deliveries.get(raw(event, "delivery"));
        if (!op) break;
        parentOf[event] = op.event;
        laneOf[event] = op.lane;
        if (kind !== "send_back_invoke") addOp(op.lane, "commit", t, t, kind === "send_back_ok" ? "later" : "unknown", event, { uid: op.uid });
        break;
      }
      case "commit_invoke": {
        const op = addOp(lane, "commit", t, NaN, "open", event, { peer: broker(queue) });
        commits.set(raw(event, "commit"), op);
        break;
      }
      case "commit_ok": case "commit_info": {
        const op = commits.get(raw(event, "commit"));
        finish(op, event, kind === "commit_ok" ? "ok" : "unknown");
        if (op) op.middle = (op.begin + t) / 2;
        break;
      }
      case "session_open":
        sessions.set(raw(event, "session"), addOp(lane, "own", t, NaN, "own", event, { queue, label: text(event, "group") + " reads " + queues[queue]?.name }));
        break;
      case "session_close": case "fetch": case "seek": {
        const op = sessions.get(raw(event, "session"));
        if (!op) break;
        if (kind === "session_close") {
          finish(op, event, "own");
        } else {
          parentOf[event] = op.event;
          laneOf[event] = op.lane;
          if (kind === "fetch" && raw(event, "count") > 0) messages.push({ from: broker(op.queue), to: op.lane, begin: t, end: t, op, event });
          if (kind === "seek") addOp(op.lane, "other", t, t, "later", event, {});
        }
        break;
      }
      case "lock_ok": case "lock_end": {
        const key = raw(event, "group") + "/" + raw(event, "client") + "/" + queue, held = locks.get(key);
        const isHeld = held && Number.isNaN(held.end) && deathAfter(lane, held.begin) > t;
        if (kind === "lock_end") {
          if (isHeld) finish(held, event, "lock");
        } else if (!isHeld) {
          locks.set(key, addOp(lane, "own", t, NaN, "lock", event, { label: text(event, "group") + " holds the lock of " + queues[queue]?.name }));
        } else {
          parentOf[event] = held.event;
        }
        break;
      }
      case "mark":
        marks.push({ t, name: text(event, "name"), event });
        break;
      case "fault": case "scan_queue": case "scan_entry": case "scan_end":
        break;
      default:
        // Facts of a broker in rows by kind; what this page does not know, where it belongs.
        if (lane < 0) break;
        if (raw(event, "client") === undefined && raw(event, "producer") === undefined) {
          const state = kind === "recovered" || kind === "gap" ? "later" : "fact";
          addOp(lane, "fact", t, t, state, event, { track: FACT_TRACK[kind] ?? 3 });
        } else {
          addOp(lane, "other", t, t, "fact", event, {});
        }
    }
    if (lane >= 0 && (kind === "appended" || kind === "flushed" || kind === "recovered")) {
      const state = log[lane], at = lanes[lane];
      if (kind === "appended") state.appended = Math.max(state.appended, raw(event, "end"));
      if (kind === "flushed") state.flushed = Math.max(state.flushed, raw(event, "upto"));
      if (kind === "recovered") state.appended = state.flushed = raw(event, "end");
      at.logTimes.push(t);
      at.logUnsynced.push(Math.max(0, state.appended - state.flushed));
    }
  }
  for (const op of ops) {
    if (Number.isNaN(op.end)) op.end = deathAfter(op.lane, op.begin);
    // Found on a queue though no attempt was answered: one without an answer has stored it.
    if (op.state === "unknown" && op.section === "send" && queueOfUid.has(op.uid) && !answered.has(op.uid)) {
      op.peer = broker(queueOfUid.get(op.uid));
      op.middle = (op.begin + op.end) / 2;
    }
    if (op.peer >= 0 && op.lane >= 0 && op.middle !== undefined) {
      messages.push({ from: op.lane, to: op.peer, begin: op.begin, end: op.middle, op, back: op.end });
    }
  }
  messages.sort((a, b) => a.begin - b.begin);
  const freeAt = (track) => track.at(-1)?.latest ?? 0;
  for (const op of ops) {
    if (op.lane < 0) continue;
    const section = (lanes[op.lane].sections[op.section] ??= { name: op.section, tracks: [] });
    const { tracks } = section;
    let track = op.track;
    if (track === undefined) {
      track = tracks.findIndex((ops) => freeAt(ops) <= op.begin);
      if (track < 0 && tracks.length < TRACKS[op.section]) track = tracks.length;
      // No room: it overlaps the track that is free soonest.
      if (track < 0) track = tracks.reduce((best, ops, at) => (freeAt(ops) < freeAt(tracks[best]) ? at : best), 0);
    }
    while (tracks.length <= track) tracks.push([]);
    op.track = track;
    // The latest end so far: never goes back, so that a binary search finds the first op that reaches into a view.
    op.latest = Math.max(op.end, freeAt(tracks[track]));
    tracks[track].push(op);
  }
})();
// First place of a sorted list for which the test holds.
const firstWhere = (length, test) => {
  let low = 0, high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
};

const opOfEvent = new Map();
ops.forEach((op) => {
  opOfEvent.set(op.event, op);
  if (op.done >= 0) opOfEvent.set(op.done, op);
});

// ---- Records of a queue: a row for each message seen at an offset ------------------------------------------------------------

function recordsOf(queue) {
  const found = new Map(), commits = new Map(), answered = new Map(), bounds = {};
  const at = (event, uid) => {
    const offset = raw(event, "offset"), key = offset + "/" + uid;
    let record = found.get(key);
    if (!record) found.set(key, (record = { offset, uid, event, deliveries: [], acknowledged: "", acknowledgedAs: "SEND_OK", at: null, entry: false }));
    return record;
  };
  let isScanned = false, isComplete = false;
  for (let event = 0; event < count; event++) {
    const kind = kindOf(event);
    if (kind === "scan_end") isComplete = raw(event, "complete") === 1;
    const of = kind === "commit_ok" && parentOf[event] >= 0 ? parentOf[event] : event;
    if (raw(of, "queue") !== queue) continue;
    const uid = raw(event, "uid");
    if (kind === "send_ok") {
      const record = at(event, uid);
      record.acknowledgedAs = strings[raw(event, "status")];
      record.at = timeOf[event];
      const status = record.acknowledgedAs === "SEND_OK" ? "ok" : record.acknowledgedAs;
      record.acknowledged = `${seconds(timeOf[event], 3)} ${status}` + (laneOf[event] >= 0 ? ` to ${nodes[laneOf[event]].name}` : "");
      record.event = event;
    } else if (kind === "deliver_start") {
      at(event, uid).deliveries.push(event);
    } else if (kind === "scan_queue") {
      isScanned = true;
      bounds.min = raw(event, "min");
    } else if (kind === "scan_entry") {
      at(event, uid).entry = true;
    } else if (kind === "gap") {
      at(event, undefined).gap = true;
    } else if (kind === "acknowledged") {
      answered.set(raw(event, "offset"), event);
    } else if (kind === "commit_ok") {
      const group = raw(of, "group"), list = commits.get(group) ?? commits.set(group, []).get(group), offset = raw(of, "offset");
      // Only what goes further: a list in order of offset and of time.
      if (!list.length || offset > list.at(-1).offset) list.push({ offset, t: timeOf[event] });
    }
  }
  const made = [...found.values()].sort((a, b) => a.offset - b.offset || timeOf[a.event] - timeOf[b.event]);
  for (const record of made) {
    record.delivered = record.deliveries.map((event) => {
      const op = opOfEvent.get(event), verdict = op?.done >= 0 ? shown(op.done, "verdict") : "never ended";
      return `${shown(event, "group")}/${shown(event, "client")} ${seconds(timeOf[event], 3)} ${verdict}`;
    }).join("; ");
    record.committed = [...commits].map(([group, list]) => {
      const first = list[firstWhere(list.length, (at) => list[at].offset > record.offset)];
      return first ? `${strings[group]} ${seconds(first.t, 3)}` : "";
    }).filter(Boolean).join("; ");
    if (!record.acknowledged && answered.has(record.offset)) {
      record.acknowledged = `by the broker ${seconds(timeOf[answered.get(record.offset)], 3)}, not heard`;
    }
    const isBelow = isScanned && record.offset < bounds.min;
    record.scan = record.gap ? "gap" : record.entry ? "present" : isBelow ? "deleted" : isScanned ? "missing" : "no scan";
    record.color = record.entry ? "ok" : record.scan === "missing" || record.gap ? "fail" : "faint";
  }
  return { made, isScanned, isComplete };
}
performance.mark("timeline-built");
