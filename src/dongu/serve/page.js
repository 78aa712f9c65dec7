"use strict";

const part = (id) => document.getElementById(id);

function headers() {
  const key = part("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function about() {
  const answer = await fetch("model", { headers: headers() });
  if (answer.status === 401) {
    part("keyed").hidden = false;
    return;
  }
  const model = await answer.json();
  part("name").textContent = model.model;
  const read = `reads ${model.max_length} tokens`;
  part("about").textContent = model.task === "regression" ? `A number for each text; ${read}.`
    : `${model.labels.length} labels; ${read}.`;
  part("paired").hidden = model.texts_a_row === 1;
  part("second").required = model.texts_a_row === 2;
}

function say(title, note, labels = [], given = []) {
  part("answer").hidden = false;
  part("prediction").textContent = title;
  part("note").textContent = note;
  part("labels").hidden = labels.length === 0;
  part("rows").replaceChildren(...labels.map(({ label, probability }) => {
    const row = document.createElement("tr");
    const meter = Object.assign(document.createElement("meter"), { value: probability });
    meter.setAttribute("aria-hidden", "true"); // the number beside it says the same
    for (const content of [label, probability.toFixed(4), meter]) {
      row.insertCell().append(content);
    }
    row.className = given.includes(label) ? "given" : "";
    return row;
  }));
}

async function ask() {
  const [first, second] = [part("first").value, part("second").value];
  const texts = second ? [[first, second]] : first;
  try {
    const answer = await fetch("predict", { method: "POST", headers: headers(), body: JSON.stringify({ texts }) });
    const content = await answer.json();
    if (!answer.ok) {
      part("keyed").hidden = part("keyed").hidden && answer.status !== 401;
      say(content.error, content.hint);
      return;
    }
    const { prediction, labels, truncated } = content.predictions[0];
    const given = [prediction].flat();
    const title = typeof prediction === "number" ? prediction.toFixed(4) : given.join(", ") || "no label";
    say(title, truncated ? "The text is longer than the model reads: its end was left out." : "", labels || [], given);
  } catch {
    say("The server does not answer.", "Is it still there?");
  }
}

part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
part("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    part("form").requestSubmit();
  }
});
part("key").addEventListener("change", about);
about().catch(() => say("The server does not answer.", "Is it still there?"));
