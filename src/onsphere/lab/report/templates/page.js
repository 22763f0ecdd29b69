"use strict";
(() => {
  const root = document.documentElement;
  const darkMode = matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 640; // pixels: below this the legend goes under the chart
  const FRAME_TIME = 700; // milliseconds that a playing slider stays on a frame
  let printing = false;

  // ---- charts -----------------------------------------------------------------------------------------------------

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const selectedSeed = (chart) => chart.holder.querySelector(".seeds input:checked")?.value ?? "all";

  /** Which legend groups the reader has switched off, so that another seed keeps them off. */
  const hiddenGroups = (plot) =>
    new Set((plot.data ?? []).filter((trace) => trace.visible === "legendonly").map((trace) => trace.legendgroup));

  function tracesOf(chart, dark) {
    const seed = selectedSeed(chart);
    const frame = chart.slider && Number(chart.slider.value);
    const hidden = hiddenGroups(chart.plot);
    const named = new Set();
    const here = chart.spec.data.filter((trace) => trace.meta?.frame === undefined || trace.meta.frame === frame);
    return here.map((trace) => {
      const meta = trace.meta ?? {};
      const chosen = meta.seed === undefined || seed === "all" || String(meta.seed) === seed;
      const copy = { ...trace, visible: chosen ? (hidden.has(trace.legendgroup) ? "legendonly" : true) : false };
      // One legend entry a group: the first trace of it that is on show.
      copy.showlegend = chosen && meta.legend !== false && !named.has(trace.legendgroup);
      if (copy.showlegend) named.add(trace.legendgroup);
      if (meta.width !== undefined) {
        const all = seed === "all" && chart.several;
        copy.line = { ...trace.line, width: all ? 0.6 * meta.width : meta.width };
        copy.opacity = all ? 0.6 : 1;
      }
      if (copy.line?.color === "ink") copy.line = { ...copy.line, color: colour("--ink") };
      if (dark && meta.dark) {
        if (copy.line) copy.line = { ...copy.line, color: meta.dark };
        if (copy.marker) copy.marker = { ...copy.marker, color: meta.dark };
      }
      return copy;
    });
  }

  function layoutOf(chart, width) {
    const layout = structuredClone(chart.spec.layout);
    const narrow = width < NARROW;
    const ink = colour("--ink");
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { ...layout.font, color: ink, family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5 };
    layout.hoverlabel = { bgcolor: colour("--tip"), bordercolor: colour("--rule"), font: { color: ink }, align: "left" };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent") };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))) {
      Object.assign(layout[key], { gridcolor: colour("--grid"), linecolor: colour("--faint"), zeroline: false });
      layout[key].tickcolor = colour("--faint");
      if (narrow && key.startsWith("x") && layout[key].nticks) layout[key].nticks = Math.min(layout[key].nticks, 4);
    }
    for (const shape of layout.shapes ?? []) if (shape.line?.color === "ink") shape.line.color = ink;
    // What an axis leaves out is said over the curves that leave it.
    const corners = (layout.annotations ?? []).filter(({ name }) => name === "corner");
    for (const note of corners) note.bgcolor = `${colour("--ground")}cc`;
    layout.uirevision = "keep"; // zoom survives a change of seed or theme
    layout.legend = { ...layout.legend, uirevision: chart.revision++ };
    if (narrow && layout.xaxis.domain?.[1] < 1) {
      // Panels side by side are too narrow then for a note in their corner.
      layout.annotations = layout.annotations.filter((note) => !corners.includes(note));
    }
    if (narrow || printing) {
      Object.assign(layout.legend, { orientation: "h", x: 0, xanchor: "left", yanchor: "top" });
      layout.margin = { ...layout.margin, l: layout.margin.l - (narrow ? 12 : 0), r: 12 };
      const rows = Math.ceil(chart.entries / Math.max(Math.floor((width - 70) / 105), 1));
      layout.margin.b = 64 + 22 * rows;
      layout.height += 22 * rows;
      layout.legend.y = -52 / (layout.height - layout.margin.t - layout.margin.b);
    }
    return layout;
  }

  function draw(chart) {
    const width = printing ? 690 : chart.plot.clientWidth;
    const layout = layoutOf(chart, width);
    if (printing) layout.width = width;
    const config = {
      displaylogo: false,
      displayModeBar: width < NARROW ? false : "hover", // fingers zoom by themselves
      responsive: !printing,
      modeBarButtonsToRemove: ["select2d", "lasso2d"],
      toImageButtonOptions: { format: "svg", filename: chart.plot.id },
      // plotly.js offers to upload charts unless told not to; a content security policy cannot forbid its new window.
      showSendToCloud: false,
      plotlyServerURL: "",
    };
    return Plotly.react(chart.plot, tracesOf(chart, darkMode.matches && !printing), layout, config);
  }

  const charts = [...document.querySelectorAll("figure.chart")].map((holder) => {
    const spec = JSON.parse(holder.querySelector("script").textContent);
    const shown = spec.data.filter((trace) => trace.meta?.legend !== false);
    return {
      holder,
      spec,
      plot: holder.querySelector(".plot"),
      several: holder.querySelector(".seeds") !== null,
      slider: holder.querySelector(".slider input"),
      entries: new Set(shown.map((trace) => trace.legendgroup)).size,
      revision: 0,
    };
  });

  const drawn = Promise.all(charts.map(draw));
  drawn.then(() => {
    root.dataset.charts = String(charts.length);
  });
  for (const chart of charts) {
    chart.holder.querySelector(".seeds")?.addEventListener("change", () => draw(chart));
    let narrow = chart.plot.clientWidth < NARROW;
    new ResizeObserver(() => {
      if (printing || narrow === chart.plot.clientWidth < NARROW) return;
      narrow = !narrow;
      draw(chart);
    }).observe(chart.plot);
  }
  for (const chart of charts.filter(({ slider }) => slider)) {
    const box = chart.holder.querySelector(".slider");
    const frames = JSON.parse(box.dataset.frames);
    const [button, output] = [box.querySelector("button"), box.querySelector("output")];
    const show = (frame) => {
      chart.slider.value = frame;
      output.value = frames[frame];
      chart.slider.setAttribute("aria-valuetext", frames[frame]);
      return draw(chart);
    };
    let playing = null;
    const pause = () => {
      clearInterval(playing);
      playing = null;
      button.textContent = "▶";
    };
    const next = () => {
      const frame = Number(chart.slider.value) + 1;
      if (frame >= frames.length) return pause();
      return show(frame);
    };
    button.addEventListener("click", () => {
      if (playing !== null) return pause();
      if (Number(chart.slider.value) === frames.length - 1) show(0);
      playing = setInterval(next, FRAME_TIME);
      button.textContent = "❚❚";
    });
    chart.slider.addEventListener("input", () => {
      pause();
      show(Number(chart.slider.value));
    });
    drawn.then(() =>
      chart.plot.on("plotly_click", ({ points }) => {
        const chosen = points.find((point) => point.data.meta?.pick);
        if (!chosen) return;
        pause();
        show(chosen.customdata);
      }),
    );
  }
  darkMode.addEventListener("change", () => charts.forEach(draw));

  let folded = [];
  const setPrinting = (on) => {
    printing = on;
    root.classList.toggle("printing", on);
    if (on) folded = [...document.querySelectorAll("details:not([open])")];
    for (const part of folded) part.open = on;
    charts.forEach(draw);
  };
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));

  // ---- tables -----------------------------------------------------------------------------------------------------

  /** Numbers by size, the rest by letters; what is missing comes last whichever way the column is sorted. */
  function compare(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const ascending = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), ascending ? 1 : -1)));
      });
    });
  }

  // ---- copying ----------------------------------------------------------------------------------------------------

  for (const button of document.querySelectorAll(".copy")) {
    const code = button.closest(".code").querySelector("code");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
      } catch {
        // Browsers may refuse the clipboard to local files: select the text, so that one key press copies it.
        getSelection().selectAllChildren(code);
        button.textContent = "selected: press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "copy"), 2500);
    });
  }
})();
