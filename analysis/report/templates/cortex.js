"use strict";
/* The cortex: maps of `data.cortex` painted on a mesh that turns, inflates and flattens. */
async function cortex(data) {
  const form = document.getElementById("cortex-controls");
  const place = document.getElementById("cortex");
  const said = document.getElementById("cortex-said");
  const control = (name) => form.elements[name];

  const bytes = async (text) => {
    const zipped = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const plain = new Response(new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip")));
    return plain.arrayBuffer();
  };
  const mesh = data.mesh;
  const points = {};
  for (const [name, text] of Object.entries(mesh.points)) {
    points[name] = Float32Array.from(new Int16Array(await bytes(text)), (step) => step / mesh.perMm[name]);
  }
  const faces = new Uint16Array(await bytes(mesh.faces));
  const flatFaces = new Uint16Array(await bytes(mesh.flatFaces));
  const folds = new Uint8Array(await bytes(mesh.folds));
  const shownAt = new Int32Array(await bytes(data.place)); // vertex -> position in a map, -1
  const parcelOf = new Uint16Array(await bytes(data.parcels.number));
  const nVertices = folds.length;
  const parcelAt = Int32Array.from(shownAt, (at) => (at < 0 ? -1 : parcelOf[at]));

  // Vertices with a neighbour in a parcel before theirs: a line one vertex wide.
  const border = new Uint8Array(nVertices), edge = new Uint8Array(nVertices);
  for (let f = 0; f < faces.length; f += 3) {
    for (const [a, b] of [[0, 1], [1, 2], [2, 0]]) {
      const one = faces[f + a], other = faces[f + b];
      if (parcelAt[one] > parcelAt[other]) border[one] = 1;
      if (parcelAt[one] < parcelAt[other]) border[other] = 1;
      if (parcelAt[one] !== parcelAt[other]) edge[one] = edge[other] = 1;
    }
  }

  const unpacked = new Map();
  async function values(measure, name, subject) {
    const packed = data.maps[measure]?.[name]?.[subject];
    if (!packed) return null;
    const key = [measure, name, subject].join("\n");
    if (!unpacked.has(key)) {
      const raw = await bytes(packed.z);
      const numbers = packed.wide ? new Uint16Array(raw) : new Uint8Array(raw);
      unpacked.set(key, Float64Array.from(numbers, (n) => (n ? packed.low + (n - 1) * packed.step : NaN)));
    }
    return unpacked.get(key);
  }

  async function currentMap() {
    const measure = control("measure").value, subject = control("subject").value;
    const name = measure === "drop" ? control("pair").value : measure === "ceiling" ? "" : control("model").value;
    if (measure !== "difference") return values(measure, name, subject);
    const one = await values("score", name, subject);
    const other = await values("score", control("second").value, subject);
    return one && other ? one.map((value, at) => value - other[at]) : null;
  }

  /* Ends of the colours: one scale for all models of a measure, or eyes could not compare them. */
  function range(measure, map) {
    if (measure === "depth") return [0, 1];
    if (measure === "difference" || measure === "drop") {
      let top = 0;
      for (const value of map) if (Math.abs(value) > top) top = Math.abs(value);
      top = measure === "drop" ? Math.min(top, 100) : top;
      return [-(top || 1), top || 1];
    }
    const subject = control("subject").value;
    const tops = Object.values(data.maps[measure]).map((own) => (own[subject] ? own[subject].high : 0));
    return [0, measure === "normalised" ? 1 : Math.max(...tops, 0.01)];
  }

  let map = null, mask = null, ends = [0, 1], picked = -1, asked = 0, changes = 0, box = [];

  function paint() {
    const palette = data.colours[data.measures[control("measure").value].colours];
    const outlines = control("outlines").checked, masked = control("mask").checked && mask;
    const [low, high] = ends;
    const colours = new Array(nVertices);
    for (let v = 0; v < nVertices; v += 1) {
      const at = shownAt[v], grey = 205 - 75 * (folds[v] / 255);
      let red = grey, green = grey, blue = grey;
      const value = map && at >= 0 ? map[at] : NaN;
      if (Number.isFinite(value) && !(masked && mask[at] !== 1)) {
        const c = 3 * Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low))));
        [red, green, blue] = [palette[c], palette[c + 1], palette[c + 2]];
      }
      if (picked >= 0 && edge[v] && parcelAt[v] === picked) [red, green, blue] = [0, 190, 230];
      else if (outlines && border[v] && at >= 0) [red, green, blue] = [red * 0.35, green * 0.35, blue * 0.35];
      colours[v] = `rgb(${red | 0},${green | 0},${blue | 0})`;
    }
    return colours;
  }

  /* Coordinates on the way from pial (0) by inflated (1) to flat (2). */
  function shape() {
    const way = Number(control("inflate").value);
    const [from, to] = way <= 1 ? [points.pial, points.inflated] : [points.inflated, points.flat];
    const share = way <= 1 ? way : way - 1;
    const axes = [new Array(nVertices), new Array(nVertices), new Array(nVertices)];
    for (let v = 0; v < nVertices; v += 1) {
      for (let a = 0; a < 3; a += 1) axes[a][v] = from[3 * v + a] * (1 - share) + to[3 * v + a] * share;
    }
    const hemisphere = control("hemisphere").value, corners = way > 1 ? flatFaces : faces;
    const [i, j, k] = [[], [], []];
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (let f = 0; f < corners.length; f += 3) {
      const isLeft = corners[f] < mesh.left;
      if (hemisphere === "both" || isLeft === (hemisphere === "left")) {
        i.push(corners[f]); j.push(corners[f + 1]); k.push(corners[f + 2]);
        for (const vertex of corners.subarray(f, f + 3)) {
          for (let a = 0; a < 3; a += 1) {
            low[a] = Math.min(low[a], axes[a][vertex]);
            high[a] = Math.max(high[a], axes[a][vertex]);
          }
        }
      }
    }
    // One cube around what is shown: nothing comes nearer to the eye than it draws.
    const half = Math.max(...high.map((top, a) => top - low[a])) / 2;
    box = high.map((top, a) => [(top + low[a]) / 2 - half, (top + low[a]) / 2 + half]);
    return { x: axes[0], y: axes[1], z: axes[2], i, j, k };
  }

  /* The eye by its angles, so that keys and buttons turn it alike. */
  const view = { turn: 180, rise: 15, far: 1.5 };
  const VIEWS = { left: [180, 0], right: [0, 0], front: [90, 0], back: [-90, 0], top: [-90, 89.9], bottom: [-90, -89.9] };
  const flat = () => Number(control("inflate").value) > 1.5;
  /* A narrow place shows less of the same height. */
  const away = () => view.far * Math.max(1, (1.25 * place.clientHeight) / Math.max(place.clientWidth, 1));
  function camera() {
    if (flat()) {
      return { eye: { x: 0, y: -0.001, z: away() * 1.1 }, up: { x: 0, y: 1, z: 0 }, center: { x: 0, y: 0, z: 0 } };
    }
    const turn = (view.turn * Math.PI) / 180, rise = (view.rise * Math.PI) / 180;
    const level = away() * Math.cos(rise);
    return {
      eye: { x: level * Math.cos(turn), y: level * Math.sin(turn), z: away() * Math.sin(rise) },
      up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: 0 },
    };
  }

  function bar() {
    const chosen = data.measures[control("measure").value], palette = data.colours[chosen.colours];
    const colorscale = [];
    for (let c = 0; c < 256; c += 15) {
      colorscale.push([c / 255, `rgb(${palette[3 * c]},${palette[3 * c + 1]},${palette[3 * c + 2]})`]);
    }
    return {
      type: "scatter3d", mode: "markers", x: [null], y: [null], z: [null], hoverinfo: "skip", showlegend: false,
      marker: {
        color: [ends[0]], cmin: ends[0], cmax: ends[1], colorscale, showscale: true, size: 0.1,
        colorbar: {
          title: { text: chosen.unit, side: "top" }, thickness: 12, tickfont: { color: ink() }, nticks: 6,
          // Of a bar that lies: an empty line keeps its title out of it.
          ...(place.clientWidth < 560 ? { orientation: "h", y: -0.02, len: 0.9, title: { text: `${chosen.unit}<br> `, side: "top" } } : { len: 0.8, x: 1, xpad: 4 }),
        },
      },
    };
  }

  function layout() {
    const axis = (range) => ({ visible: false, showspikes: false, range, autorange: false });
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", font: { color: ink(), size: 13 },
      scene: {
        xaxis: axis(box[0]), yaxis: axis(box[1]), zaxis: axis(box[2]), aspectmode: "cube", camera: camera(),
        dragmode: flat() ? "pan" : "turntable",
      },
    };
  }

  function surface() {
    return {
      type: "mesh3d", ...shape(), vertexcolor: paint(), hoverinfo: "none", flatshading: false, showscale: false,
      lighting: { ambient: 0.75, diffuse: 0.45, specular: 0.05, roughness: 0.9, fresnel: 0.05 },
      lightposition: { x: 0, y: -2000, z: 10000 },
    };
  }

  const draw = () =>
    Plotly.react(place, [surface(), bar()], layout(), {
      responsive: true, displaylogo: false, scrollZoom: false,
      modeBarButtonsToRemove: ["tableRotation", "resetCameraLastSave3d", "hoverClosest3d"],
      toImageButtonOptions: { format: "png", filename: "cortex", scale: 2 },
    });

  function number(value) {
    const unit = control("measure").value === "drop" ? "%" : "";
    return Number.isFinite(value) ? value.toFixed(unit ? 1 : 3) + unit : "no value";
  }

  function describe(vertex) {
    const at = shownAt[vertex];
    const side = vertex < mesh.left ? "left" : "right";
    if (at < 0) return `${side} hemisphere, vertex ${vertex}: no target`;
    const parcel = data.parcels.names[parcelAt[vertex]] || "outside the parcels";
    const chance = mask && Number.isFinite(mask[at]) ? (mask[at] ? ", above chance" : ", not above chance") : "";
    return `${parcel} (${side}): ${control("measure").value === "depth" ? "depth" : data.measures[control("measure").value].unit} = ${number(map ? map[at] : NaN)}${chance}`;
  }

  function known(parcel, of = map) {
    return (of || []).filter((value, at) => parcelOf[at] === parcel && Number.isFinite(value));
  }

  function meanOf(parcel, of = map) {
    const own = known(parcel, of);
    return own.length ? own.reduce((sum, value) => sum + value, 0) / own.length : NaN;
  }

  /* What is drawn in the chosen parcel, and beside a map of a model what else is known of that model there. */
  async function tellPicked() {
    asked += 1;
    const own = asked, parcel = picked, measure = control("measure").value, subject = control("subject").value;
    const words = [`${data.parcels.names[parcel]}: mean over what is drawn = ${number(meanOf(parcel))}`];
    const model = control("model").value, others = { score: "r", normalised: "share of the ceiling", ceiling: "ceiling", depth: "preferred depth" };
    if (["score", "normalised", "depth"].includes(measure)) {
      for (const [other, name] of Object.entries(others)) {
        const beside = other === measure ? null : await values(other, other === "ceiling" ? "" : model, subject);
        const mean = meanOf(parcel, beside), [n, all] = [known(parcel, beside).length, known(parcel, await values("score", model, subject)).length];
        if (n) words.push(`${name} ${mean.toFixed(3)}${n < all ? ` in ${n} of ${all} targets` : ""}`);
      }
      const above = meanOf(parcel, await values("significant", model, subject));
      if (Number.isFinite(above)) words.push(`${Math.round(100 * above)}% above chance`);
    }
    if (own === asked && parcel === picked) said.textContent = words.join("; "); // or a later choice has answered
  }

  /* Which way a parcel looks on the inflated cortex, of each hemisphere that it is in: [hemisphere, [x, y, z]]. */
  function facings(parcel) {
    const at = points.inflated, sums = { left: [0, 0, 0], right: [0, 0, 0] };
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = faces.subarray(f, f + 3);
      if (parcelAt[a] !== parcel || parcelAt[b] !== parcel || parcelAt[c] !== parcel) continue;
      const [u, v] = [b, c].map((corner) => [0, 1, 2].map((axis) => at[3 * corner + axis] - at[3 * a + axis]));
      const sum = sums[a < mesh.left ? "left" : "right"];
      for (let axis = 0; axis < 3; axis += 1) {
        const [p, q] = [(axis + 1) % 3, (axis + 2) % 3];
        sum[axis] += u[p] * v[q] - u[q] * v[p];
      }
    }
    return Object.entries(sums).map(([side, sum]) => [side, sum, Math.hypot(...sum)])
      .filter(([, , size]) => size > 0).map(([side, sum, size]) => [side, sum.map((part) => part / size)]);
  }

  /* True if the eye sees what looks that way: its hemisphere is drawn, it is turned to the eye, and no other is between. */
  function isSeen([side, facing]) {
    const shown = control("hemisphere").value;
    if (shown !== "both" && shown !== side) return false;
    if (flat()) return true;
    const turn = (view.turn * Math.PI) / 180, rise = (view.rise * Math.PI) / 180;
    const eye = [Math.cos(rise) * Math.cos(turn), Math.cos(rise) * Math.sin(turn), Math.sin(rise)];
    const inward = side === "left" ? facing[0] : -facing[0];
    return facing.reduce((sum, part, axis) => sum + part * eye[axis], 0) > 0.3 && !(shown === "both" && inward > 0.3);
  }

  /* Turn to a parcel that was chosen elsewhere; what the other hemisphere hides is shown without it. */
  async function face(parcel) {
    const ways = facings(parcel);
    if (!ways.length || ways.some(isSeen)) return;
    const outer = ([side, facing]) => (side === "left" ? -facing[0] : facing[0]);
    const [side, facing] = ways.sort((one, other) => outer(other) - outer(one))[0];
    view.turn = (Math.atan2(facing[1], facing[0]) * 180) / Math.PI;
    view.rise = Math.max(-60, Math.min(60, (Math.asin(facing[2]) * 180) / Math.PI));
    const shown = control("hemisphere").value;
    if (outer([side, facing]) < -0.3) control("hemisphere").value = side;
    else if (shown !== "both" && shown !== side) control("hemisphere").value = "both";
    await (control("hemisphere").value === shown ? turn(0, 0) : draw());
  }

  async function pick(parcel, tell, from) {
    picked = parcel;
    control("parcel").value = String(parcel);
    if (parcel >= 0) await tellPicked();
    if (tell) document.dispatchEvent(new CustomEvent("parcel", { detail: parcel >= 0 ? data.parcels.names[parcel] : "" }));
    if (data.parcels.names[parcel] && from !== "cortex") await face(parcel);
    return Plotly.restyle(place, { vertexcolor: [paint()] }, [0]);
  }

  async function refresh() {
    const measure = control("measure").value;
    const used = { model: !["ceiling", "drop"].includes(measure), second: measure === "difference", pair: measure === "drop" };
    for (const [name, on] of Object.entries(used)) control(name).closest("label").hidden = !on;
    changes += 1;
    const own = changes, model = control("model").value, subject = control("subject").value;
    const found = await currentMap();
    const significant = used.model && !used.second ? await values("significant", model, subject) : null;
    if (own !== changes) return; // a later choice was drawn meanwhile
    [map, mask] = [found, significant];
    control("mask").disabled = !mask;
    ends = map ? range(measure, map) : [0, 1];
    if (!map) said.textContent = "No such map: it has no values.";
    else if (picked >= 0) await tellPicked();
    else said.textContent = "Point at the cortex, or choose a parcel.";
    await draw();
  }

  function turn(by, up) {
    view.turn += by;
    view.rise = Math.max(-89.9, Math.min(89.9, view.rise + up));
    return Plotly.relayout(place, { "scene.camera": camera() });
  }

  fill(control("parcel"), [["-1", "none"], ...data.parcels.names.map((name, p) => [String(p), name || "outside the parcels"])]);
  const models = Object.keys(data.maps.score || {});
  fill(control("model"), models.map((name) => [name, name]));
  fill(control("second"), models.map((name) => [name, name]));
  control("model").value = data.best ?? models[0];
  if (models.length > 1) control("second").value = models.find((name) => name !== control("model").value);
  fill(control("pair"), Object.keys(data.maps.drop || {}).map((name) => [name, data.pairs[name]]));
  const kinds = Object.entries(data.measures).filter(([kind]) => (kind === "difference" ? models.length > 1 : data.maps[kind]));
  fill(control("measure"), kinds.map(([kind, one]) => [kind, one.words]));
  const subjects = Object.keys(Object.values(data.maps.score || data.maps.ceiling)[0]);
  fill(control("subject"), subjects.map((name) => [name, name === "mean" ? "mean of subjects" : name]));

  for (const name of ["measure", "model", "second", "pair", "subject", "mask", "outlines", "hemisphere"]) {
    control(name).addEventListener("change", refresh);
  }
  control("inflate").addEventListener("input", draw);
  control("parcel").addEventListener("change", () => pick(Number(control("parcel").value), true));
  for (const button of form.querySelectorAll("button[data-view]")) {
    button.addEventListener("click", async () => {
      [view.turn, view.rise] = VIEWS[button.dataset.view];
      if (flat()) {
        control("inflate").value = "1";
        await draw();
      }
      turn(0, 0);
    });
  }
  place.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-15, 0], ArrowRight: [15, 0], ArrowUp: [0, 15], ArrowDown: [0, -15] }[event.key];
    if (step) { event.preventDefault(); turn(...step); }
  });
  for (const link of document.querySelectorAll("a[data-measure]")) {
    link.addEventListener("click", () => {
      if (!kinds.some(([kind]) => kind === link.dataset.measure)) return;
      control("measure").value = link.dataset.measure;
      control("mask").checked = link.dataset.measure === "score";
      refresh();
    });
  }
  await refresh();
  // Where a drag has left the eye: the next map is seen from there.
  place.on("plotly_relayout", (event) => {
    const eye = event["scene.camera"]?.eye;
    if (!eye || flat()) return;
    const far = Math.hypot(eye.x, eye.y, eye.z);
    view.far *= far / away();
    view.turn = (Math.atan2(eye.y, eye.x) * 180) / Math.PI;
    view.rise = (Math.asin(eye.z / far) * 180) / Math.PI;
  });
  let under = -1, pressed = [0, 0];
  place.on("plotly_hover", (event) => {
    under = event.points[0].pointNumber;
    said.textContent = describe(under);
  });
  place.on("plotly_unhover", () => { under = -1; });
  // Plotly's own click comes with every drawing while a button is down, of which a picked parcel makes one more.
  place.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; }, true);
  place.addEventListener("click", (event) => {
    const moved = Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
    if (under >= 0 && moved < 4) pick(parcelAt[under], true, "cortex");
  }, true);
  document.addEventListener("theme", draw);
  document.addEventListener("parcel", (event) => {
    const parcel = event.detail ? data.parcels.names.indexOf(event.detail) : -1; // no name: no parcel, or outside them
    if (parcel >= 0 && parcel !== picked) pick(parcel, false);
  });
  return { describe, pick, turn, view, parcelAt, shownAt };
}
