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

/* The list of very many items. Their rows come as one packed text; only those near the screen are in the document. */
async function makeLongList() {
  const table = document.querySelector("table.long");
  if (!table) return null;
  const size = 100; // rows of a part, which is filled and emptied as a whole
  const packed = Uint8Array.from(atob(document.querySelector("#packed").content.textContent), (sign) => sign.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const items = (await new Response(unpacked).json()).map(([number, outcome, isUrgent, text, row]) => {
    return { id: `item-${number}`, outcome, isUrgent: isUrgent === 1, text: text.toLowerCase(), row };
  });
  let chosen = [];
  let height = 0; // pixels of a row, on average

  const fill = (part) => {
    if (!part || part.isFilled) return;
    const first = part.number * size;
    part.innerHTML = chosen.slice(first, first + size).map((item) => item.row).join("");
    [...part.rows].forEach((row, n) => row.setAttribute("aria-rowindex", first + n + 2));
    part.isFilled = true;
  };
  const empty = (part) => {
    if (part.querySelector(":target")) return;
    const rows = Math.min(size, chosen.length - part.number * size);
    const room = document.createElement("tr");
    room.style.height = `${part.isFilled ? part.offsetHeight : rows * height}px`;
    room.ariaHidden = "true";
    part.replaceChildren(room);
    part.isFilled = false;
  };
  const watcher = new IntersectionObserver(
    (seen) => seen.forEach((part) => (part.isIntersecting ? fill : empty)(part.target)),
    { rootMargin: "1500px 0px" },
  );

  addEventListener("beforeprint", () => [...table.tBodies].slice(0, 20).forEach(fill));
  document.documentElement.style.scrollBehavior = "auto"; // the way may be long
  table.parentElement.hidden = false;
  return {
    size: items.length,
    choose(fits) {
      watcher.disconnect();
      [...table.tBodies].forEach((part) => part.remove());
      chosen = items.filter(fits);
      for (let number = 0; number * size < chosen.length; number += 1) {
        const part = table.createTBody();
        part.number = number;
        if (number) {
          empty(part);
        } else {
          fill(part);
          height ||= part.offsetHeight / part.rows.length;
        }
        watcher.observe(part);
      }
      table.ariaRowCount = chosen.length + 1;
      return chosen.length;
    },
    /* Fill the part that has an item, so that the browser can go there; false if there is none. */
    reveal(id) {
      const at = Math.floor(chosen.findIndex((item) => item.id === id) / size);
      if (at >= 0) [at - 1, at, at + 1].forEach((number) => fill(table.tBodies[number]));
      return at >= 0;
    },
  };
}

async function makeFilter() {
  const search = document.querySelector("#search");
  if (!search) return;
  const rows = [...document.querySelectorAll("[data-outcome]")].map((element) => {
    const found = [...element.querySelectorAll(".path, .reason, .message")].map((part) => part.textContent);
    const { name, outcome } = element.dataset;
    const text = [name, outcome, ...found].join("\n").toLowerCase();
    return { element, outcome, isUrgent: "attention" in element.dataset, text };
  });
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const shown = document.querySelector("#shown");
  let list = null;
  let wanted = "";

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    const fits = (item) =>
      (wanted === "!" ? item.isUrgent : !wanted || item.outcome === wanted) && words.every((word) => item.text.includes(word));
    for (const row of rows) row.element.hidden = !fits(row);
    const listed = list ? list.choose(fits) : 0;
    const visible = listed + rows.filter((row) => !row.element.hidden).length;
    const total = rows.length + (list ? list.size : 0);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.filter === wanted));
    for (const group of document.querySelectorAll("[data-group]")) {
      group.hidden = !listed && !group.querySelector("[data-outcome]:not([hidden])");
    }
    shown.textContent = visible === total ? "" : `${visible} of ${total} shown`;
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
      list?.reveal(link.hash.slice(1)); // before the browser goes there
    });
  });
  apply();
  list = await makeLongList().catch(() => {
    document.querySelector("#unlisted").hidden = false;
    return null;
  });
  if (!list) return;
  apply();
  const goThere = () => list.reveal(location.hash.slice(1)) && location.replace(location.hash);
  addEventListener("hashchange", goThere);
  goThere();
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
