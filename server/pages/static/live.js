// Keeps a page live: hears that something changed (server/pages/feed.py), lets htmx ask for the parts
// that say so (hx-trigger="live-status from:body"), and says it to those who cannot see.
(() => {
  const topic = document.body.dataset.live;
  if (!topic) return;
  const lamp = document.getElementById("lamp");
  const said = document.getElementById("said");
  const PACE = 2000; // ms between two looks at most; the first one comes at once
  const REFRESH = 30000; // ms: times and "online" change without any event
  let source = null, due = null, last = 0, kind = "";

  const show = (on) => {
    lamp.hidden = false;
    lamp.dataset.on = on;
    lamp.textContent = on ? "Live" : "Not live";
  };
  const look = () => {
    due = null;
    last = Date.now();
    document.body.dispatchEvent(new CustomEvent(kind));
    kind = "";
  };
  const changed = (what) => {
    if (kind !== "live-status") kind = what;
    if (due === null) due = setTimeout(look, Math.max(0, last + PACE - Date.now()));
  };
  const open = () => {
    if (source) return;
    source = new EventSource("/live?topic=" + encodeURIComponent(topic));
    source.onopen = () => { show(true); };
    source.onerror = () => { show(false); };
    source.addEventListener("counts", () => changed("live-counts"));
    source.addEventListener("status", (event) => { changed("live-status"); said.textContent = event.data; });
  };
  const close = () => { if (source) { source.close(); source = null; } };

  // A browser opens six connections to a server: a tab that nobody sees gives its one back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else { open(); changed("live-status"); }
  });
  addEventListener("pagehide", close);
  setInterval(() => { if (!document.hidden) changed("live-counts"); }, REFRESH);
  if (!document.hidden) open();
})();
