"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const data = (id) => { const node = byId(id); return node ? JSON.parse(node.textContent) : null; };

  // Theme: the system's choice until the reader makes one.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("robustatt-theme"); } catch { return null; } };
  const paint = () => { root.dataset.theme = stored() || (dark.matches ? "dark" : "light"); };
  byId("theme").addEventListener("click", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("robustatt-theme", next); } catch { /* private window: lasts for this page */ }
    root.dataset.theme = next;
  });
  dark.addEventListener("change", paint);
  paint();
  let before = null;
  window.addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; });
  window.addEventListener("afterprint", () => { if (before) root.dataset.theme = before; });

  // Values on hover.
  const charts = data("chart-data") || {};
  const tip = byId("tip");
  const show = (svg, event) => {
    const chart = charts[svg.dataset.chart];
    if (!chart || !chart.stops.length) return;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const at = (event.clientX - box.left) / scale;
    const stop = chart.stops.reduce((a, b) => (Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a));
    const cursor = svg.querySelector(".cursor");
    cursor.setAttribute("x1", stop.at); cursor.setAttribute("x2", stop.at); cursor.removeAttribute("hidden");
    tip.replaceChildren();
    const head = document.createElement("b"); head.textContent = "ε = " + stop.eps; tip.append(head);
    for (const [number, text] of stop.rows) {
      const row = document.createElement("div"), dot = document.createElement("i");
      dot.className = "c" + chart.colours[number];
      row.append(dot, chart.labels[number] + ": " + text); tip.append(row);
    }
    tip.hidden = false;
    const width = tip.offsetWidth, place = box.left + stop.at * scale;
    const left = place + 14 + width > root.clientWidth - 6 ? place - 14 - width : place + 14;
    tip.style.left = Math.max(6, Math.min(left, root.clientWidth - width - 6)) + window.scrollX + "px";
    tip.style.top = box.top + window.scrollY + 12 + "px";
  };
  for (const svg of document.querySelectorAll("svg.chart")) {
    svg.addEventListener("pointermove", (event) => show(svg, event));
    svg.addEventListener("pointerdown", (event) => show(svg, event));
    svg.addEventListener("pointerleave", () => { tip.hidden = true; svg.querySelector(".cursor").setAttribute("hidden", "hidden"); });
  }

  // Sortable tables: numbers by data-v, text by what is shown.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const order = (a, b) => {
        const x = value(a), y = value(b), n = Number(x) - Number(y);
        return Number.isNaN(n) ? x.localeCompare(y) : n;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
    }));
  }

  // Sliders: one of a row of tables shown at a time.
  for (const slider of document.querySelectorAll("input[data-slides]")) {
    const slides = [...document.querySelectorAll(`[data-slide="${slider.dataset.slides}"]`)];
    const show = () => {
      slides.forEach((slide, place) => { slide.hidden = place !== Number(slider.value); });
      byId(slider.dataset.slides + "-eps").textContent = slides[slider.value].dataset.eps;
    };
    slider.addEventListener("input", show);
    show();
  }

  // Tabs: one group of panels shown at a time.
  for (const tabs of document.querySelectorAll(".tabs")) {
    const buttons = [...tabs.querySelectorAll("button")];
    const choose = (chosen) => {
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(button === chosen));
        for (const part of document.querySelectorAll(`[data-tab="${button.dataset.shows}"]`)) part.hidden = button !== chosen;
      }
    };
    buttons.forEach((button) => button.addEventListener("click", () => choose(button)));
    if (buttons.length) choose(buttons[0]);
  }

  // Copy the command.
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const text = byId(button.dataset.copies).textContent;
      try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(byId(button.dataset.copies)); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
