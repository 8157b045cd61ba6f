// What pages do beyond HTML: follow the server, and show numbers and times as the reader's language has them.
"use strict";

(() => {
  const locale = navigator.languages && navigator.languages.length ? navigator.languages : undefined;
  const whole = { maximumFractionDigits: 0 };
  const digits = (n) => ({ minimumFractionDigits: n, maximumFractionDigits: n });
  const percent = (n) => ({ style: "percent", ...digits(n) });
  const numbers = {
    int: whole,
    percent0: percent(0),
    percent1: percent(1),
    percent2: percent(2),
    "signed-percent1": { ...percent(1), signDisplay: "exceptZero" },
    num2: digits(2),
    num4: digits(4),
  };
  const formats = new Map();
  const format = (kind) => {
    if (!formats.has(kind)) formats.set(kind, numbers[kind] ? new Intl.NumberFormat(locale, numbers[kind]) : null);
    return formats.get(kind);
  };
  // Axes are in UTC, as they say.
  const day = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", timeZone: "UTC" });
  const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short", timeZone: "UTC" });
  const minute = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
  const second = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "long" });

  const localise = (root) => {
    for (const node of root.querySelectorAll("data[data-f]")) {
      const f = format(node.dataset.f);
      if (f) node.textContent = f.format(Number(node.value));
    }
    for (const node of root.querySelectorAll("text[data-n][data-f], tspan[data-n][data-f]")) {
      const f = format(node.dataset.f);
      if (f) node.textContent = f.format(Number(node.dataset.n));
    }
    for (const node of root.querySelectorAll("time[datetime]")) {
      const at = new Date(node.dateTime);
      if (!Number.isNaN(at.getTime())) {
        node.textContent = minute.format(at);
        node.title = second.format(at);
      }
    }
    for (const node of root.querySelectorAll("text[data-t], tspan[data-t]")) {
      const at = new Date(node.dataset.t);
      if (!Number.isNaN(at.getTime())) node.textContent = (node.dataset.f === "day" ? day : clock).format(at);
    }
  };
  // What was sent last, by part: a part whose HTML is the same is left alone, with what is open or chosen in it.
  const known = new Map();
  for (const part of document.querySelectorAll("[data-part]")) known.set(part.id, part.innerHTML);
  localise(document);

  // A fault is read first.
  const faults = document.getElementById("faults");
  if (faults) faults.focus();

  const follow = document.body.dataset.live;
  if (!follow) return;
  const pulse = document.getElementById("pulse");
  const say = (word) => {
    if (pulse && pulse.textContent !== word) pulse.textContent = word;
    if (pulse) pulse.classList.toggle("lost", word !== "live");
  };

  const replace = (fresh) => {
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const old = document.getElementById(part.id);
      const html = part.innerHTML;
      if (!old || known.get(part.id) === html) continue;
      const busy = old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
      if (busy) continue;
      known.set(part.id, html);
      const open = [...old.querySelectorAll("details")].map((d) => d.open);
      const scrolled = [...old.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
      const focusable = "a[href], button, summary, [tabindex]";
      const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
      old.innerHTML = html;
      localise(old);
      old.querySelectorAll("details").forEach((d, i) => { d.open = Boolean(open[i]); });
      old.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = scrolled[i] || 0; });
      if (focused >= 0) {
        const again = old.querySelectorAll(focusable)[focused];
        if (again) again.focus({ preventScroll: true });
      }
    }
  };

  let asking = false;
  let again = false;
  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    const begun = performance.now();
    try {
      const answer = await fetch(location.href, { headers: { "inroad-part": "live" }, credentials: "same-origin" });
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      say("reconnecting");
    }
    // What is dear to answer, such as a funnel of millions, is asked less often.
    const took = performance.now() - begun;
    const rest = took < 500 ? 0 : 4 * took;
    setTimeout(() => {
      asking = false;
      if (again) { again = false; refresh(); }
    }, rest);
  };

  let source;
  const open = () => {
    source = new EventSource(follow);
    source.onopen = () => say("live");
    source.onerror = () => say("reconnecting");
    source.addEventListener("changed", refresh);
  };
  // A page that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source.close();
    } else {
      open();
      refresh();
    }
  });
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (shown) => { if (shown.persisted) { open(); refresh(); } });
  open();
})();
