// Live updates, and numbers and times in the viewer's language. Pages also work without this script.
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
    "signed-percent-significant3": { style: "percent", maximumSignificantDigits: 3, signDisplay: "exceptZero" },
    num2: digits(2),
    significant3: { maximumSignificantDigits: 3 },
  };
  const formats = new Map();
  const format = (kind) => {
    if (!formats.has(kind)) formats.set(kind, numbers[kind] ? new Intl.NumberFormat(locale, numbers[kind]) : null);
    return formats.get(kind);
  };
  // Axes are in UTC, as their titles say.
  const day = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", timeZone: "UTC" });
  const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short", timeZone: "UTC" });
  // The time zone is named, because the command line and sentences of the server are in UTC.
  const date = { year: "numeric", month: "short", day: "numeric" };
  const minute = new Intl.DateTimeFormat(locale, { ...date, hour: "numeric", minute: "2-digit", timeZoneName: "short" });
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
  // The last HTML received for each part. An unchanged part is not replaced, so open details and selections stay.
  const received = new Map();
  for (const part of document.querySelectorAll("[data-part]")) received.set(part.id, part.innerHTML);
  localise(document);

  // Screen readers start with the list of errors.
  const errors = document.getElementById("faults");
  if (errors) errors.focus();

  const liveUrl = document.body.dataset.live;
  if (!liveUrl) return;
  const connection = document.getElementById("pulse");
  const showConnection = (state) => {
    if (connection && connection.textContent !== state) connection.textContent = state;
    if (connection) connection.classList.toggle("lost", state !== "live");
  };

  const replace = (fresh) => {
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const old = document.getElementById(part.id);
      const html = part.innerHTML;
      if (!old || received.get(part.id) === html) continue;
      // A part is not replaced while somebody types in it.
      const isBeingEdited =
        old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
      if (isBeingEdited) continue;
      received.set(part.id, html);
      const open = [...old.querySelectorAll("details")].map((d) => d.open);
      const scrolled = [...old.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
      const focusable = "a[href], button, summary, [tabindex]";
      const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
      old.innerHTML = html;
      localise(old);
      old.querySelectorAll("details").forEach((d, i) => { d.open = Boolean(open[i]); });
      old.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = scrolled[i] || 0; });
      if (focused >= 0) {
        const next = old.querySelectorAll(focusable)[focused];
        if (next) next.focus({ preventScroll: true });
      }
    }
  };

  let isLoading = false;
  let hasNewChange = false;
  const refresh = async () => {
    if (isLoading) { hasNewChange = true; return; }
    isLoading = true;
    const startedAt = performance.now();
    try {
      const response = await fetch(location.href, { headers: { "inroad-part": "live" }, credentials: "same-origin" });
      if (response.ok) replace(new DOMParser().parseFromString(await response.text(), "text/html"));
    } catch {
      showConnection("reconnecting");
    }
    // Pages that are slow to compute, such as a funnel over millions of units, are loaded less often.
    const tookMs = performance.now() - startedAt;
    const pauseMs = tookMs < 500 ? 0 : 4 * tookMs;
    setTimeout(() => {
      isLoading = false;
      if (hasNewChange) { hasNewChange = false; refresh(); }
    }, pauseMs);
  };

  let source;
  const open = () => {
    source = new EventSource(liveUrl);
    source.onopen = () => showConnection("live");
    source.onerror = () => showConnection("reconnecting");
    source.addEventListener("changed", refresh);
  };
  // A hidden page does not update.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source.close();
    } else {
      open();
      refresh();
    }
  });
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) { open(); refresh(); } });
  open();
})();
