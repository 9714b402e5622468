"use strict";
// The page's data is all there is: nothing is fetched, and text is only ever set as text.
const page = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });
const percent = (share) => `${(100 * share).toFixed(1)} %`;

const ACCENT = [11, 114, 133];

function shade(element, share) {
  element.style.background = `rgba(${ACCENT.join(", ")}, ${Math.sqrt(share).toFixed(3)})`;
  element.style.color = share > 0.3 ? "#ffffff" : "";
}

// Patterns come as bytes, 255 for all attention: heads x positions x positions of a layer.
const patterns = (page.layers || []).map((layer) =>
  Uint8Array.from(atob(layer.patterns), (letter) => letter.charCodeAt(0))
);
const n = page.tokens.length;
const state = { layer: 0, head: 0, token: n - 1 };
const attended = (layer, head, query, key) => patterns[layer][(head * n + query) * n + key] / 255;

function paint(canvas, layer, head) {
  canvas.width = canvas.height = n;
  const pixels = canvas.getContext("2d").createImageData(n, n);
  for (let query = 0; query < n; query++) {
    for (let key = 0; key < n; key++) {
      const place = 4 * (query * n + key);
      pixels.data.set(ACCENT, place);
      pixels.data[place + 3] = 255 * Math.sqrt(attended(layer, head, query, key));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function choose(change) {
  Object.assign(state, change);
  state.head = Math.min(state.head, page.layers[state.layer].heads - 1);
  byId("layer").value = state.layer;
  fillHeads();
  byId("head").value = state.head;
  for (const button of byId("heads").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.layer == state.layer && button.dataset.head == state.head);
  }
  paint(byId("pattern"), state.layer, state.head);
  showToken();
}

function showToken(query = state.token, key = null) {
  byId("tokens").querySelectorAll("button").forEach((button, place) => {
    const share = attended(state.layer, state.head, query, place);
    shade(button, share);
    button.title = percent(share);
    button.setAttribute("aria-pressed", place === query);
  });
  const name = (place) => `“${page.tokens[place]}” (${place})`;
  const most = key === null ? [...Array(n).keys()].reduce((best, place) =>
    attended(state.layer, state.head, query, place) > attended(state.layer, state.head, query, best) ? place : best, 0) : key;
  byId("readout").textContent =
    `${name(query)} attends to ${name(most)}: ${percent(attended(state.layer, state.head, query, most))}`;
}

function fillHeads() {
  const heads = page.layers[state.layer].heads;
  if (byId("head").length !== heads) {
    byId("head").replaceChildren(...[...Array(heads).keys()].map((head) => make("option", head, { value: head })));
  }
}

function buildAttention() {
  byId("layer").replaceChildren(...page.layers.map((layer, place) => make("option", layer.label, { value: place })));
  byId("layer").onchange = (event) => choose({ layer: Number(event.target.value) });
  byId("head").onchange = (event) => choose({ head: Number(event.target.value) });
  const widest = Math.max(...page.layers.map((layer) => layer.heads));
  const grid = byId("heads");
  grid.style.gridTemplateColumns = `auto repeat(${widest}, minmax(18px, 56px))`;
  page.layers.forEach((layer, place) => {
    grid.append(make("span", layer.label));
    for (let head = 0; head < widest; head++) {
      if (head >= layer.heads) {
        grid.append(make("i", ""));
        continue;
      }
      const button = make("button", "", { title: `layer ${layer.label}, head ${head}` });
      Object.assign(button.dataset, { layer: place, head });
      button.setAttribute("aria-label", button.title);
      button.onclick = () => choose({ layer: place, head });
      const canvas = document.createElement("canvas");
      paint(canvas, place, head);
      button.append(canvas);
      grid.append(button);
    }
  });
  byId("tokens").replaceChildren(...page.tokens.map((token, place) => {
    const item = document.createElement("li");
    const button = make("button", token);
    button.onclick = () => { state.token = place; showToken(); };
    item.append(button);
    return item;
  }));
  const square = byId("pattern");
  const find = (event) => {
    const box = square.getBoundingClientRect();
    const place = (at, size) => Math.min(n - 1, Math.max(0, Math.floor((at / size) * n)));
    return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
  };
  square.onmousemove = (event) => showToken(...find(event));
  square.onmouseleave = () => showToken();
  square.onclick = (event) => { state.token = find(event)[0]; showToken(); };
  choose({});
}

function buildLens() {
  const { rows, tokens, probabilities } = page.lens;
  const head = document.createElement("tr");
  head.append(make("th", ""), ...page.tokens.map((token) => make("th", token, { scope: "col" })));
  const body = rows.map((label, row) => {
    const line = document.createElement("tr");
    line.append(make("th", label, { scope: "row" }), ...tokens[row].map((said, place) => {
      const cell = make("td", said[0]);
      shade(cell, probabilities[row][place][0]);
      const all = said.map((one, rank) => `“${one}” ${percent(probabilities[row][place][rank])}`).join(", ");
      cell.title = all;
      cell.tabIndex = 0;
      const tell = () => { byId("lens-readout").textContent = `After ${label}, following “${page.tokens[place]}”: ${all}`; };
      cell.onmouseenter = cell.onfocus = tell;
      return cell;
    }));
    return line;
  });
  const top = document.createElement("thead");
  top.append(head);
  const rest = document.createElement("tbody");
  rest.append(...body);
  byId("lens-table").append(top, rest);
}

function buildBars() {
  const parts = page.attribution.parts;
  const largest = Math.max(...parts.map((part) => Math.abs(part.score)), 1e-9);
  byId("bars").replaceChildren(...parts.map((part) => {
    const item = document.createElement("li");
    const isHead = part.head !== null && page.layers;
    const name = make(isHead ? "button" : "span", part.label);
    if (isHead) {
      name.onclick = () => { choose({ layer: part.layer, head: part.head }); byId("attention").scrollIntoView({ behavior: "smooth" }); };
    }
    const track = make("div", "", { className: "track" });
    const fill = make("div", "", { className: part.score < 0 ? "fill less" : "fill" });
    fill.style.width = `${(100 * Math.abs(part.score)) / largest}%`;
    track.append(fill);
    item.append(name, track, make("span", part.score.toFixed(3), { className: "value" }));
    return item;
  }));
}

if (page.layers) buildAttention();
if (page.lens) buildLens();
if (page.attribution) buildBars();
