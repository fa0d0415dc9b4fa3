"use strict";
// Shows the hint of a mark under the pointer, and of the one that the arrow keys have reached.
(() => {
  const hint = document.getElementById("hint");
  let current = null;

  const hide = () => {
    hint.hidden = true;
    if (current) current.classList.remove("current");
    current = null;
  };

  const show = (mark, x, y) => {
    hide();
    current = mark;
    mark.classList.add("current");
    hint.replaceChildren();
    if (mark.dataset.formula !== undefined) {
      const drawn = document.getElementById("formula-" + mark.dataset.formula);
      const frame = document.createElement("div");
      frame.className = "formula";
      frame.append(drawn.content.cloneNode(true));
      hint.append(frame);
    }
    hint.append(mark.dataset.hint);
    hint.hidden = false;
    const box = hint.getBoundingClientRect();
    const left = Math.min(x + 14, window.innerWidth - box.width - 8);
    const top = y + 16 + box.height > window.innerHeight ? y - box.height - 12 : y + 16;
    hint.style.left = Math.max(8, left) + "px";
    hint.style.top = Math.max(8, top) + "px";
  };

  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) show(mark, event.clientX, event.clientY);
    else hide();
  });
  // The place that the arrow keys have reached outlives scrolling, the hint beside it does not.
  document.addEventListener("scroll", () => { hint.hidden = true; }, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const chart = document.activeElement.closest(".chart");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!chart || !step) return;
    event.preventDefault();
    // Neighbours on the page, not in the order of the data.
    const place = (mark) => mark.getBBox().x;
    const marks = [...chart.querySelectorAll(".mark")].sort((a, b) => place(a) - place(b));
    if (!marks.length) return;
    const next = (marks.indexOf(current) + step + marks.length) % marks.length;
    const box = marks[current ? next : 0].getBoundingClientRect();
    show(marks[current ? next : 0], box.right, box.top);
  });
  document.addEventListener("focusout", hide);

  // Screen readers hear what the arrow keys show.
  hint.setAttribute("role", "status");
  // Formulas of the cards are those of the hints.
  for (const frame of document.querySelectorAll("[data-drawn]")) {
    frame.append(document.getElementById("formula-" + frame.dataset.drawn).content.cloneNode(true));
  }
})();
