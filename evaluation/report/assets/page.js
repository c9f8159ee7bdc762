"use strict";
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const byId = (id) => document.getElementById(id);

  // The value of every curve at the step under the pointer.
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    return x - xs[low] <= xs[high] - x ? low : high;
  };
  const addTip = (figure) => {
    const series = JSON.parse(figure.querySelector("script.points").textContent);
    const area = figure.querySelector(".area");
    const xs = series.flatMap((one) => one.x);
    const first = xs.reduce((a, b) => Math.min(a, b));
    const last = Math.max(xs.reduce((a, b) => Math.max(a, b)), first + 1e-9);
    const [scaled, unscaled] = area.dataset.xScale === "log" ? [Math.log, Math.exp] : [(x) => x, (x) => x];
    const cursor = make("div", { class: "cursor" });
    const tip = make("div", { class: "tip" });
    area.append(cursor, tip);
    const show = (event) => {
      const box = area.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const x = unscaled(scaled(first) + share * (scaled(last) - scaled(first)));
      const reference = series.reduce((a, b) => (b.x.length > a.x.length ? b : a));
      const at = reference.x[nearest(reference.x, x)];
      const rows = series.map((one) => {
        const index = nearest(one.x, at);
        const step = one.x[index] === at ? "" : ` (${one.x[index].toLocaleString("en")})`;
        return make("div", { class: `c${one.colour}` }, make("i", {}, one.y[index].toLocaleString("en", { maximumSignificantDigits: 5 })),
          make("span", { class: "key" }), one.name + step);
      });
      tip.replaceChildren(make("div", {}, `${area.dataset.xLabel} ${at.toLocaleString("en")}`), ...rows);
      const left = (scaled(at) - scaled(first)) / (scaled(last) - scaled(first)) * box.width;
      cursor.style.cssText = `display:block;left:${left}px`;
      tip.style.display = "block";
      tip.style.left = `${Math.max(0, Math.min(left + 10, box.width - tip.offsetWidth))}px`;
    };
    const hide = () => { cursor.style.display = tip.style.display = "none"; };
    area.addEventListener("pointermove", show);
    area.addEventListener("pointerdown", show);
    area.addEventListener("pointerleave", hide);
  };
  document.querySelectorAll("figure").forEach(addTip);

  // The questions: everything is set as text, never as markup.
  const sets = JSON.parse(byId("question-sets").textContent);
  if (!sets.length) return;
  const PAGE = 20;
  const OUTCOMES = [
    ["all", "all questions"], ["right", "answered correctly"], ["wrong", "answered wrongly"],
    ["changed", "changed against the first model"], ["invalid", "without a valid answer"],
    ["found", "found in the sources"],
  ];
  const option = (value, text) => make("option", { value }, text);
  const controls = { set: byId("q-set"), model: byId("q-model"), subject: byId("q-subject"), outcome: byId("q-outcome"), text: byId("q-text") };
  sets.forEach((set, index) => controls.set.append(option(index, `${set.task}, ${set.protocol}`)));
  let start = 0;

  const current = () => sets[controls.set.value];
  const matches = (question) => {
    const answer = question.answers[controls.model.value];
    const first = question.answers[current().models[0]];
    const needle = controls.text.value.trim().toLowerCase();
    if (controls.subject.value && question.subject !== controls.subject.value) return false;
    const texts = [question.id, question.subject, question.question, question.context, ...question.options];
    if (needle && !texts.some((text) => text.toLowerCase().includes(needle))) return false;
    switch (controls.outcome.value) {
      case "right": return Boolean(answer && answer.correct);
      case "wrong": return Boolean(answer && !answer.correct);
      case "changed": return Boolean(answer && first && answer.prediction !== first.prediction);
      case "invalid": return Boolean(answer && answer.prediction === null);
      case "found": return question.found;
      default: return true;
    }
  };
  const chip = (label, answer) => {
    if (!answer) return make("span", { class: "quiet" }, `– ${label}`);
    return make("span", { class: answer.correct ? "right" : "wrong" }, `${answer.correct ? "✓" : "✗"} ${label}`);
  };
  const cell = (answer, index) => {
    if (!answer) return make("td", { class: "n quiet" }, "not measured");
    const probability = answer.probabilities[index];
    const text = probability === undefined || probability === null ? "" : `${(100 * probability).toFixed(1)} %`;
    return make("td", { class: "n" }, answer.prediction === index ? `▸ ${text}` : text);
  };
  const optionsTable = (question, models) => {
    const head = make("tr", {}, make("th", {}, "option"), ...models.map((model) => make("th", { class: "n" }, model)));
    const rows = question.options.map((text, index) => make("tr", index === question.answer ? { class: "gold" } : {},
      make("th", {}, `${String.fromCharCode(65 + index)}. ${text}${index === question.answer ? "  (correct)" : ""}`),
      ...models.map((model) => cell(question.answers[model], index))));
    return make("div", { class: "scroll" }, make("table", { class: "options" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  };
  const prompts = (question, models) => {
    const own = models.filter((model) => (question.answers[model] || {}).prompt !== undefined);
    const texts = [[own.length ? "Prompt" : "Prompt, the same for all models", question.prompt],
      ...own.map((model) => [`Prompt of ${model}`, question.answers[model].prompt])];
    return texts.filter(([, text]) => text).map(([name, text]) => make("details", {}, make("summary", { class: "small" }, name), make("pre", {}, text)));
  };
  const written = (question, models) => models.flatMap((model) => ((question.answers[model] || {}).written || []).map((text, index, all) =>
    make("details", {}, make("summary", { class: "small" }, all.length > 1 ? `Written by ${model}, ${index + 1} of ${all.length}` : `Written by ${model}`),
      make("pre", {}, text))));
  const body = (question, models) => [
    make("p", { class: "small quiet" }, [question.id, question.subject].filter(Boolean).join(" · ")),
    question.context ? make("details", {}, make("summary", { class: "small" }, "Context"), make("div", { class: "pre small" }, question.context)) : null,
    optionsTable(question, models),
    make("p", { class: "small quiet" }, "▸ marks the model's choice; the probabilities are over the options."),
    ...written(question, models),
    ...prompts(question, models),
  ];
  const render = (question) => {
    const models = current().models;
    const details = make("details", { class: "box question" },
      make("summary", {}, make("span", { class: "text" }, question.question),
        make("span", { class: "chips" }, ...models.map((model) => chip(model, question.answers[model])))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(...body(question, models).filter(Boolean));
    });
    return details;
  };
  const show = () => {
    const set = current();
    const found = set.questions.filter(matches);
    start = Math.max(0, Math.min(start, Math.floor((found.length - 1) / PAGE) * PAGE));
    byId("q-list").replaceChildren(...found.slice(start, start + PAGE).map(render));
    byId("q-place").textContent = found.length ? `${start + 1}–${Math.min(start + PAGE, found.length)} of ${found.length}` : "none";
    byId("q-back").disabled = start === 0;
    byId("q-next").disabled = start + PAGE >= found.length;
    byId("q-note").textContent = set.questions.length < set.total
      ? `This page carries ${set.questions.length} of the ${set.total.toLocaleString("en")} questions, evenly spaced; all are in samples-${set.task}-${set.protocol}.jsonl.`
      : `All ${set.total} questions.`;
  };
  const choose = () => {
    const before = controls.model.value;
    controls.model.replaceChildren(...current().models.map((model) => option(model, model)));
    controls.model.value = current().models.includes(before) ? before : current().models.at(-1);
    const subjects = [...new Set(current().questions.map((question) => question.subject))].filter(Boolean).sort();
    controls.subject.replaceChildren(option("", "all subjects"), ...subjects.map((subject) => option(subject, subject)));
    controls.subject.parentElement.hidden = subjects.length < 2;
    const possible = { changed: current().models.length > 1, found: current().questions.some((question) => question.found) };
    controls.outcome.replaceChildren(...OUTCOMES.filter(([value]) => possible[value] !== false).map(([value, text]) => option(value, text)));
  };
  const restart = () => { start = 0; show(); };
  controls.set.addEventListener("change", () => { choose(); restart(); });
  controls.model.addEventListener("change", restart);
  controls.subject.addEventListener("change", restart);
  controls.outcome.addEventListener("change", restart);
  controls.text.addEventListener("input", restart);
  byId("q-back").addEventListener("click", () => { start -= PAGE; show(); });
  byId("q-next").addEventListener("click", () => { start += PAGE; show(); });
  choose();
  show();
})();
