"use strict";
const told = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const several = told.runs.length > 1;
const COLOURS = ["#3b82f6", "#e8833a", "#16a37b", "#c95fb0", "#b59a1f", "#7c6ee6", "#d9534f", "#4aa3c7"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const waiting = [];
const AXES = { update: "updates", sample: "samples", seconds: "training time" };
const kept = location.hash.slice(1); // a page that is loaded again has it still
let axis = Object.hasOwn(AXES, kept) ? kept : "update";

// What comes from a run is only ever set as text.
function add(parent, kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  parent.appendChild(made);
  return made;
}

// The library reads a few tags in names and labels.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function colours() {
  const styles = getComputedStyle(document.documentElement);
  const of = (name) => styles.getPropertyValue(name).trim();
  return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), card: of("--card") };
}

function layout(more) {
  const now = colours();
  const axis = { gridcolor: now.line, linecolor: now.line, zerolinecolor: now.line, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: now.ink, size: 12 }, margin: { l: 50, r: 14, t: 8, b: 40 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: now.soft, activecolor: now.ink },
    hovermode: "x unified", hoverlabel: { bgcolor: now.card, font: { color: now.ink } },
    legend: { orientation: "h", y: -0.2, font: { size: 11 } },
    ...more,
    xaxis: { ...axis, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
  };
}

// `make` gives traces and layout for the axis that is chosen then.
function plot(parent, make) {
  const where = add(parent, "div");
  where.style.height = `${make()[1].height}px`;
  waiting.push([where, make]);
}

function unit() {
  const longest = Math.max(...told.runs.map((run) => run.clock.seconds.at(-1) ?? 0));
  return longest > 7200 ? [3600, "hours"] : longest > 180 ? [60, "minutes"] : [1, "seconds"];
}

// Where updates lie on the axis: between two rows that are kept, evenly.
function along(run, updates) {
  if (axis === "update") return updates;
  const { update: known, [axis]: values } = run.clock;
  const scale = axis === "seconds" ? unit()[0] : 1;
  let place = 0;
  return updates.map((at) => {
    while (place > 0 && known[place] > at) place -= 1;
    while (place < known.length - 2 && known[place + 1] <= at) place += 1;
    const next = Math.min(place + 1, known.length - 1);
    const share = known[next] > known[place] ? (at - known[place]) / (known[next] - known[place]) : 0;
    return (values[place] + share * (values[next] - values[place])) / scale;
  });
}

function across() {
  const text = axis === "seconds" ? `training time in ${unit()[1]}` : axis;
  return { title: { text, standoff: 6 } };
}

// Only once all cards are there do they have their widths.
function draw() {
  const bar = window.matchMedia("(hover: hover)").matches ? "hover" : false;
  const options = { responsive: true, displaylogo: false, displayModeBar: bar };
  for (const [where, make] of waiting) {
    const [traces, more] = make();
    Plotly.react(where, traces, layout(more), options);
  }
  document.documentElement.dataset.drawn = String(waiting.length);
}

function card(parent, title, note, name) {
  const made = add(parent, "div", undefined, name ? `plot ${name}` : "plot");
  add(made, "h3", title);
  if (note) add(made, "p", note, "note");
  return made;
}

function head(run) {
  const made = add(page, "section", undefined, `run ${run.state}`);
  add(made, "h1", run.name);
  add(made, "p", run.headline, "headline");
  const facts = add(made, "dl", undefined, "facts");
  for (const [name, value] of run.facts) {
    const pair = add(facts, "div");
    add(pair, "dt", name);
    add(pair, "dd", value);
  }
  list(made, "Asked to stop", run.stops);
  list(made, "Callbacks that failed", run.failed);
  if (run.traceback) more(made, "Traceback", run.traceback);
}

function list(parent, title, items) {
  if (!items.length) return;
  add(parent, "p", `${title}:`, "note");
  const made = add(parent, "ul");
  for (const item of items) add(made, "li", item);
}

function more(parent, title, text) {
  const made = add(parent, "details");
  add(made, "summary", title);
  add(made, "pre", text);
}

function curves(run, number, group, traces) {
  group.keys.forEach((key, place) => {
    const series = run.series[key];
    if (!series || !series.x.length) return;
    const name = plain(several ? `${key}, ${run.name}` : key);
    const colour = COLOURS[(several ? number : place) % COLOURS.length];
    const dash = DASHES[(several ? place : 0) % DASHES.length];
    const few = series.x.length === 1;
    traces.push({
      x: along(run, series.x), y: series.y, name, mode: few ? "markers" : "lines", legendgroup: name,
      line: { color: colour, dash, width: 1.6 }, marker: { color: colour },
    });
    if (series.best) {
      traces.push({
        x: along(run, [series.best[0]]), y: [series.best[1]], name: `best ${name}`, legendgroup: name,
        mode: "markers", showlegend: false, hovertemplate: "best: %{y:.5g}<extra></extra>",
        marker: { color: colour, size: 12, symbol: "star", line: { width: 1, color: colours().card } },
      });
    }
  });
}

// Checkpoints as ticks at the foot of a plot, resumes as lines through it.
function marks() {
  const shapes = [];
  told.runs.forEach((run, number) => {
    const colour = several ? COLOURS[number % COLOURS.length] : colours().soft;
    for (const x of along(run, run.sessions)) {
      shapes.push({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colour, width: 1, dash: "dot" } });
    }
    if (run.saves.length > 200) return;
    for (const x of along(run, run.saves)) {
      shapes.push({ type: "line", x0: x, x1: x, y0: 0, y1: 0.03, yref: "paper", line: { color: colour, width: 1.5 } });
    }
  });
  return shapes;
}

function ranges(group) {
  const found = told.runs.flatMap((run) => group.keys.map((key) => run.series[key]).filter(Boolean));
  const values = found.flatMap((series) => series.y);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const shown = found.reduce((sum, series) => sum + series.x.length, 0);
  const all = found.reduce((sum, series) => sum + series.count, 0);
  const broken = found.reduce((sum, series) => sum + series.broken.length, 0);
  const words = shown < all ? [`${shown.toLocaleString("en")} of ${all.toLocaleString("en")} points, every extreme among them`] : [];
  if (broken) words.push("some values were not finite and are left out");
  return { log: low > 0 && high / low > 50, note: words.join("; ") };
}

function plots() {
  if (!told.groups.length) return;
  add(page, "h2", "Curves");
  add(page, "p", "A star is a best value, a tick at the foot a checkpoint, a dotted line a resume.", "note");
  choice();
  const parent = add(page, "div", undefined, "plots");
  for (const group of told.groups) {
    const { log, note } = ranges(group);
    const made = card(parent, log ? `${group.title} (logarithmic)` : group.title, note);
    plot(made, () => {
      const traces = [];
      told.runs.forEach((run, number) => curves(run, number, group, traces));
      const rows = traces.filter((trace) => trace.showlegend !== false).length;
      const height = 290 + 18 * Math.min(rows, 12);
      return [traces, { height, showlegend: true, shapes: marks(), xaxis: across(), yaxis: { type: log ? "log" : "linear" } }];
    });
  }
}

function choice() {
  const label = add(page, "label", "Along ", "choice");
  const made = add(label, "select");
  for (const [name, text] of Object.entries(AXES)) add(made, "option", text).value = name;
  made.value = axis;
  made.addEventListener("change", () => {
    location.hash = axis = made.value;
    draw();
  });
}

function calendar(parent, run) {
  if (!run.firings.length) return;
  const made = card(parent, several ? `What fired when, ${run.name}` : "What fired when", "", "wide");
  const names = run.firings.map((each) => plain(each.name));
  const traces = () => run.firings.map((each, place) => ({
    x: along(run, each.at), y: each.at.map(() => names[place]), mode: "markers", showlegend: false,
    marker: { symbol: "line-ns-open", size: 9, color: COLOURS[place % COLOURS.length], line: { width: 1.2 } },
    customdata: each.at,
    hovertemplate: `${names[place]}, update %{customdata}; ${each.count} times<extra></extra>`,
  }));
  const yaxis = { type: "category", categoryarray: names.slice().reverse(), tickfont: { size: 11 } };
  plot(made, () => [traces(), { height: 70 + 24 * names.length, hovermode: "closest", xaxis: across(), yaxis }]);
}

function bars(parent, title, note, pick) {
  const runs = told.runs.filter((run) => Object.keys(pick(run)).length);
  if (!runs.length) return;
  const names = [...new Set(runs.flatMap((run) => Object.keys(pick(run))))].slice(0, 25);
  const traces = runs.map((run) => ({
    type: "bar", orientation: "h", name: plain(run.name), showlegend: several,
    y: names.map(plain), x: names.map((name) => pick(run)[name] ?? null),
    marker: { color: COLOURS[told.runs.indexOf(run) % COLOURS.length] },
    hovertemplate: "%{y}: %{x:.4g} s<extra></extra>",
  }));
  const height = 80 + 26 * names.length * Math.max(1, runs.length * 0.7);
  plot(card(parent, title, note), () => [traces, {
    height, hovermode: "closest", bargap: 0.35,
    xaxis: { title: { text: "seconds", standoff: 6 } }, yaxis: { type: "category", autorange: "reversed" },
  }]);
}

function evaluations(run) {
  if (!run.evaluations.length) return;
  add(page, "h2", several ? `Checkpoints evaluated, ${run.name}` : "Checkpoints evaluated");
  const made = add(add(page, "div", undefined, "scroll"), "table");
  const names = [...new Set(run.evaluations.flatMap((each) => Object.keys(each.metrics)))];
  const top = add(made, "tr");
  for (const name of ["update", ...names]) add(top, "th", name);
  for (const each of run.evaluations) {
    const row = add(made, "tr");
    add(row, "td", each.update.toLocaleString("en"));
    for (const name of names) add(row, "td", number(each.metrics[name]));
  }
}

function number(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(5))) : value ?? "";
}

function settings() {
  if (told.differences.length) {
    add(page, "h2", "What the runs' settings differ in");
    const made = add(add(page, "div", undefined, "scroll"), "table");
    const top = add(made, "tr");
    add(top, "th", "setting");
    for (const run of told.runs) add(top, "th", run.name);
    for (const [key, values] of told.differences) {
      const row = add(made, "tr");
      add(row, "td", key);
      for (const value of values) add(row, "td", value);
    }
  }
  const some = told.runs.filter((run) => run.config);
  if (some.length) add(page, "h2", "Configuration");
  for (const run of some) more(page, several ? run.name : "config.yaml", run.config);
}

told.runs.forEach(head);
plots();
told.runs.forEach(evaluations);
add(page, "h2", "When and how long");
const lower = add(page, "div", undefined, "plots");
for (const run of told.runs) calendar(lower, run);
bars(lower, "Time by part of the loop", "Over the whole run.", (run) => run.parts);
bars(lower, "Time by callback", "Between the last two counts of hook_times.", (run) => run.hooks);
settings();
draw();
dark.addEventListener("change", draw);
