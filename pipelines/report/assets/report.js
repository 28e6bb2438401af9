"use strict";
document.documentElement.classList.add("js");

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".stage.compare").forEach(makeSlider);
  document.querySelectorAll(".gallery").forEach(makeGallery);
  makeFilter();
  makeMaskSwitch();
  document.querySelectorAll("button.copy").forEach(makeCopyButton);
  document.querySelectorAll(".graph .scroll").forEach(showTheSource);
});

/* The native range input serves keyboard and screen readers; for mouse and finger, the whole picture is the track. */
function makeSlider(stage) {
  const range = stage.querySelector("input[type=range]");
  const show = (share) => {
    const value = Math.min(100, Math.max(0, share));
    range.value = value.toFixed(1);
    range.setAttribute("aria-valuetext", `${Math.round(value)} % before, ${Math.round(100 - value)} % after`);
    stage.style.setProperty("--at", `${range.value}%`);
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * 100);
  };

  // A finger may only be about to scroll the page: it drags once it moves sideways, and a tap counts when it ends.
  let pressed = null;
  let dragging = false;
  const isSideways = (event) => {
    const [x, y] = [Math.abs(event.clientX - pressed.x), Math.abs(event.clientY - pressed.y)];
    return x > 4 && x > y;
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pressed = { x: event.clientX, y: event.clientY };
    dragging = event.pointerType !== "touch";
    stage.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    if (dragging) follow(event);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    dragging ||= pressed !== null && isSideways(event);
    if (dragging) follow(event);
  });
  stage.addEventListener("pointerup", (event) => {
    const isTap = pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < 8;
    if (dragging || isTap) follow(event);
    pressed = null;
    dragging = false;
  });
  stage.addEventListener("pointercancel", () => {
    pressed = null;
    dragging = false;
  });

  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
  range.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Home") show(0);
    else if (event.key === "End") show(100);
    else if (event.key in steps) show(Number(range.value) + steps[event.key] * (event.shiftKey ? 10 : 1));
    else return;
    event.preventDefault();
  });
  range.addEventListener("input", () => show(Number(range.value)));
  show(50);
}

/* One result at a time is on the stage; the slider stays where it is when the reader chooses another one. */
function makeGallery(gallery) {
  const viewer = gallery.closest(".viewer");
  const stage = viewer.querySelector(".stage");
  gallery.addEventListener("change", (event) => {
    for (const part of viewer.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== event.target.value;
    const chosen = stage.querySelector(".after:not([hidden])");
    const at = stage.style.getPropertyValue("--at");
    stage.style.cssText = chosen.dataset.shape;
    if (at) stage.style.setProperty("--at", at);
    const spot = stage.querySelector(".spot");
    if (spot) spot.style.cssText = chosen.dataset.spot;
  });
}

/* Scroll a wide drawing sideways until its source is in the middle. */
function showTheSource(scroll) {
  const [box, place] = [scroll.querySelector(".source .box"), scroll].map((part) => part?.getBoundingClientRect());
  if (box) scroll.scrollLeft += box.x + box.width / 2 - place.x - place.width / 2;
}

function makeFilter() {
  const rows = [...document.querySelectorAll("[data-outcome]")];
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const search = document.querySelector("#search");
  const shown = document.querySelector("#shown");
  if (!search) return;
  let wanted = "";

  const apply = () => {
    const text = search.value.trim().toLowerCase();
    let visible = 0;
    for (const row of rows) {
      const of = wanted === "!" ? "attention" in row.dataset : !wanted || row.dataset.outcome === wanted;
      const fits = of && row.dataset.name.toLowerCase().includes(text);
      row.hidden = !fits;
      visible += fits;
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.filter === wanted));
    for (const group of document.querySelectorAll("[data-group]")) {
      group.hidden = !group.querySelector("[data-outcome]:not([hidden])");
    }
    shown.textContent = visible === rows.length ? "" : `${visible} of ${rows.length} shown`;
    document.querySelector("#nothing").hidden = visible > 0;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      wanted = button.dataset.filter;
      apply();
    });
  }
  search.addEventListener("input", apply);
  document.querySelectorAll("a[href^='#item-']").forEach((link) => {
    link.addEventListener("click", () => {
      wanted = search.value = "";
      apply();
    });
  });
  apply();
}

function makeMaskSwitch() {
  const all = document.querySelector("#all-masks");
  const each = [...document.querySelectorAll(".mask-switch")];
  if (!all) return;
  all.addEventListener("change", () => each.forEach((box) => (box.checked = all.checked)));
  each.forEach((box) => box.addEventListener("change", () => (all.checked = each.every((other) => other.checked))));
}

function makeCopyButton(button) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
}
