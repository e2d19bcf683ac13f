// Updates the page: fetches it periodically and changes only what differs, so that focus, selection, scroll position
// and open sections remain.
"use strict";
(() => {
  // The document says how often, in milliseconds.
  const INTERVAL = Number(document.documentElement.dataset.interval), TIMEOUT = Math.max(5000, INTERVAL / 3);
  const link = document.getElementById("link"), button = document.getElementById("pause");
  let timer = 0, isFetching = false, stopped = false, lostSince = null;

  // Screen readers read the text when it changes, so it changes only with the state.
  function announce(state, ...words) {
    const text = words.map((word) => word.textContent ?? word).join("");
    document.body.dataset.link = state;
    if (link.textContent !== text) link.replaceChildren(...words);
  }

  function clock(date) {
    const time = document.createElement("time");
    time.dateTime = date.toISOString();
    time.textContent = `${date.toISOString().slice(11, 19)} UTC`;
    return time;
  }

  function report() {
    if (stopped) announce("paused", "Paused");
    else if (lostSince) announce("gone", "Not connected since ", clock(lostSince));
    else announce("live", "Live");
  }

  async function refresh() {
    if (isFetching || stopped || document.hidden) return;
    isFetching = true;
    clearTimeout(timer);
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(answer.status);
      update(new DOMParser().parseFromString(await answer.text(), "text/html"));
      lostSince = null;
    } catch {
      lostSince ??= new Date();
    }
    isFetching = false;
    report();
    timer = setTimeout(refresh, INTERVAL);
  }

  function update(page) {
    const theirs = page.getElementById("main");
    if (!theirs) throw new Error("unexpected page");
    // The server was updated, with another script and style.
    if (page.documentElement.dataset.build !== document.documentElement.dataset.build) return location.reload();
    // Paused while the response was in flight.
    if (stopped) return;
    morph(document.getElementById("main"), theirs);
    document.title = page.title;
  }

  // A form in which the reader chose something stays as it is.
  const isEdited = (node) => node.nodeName === "FORM" && (node.contains(document.activeElement) || node.dataset.edited);
  document.addEventListener("input", (event) => { if (event.target.form) event.target.form.dataset.edited = "yes"; });

  // Makes `ours` equal to `theirs`, and returns the resulting node. Elements match by id, others by position.
  function morph(ours, theirs) {
    if (ours.isEqualNode(theirs) || isEdited(ours)) return ours;
    if (ours.nodeName !== theirs.nodeName || ours.id !== theirs.id) {
      ours.replaceWith(theirs);
      return theirs;
    }
    if (ours.nodeType === Node.ELEMENT_NODE) {
      attributes(ours, theirs);
      children(ours, theirs);
    } else {
      ours.nodeValue = theirs.nodeValue;
    }
    return ours;
  }

  function attributes(ours, theirs) {
    // The reader opens and closes sections.
    const isReaderState = (name) => name === "open" && ours.nodeName === "DETAILS";
    for (const { name } of [...ours.attributes]) {
      if (!theirs.hasAttribute(name) && !isReaderState(name)) ours.removeAttribute(name);
    }
    for (const { name, value } of theirs.attributes) {
      if (ours.getAttribute(name) !== value && !isReaderState(name)) ours.setAttribute(name, value);
    }
  }

  function children(ours, theirs) {
    const known = new Map();
    const wanted = new Set([...theirs.children].map((child) => child.id).filter(Boolean));
    for (const child of [...ours.children]) {
      if (wanted.has(child.id)) known.set(child.id, child);
      else if (child.id) child.remove();
    }
    let place = ours.firstChild;
    for (const child of [...theirs.childNodes]) {
      const same = known.get(child.id);
      if (same && same !== place) ours.insertBefore(same, place);
      const old = same ?? (place && !place.id && !child.id ? place : null);
      const now = old ? morph(old, child) : ours.insertBefore(child, place);
      place = now.nextSibling;
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    stopped = !stopped;
    button.textContent = stopped ? "Resume" : "Pause";
    report();
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  report();
  timer = setTimeout(refresh, INTERVAL);
})();
