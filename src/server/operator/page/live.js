// Keeps the page up to date: fetches it every two seconds and changes what is different, in place, so that focus,
// selection, scrolling and what was unfolded stay as they are.
"use strict";
(() => {
  const PAUSE = 2000, PATIENCE = 5000;
  const link = document.getElementById("link"), button = document.getElementById("pause");
  let timer = 0, asking = false, stopped = false, goneSince = null;

  // What is told is read aloud when it changes, so it only changes when there is news.
  function tell(state, ...words) {
    const told = words.map((word) => word.textContent ?? word).join("");
    document.body.dataset.link = state;
    if (link.textContent !== told) link.replaceChildren(...words);
  }

  function clock(date) {
    const time = document.createElement("time");
    time.dateTime = date.toISOString();
    time.textContent = `${date.toISOString().slice(11, 19)} UTC`;
    return time;
  }

  function report() {
    if (stopped) tell("paused", "Paused");
    else if (goneSince) tell("gone", "Not connected since ", clock(goneSince));
    else tell("live", "Live");
  }

  async function look() {
    if (asking || stopped || document.hidden) return;
    asking = true;
    clearTimeout(timer);
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(answer.status);
      take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      goneSince = null;
    } catch {
      goneSince ??= new Date();
    }
    asking = false;
    report();
    timer = setTimeout(look, PAUSE);
  }

  function take(page) {
    const theirs = page.getElementById("main");
    if (!theirs) throw new Error("this is another page");
    // Another release of the server, with another script and style.
    if (page.documentElement.dataset.build !== document.documentElement.dataset.build) return location.reload();
    // Paused while the answer was on its way: what is shown stays.
    if (stopped) return;
    morph(document.getElementById("main"), theirs);
    document.title = page.title;
  }

  // Makes `ours` like `theirs`, and returns what stands there then. Elements with the same id are the same, others by
  // their place.
  function morph(ours, theirs) {
    if (ours.isEqualNode(theirs)) return ours;
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
    // What is unfolded is up to whoever reads.
    const isTheReaders = (name) => name === "open" && ours.nodeName === "DETAILS";
    for (const { name } of [...ours.attributes]) {
      if (!theirs.hasAttribute(name) && !isTheReaders(name)) ours.removeAttribute(name);
    }
    for (const { name, value } of theirs.attributes) {
      if (ours.getAttribute(name) !== value && !isTheReaders(name)) ours.setAttribute(name, value);
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
    look();
  });
  document.addEventListener("visibilitychange", look);
  report();
  timer = setTimeout(look, PAUSE);
})();
