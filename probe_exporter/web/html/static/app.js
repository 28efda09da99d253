// What pages do where scripts run: refresh live parts, search in lists, copy texts. Every page works without it.
"use strict";

// --- <section data-live="5" id="…">: fetch the page every so many seconds and replace the section ------------------

const live = [...document.querySelectorAll("[data-live][id]")];
const state = document.querySelector("[data-live-state]");
let failures = 0;
let timer = 0;

function say(text, bad = false) {
  if (!state) return;
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("stale", bad);
}

// A section stays as it is while the keyboard or a selection is in it.
function busy(section) {
  const selection = document.getSelection();
  return section.contains(document.activeElement)
    || (selection && !selection.isCollapsed && section.contains(selection.anchorNode));
}

// Replace the sections that have changed; return whether one had to stay.
function replace(fresh) {
  let paused = false;
  for (const { id } of live) {
    const old = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (!old || !next || old.innerHTML === next.innerHTML) continue;
    if (busy(old)) paused = true;
    else old.replaceWith(document.adoptNode(next));
  }
  document.title = fresh.title;
  return paused;
}

async function refresh() {
  clearTimeout(timer);
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      const paused = replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failures = 0;
      say(paused ? "paused while you are in the list" : "live");
    } catch (error) {
      failures += 1;
      say(`not live: ${error.message}`, true);
    }
  }
  later();
}

function later() {
  const every = Math.max(2, Number(live[0].dataset.live)) * 1000;
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.min(60_000, every * 2 ** failures));
}

if (live.length) {
  say("live");
  later();
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}

// --- <input data-search="id">: show the items of a list, or the rows of a table, that have all words in their text -------

for (const input of document.querySelectorAll("input[data-search]")) {
  input.closest("[hidden]")?.removeAttribute("hidden");
  const list = document.getElementById(input.dataset.search);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of list.children) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// --- <div class="copy"><pre>…</pre></div>: a button that copies the text ---------------------------------------------

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    // Without HTTPS there is no clipboard but for localhost: select the text, and try the older way.
    document.getSelection().selectAllChildren(text);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

for (const box of document.querySelectorAll(".copy")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", () => copy(button, box.querySelector("pre")));
  box.append(button);
}

// --- <input data-parameters-of="form">: fetch the fields of the chosen modules, and replace #parameters --------------

const chosen = document.querySelector("input[data-parameters-of]");

async function showParameters() {
  const url = new URL(chosen.dataset.parametersOf, location.href);
  url.searchParams.set("module", chosen.value);
  for (const { name, value } of document.querySelectorAll("#parameters input")) url.searchParams.set(name, value);
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("parameters");
  document.getElementById("parameters").replaceWith(document.adoptNode(fresh));
}

if (chosen) {
  chosen.addEventListener("change", () => showParameters().catch(() => {}));
  chosen.form.querySelector("button[formaction]").hidden = true; // it does the same without script
}
