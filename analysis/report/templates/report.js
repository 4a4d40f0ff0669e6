"use strict";
/* The page: charts of `data.charts` drawn when they come into view, choices between their figures, contents in view. */
const data = JSON.parse(document.getElementById("data").textContent);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ink = () => style("--ink");

const TOOLBAR = 30; // pixels
// The palette's blue is too dark on a dark ground: its light blue takes its part there, and its yellow that of the light blue.
const ON_DARK = { "#0072B2": "#56B4E9", "#56B4E9": "#F0E442" };
const isNarrow = (width) => width < 560;

function fill(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
}

/* A title in lines that are no wider than its axis, by the width of its letters. */
function broken(text, px) {
  const lines = [];
  for (const word of text.split(" ")) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : "";
    if (longer && longer.length * 7.5 <= px) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.join("<br>");
}

/* A figure for this screen: its theme's colours, and on a narrow one colour bars and legends beneath. */
function themed(figure, width) {
  const axis = { gridcolor: style("--line"), zerolinecolor: style("--soft"), linecolor: style("--line"), automargin: true };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches, narrow = isNarrow(width);
  const { data: coloured, layout: given } = dark ? JSON.parse(JSON.stringify(figure).replace(/#0072B2|#56B4E9/g, (colour) => ON_DARK[colour])) : figure;
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hoverlabel: { align: "left" },
    margin: { l: 8, r: 8, t: 28, b: 8 }, ...given, font: { color: ink(), family: "system-ui, sans-serif", size: narrow ? 12 : 13 },
  };
  // Error bars of bars would be dark grey; those of points have the colour of their points.
  const traces = coloured.map((trace) => (trace.type === "bar" && trace.error_y ? { ...trace, error_y: { ...trace.error_y, color: ink() } } : trace));
  for (const key of Object.keys(given)) {
    if (/^[xy]axis\d*$/.test(key)) layout[key] = { ...axis, ...given[key] };
    const [from, to] = layout[key].domain || [];
    if (to - from < 1) layout[key].title = { ...layout[key].title, text: broken(layout[key].title.text, (to - from) * (width - 140)) };
  }
  for (const key of ["xaxis", "yaxis"]) layout[key] = layout[key] || axis;
  // Above a title the toolbar needs a line of its own, which it comes into when a pointer does.
  if (layout.title) {
    layout.margin = { ...layout.margin, t: layout.margin.t + TOOLBAR };
    layout.title = { ...layout.title, yref: "container", y: 1, yanchor: "top", pad: { t: TOOLBAR + 4 } };
    layout.height += TOOLBAR;
  }
  // A title beside an axis is cut without room of its own.
  if (layout.yaxis.title) layout.margin = { ...layout.margin, l: 56 };
  // Cells that are narrower than their number say it to the pointer alone.
  const fits = traces[0].type !== "heatmap" || (width - 150) / traces[0].x.length >= 40;
  const legible = traces.map((trace) => (trace.mode === "text" ? { ...trace, visible: fits } : trace));
  if (!narrow) return { data: legible, layout };
  const named = traces.filter((trace) => trace.name && trace.showlegend !== false).length;
  if (named > 3) layout.height += 20 * named;
  // Plotly puts the title half into a bar that lies: an empty line keeps it out.
  const bar = { orientation: "h", x: 0.5, xanchor: "center", y: 0, yref: "container", yanchor: "bottom", len: 0.9, thickness: 10 };
  const below = legible.map((trace) => (trace.colorbar ? {
    ...trace, colorbar: { ...trace.colorbar, ...bar, title: { text: `${trace.colorbar.title.text}<br> `, side: "top" } },
  } : trace));
  if (traces.some((trace) => trace.colorbar)) {
    layout.height += 70;
    layout.margin = { ...layout.margin, b: 70 };
  }
  return { data: below, layout };
}

/* Pictures of the film along its time, between the legend and the curves; every second or third where they would be tiny. */
function addFilm(layout, film, width) {
  const every = Math.ceil((film.length * 36) / width), high = 64, rest = 44;
  const share = high / (layout.height - layout.margin.t - rest);
  layout.height += high + rest;
  layout.margin = { ...layout.margin, t: layout.margin.t + high + rest };
  layout.legend = { ...layout.legend, y: 1.03 + share, yanchor: "bottom" };
  layout.images = film.filter((_, number) => number % every === 0).map(([start, stop, source]) => ({
    source, xref: "x", x: start, xanchor: "left", sizex: every * (stop - start),
    yref: "paper", y: 1.02, yanchor: "bottom", sizey: share, sizing: "contain", layer: "above",
  }));
}

/* The chosen figure of a chart as it is drawn in its place. */
function chosen(place) {
  const chart = data.charts[place.dataset.chart];
  const select = document.getElementById(`choose-${place.dataset.chart}`);
  const figure = themed(chart.figures[select ? select.value : ""], place.clientWidth);
  if (chart.film.length) addFilm(figure.layout, chart.film, place.clientWidth);
  return figure;
}

function drawChart(place) {
  const { data: traces, layout } = chosen(place);
  place.dataset.drawn = "yes";
  return Plotly.react(place, traces, layout, {
    // On a narrow screen it would cover the legend, and a finger that chooses a number opens it.
    responsive: true, displaylogo: false, displayModeBar: isNarrow(place.clientWidth) ? false : "hover", scrollZoom: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: place.dataset.chart },
  });
}

const charts = [...document.querySelectorAll("[data-chart]")];
const soon = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { soon.unobserve(entry.target); drawChart(entry.target); }
  }
}, { rootMargin: "600px" });
for (const place of charts) {
  const chart = data.charts[place.dataset.chart], select = document.getElementById(`choose-${place.dataset.chart}`);
  if (select) {
    fill(select, Object.keys(chart.figures).map((name) => [name, name]));
    if (chart.first) select.value = chart.first;
    select.addEventListener("change", () => {
      // Once: drawn twice in a row a chart loses the range of its axes.
      if (chart.chooser !== "parcel") drawChart(place);
      else document.dispatchEvent(new CustomEvent("parcel", { detail: select.value }));
    });
  }
}
document.addEventListener("parcel", (event) => {
  for (const place of charts) {
    const chart = data.charts[place.dataset.chart];
    if (chart.chooser === "parcel" && event.detail in chart.figures) {
      document.getElementById(`choose-${place.dataset.chart}`).value = event.detail;
      if (place.dataset.drawn) drawChart(place);
    }
  }
});

for (const link of document.querySelectorAll("a[data-csv]")) {
  link.addEventListener("click", () => {
    link.href = URL.createObjectURL(new Blob([data.charts[link.dataset.csv].csv], { type: "text/csv" }));
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of charts) if (place.dataset.drawn) drawChart(place);
  document.dispatchEvent(new CustomEvent("theme"));
});
window.addEventListener("beforeprint", () => {
  for (const place of charts) if (!place.dataset.drawn) drawChart(place);
});

/* Of the contents the section that is read: the last that has begun above a quarter of the screen; at the page's end,
   where short sections cannot come up so far, the one that was chosen or else the last. */
const sections = [...document.querySelectorAll("main section")];
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
function markRead() {
  const from = (section) => section.getBoundingClientRect().top, page = document.documentElement;
  let read = sections.findLast((section) => from(section) <= innerHeight / 4);
  if (scrollY + innerHeight >= page.scrollHeight - 2) {
    const asked = sections.find((section) => `#${section.id}` === location.hash);
    read = asked && from(asked) > 0 && from(asked) < innerHeight ? asked : sections.at(-1);
  }
  for (const [id, link] of links) link.classList.toggle("here", id === read?.id);
  // On a phone the contents are one line, wider than the screen.
  const link = links.get(read?.id), bar = link?.parentElement;
  if (bar && bar.scrollWidth > bar.clientWidth) bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2;
}
for (const event of ["scroll", "resize", "hashchange"]) addEventListener(event, markRead, { passive: true });

document.documentElement.classList.add("scripts");
// Each chart has its room before it is drawn, or headings would move away from who asked for them.
for (const place of charts) {
  place.style.minHeight = `${chosen(place).layout.height}px`;
  soon.observe(place);
}
markRead();
if (data.cortex) window.shownCortex = cortex(data.cortex);
