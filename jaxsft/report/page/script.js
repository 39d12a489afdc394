"use strict";
// Curves: drawn again with hover, zoom, a logarithmic axis and smoothing. Answers: filtered.
(() => {
  // Of a run that lasts, the newest page: not while somebody reads further down.
  if (document.querySelector("main[data-lasts]"))
    setInterval(() => { if (scrollY < 100 && !document.hidden) location.reload(); }, 60000);
  const data = JSON.parse(document.getElementById("curves").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const state = { log: false, smooth: 0, view: null, hidden: new Set() };
  const L = 56, R = 10, T = 10, B = 26;

  const ticks = (low, high, wanted) => {
    const rough = (high - low) / wanted || 1;
    const scale = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * scale).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++)
      found.push(i * step);
    return found;
  };
  const said = (value, percent) => {
    if (percent) return (100 * value).toPrecision(3) + " %";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6))
      return value.toExponential(2);
    return Number(value.toPrecision(4)).toLocaleString("en");
  };
  // The mean of what came before, with weights that fall; corrected for its beginning at nothing.
  const smoothed = (ys, keep) => {
    let mean = 0, weight = 0;
    return ys.map((y) => {
      if (y === null) return null;
      mean = keep * mean + (1 - keep) * y;
      weight = keep * weight + (1 - keep);
      return mean / weight;
    });
  };

  const draw = (figure) => {
    const index = Number(figure.dataset.chart), chart = data.charts[index];
    const svg = figure.querySelector("svg");
    const width = Math.max(260, figure.querySelector(".plot").clientWidth), height = 240;
    const shown = chart.curves.map((curve, place) => ({
      ...curve,
      off: state.hidden.has(index + ":" + place),
      y: curve.points || !state.smooth ? curve.y : smoothed(curve.y, state.smooth),
    }));
    let least = Infinity, most = -Infinity;
    for (const c of shown) for (const x of c.x) { least = Math.min(least, x); most = Math.max(most, x); }
    if (state.view) [least, most] = state.view;
    const values = [];
    for (const c of shown) if (!c.off)
      c.x.forEach((x, i) => { if (x >= least && x <= most && c.y[i] !== null) values.push(c.y[i]); });
    const positive = values.filter((y) => y > 0);
    const log = state.log && positive.length > 0;
    let low = Math.min(...(log ? positive : values)), high = Math.max(...values);
    if (!values.length) [low, high] = [0, 1];
    if (!log && chart.zero && low > 0 && !state.view) low = 0;
    if (high <= low) high = low + (Math.abs(low) || 1);
    let marks;
    if (log) {
      marks = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
        for (const m of high / low < 100 ? [1, 2, 5] : [1]) marks.push(m * 10 ** e);
      const inside = marks.filter((v) => v >= low * 0.999 && v <= high * 1.001);
      low = Math.min(low, inside[0] ?? low); marks = inside;
    } else {
      marks = ticks(low, high, 4);
      low = Math.min(low, marks[0]); high = Math.max(high, marks[marks.length - 1]);
    }
    const f = log ? Math.log10 : (v) => v;
    const X = (x) => L + ((x - least) / (most - least || 1)) * (width - L - R);
    const Y = (y) => height - B - ((f(y) - f(low)) / (f(high) - f(low) || 1)) * (height - T - B);
    let out = `<clipPath id="clip${index}"><rect x="${L - 4}" y="${T - 4}" width="${width - L - R + 8}" height="${height - T - B + 8}"/></clipPath>`;
    for (const v of marks)
      out += `<line class="grid" x1="${L}" x2="${width - R}" y1="${Y(v)}" y2="${Y(v)}"/>` +
        `<text x="${L - 6}" y="${Y(v) + 4}" text-anchor="end">${said(v, chart.percent)}</text>`;
    const steps = new Set(ticks(least, most, Math.max(2, Math.round(width / 110))).map(Math.round));
    for (const v of steps) if (v >= least && v <= most)
      out += `<text x="${X(v)}" y="${height - 8}" text-anchor="middle">${v.toLocaleString("en")}</text>`;
    for (const m of data.marks) if (m.x >= least && m.x <= most)
      out += `<line class="mark" x1="${X(m.x)}" x2="${X(m.x)}" y1="${T}" y2="${height - B}"/>`;
    out += `<g clip-path="url(#clip${index})">`;
    for (const c of shown) {
      if (c.off) continue;
      let path = "", pen = "M";
      c.x.forEach((x, i) => {
        const y = c.y[i];
        if (y === null || (log && y <= 0)) { pen = "M"; return; }
        path += pen + X(x).toFixed(1) + " " + Y(y).toFixed(1);
        pen = "L";
      });
      out += `<path class="curve${c.dashed ? " dashed" : ""}" style="--c: var(--series-${c.color})" d="${path}"/>`;
      if (c.points || c.x.length <= 12) c.x.forEach((x, i) => {
        if (c.y[i] !== null && !(log && c.y[i] <= 0))
          out += `<circle class="dot" style="--c: var(--series-${c.color})" cx="${X(x)}" cy="${Y(c.y[i])}" r="3"/>`;
      });
    }
    out += `</g><line class="hair" y1="${T}" y2="${height - B}"/><rect class="drag" y="${T}" height="${height - T - B}"/>`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.innerHTML = out;
    figure.drawn = { chart, shown, X, least, most, width };
  };

  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const m = (low + high) >> 1; xs[m] < x ? (low = m) : (high = m); }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };
  const at = (figure, event) => {
    const { least, most, width } = figure.drawn;
    const box = figure.querySelector("svg").getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    return least + ((place - L) / (width - L - R)) * (most - least);
  };
  const point = (figure, event) => {
    const { chart, shown, X, least, most } = figure.drawn;
    const wanted = Math.min(most, Math.max(least, at(figure, event)));
    const all = shown.filter((c) => !c.off && c.x.length);
    if (!all.length) return;
    const near = all.map((c) => c.x[nearest(c.x, wanted)]);
    const step = near.reduce((a, b) => (Math.abs(a - wanted) <= Math.abs(b - wanted) ? a : b));
    const tip = figure.querySelector(".tip");
    tip.textContent = "";
    const head = document.createElement("b");
    head.textContent = "step " + step.toLocaleString("en");
    tip.append(head);
    for (const c of all) {
      const i = nearest(c.x, step);
      if (c.y[i] === null || (c.points && c.x[i] !== step)) continue;
      const line = document.createElement("div"), dot = document.createElement("i");
      dot.style.background = `var(--series-${c.color})`;
      line.append(dot, `${c.name} ${said(c.y[i], chart.percent)}`);
      tip.append(line);
    }
    for (const m of data.marks) if (m.x === step) {
      const line = document.createElement("div");
      line.textContent = m.text;
      tip.append(line);
    }
    tip.hidden = false;
    const box = figure.querySelector(".plot").getBoundingClientRect();
    const left = (X(step) / figure.drawn.width) * box.width;
    tip.style.left = Math.min(Math.max(0, left + 12), Math.max(0, box.width - tip.offsetWidth)) + "px";
    if (left > box.width / 2) tip.style.left = Math.max(0, left - tip.offsetWidth - 12) + "px";
    const hair = figure.querySelector(".hair");
    hair.setAttribute("x1", X(step)); hair.setAttribute("x2", X(step));
    hair.classList.add("on");
  };

  const drawAll = () => figures.forEach(draw);
  for (const figure of figures) {
    const plot = figure.querySelector(".plot");
    let from = null;
    plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse") from = at(figure, event);
    });
    plot.addEventListener("pointermove", (event) => {
      point(figure, event);
      if (from === null) return;
      const { X } = figure.drawn, now = at(figure, event), drag = figure.querySelector(".drag");
      drag.setAttribute("x", Math.min(X(from), X(now)));
      drag.setAttribute("width", Math.abs(X(now) - X(from)));
    });
    const leave = () => {
      from = null;
      figure.querySelector(".tip").hidden = true;
      figure.querySelector(".hair")?.classList.remove("on");
    };
    plot.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const now = at(figure, event), { least, most } = figure.drawn, span = most - least;
      if (Math.abs(now - from) > span / 50) {
        state.view = [Math.max(least, Math.min(from, now)), Math.min(most, Math.max(from, now))];
        drawAll();
      }
      leave();
    });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("dblclick", () => { state.view = null; drawAll(); });
    figure.querySelectorAll(".legend button").forEach((button, place) => {
      button.disabled = false;
      button.addEventListener("click", () => {
        const key = figure.dataset.chart + ":" + place;
        state.hidden.has(key) ? state.hidden.delete(key) : state.hidden.add(key);
        button.setAttribute("aria-pressed", String(!state.hidden.has(key)));
        draw(figure);
      });
    });
  }
  const tools = document.getElementById("curve-tools");
  if (tools) {
    tools.hidden = false;
    tools.querySelector("[name=log]").addEventListener("change", (event) => {
      state.log = event.target.checked; drawAll();
    });
    tools.querySelector("[name=smooth]").addEventListener("input", (event) => {
      state.smooth = Number(event.target.value); drawAll();
    });
    tools.querySelector("button").addEventListener("click", () => { state.view = null; drawAll(); });
  }
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 100); });
  drawAll();

  const filter = document.getElementById("filter");
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("change", (event) => {
      const wanted = event.target.value;
      let left = 0;
      for (const card of document.querySelectorAll("[data-flags]")) {
        card.hidden = wanted !== "" && !card.dataset.flags.split(" ").includes(wanted);
        left += !card.hidden;
      }
      const more = document.getElementById("more-answers");
      if (more) more.open = wanted !== "";
      document.getElementById("none-left").hidden = left > 0;
    });
  }

  // A finger can't point: what a token's title says stands under its example when it is tapped.
  document.addEventListener("click", (event) => {
    const token = event.target.closest(".tokens span[title]");
    const line = token && token.closest(".card").querySelector("[data-picked]");
    if (!line) return;
    line.textContent = `${token.textContent.trim() || "(space)"}: ${token.title}`;
    line.hidden = false;
  });
})();
