"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const root = document.documentElement;

  /** One element; text always becomes a text node, so nothing a model wrote is ever read as HTML. */
  const h = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  };

  // Theme: the system's, until the button says otherwise. Storage is refused inside a sandboxed frame.
  const remember = (theme) => { try { localStorage.setItem("theme", theme); } catch { /* sandboxed */ } };
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const show = (theme) => {
    root.dataset.theme = theme;
    $("theme").textContent = theme === "dark" ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
  };
  show(remembered() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  $("theme").addEventListener("click", () => {
    show(root.dataset.theme === "dark" ? "light" : "dark");
    remember(root.dataset.theme);
  });

  const MARK = { correct: "●", incorrect: "○", no_answer: "–", failed: "×" };
  const SAID = { correct: "right", incorrect: "wrong", no_answer: "no answer", failed: "request failed" };
  const VERDICT = { solvable: "solvable, removed", not_solvable: "not solvable, kept", undecided: "undecided, kept", kept_whole: "kept whole" };
  const STAGES = 4; // a control arm, if any, comes after them and is not a stage of training
  const queries = data.queries;
  const key = (q) => `${q.benchmark}/${q.id}`;
  const byKey = new Map(queries.map((q, i) => [key(q), i]));
  const haystack = queries.map((q) =>
    [q.benchmark, q.id, q.type, q.question, q.options.join(" "), ...q.said.map((s) => s[2])].join("\n").toLowerCase());
  const right = (q, stage) => q.said[stage][0] === "correct";
  const list = $("list");
  const detail = $("detail");
  let shown = [];
  let current = -1;

  const changes = {
    fixed: (q, stage) => !right(q, stage - 1) && right(q, stage),
    broken: (q, stage) => right(q, stage - 1) && !right(q, stage),
    always: (q) => q.said.slice(0, STAGES).every((s) => s[0] === "correct"),
    never: (q) => q.said.slice(0, STAGES).every((s) => s[0] !== "correct"),
  };

  const verdictFits = (q, wanted) => {
    if (wanted === "lost") return q.verdict === "solvable" && q.planted === false;
    if (wanted === "missed") return (q.verdict === "not_solvable" || q.verdict === "undecided") && q.planted === true;
    return q.verdict === wanted;
  };

  const filter = () => {
    const value = (name) => $(`f-${name}`)?.value ?? ""; // an audit's page has no stages to filter by
    const [change, stage] = value("change").split("-");
    const text = value("text").trim().toLowerCase();
    shown = queries.map((_, i) => i).filter((i) => {
      const q = queries[i];
      return (!value("benchmark") || q.benchmark === value("benchmark"))
        && (!value("verdict") || verdictFits(q, value("verdict")))
        && (!value("outcome") || q.said[+value("stage")][0] === value("outcome"))
        && (!change || changes[change](q, +stage))
        && (!text || haystack[i].includes(text));
    });
    $("count").textContent = `${shown.length} of ${queries.length} queries`;
    list.replaceChildren(...shown.map(row));
    if (!shown.includes(current)) current = -1;
    if (shown.length) select(current < 0 ? shown[0] : current, false);
    else { list.removeAttribute("aria-activedescendant"); detail.replaceChildren(h("p", null, "No query fits these filters.")); }
  };

  const row = (i) => {
    const q = queries[i];
    const told = q.said.map((s, n) => `${data.stages[n]} ${SAID[s[0]]}`).join(", ");
    return h("div", { role: "option", id: `q-${i}`, "aria-selected": "false", "data-i": i },
      h("span", { class: "id" }, key(q)),
      h("span", { class: "marks", role: "img", "aria-label": told }, ...q.said.map((s) => h("span", { class: s[0] }, MARK[s[0]]))),
      h("p", null, q.question));
  };

  const select = (i, linked = true) => {
    $(`q-${current}`)?.setAttribute("aria-selected", "false");
    current = i;
    const node = $(`q-${i}`);
    node.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", node.id);
    // Not scrollIntoView: that would move the page as well as the list.
    const over = node.offsetTop + node.offsetHeight - list.clientHeight;
    if (node.offsetTop < list.scrollTop) list.scrollTop = node.offsetTop;
    else if (over > list.scrollTop) list.scrollTop = over;
    describe(queries[i]);
    if (linked) try { history.replaceState(null, "", link(queries[i])); } catch { /* no history in a frame without an address */ }
  };

  const link = (q) => `#q=${encodeURIComponent(key(q))}`;

  const medium = (m, q) => {
    const url = data.media[m.sha];
    if (!url) return h("p", { class: "note" }, `${m.kind} not embedded: ${m.uri}`);
    if (m.kind === "image") return h("img", { src: url, alt: `Picture of query ${key(q)}` });
    return h(m.kind === "video" ? "video" : "audio", { src: url, controls: "", "aria-label": `Sound of query ${key(q)}` });
  };

  const per = (share) => (share === null ? "unknown" : `${share < 0.1 ? (100 * share).toPrecision(2) : Math.round(100 * share)} %`);

  const option = (q, text, i) => {
    const drawn = text === null ? q.unparsed : q.drawn[i];
    const total = q.drawn.reduce((a, b) => a + b, q.unparsed);
    const chosen = data.stages.filter((_, n) => q.said[n][1] === text);
    return h("tr", null,
      h("th", { scope: "row" }, text === null ? "none of these" : text, text === q.answer ? h("strong", { class: "correct" }, " ✓ answer") : null),
      h("td", { class: "count" }, h("span", { class: "meter", style: `width: ${total ? (60 * drawn) / total : 0}%` }), `${drawn}`),
      h("td", null, chosen.join(", ")));
  };

  const head = (...names) => h("thead", null, h("tr", null, ...names.map((name) => h("th", { scope: "col" }, name))));

  const describe = (q) => {
    const truth = q.planted === null ? null
      : h("span", { class: `tag ${q.planted ? "planted" : "honest"}` }, q.planted ? "planted: solvable" : "planted: needs the sound");
    const evidence = `${q.hits} of ${q.draws} draws hit with the sound withheld. An unsolvable query gets this far `
      + `${per(q.null)} of the time (measured null); the binomial says ${per(q.binomial)}.`;
    const none = q.unparsed || q.said.some((s) => s[1] === null);
    detail.replaceChildren(
      h("p", { class: "kicker" }, h("a", { href: link(q), title: "Link to this query" }, key(q)), ` · ${q.type} `,
        h("span", { class: `tag ${q.verdict}` }, VERDICT[q.verdict]), " ", truth),
      h("h3", null, q.question),
      h("div", { class: "media" }, ...q.media.map((m) => medium(m, q))),
      h("h4", null, "Options, the probe's draws without the sound, and the stages that answered each"),
      h("table", null, head("Option", "Probe draws", "Answered by"),
        h("tbody", null, ...q.options.map((text, i) => option(q, text, i)), none ? option(q, null, -1) : null)),
      h("p", { class: "note" }, evidence),
      ...(q.said.length ? [h("h4", null, "Replies of the stages"),
        h("div", { class: "scroll" }, h("table", null, head("Stage", "Outcome", "Reply"),
          h("tbody", null, ...q.said.map((s, n) => h("tr", null, h("th", { scope: "row" }, data.stages[n]),
            h("td", { class: s[0] }, `${MARK[s[0]]} ${SAID[s[0]]}`), h("td", null, h("code", null, s[2])))))))] : []));
  };

  const follow = () => {
    const match = /^#q=(.+)$/.exec(location.hash);
    if (!match) return false;
    let wanted;
    try { wanted = byKey.get(decodeURIComponent(match[1])); } catch { return false; }
    if (wanted === undefined) return false;
    if (!shown.includes(wanted)) { $("filters").reset(); filter(); }
    select(wanted, false);
    return true;
  };

  list.addEventListener("click", (event) => {
    const node = event.target.closest("[data-i]");
    if (!node) return;
    select(+node.dataset.i);
    if (matchMedia("(max-width: 60rem)").matches) detail.scrollIntoView({ block: "start" });
  });
  list.addEventListener("keydown", (event) => {
    const at = shown.indexOf(current);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: shown.length - 1 }[event.key];
    if (event.key === "Enter" && current >= 0) detail.focus();
    else if (to !== undefined && shown.length) select(shown[Math.max(0, Math.min(shown.length - 1, to))]);
    else return;
    event.preventDefault();
  });
  detail.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { if (follow()) $("queries").scrollIntoView(); });
  // A frame without an address (an artefact view's srcdoc) would load its parent's page on a link to a section.
  if (location.protocol === "about:") addEventListener("click", (event) => {
    const target = event.target.closest('a[href^="#"]');
    if (!target) return;
    event.preventDefault();
    $(target.getAttribute("href").slice(1))?.scrollIntoView();
  });

  filter();
  if (follow()) $("queries").scrollIntoView();
})();
