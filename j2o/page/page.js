"use strict";

const CONTEXT = 3; // lines that are alike and shown around a change
const AT_ONCE = 400; // rows of a difference that are shown at once
const MOST_PAIRS = 40000; // of parts of two lines that are compared

// ---------------------------------------------------------------- data

// What a <script type="application/json"> holds; null where the page has none of that name.
function embedded(id) {
  const element = document.getElementById(id);
  return element && JSON.parse(element.textContent);
}

// What a script holds in gzip and base64.
async function unpacked(id) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

let loading = null; // the texts, once somebody has asked for them

function texts() {
  loading = loading || unpacked("passes-data").then(withVersions);
  return loading;
}

// Adds the text before each step, as numbers of lines.
function withVersions(data) {
  data.before = [];
  let text = data.start;
  for (const step of data.steps) {
    data.before.push(text);
    text = rowsOf(text, step).map((row) => row[1]).filter((line) => line >= 0);
  }
  return data;
}

// All rows of a step: [line before, line after, whether they differ]; -1 is no line.
function rowsOf(before, step) {
  const rows = [];
  let place = 0;
  const alike = (end) => {
    for (; place < end; place++) rows.push([before[place], before[place], false]);
  };
  for (const [start, changed] of step.hunks) {
    alike(start);
    for (const [hasOld, line] of changed) {
      rows.push([hasOld ? before[place] : -1, line, true]);
      place += hasOld;
    }
  }
  alike(before.length);
  return rows;
}

// ---------------------------------------------------------------- elements

function made(name, className, ...parts) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...parts);
  return element;
}

function button(text, act) {
  const element = made("button", "", text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

// ---------------------------------------------------------------- lines

const TOKEN = /("(?:[^"\\]|\\.)*")|(%[\w.\/]+)|\b((?:lax|onnx|ort)\.[\w.]+|const|dims|call|return|graph|function)\b|(\b[a-z]+\d*[a-z\d]*\[[^\]]*\])|(\w+|\s+|.)/g;
const KINDS = ["", "string", "value", "operation", "type", ""];

// The parts of a line: [text, class].
function tokens(line) {
  const found = [];
  for (const match of line.matchAll(TOKEN)) {
    const kind = match.slice(1).findIndex((text) => text !== undefined) + 1;
    found.push([match[0], KINDS[kind]]);
  }
  return found;
}

// For each part of two lines, whether the other line lacks it: what is no part of the longest common sequence.
function differing(left, right) {
  const marks = [left.map(() => true), right.map(() => true)];
  const keep = (i, j) => (marks[0][i] = marks[1][j] = false);
  let head = 0;
  while (head < left.length && head < right.length && left[head][0] === right[head][0]) {
    keep(head, head++);
  }
  const m = left.length - head;
  const n = right.length - head;
  if (m * n > MOST_PAIRS) return marks;
  const lengths = Array.from({ length: m + 1 }, () => new Uint16Array(n + 1));
  const same = (i, j) => left[head + i][0] === right[head + j][0];
  for (let i = m - 1; i >= 0; i--) {
    for (let j = n - 1; j >= 0; j--) {
      const skipped = Math.max(lengths[i + 1][j], lengths[i][j + 1]);
      lengths[i][j] = same(i, j) ? lengths[i + 1][j + 1] + 1 : skipped;
    }
  }
  let i = 0;
  let j = 0;
  while (i < m && j < n) {
    if (same(i, j)) keep(head + i++, head + j++);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return marks;
}

// A line with its parts in colours; those that are marked, in an element `name`.
function shown(parts, marks, name) {
  const line = document.createDocumentFragment();
  let marked = null;
  parts.forEach(([text, kind], i) => {
    const part = kind ? made("span", kind, text) : document.createTextNode(text);
    const isMarked = marks !== null && marks[i];
    if (isMarked && !marked) line.append((marked = document.createElement(name)));
    if (!isMarked) marked = null;
    (marked || line).append(part);
  });
  return line;
}

// ---------------------------------------------------------------- rows

const SIGNS = { removed: "− ", added: "+ ", "": "  " };

// A row of the table: before, after, and where the node comes from.
function rowElement(data, [before, after, differs], placeAbove) {
  const left = before < 0 ? null : tokens(data.lines[before]);
  const right = after < 0 ? null : tokens(data.lines[after]);
  const marks = differs && left && right ? differing(left, right) : [null, null];
  const row = made("tr", "");
  row.append(
    sideElement(left, marks[0], "del", differs ? "removed" : ""),
    sideElement(right, marks[1], "ins", differs ? "added" : ""),
    sourceElement(data, after < 0 ? before : after, placeAbove),
  );
  return row;
}

function sideElement(parts, marks, name, className) {
  if (!parts) return made("td", "nothing");
  const cell = made("td", className);
  cell.append(made("span", "sign", SIGNS[className]));
  cell.append(shown(parts, marks, name));
  return cell;
}

// The line of the program; nothing where it is that of the row above.
function sourceElement(data, line, placeAbove) {
  const cell = made("td", "source");
  const number = data.place_of[line];
  if (number < 0 || number === placeAbove) return cell;
  const place = data.places[number];
  const where = `${place.file}:${place.line}`;
  const inside = place.function ? `, in ${place.function}` : "";
  cell.title = [where + inside, place.module, place.code].filter(Boolean).join("\n");
  cell.append(made("span", "", shortPath(where)), made("span", "code", place.code));
  return cell;
}

function shortPath(path) {
  return path.split("/").slice(-2).join("/");
}

// ---------------------------------------------------------------- the table of a step

// The rows that are shown, as runs [first, end); what lies between them is alike.
function shownRuns(rows) {
  const runs = [];
  rows.forEach((row, i) => {
    if (!row[2]) return;
    const first = Math.max(0, i - CONTEXT);
    const end = Math.min(rows.length, i + CONTEXT + 1);
    const last = runs.at(-1);
    if (last && first <= last[1]) last[1] = end;
    else runs.push([first, end]);
  });
  return runs;
}

function tableElement(data, rows) {
  const body = document.createElement("tbody");
  const heads = ["Before", "After", "Line of the program"].map((text) => {
    const head = made("th", "", text);
    head.scope = "col";
    return head;
  });
  const columns = made("colgroup", "", made("col", ""), made("col", ""), made("col", "source"));
  const table = made("table", "diff", columns, made("thead", "", made("tr", "", ...heads)), body);
  let place = 0;
  for (const [first, end] of shownRuns(rows)) {
    if (first > place) body.append(gapElement(data, rows, place, first, "lines alike"));
    addRows(body, null, data, rows, first, end);
    place = end;
  }
  if (place < rows.length) body.append(gapElement(data, rows, place, rows.length, "lines alike"));
  const scroll = made("div", "scroll", table);
  scroll.tabIndex = 0;
  return scroll;
}

// Puts rows in front of another (null: at the end), and for those that are too many a button.
function addRows(body, before, data, rows, first, end) {
  const last = Math.min(end, first + AT_ONCE);
  let placeAbove = null;
  for (let i = first; i < last; i++) {
    body.insertBefore(rowElement(data, rows[i], placeAbove), before);
    placeAbove = data.place_of[rows[i][1] < 0 ? rows[i][0] : rows[i][1]];
  }
  if (last < end) body.insertBefore(gapElement(data, rows, last, end, "more lines"), before);
}

// A row that stands for others, and becomes them.
function gapElement(data, rows, first, end, what) {
  const row = made("tr", "gap");
  const cell = document.createElement("td");
  cell.colSpan = 3;
  cell.append(button(`⋯ ${end - first} ${what}`, () => {
    const body = row.parentNode;
    const next = row.nextSibling;
    row.remove();
    addRows(body, next, data, rows, first, end);
    const focused = next ? next.previousSibling : body.lastChild;
    focused.scrollIntoView({ block: "nearest" });
  }));
  row.append(cell);
  return row;
}

// What one run of a pass changed.
function stepElement(data, number, title) {
  const step = data.steps[number];
  const told = `${title}${step.removed} lines removed or changed, ${step.added} added or changed`;
  const rows = rowsOf(data.before[number], step);
  return made("div", "step", made("p", "step-head", told), tableElement(data, rows));
}

async function fillSteps(place) {
  if (place.childElementCount || place.dataset.filling) return;
  place.dataset.filling = "yes";
  const numbers = place.dataset.steps.split(" ").map(Number);
  try {
    const data = await texts();
    numbers.forEach((number, i) => {
      const title = numbers.length > 1 ? `Run ${i + 1} that changed something: ` : "";
      place.append(stepElement(data, number, title));
    });
  } catch (error) {
    place.append(made("p", "alert", `The texts cannot be shown: ${error.message}`));
  }
}

// ---------------------------------------------------------------- at the start

// Draws the graph once its section is near to what is seen.
function drawWhenNear() {
  const place = document.getElementById("picture");
  const data = embedded("graph-data");
  if (!place || !data) return;
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    drawGraph(place, data);
  }, { rootMargin: "400px" });
  observer.observe(place);
}

for (const details of document.querySelectorAll(".pass-details")) {
  details.addEventListener("toggle", () => {
    const place = details.querySelector(".steps");
    if (details.open && place) fillSteps(place);
  });
}
drawWhenNear();
