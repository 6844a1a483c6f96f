// The canvas: draws what `model.js` found, only what is in view; moves with wheel, drag, touch and keys; finds what is under the pointer.

// ---- Canvas -------------------------------------------------------------------------------------------------------------------

const canvas = byId("canvas"), stage = byId("stage"), context = canvas.getContext("2d");
const whole = { from: data.begin, until: Math.max(data.end, data.begin + 1e6) };
whole.until += (whole.until - whole.from) * 0.01;
const view = { from: whole.from, until: whole.until, top: 0 };
const AXIS = 34, TRACK = 6, STRIP = 7, TITLE = 17, HISTOGRAM = 22, SHORTEST = 20e3;
const COLORS = [
  "paper", "panel", "line", "ink", "faint", "lane", "ok", "later", "unknown", "fail", "open", "own", "lock", "fact", "unsynced",
  "message", "up", "down", "paused", "fault", "faultedge", "noeffect", "mark", "broken", "select",
];
const ORDER = ["send", "deliver", "commit", "own", "fact", "other"];
let width = 0, height = 0, gutter = 0, total = 0, chosen = null, pointer = null, matched = null, colors = {};

const x = (t) => gutter + ((t - view.from) / (view.until - view.from)) * (width - gutter);
const timeAt = (px) => view.from + ((px - gutter) / (width - gutter)) * (view.until - view.from);

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of COLORS) colors[name] = style.getPropertyValue("--" + name).trim();
}

function layout() {
  width = stage.clientWidth;
  gutter = width < 640 ? 0 : 196;
  let y = 0;
  for (const lane of lanes) {
    lane.y = y;
    y += gutter ? 12 : TITLE + 3;
    lane.strip = y;
    y += STRIP + 4;
    for (const name of ORDER) {
      const section = lane.sections[name];
      if (!section) continue;
      section.y = y;
      section.height = Math.max(name === "own" ? 0 : HISTOGRAM, section.tracks.length * TRACK);
      y += section.height + 5;
    }
    if (lane.logTimes.length) {
      lane.unsynced = y;
      y += HISTOGRAM + 4;
    }
    y = Math.max(y, lane.y + (gutter ? (lane.clock.length ? 48 : 36) : 0));
    lane.height = y - lane.y;
    y += 2;
  }
  total = y;
  height = Math.min(AXIS + total, Math.max(260, Math.round(innerHeight * 0.72)));
  stage.style.height = height + "px";
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  moveTo(view.from, view.until, view.top);
  // A new size empties the canvas: it is filled before anyone sees that.
  draw();
}

let isDue = false;
function redraw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function moveTo(from, until, top = view.top) {
  const length = Math.min(Math.max(until - from, SHORTEST), whole.until - whole.from);
  view.from = Math.max(whole.from, Math.min(from, whole.until - length));
  view.until = view.from + length;
  view.top = Math.max(0, Math.min(top, AXIS + total - height));
  redraw();
}

function zoom(factor, around = (view.from + view.until) / 2) {
  moveTo(around - (around - view.from) * factor, around + (view.until - around) * factor);
}

const pan = (share) => moveTo(view.from + share * (view.until - view.from), view.until + share * (view.until - view.from));

const isMatched = (op) => !matched || matched[op.event] === 1 || (op.done >= 0 && matched[op.done] === 1);

function draw() {
  context.fillStyle = colors.paper;
  context.fillRect(0, 0, width, height);
  context.textBaseline = "middle";
  context.save();
  context.beginPath();
  context.rect(0, AXIS, width, height - AXIS);
  context.clip();
  context.translate(0, AXIS - view.top);
  lanes.forEach((lane) => {
    context.fillStyle = colors.lane;
    context.fillRect(0, lane.y, width, lane.height);
  });
  context.save();
  context.beginPath();
  context.rect(gutter, 0, width - gutter, total);
  context.clip();
  const isVisible = (lane) => lane.y + lane.height >= view.top && lane.y <= view.top + height;
  lanes.filter(isVisible).forEach(drawFaults);
  drawMoments();
  drawMessages();
  lanes.filter(isVisible).forEach((lane) => {
    drawStrip(lane);
    ORDER.forEach((name) => lane.sections[name] && drawSection(lane.sections[name]));
    if (lane.unsynced) drawUnsynced(lane);
  });
  if (chosen) drawLine(chosen.t, colors.select, [5, 3], 1);
  if (pointer) drawLine(timeAt(pointer.x), colors.faint, [], 0.5);
  context.restore();
  lanes.filter(isVisible).forEach(drawTitle);
  context.restore();
  drawAxis();
  byId("range").textContent = `${seconds(view.from, 3)} – ${seconds(Math.min(view.until, data.end), 3)} s`;
}

function drawFaults(lane) {
  context.font = "10px system-ui, sans-serif";
  for (const fault of lane.faults) {
    if (fault.end < view.from || fault.begin > view.until) continue;
    const left = Math.max(x(fault.begin), gutter - 2), right = Math.min(x(fault.end), width + 2);
    context.fillStyle = fault.struck ? colors.fault : colors.noeffect;
    context.fillRect(left, lane.y, Math.max(right - left, 2), lane.height);
    context.fillStyle = fault.struck ? colors.faultedge : colors.line;
    context.fillRect(left, lane.y, 1, lane.height);
    if (fault.end > fault.begin) context.fillRect(right - 1, lane.y, 1, lane.height);
    const text = words(fault.kind) + (fault.struck ? "" : ", no effect");
    if (gutter && right - left > context.measureText(text).width + 6) {
      context.fillStyle = colors.faint;
      context.fillText(text, left + 4, lane.y + 6);
    }
  }
}

function drawStrip(lane) {
  const from = Math.max(gutter, x(data.begin)), until = Math.min(width, x(data.end));
  context.fillStyle = colors.up;
  context.fillRect(from, lane.strip, until - from, STRIP);
  const cover = (spans, color) => {
    context.fillStyle = color;
    for (const [begin, end] of spans) {
      if (end < view.from || begin > view.until) continue;
      context.fillRect(Math.max(x(begin), gutter), lane.strip, Math.max(Math.min(x(end), width) - Math.max(x(begin), gutter), 2), STRIP);
    }
  };
  cover(lane.paused, colors.paused);
  context.fillStyle = colors.lane;
  for (const [begin, end] of lane.down) context.fillRect(x(begin), lane.strip, x(end) - x(begin), STRIP);
  context.fillStyle = colors.down;
  for (const [begin, end] of lane.down) {
    if (end < view.from || begin > view.until) continue;
    const left = Math.max(x(begin), gutter), right = Math.max(Math.min(x(end), width), left + 2);
    context.fillRect(left, lane.strip, right - left, STRIP);
  }
  // Clock changes are small flags under the strip.
  context.fillStyle = colors.unknown;
  for (const change of lane.clock) {
    if (change.t < view.from || change.t > view.until) continue;
    const left = x(change.t);
    context.beginPath();
    context.moveTo(left, lane.strip - 3);
    context.lineTo(left + 7, lane.strip + STRIP / 2);
    context.lineTo(left, lane.strip + STRIP + 3);
    context.fill();
  }
}

const CLASSES = ["fail", "unknown", "open", "later", "ok", "fact", "own", "lock"];

function drawSection(section) {
  const ranges = section.tracks.map((track) => [
    firstWhere(track.length, (at) => track[at].latest >= view.from),
    firstWhere(track.length, (at) => track[at].begin > view.until),
  ]);
  let visible = 0;
  ranges.forEach(([first, last], row) => {
    if (!matched) visible += last - first;
    else for (let at = first; at < last; at++) visible += isMatched(section.tracks[row][at]) ? 1 : 0;
  });
  section.isDense = section.name !== "own" && visible > (width - gutter) / 3;
  if (section.isDense) drawDense(section, ranges);
  else drawTracks(section, ranges);
}

function drawTracks(section, ranges) {
  section.tracks.forEach((track, row) => {
    const y = section.y + row * TRACK;
    for (let at = ranges[row][0]; at < ranges[row][1]; at++) {
      const op = track[at];
      if (!isMatched(op)) continue;
      const left = Math.max(x(op.begin), gutter - 2), right = Math.min(x(op.end), width + 2);
      context.fillStyle = colors[op.state];
      context.fillRect(left, y, Math.max(right - left - 0.5, matched ? 4 : 1.5), TRACK - 1);
      if (op === chosen?.op) {
        context.strokeStyle = colors.select;
        context.lineWidth = 2;
        context.strokeRect(left - 1.5, y - 1.5, Math.max(right - left, 2) + 3, TRACK + 2);
      }
    }
  });
}

// Too many to tell apart: how many begin in each two pixels, on a logarithmic scale, the worst at the bottom.
function drawDense(section, ranges) {
  const bins = Math.ceil((width - gutter) / 2), counts = CLASSES.map(() => new Uint32Array(bins)), sums = new Uint32Array(bins);
  const place = Object.fromEntries(CLASSES.map((name, index) => [name, index])), scale = bins / (view.until - view.from);
  section.tracks.forEach((track, row) => {
    for (let at = ranges[row][0]; at < ranges[row][1]; at++) {
      const op = track[at], bin = Math.floor((op.begin - view.from) * scale);
      if (bin < 0 || bin >= bins || !isMatched(op)) continue;
      counts[place[op.state]][bin]++;
      sums[bin]++;
    }
  });
  const most = Math.log1p(Math.max(2, ...sums));
  const bottom = section.y + section.height;
  for (let bin = 0; bin < bins; bin++) {
    if (!sums[bin]) continue;
    const bar = Math.max(2, (Math.log1p(sums[bin]) / most) * section.height);
    let y = bottom;
    CLASSES.forEach((name, index) => {
      const number = counts[index][bin];
      if (!number) return;
      const part = Math.min(Math.max((number / sums[bin]) * bar, 2), y - section.y);
      context.fillStyle = colors[name];
      context.fillRect(gutter + bin * 2, y - part, 1.6, part);
      y -= part;
    });
  }
}

// Bytes appended and not yet flushed, the most in each pixel; height by the square root.
function drawUnsynced(lane) {
  const { logTimes: times, logUnsynced: bytes } = lane, bottom = lane.unsynced + HISTOGRAM, place = lanes.indexOf(lane);
  lane.most ??= Math.sqrt(bytes.reduce((most, value) => Math.max(most, value), 1));
  let at = Math.max(0, firstWhere(times.length, (at) => times[at] > view.from) - 1);
  context.fillStyle = colors.unsynced;
  let left = -1, peak = 0;
  const bar = (from, until, value) => {
    if (value > 0) {
      const size = Math.max(1, (Math.sqrt(value) / lane.most) * HISTOGRAM);
      context.fillRect(from, bottom - size, Math.max(until - from, 1), size);
    }
  };
  for (; at < times.length && times[at] <= view.until; at++) {
    const from = Math.max(x(times[at]), gutter), until = at + 1 < times.length ? Math.min(x(times[at + 1]), width) : Math.min(x(data.end), width);
    if (until - from < 1) {
      // Several in one pixel: the highest is drawn.
      const pixel = Math.floor(from);
      if (pixel !== left) peak = 0;
      left = pixel;
      if (bytes[at] > peak) bar(pixel, pixel + 1, (peak = bytes[at]));
    } else {
      bar(from, Math.min(until, x(deathAfter(place, times[at]))), bytes[at]);
    }
  }
}

function drawMessages() {
  // A message of the longest flight that could reach into the view begins this much earlier.
  drawMessages.longest ??= messages.reduce((most, message) => Math.max(most, (message.back ?? message.end) - message.begin), 0);
  const first = firstWhere(messages.length, (at) => messages[at].begin >= view.from - drawMessages.longest);
  const last = firstWhere(messages.length, (at) => messages[at].begin > view.until);
  if (last - first > 6000) return;
  const visible = [];
  for (let at = first; at < last && visible.length <= 500; at++) {
    const message = messages[at];
    if ((message.back ?? message.end) >= view.from && isMatched(message.op) && message.from >= 0 && message.to >= 0) visible.push(message);
  }
  if (visible.length > 500) return;
  // From the bar of the operation to the strip of the other node.
  const yOf = (lane, op) => {
    const isOwn = op.lane === lane && op.section !== "own";
    return isOwn ? lanes[lane].sections[op.section].y + op.track * TRACK + TRACK / 2 : lanes[lane].strip + STRIP / 2;
  };
  context.lineWidth = 1;
  for (const message of visible) {
    const isChosen = message.op === chosen?.op, lost = message.op.state === "unknown" || message.op.state === "open";
    context.strokeStyle = isChosen ? colors.select : lost ? colors[message.op.state] : colors.message;
    context.fillStyle = context.strokeStyle;
    context.globalAlpha = isChosen ? 1 : 0.6;
    context.setLineDash(lost ? [3, 3] : []);
    arrow(x(message.begin), yOf(message.from, message.op), x(message.end), yOf(message.to, message.op));
    if (message.back !== undefined && !lost) arrow(x(message.end), yOf(message.to, message.op), x(message.back), yOf(message.from, message.op));
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function arrow(x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
  const angle = Math.atan2(y2 - y1, x2 - x1);
  context.beginPath();
  context.moveTo(x2, y2);
  context.lineTo(x2 - 6 * Math.cos(angle - 0.4), y2 - 6 * Math.sin(angle - 0.4));
  context.lineTo(x2 - 6 * Math.cos(angle + 0.4), y2 - 6 * Math.sin(angle + 0.4));
  context.fill();
}

function drawLine(t, color, dash, thick) {
  if (t < view.from || t > view.until) return;
  context.strokeStyle = color;
  context.lineWidth = thick;
  context.setLineDash(dash);
  context.beginPath();
  context.moveTo(x(t), 0);
  context.lineTo(x(t), total);
  context.stroke();
  context.setLineDash([]);
}

// Milestones, and where properties broke: under everything else, so that it hides nothing.
function drawMoments() {
  marks.forEach((mark) => drawLine(mark.t, colors.mark, [2, 4], 1));
  const seen = new Set();
  data.violations.forEach(({ property, t }) => {
    drawLine(t, colors.broken, [], seen.has(property) ? 0.6 : 2);
    seen.add(property);
  });
}

function drawTitle(lane) {
  const t = pointer ? timeAt(pointer.x) : (view.from + view.until) / 2, isIn = ([from, until]) => t >= from && t < until;
  const clock = lane.clock.length ? clockText(clockAt(lane, t)) : "";
  const state = lane.down.some(isIn) ? "down" : lane.paused.some(isIn) ? "paused" : "";
  const fit = (text, room) => {
    let kept = text;
    while (kept && context.measureText(kept === text ? kept : kept + "…").width > room) kept = kept.slice(0, -1);
    return kept === text ? text : kept + "…";
  };
  if (!gutter) {
    context.font = "600 12px system-ui, sans-serif";
    const name = fit(lane.name, width * 0.5);
    context.fillStyle = colors.ink;
    context.fillText(name, 5, lane.y + TITLE / 2 + 1);
    const after = 12 + context.measureText(name).width;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = state ? colors.fail : colors.faint;
    context.fillText(fit([lane.role, state, clock && "clock " + clock].filter(Boolean).join(" · "), width - after), after, lane.y + TITLE / 2 + 1);
    return;
  }
  context.fillStyle = colors.lane;
  context.fillRect(0, lane.y, gutter, lane.height);
  context.font = "600 12px system-ui, sans-serif";
  context.fillStyle = colors.ink;
  context.fillText(fit(lane.name, gutter - 12), 8, lane.y + 11);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = state ? colors.fail : colors.faint;
  const role = fit([lane.role, state].filter(Boolean).join(" · "), gutter - 80);
  context.fillText(role, 8, lane.y + 25);
  if (clock) {
    context.fillStyle = colors.unknown;
    context.fillText(fit("clock " + clock, gutter - 90), 8, lane.y + 39);
  }
  context.font = "10px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillStyle = colors.faint;
  for (const name of ORDER) {
    const section = lane.sections[name];
    if (section && section.height >= 10) context.fillText(SECTIONS[name], gutter - 6, section.y + section.height / 2);
  }
  if (lane.unsynced) context.fillText("not yet flushed", gutter - 6, lane.unsynced + HISTOGRAM / 2);
  context.textAlign = "left";
  context.fillStyle = colors.line;
  context.fillRect(gutter - 1, lane.y, 1, lane.height);
}

function drawAxis() {
  context.fillStyle = colors.panel;
  context.fillRect(0, 0, width, AXIS);
  // Where the view lies in the whole run.
  const share = (t) => ((t - whole.from) / (whole.until - whole.from)) * width;
  context.fillStyle = colors.line;
  context.fillRect(0, 0, width, 6);
  context.fillStyle = colors.select;
  context.fillRect(share(view.from), 0, Math.max(3, share(view.until) - share(view.from)), 6);
  context.fillStyle = colors.broken;
  data.violations.forEach((violation) => context.fillRect(share(violation.t) - 1, 0, 2, 6));
  const length = view.until - view.from, room = Math.max(1, (width - gutter) / (gutter ? 100 : 75)), rough = length / room;
  const power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
  const digits = Math.max(0, Math.ceil(9 - Math.log10(step) - 1e-9));
  context.font = "11px system-ui, sans-serif";
  context.strokeStyle = colors.line;
  context.fillStyle = colors.faint;
  context.lineWidth = 1;
  context.save();
  context.beginPath();
  context.rect(gutter, 6, width - gutter, AXIS);
  context.clip();
  for (let t = Math.ceil(view.from / step) * step; t <= view.until; t += step) {
    const left = Math.round(x(t)) + 0.5;
    context.beginPath();
    context.moveTo(left, 8);
    context.lineTo(left, AXIS);
    context.stroke();
    context.fillText(seconds(t, Math.min(digits, 9)) + " s", left + 4, 14);
  }
  let free = -Infinity;
  const label = (t, text, color) => {
    const left = x(t), size = context.measureText(text).width + 8;
    if (left < gutter || left > width || left < free) return;
    const at = left + size > width ? left - size : left;
    context.fillStyle = colors.panel;
    context.fillRect(at, 20, size, 13);
    context.fillStyle = color;
    context.fillText(text, at + 4, 27);
    free = left + size;
  };
  context.font = "600 11px system-ui, sans-serif";
  data.violations.forEach((violation) => label(violation.t, violation.property, colors.broken));
  context.font = "11px system-ui, sans-serif";
  free = -Infinity;
  const broken = data.violations.map((violation) => x(violation.t));
  marks.filter((mark) => !broken.some((at) => Math.abs(at - x(mark.t)) < 90)).forEach((mark) => label(mark.t, words(mark.name), colors.mark));
  context.restore();
  if (gutter) {
    context.fillStyle = colors.ink;
    context.fillText(pointer ? seconds(timeAt(pointer.x)) + " s" : "", 8, 20);
  }
}

// ---- What lies under the pointer, and what is chosen ---------------------------------------------------------------------------

function find(px, py) {
  const y = py - AXIS + view.top, lane = lanes.find((lane) => y >= lane.y && y <= lane.y + lane.height);
  if (!lane || py < AXIS || px < gutter) return null;
  const t = timeAt(px), slack = timeAt(px + 4) - t;
  const section = Object.values(lane.sections).find((section) => y >= section.y && y < section.y + section.height);
  let op = null;
  if (section) {
    const row = Math.floor((y - section.y) / TRACK);
    const tracks = section.isDense ? section.tracks : section.tracks.slice(row, row + 1);
    let least = slack;
    for (const track of tracks) {
      for (let at = firstWhere(track.length, (at) => track[at].latest >= t - slack); at < track.length && track[at].begin <= t + slack; at++) {
        const distance = Math.max(track[at].begin - t, t - track[at].end, 0);
        if (distance <= least && isMatched(track[at])) [op, least] = [track[at], distance];
      }
    }
  }
  const here = lane.faults.filter((fault) => t >= fault.begin - slack && t <= Math.max(fault.end, fault.begin) + slack);
  return { lane, section, op, t, faults: here };
}

const faultText = (fault) => {
  const effect = Object.entries(fault.effect).filter(([, number]) => number > 0).map(([name, number]) => words(name) + " " + number);
  const time = fault.end > fault.begin ? `${seconds(fault.begin, 3)} – ${seconds(fault.end, 3)} s` : `at ${seconds(fault.begin, 3)} s`;
  return `${words(fault.kind)} of ${fault.nodes.map((node) => nodes[node].name).join(", ")}, ${time}` +
    (fault.parameters ? `\n  as planned: ${words(fault.parameters)}` : "") + `\n  effect: ${effect.length ? effect.join(", ") : "no effect"}`;
};

const STATES = {
  ok: "ok", fail: "failed: not stored", unknown: "unknown: no answer", open: "never ended", later: "ended, with a remark", own: "", lock: "", fact: "",
};

function tipText(found) {
  const lines = [`${seconds(found.t)} s, ${found.lane.name}`];
  const { op } = found;
  if (op) {
    lines.push(`${words(kindOf(op.event))}${op.end > op.begin ? ", " + span(op.end - op.begin) : ""}${STATES[op.state] ? ": " + STATES[op.state] : ""}`);
    if (op.label) lines.push(op.label);
    else lines.push(details(op.event));
    if (op.done >= 0 && !op.label) lines.push(`→ ${words(kindOf(op.done))} ${details(op.done)}`);
  } else if (found.section?.isDense) {
    lines.push(`${SECTIONS[found.section.name]}: zoom in to tell them apart`);
  }
  found.faults.forEach((fault) => lines.push(faultText(fault)));
  const clock = found.lane.clock.length ? clockText(clockAt(found.lane, found.t)) : "";
  if (clock) lines.push(`wall clock ${clock}`);
  return lines.join("\n");
}

function showTip(clientX, clientY) {
  const box = canvas.getBoundingClientRect(), found = find(clientX - box.left, clientY - box.top), tip = byId("tip");
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = tipText(found);
  const size = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(clientX + 14, innerWidth - size.width - 4)) + "px";
  tip.style.top = (clientY + 18 + size.height > innerHeight ? Math.max(4, clientY - size.height - 12) : clientY + 18) + "px";
}

// ---- Input on the canvas -------------------------------------------------------------------------------------------------------

const touches = new Map();
let travelled = 0;
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), unit = event.deltaMode === 1 ? 16 : 1;
  if (event.shiftKey) pan(((event.deltaY || event.deltaX) * unit) / width);
  else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX * unit) / width);
  else zoom(Math.exp(Math.max(-0.6, Math.min(0.6, event.deltaY * unit * 0.002))), timeAt(Math.max(event.clientX - box.left, gutter)));
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  touches.set(event.pointerId, { x: event.clientX, y: event.clientY });
  travelled = touches.size > 1 ? 100 : 0;
  canvas.classList.add("dragging");
});
canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect(), before = touches.get(event.pointerId);
  if (event.pointerType === "mouse") pointer = { x: Math.max(event.clientX - box.left, gutter) };
  if (!before) {
    showTip(event.clientX, event.clientY);
    redraw();
    return;
  }
  const now = { x: event.clientX, y: event.clientY };
  travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
  if (touches.size === 1) {
    const by = ((before.x - now.x) / (width - gutter)) * (view.until - view.from);
    moveTo(view.from + by, view.until + by, view.top + before.y - now.y);
  } else {
    const other = [...touches].find(([id]) => id !== event.pointerId)[1];
    const wide = Math.max(Math.hypot(before.x - other.x, before.y - other.y), 10);
    zoom(wide / Math.max(Math.hypot(now.x - other.x, now.y - other.y), 10), timeAt((now.x + other.x) / 2 - box.left));
  }
  touches.set(event.pointerId, now);
  byId("tip").hidden = true;
});
const release = (event) => {
  if (!touches.delete(event.pointerId)) return;
  if (!touches.size) canvas.classList.remove("dragging");
  if (event.type !== "pointerup" || travelled > 6) return;
  const box = canvas.getBoundingClientRect(), found = find(event.clientX - box.left, event.clientY - box.top);
  if (found?.op) choose(found.op.event);
  if (event.pointerType !== "mouse") showTip(event.clientX, event.clientY);
};
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => {
  pointer = null;
  byId("tip").hidden = true;
  redraw();
});
canvas.addEventListener("dblclick", (event) => zoom(0.25, timeAt(event.clientX - canvas.getBoundingClientRect().left)));
const KEYS = {
  ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), ArrowUp: () => moveTo(view.from, view.until, view.top - 60),
  ArrowDown: () => moveTo(view.from, view.until, view.top + 60), PageUp: () => pan(-0.9), PageDown: () => pan(0.9),
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: () => moveTo(whole.from, whole.until), Home: () => moveTo(whole.from, whole.until),
};
canvas.addEventListener("keydown", (event) => {
  const action = KEYS[event.key];
  if (!action || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  action();
});
byId("earlier").addEventListener("click", () => pan(-0.4));
byId("later").addEventListener("click", () => pan(0.4));
byId("closer").addEventListener("click", () => zoom(0.4));
byId("farther").addEventListener("click", () => zoom(2.5));
byId("whole").addEventListener("click", () => moveTo(whole.from, whole.until));

