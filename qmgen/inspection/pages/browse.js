"use strict";
const byId = (id) => document.getElementById(id);
const fields = ["query", "kind", "split", "charge", "sort", "descending"];
const hints = {
  substructure: "SMARTS, such as c1ccccc1 or [OX2H]",
  molecule: "SMILES, such as CC(=O)O",
};
const superscripts = { "-": "\u207b", 0: "\u2070", 1: "\u00b9", 2: "\u00b2", 3: "\u00b3", 4: "\u2074", 5: "\u2075", 6: "\u2076", 7: "\u2077", 8: "\u2078", 9: "\u2079" };
let page = 1;
let asked = 0;
let open = null; // the molecule in the dialog and the place of its conformer
let viewer = null;

async function ask(path) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Error("qmgen browse does not answer; start it again");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function element(tag, content, className) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content instanceof Node) made.append(content);
  else if (content !== undefined) made.textContent = content;
  return made;
}

function formula(svg, smiles) {
  const frame = element("div", undefined, svg ? "formula" : "no-formula");
  if (svg) {
    const drawn = new DOMParser().parseFromString(svg, "image/svg+xml").documentElement;
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", "Structural formula of " + smiles);
    frame.append(document.importNode(drawn, true));
  } else {
    frame.textContent = "no formula";
  }
  return frame;
}

function written(value, unit, digits = 6) {
  if (value === null) return "not known";
  const size = Math.abs(value);
  let text = String(Number(value.toPrecision(digits)));
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
    const [mantissa, power] = value.toExponential(2).split("e");
    text = `${mantissa}\u00b710${[...String(Number(power))].map((c) => superscripts[c]).join("")}`;
  }
  return text.replaceAll("-", "\u2212") + (unit ? "\u00a0" + unit : "");
}

function complain(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
}

function state() {
  const values = new URLSearchParams();
  for (const name of fields) if (byId(name).value) values.set(name, byId(name).value);
  if (!byId("query").value.trim()) values.delete("kind");
  if (page > 1) values.set("page", page);
  return values;
}

function remember() {
  const search = state().toString();
  const hash = open ? "#molecule=" + open.molecule : "";
  history.replaceState(null, "", location.pathname + (search ? "?" + search : "") + hash);
}

async function show() {
  const turn = ++asked;
  byId("status").textContent = "Searching\u2026";
  remember();
  let answer;
  try {
    answer = await ask("api/molecules?" + state());
  } catch (error) {
    if (turn === asked) {
      byId("status").textContent = "";
      byId("rest").hidden = true;
      byId("pages").hidden = true;
      byId("molecules").replaceChildren();
      complain(error);
    }
    return;
  }
  if (turn !== asked) return; // a later question is under way
  complain(null);
  page = answer.page;
  remember();
  const words = [answer.total === 1 ? "1 molecule" : answer.total + " molecules"];
  if (answer.stopped) words.push(`${answer.stopped}, ${answer.scanned} of ${answer.of} molecules looked at`);
  byId("status").textContent = words.join("; ");
  byId("rest").hidden = !answer.can_go_on;
  byId("molecules").replaceChildren(...answer.molecules.map(card));
  byId("pages").hidden = answer.pages < 2;
  byId("page").textContent = `page ${answer.page} of ${answer.pages}`;
  byId("previous").disabled = answer.page <= 1;
  byId("next").disabled = answer.page >= answer.pages;
}

function card(molecule) {
  const button = element("button");
  button.type = "button";
  button.append(formula(molecule.picture, molecule.smiles));
  const charge = molecule.charge ? `, charge ${molecule.charge}` : "";
  button.append(element("strong", molecule.composition + charge));
  button.append(element("span", molecule.smiles || "no SMILES", "code"));
  if (molecule.name) button.append(element("span", molecule.name, "quiet"));
  const label = molecule.label;
  button.append(element("span", `${label.title} ${written(label.value, label.unit, 4)}`));
  const conformers = molecule.conformers === 1 ? "1 conformer" : `${molecule.conformers} conformers`;
  button.append(element("span", `${conformers}, ${molecule.split}`, "quiet"));
  button.addEventListener("click", () => openMolecule(molecule.molecule));
  return element("li", button);
}

async function openMolecule(number) {
  let molecule;
  try {
    molecule = await ask("api/molecules/" + number);
  } catch (error) {
    return complain(error);
  }
  complain(null);
  open = molecule;
  remember();
  byId("title").textContent = molecule.smiles || molecule.name || molecule.composition;
  byId("picture").replaceChildren(formula(molecule.picture, molecule.smiles));
  const facts = [
    ["formula", molecule.composition],
    ["name", molecule.name],
    ["charge", molecule.charge],
    ["unpaired electrons", molecule.unpaired_electrons],
    ["split", molecule.split],
    ["line of the input", molecule.line],
  ].filter(([, value]) => value !== "");
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  const choices = molecule.conformers.map((conformer, i) => {
    const above = conformer.above_ev === null ? "energy not known"
      : conformer.above_ev === 0 ? "the lowest" : written(conformer.above_ev, "eV", 3) + " above the lowest";
    const option = element("option", `${conformer.number}: ${conformer.converged ? above : "not converged"}`);
    option.value = i;
    return option;
  });
  byId("conformer").replaceChildren(...choices);
  const lowest = molecule.conformers.findIndex((conformer) => conformer.above_ev === 0);
  byId("conformer").value = Math.max(lowest, 0);
  if (!byId("molecule").open) byId("molecule").showModal();
  await showConformer(true);
}

async function showConformer(fresh) {
  const place = Number(byId("conformer").value);
  const molecule = open;
  byId("conformer-previous").disabled = place === 0;
  byId("conformer-next").disabled = place === molecule.conformers.length - 1;
  let conformer;
  try {
    conformer = await ask("api/conformers/" + molecule.conformers[place].row);
  } catch (error) {
    byId("viewer-error").textContent = error.message;
    byId("viewer-error").hidden = false;
    return;
  }
  if (open !== molecule || Number(byId("conformer").value) !== place) return;
  draw(conformer.xyz, fresh);
  byId("labels").tBodies[0].replaceChildren(...conformer.labels.map((label) => {
    const row = element("tr");
    row.append(element("td", label.title));
    const value = element("td", written(label.value, label.unit, label.name === "energy" ? 12 : 6), "n");
    if (label.components && label.value !== null) {
      for (let i = 0; i < label.components.length; i += 3) {
        value.append(element("small", label.components.slice(i, i + 3).map((x) => written(x, "", 4)).join(", ")));
      }
    }
    row.append(value);
    return row;
  }));
  const head = element("tr");
  head.append(element("th", "atom"));
  for (const column of conformer.atom_columns) {
    head.append(element("th", column.unit ? `${column.title} (${column.unit})` : column.title, "n"));
  }
  byId("atoms").tHead.replaceChildren(head);
  byId("atoms").tBodies[0].replaceChildren(...conformer.atoms.map(([symbol, ...values], i) => {
    const row = element("tr");
    row.append(element("td", `${symbol}${i + 1}`));
    for (const value of values) row.append(element("td", value === null ? "\u2013" : value.toFixed(3).replace("-", "\u2212"), "n"));
    return row;
  }));
  const orbitals = conformer.orbitals.filter((set) => set.values.length);
  byId("orbitals").replaceChildren(...orbitals.map((set) =>
    element("p", `${set.title} (${set.unit}): ${set.values.map((x) => (x === null ? "\u2013" : x.toFixed(2).replace("-", "\u2212"))).join(", ")}`, "quiet")));
  byId("orbitals").parentElement.hidden = !orbitals.length;
  byId("molecule").dataset.shown = conformer.row;
}

function draw(xyz, fresh) {
  try {
    if (!viewer) {
      viewer = $3Dmol.createViewer(byId("viewer"), { backgroundAlpha: 0 });
    }
    viewer.resize();
    viewer.removeAllModels();
    viewer.addModel(xyz, "xyz");
    viewer.setStyle({}, { stick: { radius: 0.13 }, sphere: { scale: 0.26 } });
    if (fresh) viewer.zoomTo();
    viewer.render();
    byId("viewer-error").hidden = true;
  } catch (error) {
    byId("viewer-error").textContent = "This browser can't draw in three dimensions: " + error.message;
    byId("viewer-error").hidden = false;
  }
}

function step(by) {
  const choice = byId("conformer");
  const place = choice.selectedIndex + by;
  if (place < 0 || place >= choice.options.length) return;
  choice.selectedIndex = place;
  showConformer(false);
}

function turn(event) {
  const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
  if (turns[event.key]) viewer?.rotate(...turns[event.key]);
  else if (event.key === "+") viewer?.zoom(1.2);
  else if (event.key === "-") viewer?.zoom(1 / 1.2);
  else return;
  event.preventDefault();
}

async function start() {
  const about = await ask("api/dataset");
  document.title = about.name + " \u2013 qmgen browse";
  byId("name").textContent = about.name;
  const without = about.molecules - about.with_conformers;
  byId("about").textContent = `${about.level}; ${about.conformers} conformers of ${about.with_conformers} molecules` +
    (without ? `, ${without} more have none` : "");
  const add = (id, value, text) => {
    const option = element("option", text);
    option.value = value;
    byId(id).append(option);
  };
  for (const split of about.splits) add("split", split, split);
  for (const charge of about.charges) add("charge", charge, charge);
  for (const label of about.labels) add("sort", label.name, label.title);
  const given = new URLSearchParams(location.search);
  for (const name of fields) if (given.has(name)) byId(name).value = given.get(name);
  page = Number(given.get("page")) || 1;
  const number = /^#molecule=(\d+)$/.exec(location.hash);
  const again = () => { page = 1; show(); };
  byId("search").addEventListener("submit", (event) => { event.preventDefault(); again(); });
  for (const name of ["split", "charge", "sort", "descending"]) byId(name).addEventListener("change", again);
  byId("kind").addEventListener("change", () => {
    byId("query").placeholder = hints[byId("kind").value];
    if (byId("query").value.trim()) again();
  });
  byId("go-on").addEventListener("click", show);
  byId("previous").addEventListener("click", () => { page -= 1; show(); });
  byId("next").addEventListener("click", () => { page += 1; show(); });
  byId("close").addEventListener("click", () => byId("molecule").close());
  byId("molecule").addEventListener("close", () => { open = null; remember(); });
  byId("conformer").addEventListener("change", () => showConformer(false));
  byId("conformer-previous").addEventListener("click", () => step(-1));
  byId("conformer-next").addEventListener("click", () => step(1));
  byId("viewer").addEventListener("keydown", turn);
  await show();
  if (number) await openMolecule(number[1]);
}

start().catch(complain);
