// Draws the charts of a page with Observable Plot, at the width that there is, again when it changes.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLORS = {
  complete: "var(--accent)", pruned: "var(--dim)", failed: "var(--bad)",
  final: "var(--second)", audit: "var(--good)",
};
const legend = (states) => ({
  color: { domain: states, range: states.map((s) => COLORS[s]), legend: states.length > 1 },
});
const share = (v) => `${+(100 * v).toPrecision(4)}\u00a0%`;
const percent = (label) => ({ label, tickFormat: share });
const objective = () => (DATA.objective.share ? percent(DATA.objective.label) : { label: DATA.objective.label });

// Accuracies of the first trials may be so bad that the rest would be one line at the top.
function visible(values) {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  if (sorted.length < 20) return undefined;
  const [low, high] = DATA.objective.direction === "max"
    ? [sorted[Math.floor(sorted.length * 0.1)], sorted[sorted.length - 1]]
    : [sorted[0], sorted[Math.floor(sorted.length * 0.9)]];
  const room = 0.08 * (high - low) || 0.01;
  return [low - room, high + room];
}

// Names beside a chart, cut to the room that they have.
const fit = (room) => (name) => (6.8 * name.length > room ? `${name.slice(0, Math.max(3, Math.floor(room / 6.8) - 1))}…` : name);

// An axis of costs, logarithmic where they are far apart.
function costs(label, rows, width, linear) {
  const low = Math.min(...rows.map((d) => d.x)), high = Math.max(...rows.map((d) => d.x));
  const log = low > 0 && high > 20 * low;
  return { label, type: log ? "log" : "linear", tickFormat: log ? "~s" : linear, ticks: width < 500 ? 4 : undefined };
}

// The axes of a distribution of errors.
const distribution = () => ({
  x: DATA.objective.share ? percent(DATA.objective.error) : { label: DATA.objective.error },
  y: { label: "share of the trials", tickFormat: share, grid: true, domain: [0, 1] },
});

// What a search is drawn against.
const AXES = { trials: "ended trials", seconds: "seconds", effort: "effort, in full trainings" };

const between = (low, size, high) => Math.min(high, Math.max(low, size));
const within = (domain, v) => !domain || (v >= domain[0] && v <= domain[1]);

const CHARTS = {
  progress(width, { x = "trials" }) {
    const { rows, best } = DATA.progress;
    const ended = rows.filter((d) => d.value !== null);
    const lost = rows.filter((d) => d.value === null);
    const domain = visible(ended.map((d) => d.value));
    const shown = ended.filter((d) => within(domain, d.value)), height = between(260, width * 0.45, 420);
    const states = ["complete", ...new Set(lost.map((d) => d.state))];
    return {
      height,
      x: { label: AXES[x], grid: false }, y: { ...objective(), grid: true, domain }, ...legend(states),
      marks: [
        Plot.dot(shown, { x, y: "value", r: 2.5, fill: "state", fillOpacity: 0.55, title: "note", tip: true }),
        Plot.lineY(best, { x, y: "value", curve: "step-after", stroke: "var(--second)", strokeWidth: 2, clip: true }),
        Plot.tickX(lost, { x, stroke: "state", strokeOpacity: 0.7, insetTop: height - 75, title: "note" }),
      ],
    };
  },
  against(width) {
    const { rows, x, better } = DATA.against;
    const front = rows.filter((d) => d.front).sort((a, b) => a.x - b.x);
    // With few parameters being better, the front holds from each of its points to the next larger.
    const curve = better === "min" ? "step-after" : "step-before";
    const domain = visible(rows.map((d) => d.y));
    const shown = rows.filter((d) => d.front || within(domain, d.y));
    return {
      height: between(260, width * 0.45, 420),
      x: costs(x, rows, width),
      y: { ...objective(), grid: true, domain: front.length && domain ? [Math.min(domain[0], ...front.map((d) => d.y)), Math.max(domain[1], ...front.map((d) => d.y))] : domain },
      marks: [
        Plot.dot(shown, { x: "x", y: "y", r: 2.5, fill: "var(--accent)", fillOpacity: 0.45, title: "note", tip: true }),
        Plot.lineY(front, { x: "x", y: "y", curve, stroke: "var(--second)", strokeWidth: 1.5 }),
        Plot.dot(front, { x: "x", y: "y", r: 4, fill: "var(--second)", title: "note" }),
      ],
    };
  },
  volumes(width) {
    return {
      height: between(220, width * 0.32, 300),
      x: { label: "ended trials" }, y: { label: "hypervolume", grid: true },
      marks: [Plot.lineY(DATA.progress.volumes, { x: "trials", y: "value", curve: "step-after", stroke: "var(--second)", strokeWidth: 2, tip: true })],
    };
  },
  curves(width) {
    const trainings = new Set(DATA.curves.map((d) => d.training)), stroke = trainings.size > 1 ? "training" : "var(--accent)";
    return {
      height: between(240, width * 0.4, 380),
      x: { label: "epoch", tickFormat: (d) => (Number.isInteger(d) ? `${d}` : "") }, y: { ...objective(), label: DATA.curve_label, grid: true },
      color: { legend: trainings.size > 1 && trainings.size < 8 },
      marks: [
        Plot.lineY(DATA.curves, { x: "step", y: "value", stroke, z: "training" }),
        Plot.dot(DATA.curves, { x: "step", y: "value", r: 1.5, stroke, title: "training", tip: true }),
      ],
    };
  },
  importance(width) {
    const rows = DATA.importance, room = Math.min(160, width * 0.35);
    return {
      height: 24 * rows.length + 45, marginLeft: room,
      x: { label: "share of the importance", tickFormat: share, ticks: width < 500 ? 4 : 8 }, y: { label: null, domain: rows.map((d) => d.name), tickFormat: fit(room - 12) },
      marks: [Plot.barX(rows, { x: "share", y: "name", fill: "var(--accent)", tip: true }), Plot.ruleX([0])],
    };
  },
  choice(width, { index }) {
    const { name, rows } = DATA.choices[index];
    // One scale for all choices: what matters little shall look so.
    const all = DATA.choices.flatMap((c) => c.rows).flatMap((d) => [d.median, d.best]);
    const low = Math.min(...all), high = Math.max(...all), room = 0.15 * (high - low) || 0.01;
    return {
      height: 170, title: name, x: { label: null, domain: rows.map((d) => d.value), tickRotate: rows.some((d) => d.value.length > 3) ? -35 : 0 },
      y: { ...objective(), label: null, grid: true, domain: [low - room, high + room], ticks: 4 }, marginBottom: rows.some((d) => d.value.length > 3) ? 50 : 30, marginLeft: 55,
      marks: [
        Plot.dot(rows, { x: "value", y: "median", fill: "var(--accent)", r: 5, title: (d) => `${name} = ${d.value}\n${d.trials} trials`, tip: true }),
        Plot.dot(rows, { x: "value", y: "best", fill: "var(--second)", r: 3 }),
      ],
    };
  },
  errors(width) {
    return {
      height: between(220, width * 0.32, 300),
      ...distribution(),
      marks: [Plot.lineY(DATA.errors, { x: "x", y: "y", curve: "step-after", stroke: "var(--accent)", strokeWidth: 2 }), Plot.ruleY([0])],
    };
  },
  scores(width) {
    const { scores, groups } = DATA, room = Math.min(200, width * 0.4);
    return {
      height: 34 * groups.length + 50, marginLeft: room,
      x: { ...objective(), label: DATA.score_label, grid: true, ticks: width < 500 ? 4 : 8 }, y: { label: null, domain: groups, tickFormat: fit(room - 12) },
      color: { domain: groups, scheme: "observable10" },
      marks: [
        Plot.dot(scores, { x: "value", y: "group", fill: "group", r: 4, fillOpacity: 0.8, title: (d) => `seed ${d.seed}: ${d.value}`, tip: true }),
        Plot.tickX(scores, Plot.groupY({ x: "mean" }, { x: "value", y: "group", stroke: "group", strokeWidth: 2, inset: 4 })),
      ],
    };
  },
  best(width, { x = "trials" }) {
    const rows = DATA.best[x];
    return {
      height: between(280, width * 0.5, 440), x: { label: AXES[x] }, y: { ...objective(), grid: true, domain: visible(rows.map((d) => d.mean)) }, clip: true,
      color: { domain: DATA.groups, legend: true, scheme: "observable10" },
      marks: [
        Plot.areaY(rows, { x: "x", y1: "low", y2: "high", fill: "group", fillOpacity: 0.15, curve: "step-after", clip: true }),
        Plot.lineY(rows, { x: "x", y: "mean", stroke: "group", strokeWidth: 2, curve: "step-after", tip: true, clip: true }),
      ],
    };
  },
  distributions(width) {
    const rows = DATA.distributions;
    return {
      height: between(260, width * 0.4, 380),
      ...distribution(),
      color: { domain: DATA.groups, legend: true, scheme: "observable10" },
      marks: [
        Plot.areaY(rows, { x: "x", y1: "low", y2: "high", fill: "group", fillOpacity: 0.15, curve: "step-after" }),
        Plot.lineY(rows, { x: "x", y: "share", stroke: "group", strokeWidth: 2, curve: "step-after" }), Plot.ruleY([0]),
      ],
    };
  },
  quality(width) {
    const rows = DATA.quality;
    return {
      height: between(280, width * 0.45, 420),
      x: costs("parameters", rows, width, "~s"), y: { ...objective(), grid: true, domain: visible(rows.map((d) => d.y)) },
      color: { domain: DATA.groups, legend: true, scheme: "observable10" },
      marks: [Plot.dot(rows, { x: "x", y: "y", stroke: "group", r: 2.5, strokeOpacity: 0.7, title: "note", tip: true, clip: true })],
    };
  },
  winners(width) {
    const rows = DATA.winners, here = rows.filter((d) => d.of === "here"), others = rows.filter((d) => d.of !== "here");
    const sources = ["here", ...new Set(others.map((d) => d.of))];
    return {
      height: between(280, width * 0.5, 440),
      x: costs("parameters", rows, width, "~s"), y: { ...objective(), label: DATA.score_label, grid: true },
      color: { domain: sources, legend: sources.length > 1, scheme: "observable10" },
      marks: [
        Plot.lineY(others, { x: "x", y: "y", z: "of", stroke: "of", strokeDasharray: "4 4" }),
        Plot.lineY(here, { x: "x", y: "y", stroke: "of", strokeWidth: 2 }),
        Plot.dot(rows, { x: "x", y: "y", fill: "of", r: 4, title: "note", tip: true }),
      ],
    };
  },
  lanes(width) {
    const rows = DATA.lanes, lanes = new Set(rows.map((d) => d.lane)).size;
    const states = [...new Set(rows.map((d) => d.state))];
    return {
      height: 26 * lanes + 50, marginLeft: 45, x: { label: "seconds" }, y: { label: null, tickFormat: (d) => `${d}`, domain: [...new Set(rows.map((d) => d.lane))].sort((a, b) => a - b) }, ...legend(states),
      marks: [Plot.barX(rows, { x1: "begin", x2: "end", y: "lane", fill: "state", title: "note", tip: true })],
    };
  },
};

function draw(box, name, options) {
  const width = box.clientWidth;
  if (!width || box.drawn === width) return;
  box.drawn = width;
  const style = { background: "transparent", fontSize: "12px", overflow: "visible" };
  box.replaceChildren(Plot.plot({ width, style, marginLeft: 55, marginBottom: 42, ...CHARTS[name](width, options) }));
}

function keep(box, name, options = {}) {
  const again = () => draw(box, name, options);
  new ResizeObserver(again).observe(box);
  again();
  return again;
}

document.querySelectorAll("[data-many=choices]").forEach((place) => {
  DATA.choices.forEach((_, index) => {
    const box = place.appendChild(Object.assign(document.createElement("div"), { className: "chart" }));
    keep(box, "choice", { index });
  });
});
document.querySelectorAll("[data-chart]").forEach((box) => {
  const options = {}, again = keep(box, box.dataset.chart, options);
  document.querySelectorAll(`[data-for=${box.dataset.chart}] button`).forEach((button) => {
    button.onclick = () => {
      options.x = button.dataset.x;
      button.parentElement.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button));
      box.drawn = 0;
      again();
    };
  });
});

// A click on a column's head sorts by it, numbers as numbers; a second one the other way.
document.querySelectorAll("table.sortable").forEach((table) => {
  // "1 min 5 s" is 65, "1.28 kB" 1,280: figures with their units, added up.
  const UNITS = { d: 86400, h: 3600, min: 60, ms: 1e-3, k: 1e3, kB: 1e3, M: 1e6, MB: 1e6, G: 1e9, GB: 1e9 };
  const number = (text) => {
    const parts = [...text.replace(/,/g, "").split("±")[0].matchAll(/(-?[\d.]+)\s*([a-zA-Z]*)/g)];
    return /^\s*-?\d/.test(text) ? parts.reduce((sum, [, value, unit]) => sum + value * (UNITS[unit] ?? 1), 0) : NaN;
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.onclick = () => {
      const sign = (head.dataset.sign = -(head.dataset.sign || 1));
      const key = (row) => row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(number(key(row))));
      rows.sort((a, b) => sign * (numeric ? (number(key(b)) || 0) - (number(key(a)) || 0) : key(b).localeCompare(key(a))));
      table.tBodies[0].append(...rows);
    };
  });
});
