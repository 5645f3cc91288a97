"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = (id) => { const node = byId(id); return node ? JSON.parse(node.textContent) : null; };
  const classes = data("class-data") || [];
  const files = data("file-data") ?? {};
  const image = (index) => (files[index] ? `${index} (${files[index]})` : String(index));
  const named = (number) => (number < 0 ? "–" : classes[number] ?? String(number));
  const element = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const options = (select, names) => select.replaceChildren(...names.map(([value, text]) => { const o = element("option", text); o.value = value; return o; }));

  // Gallery ---------------------------------------------------------------------------------------------
  const gallery = data("gallery-data");
  const bytes = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const heat = (v) => {
    const place = v * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2), part = place - low;
    return HEAT[low].map((a, i) => a * (1 - part) + HEAT[low + 1][i] * part);
  };
  const paint = (height, width, colour) => {
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) picture.data.set(colour(i), 4 * i);
    context.putImageData(picture, 0, 0);
    return canvas;
  };
  const over = (base, top, shape) => {
    const size = 192, canvas = document.createElement("canvas");
    canvas.width = Math.round(size * shape[1] / Math.max(...shape)); canvas.height = Math.round(size * shape[0] / Math.max(...shape));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false; context.drawImage(base, 0, 0, canvas.width, canvas.height);
    if (top) { context.imageSmoothingEnabled = true; context.drawImage(top, 0, 0, canvas.width, canvas.height); }
    return canvas;
  };
  const unpack = (example) => {
    if (example.ready) return example;
    example.pixels = bytes(example.image, Uint8Array);
    for (const level in example.maps) example.maps[level] = bytes(example.maps[level], Uint8Array);
    for (const radius of example.radii) {
      radius.change = bytes(radius.change, Int8Array);
      for (const level in radius.maps) radius.maps[level] = bytes(radius.maps[level], Uint8Array);
    }
    example.ready = true;
    return example;
  };
  const rgb = (pixels, shape) => paint(shape[0], shape[1], (i) => [pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255]);
  const grey = (pixels, shape) => paint(shape[0], shape[1], (i) => { const g = 0.3 * (pixels[3 * i] + pixels[3 * i + 1] + pixels[3 * i + 2]); return [g, g, g, 255]; });
  const attention = (map, shape) => paint(shape[0], shape[1], (i) => { const v = map[i] / 255; return [...heat(v), 217 * v ** 0.6]; });
  const difference = (before, after, shape) => {
    let top = 1; for (let i = 0; i < after.length; i++) top = Math.max(top, Math.abs(after[i] - before[i]));
    return paint(shape[0], shape[1], (i) => { const v = (after[i] - before[i]) / top; return [...(v > 0 ? [217, 95, 2] : [31, 111, 180]), 230 * Math.abs(v) ** 0.6]; });
  };
  const shown = (canvas, caption) => { const f = element("figure"), c = element("figcaption", caption); canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", caption); f.append(canvas, c); return f; };

  let pick = () => {};
  if (gallery && gallery.length) {
    const which = byId("gallery-of"), slider = byId("gallery-eps"), strip = byId("gallery-strip"), stage = byId("gallery-stage"), says = byId("gallery-says");
    const kinds = [...new Set(gallery.map((e) => e.model + "\u0000" + e.attack))];
    options(which, kinds.map((kind, i) => [i, kind.replace("\u0000", " under ")]));
    let chosen = null;
    const radiusOf = (example) => example.radii[Math.min(Number(slider.value), example.radii.length - 1)];
    const draw = () => {
      const example = unpack(chosen), radius = radiusOf(example), shape = example.shape;
      const attacked = example.pixels.map((p, i) => Math.max(0, Math.min(255, Math.round(p + 255 * radius.size * radius.change[i] / 127))));
      const row = (title, ...figures) => { const box = element("div", undefined, "gallery-row"); box.append(element("h4", title)); const inner = element("div", undefined, "gallery-cells"); inner.append(...figures); box.append(inner); return box; };
      const wasOpen = Boolean(stage.querySelector("details")?.open);
      stage.replaceChildren(row("Input",
        shown(over(rgb(example.pixels, shape), null, shape), "clean: " + named(example.clean)),
        shown(over(rgb(attacked, shape), null, shape), "attacked: " + named(radius.pred)),
        shown(over(rgb(Array.from(radius.change, (c) => 128 + c), shape), null, shape), "perturbation, full contrast")));
      const rest = element("details");
      rest.append(element("summary", "The other levels")); rest.open = wasOpen;
      for (const level of Object.keys(example.levels)) {
        const size = example.levels[level];
        (example.shown.includes(level) ? stage : rest).append(row(example.titles[level],
          shown(over(grey(example.pixels, shape), attention(example.maps[level], size), shape), "clean"),
          shown(over(grey(attacked, shape), attention(radius.maps[level], size), shape), "attacked"),
          shown(over(grey(example.pixels, shape), difference(example.maps[level], radius.maps[level], size), shape), "change")));
      }
      if (rest.children.length > 1) stage.append(rest);
      const fooled = radius.pred !== example.clean;
      says.textContent = `Image ${image(example.index)}, true class ${named(example.label)}, at ε = ${radius.eps}: ` + (example.clean !== example.label ? `wrong when clean, taken for ${named(example.clean)}` + (fooled ? `, now for ${named(radius.pred)}` : "") : fooled ? `fooled, ${named(example.clean)} became ${named(radius.pred)}` : `holds, still ${named(radius.pred)}`);
      for (const button of strip.children) { const other = button.example; button.setAttribute("aria-pressed", String(other === example)); button.dataset.fooled = String(radiusOf(other).pred !== other.clean); }
    };
    const fill = () => {
      const kind = kinds[Number(which.value)], here = gallery.filter((e) => e.model + "\u0000" + e.attack === kind);
      slider.max = Math.max(...here.map((e) => e.radii.length)) - 1;
      strip.replaceChildren(...here.map((example) => {
        const button = element("button"); button.type = "button"; button.example = example; unpack(example);
        button.setAttribute("aria-label", "image " + image(example.index)); button.append(rgb(example.pixels, example.shape));
        button.addEventListener("click", () => { chosen = example; draw(); });
        return button;
      }));
      chosen = here[0]; draw();
    };
    which.addEventListener("change", fill);
    slider.addEventListener("input", draw);
    slider.value = Math.floor(Math.max(...gallery.map((e) => e.radii.length)) / 2);
    fill();
    pick = (model, attack, index) => {
      which.value = String(kinds.indexOf(model + "\u0000" + attack)); fill();
      chosen = gallery.find((e) => e.model === model && e.attack === attack && e.index === index); draw();
      byId("gallery").scrollIntoView();
    };
  }

  // Explorer --------------------------------------------------------------------------------------------
  const runs = data("explorer-data");
  if (!runs) return;
  const OFFSET = 256, PAGE = 25;
  const of = byId("explore-of"), eps = byId("explore-eps"), cls = byId("explore-class"), state = byId("explore-state"), order = byId("explore-order"), body = byId("explore-body"), count = byId("explore-count");
  const stored = new Set((gallery || []).map((e) => JSON.stringify([e.model, e.attack, e.index])));
  let page = 0;
  options(of, runs.grids.map((g, i) => [i, `${g.model} under ${g.attack}`]));
  const setUp = () => {
    const grid = runs.grids[Number(of.value)], keep = eps.value;
    options(eps, grid.eps.map((e, i) => [i, e.startsWith("0/") ? "clean" : e]));
    eps.value = keep && Number(keep) < grid.eps.length ? keep : String(Math.floor(grid.eps.length / 2));
    const labels = [...new Set([...grid.label].map((c) => c.charCodeAt(0) - OFFSET))].sort((a, b) => a - b);
    const before = cls.value;
    options(cls, [["", "every class"], ...labels.map((l) => [l, named(l)])]);
    cls.value = labels.includes(Number(before)) ? before : "";
  };
  const rows = () => {
    const grid = runs.grids[Number(of.value)], width = grid.eps.length, at = Number(eps.value), found = [];
    const code = (text, i) => text.charCodeAt(i) - OFFSET;
    for (let i = 0; i < grid.label.length; i++) {
      const label = code(grid.label, i), clean = code(grid.clean, i), pred = code(grid.pred, i * width + at);
      if (cls.value !== "" && label !== Number(cls.value)) continue;
      if (pred < 0) continue;
      const fooled = pred !== clean;
      if (state.value === "fooled" && !fooled || state.value === "held" && (fooled || clean !== label) || state.value === "wrong" && clean === label) continue;
      let breaks = width;
      for (let e = 0; e < width; e++) { const p = code(grid.pred, i * width + e); if (p >= 0 && p !== label) { breaks = e; break; } }
      found.push({ index: Array.isArray(grid.index) ? grid.index[i] : grid.index.from + i, label, clean, pred, fooled, breaks });
    }
    const key = order.value;
    if (key === "early") found.sort((a, b) => a.breaks - b.breaks || a.index - b.index);
    if (key === "late") found.sort((a, b) => b.breaks - a.breaks || a.index - b.index);
    return found;
  };
  const list = () => {
    const grid = runs.grids[Number(of.value)], found = rows(), pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.max(0, Math.min(page, pages - 1));
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((r) => {
      const line = element("tr");
      const breaks = r.breaks === grid.eps.length ? "holds throughout" : grid.eps[r.breaks].startsWith("0/") ? "wrong when clean" : grid.eps[r.breaks];
      line.append(element("td", image(r.index)), element("td", named(r.label), "text"), element("td", named(r.clean), "text"), element("td", named(r.pred), r.fooled ? "text fooled" : "text"), element("td", breaks));
      const last = element("td", undefined, "text");
      if (stored.has(JSON.stringify([grid.model, grid.attack, r.index]))) {
        const button = element("button", "images"); button.type = "button";
        button.addEventListener("click", () => pick(grid.model, grid.attack, r.index)); last.append(button);
      }
      line.append(last);
      return line;
    }));
    count.textContent = `${found.length.toLocaleString("en")} of ${grid.label.length.toLocaleString("en")} images; page ${page + 1} of ${pages}`;
    byId("explore-back").disabled = page === 0; byId("explore-on").disabled = page === pages - 1;
  };
  const again = () => { page = 0; list(); };
  of.addEventListener("change", () => { setUp(); again(); });
  for (const control of [eps, cls, state, order]) control.addEventListener("change", again);
  byId("explore-back").addEventListener("click", () => { page--; list(); });
  byId("explore-on").addEventListener("click", () => { page++; list(); });
  setUp(); list();
})();
