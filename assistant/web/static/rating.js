// <ns-rating data-turn="ID" data-state="JSON">: thumbs, reasons, a comment and a correction under one answer.
// The chat redraws its messages; what is open or half written lives here by turn, and survives that.
(() => {
  const { make, post } = nightschool;
  const REASONS = /*REASONS*/[]/*REASONS*/;
  const kept = new Map(); // turn id -> {saved, draft, open, status, failed}

  const UP = '<path d="M7 11v9H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1h3zm0 0 4-8a2.5 2.5 0 0 1 2.4 3.2L12.6 9H19a2 2 0 0 1 2 2.4l-1.4 7a2 2 0 0 1-2 1.6H7"/>';
  const DOWN = '<g transform="rotate(180 12 12)">' + UP + '</g>';

  function icon(paths) {
    const span = make("span", { class: "ns-icon", "aria-hidden": "true" });
    span.innerHTML = '<svg viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linejoin="round">' + paths + "</svg>";
    return span;
  }

  const draftOf = (saved) => ({ reasons: [...saved.reasons], comment: saved.comment, correction: saved.correction || "" });

  class Rating extends HTMLElement {
    static observedAttributes = ["data-state"];

    connectedCallback() {
      this.how ??= this.querySelector(".ns-how")?.textContent || "";
      this.draw();
    }

    attributeChangedCallback(_name, before) {
      if (before !== null && this.isConnected) this.draw();
    }

    get turn() { return this.dataset.turn; }

    get now() {
      if (!kept.has(this.turn)) {
        const saved = JSON.parse(this.dataset.state);
        kept.set(this.turn, { saved, draft: draftOf(saved), open: false, status: "", failed: false, busy: false });
      }
      return kept.get(this.turn);
    }

    async send(body, done) {
      const now = this.now;
      if (now.busy) return;
      now.busy = true; now.status = "Saving…"; now.failed = false;
      this.say();
      try {
        now.saved = { ...now.saved, ...(await post("/api/turns/" + encodeURIComponent(this.turn) + "/rating", body)) };
        now.status = done;
      } catch (error) {
        now.failed = true;
        now.status = error.message;
      }
      now.busy = false;
      return !now.failed;
    }

    async thumb(value) {
      const now = this.now;
      const withdraws = now.saved.thumb === value;
      const sent = await this.send(
        withdraws ? { thumb: null } : { thumb: value, reasons: [], comment: "" },
        withdraws ? "Rating withdrawn." : value === "up" ? "Thank you. Saved." : "Saved. What was wrong?");
      if (sent) {
        now.draft = { ...draftOf(now.saved), correction: now.draft.correction };
        now.open = value === "down" && !withdraws;
      }
      this.draw(sent && now.open ? "input, textarea" : value === "up" ? ".ns-up" : ".ns-down");
    }

    async save(event) {
      event.preventDefault();
      const now = this.now, draft = now.draft, body = {};
      if (now.saved.thumb) Object.assign(body, { thumb: now.saved.thumb, reasons: draft.reasons, comment: draft.comment });
      const correction = draft.correction.trim() || null;
      if (correction !== now.saved.correction) body.correction = correction;
      const sent = Object.keys(body).length === 0 || (await this.send(body, "Saved. Thank you."));
      if (sent) { now.draft = draftOf(now.saved); now.open = false; }
      this.draw(".ns-edit");
    }

    async withdraw() {
      const now = this.now;
      const sent = await this.send({ thumb: null, correction: null }, "Rating and correction withdrawn.");
      if (sent) { now.draft = draftOf(now.saved); now.open = false; }
      this.draw(".ns-edit");
    }

    toggle(open) {
      const now = this.now;
      now.open = open; now.status = ""; now.failed = false;
      if (!open) now.draft = draftOf(now.saved);
      this.draw(open ? ".ns-correction" : ".ns-edit");
    }

    say() {
      const line = this.querySelector(".ns-status");
      if (line) line.textContent = this.now.status;
    }

    draw(focus) {
      const { saved, open, status, failed } = this.now;
      const thumb = (value, label, paths) => make("button", {
        type: "button", class: "ns-thumb ns-" + value, "aria-label": label, title: saved.thumb === value ? label + " (click to withdraw)" : label,
        "aria-pressed": String(saved.thumb === value), onclick: () => this.thumb(value),
      }, icon(paths));
      const line = make("div", { class: "ns-line" },
        thumb("up", "Good answer", UP), thumb("down", "Bad answer", DOWN),
        make("button", { type: "button", class: "ns-edit", "aria-expanded": String(open), onclick: () => this.toggle(!open) },
          saved.correction ? "Change the correction" : "Correct this answer"),
        make("span", { class: "ns-status" + (failed ? " ns-failed" : ""), role: "status" }, status),
        make("span", { class: "ns-how" }, this.how));
      this.replaceChildren(line, ...(open ? [this.form()] : this.said()));
      if (focus) this.querySelector(focus)?.focus({ preventScroll: true });
      if (focus && open) this.querySelector("form").scrollIntoView({ block: "nearest" });
    }

    said() {
      const { saved } = this.now, parts = [];
      if (saved.thumb && (saved.reasons.length || saved.comment))
        parts.push(make("p", { class: "ns-said" }, make("b", {}, "You said: "), [saved.reasons.join(", "), saved.comment].filter(Boolean).join(". ")));
      if (saved.correction)
        parts.push(make("p", { class: "ns-said" }, make("b", {}, "Your correction: "), saved.correction));
      if (saved.not_learned && (saved.thumb || saved.correction))
        parts.push(make("p", { class: "ns-said" }, make("b", {}, "The last night did not learn from this: "), saved.not_learned));
      return parts;
    }

    form() {
      const { saved, draft } = this.now, id = "ns-" + this.turn;
      const parts = [];
      if (saved.thumb === "down") {
        parts.push(make("fieldset", {}, make("legend", {}, "What is wrong?"), make("div", { class: "ns-tags" }, ...REASONS.map((reason) =>
          make("label", { class: "ns-tag" }, make("input", {
            type: "checkbox", value: reason, checked: draft.reasons.includes(reason),
            onchange: (event) => { draft.reasons = event.target.checked ? [...draft.reasons, reason] : draft.reasons.filter((each) => each !== reason); },
          }), reason)))));
      }
      const area = (name, label, hint, rows, most) => {
        const input = make("textarea", { id: id + name, class: "ns-" + name, rows, maxlength: most, "aria-describedby": hint ? id + name + "-hint" : null,
          oninput: (event) => { draft[name] = event.target.value; } });
        input.value = draft[name];
        parts.push(make("div", { class: "ns-field" }, make("label", { for: id + name }, label), input, hint ? make("p", { id: id + name + "-hint", class: "ns-hint" }, hint) : null));
      };
      area("correction", "What should it have said?",
        "One short sentence with the exact value. The source is added by itself. If the documents do not say it, write: not in the documents.", 2, 4000);
      if (saved.thumb) area("comment", "Comment (optional)", "", 2, 2000);
      parts.push(make("div", { class: "ns-buttons" },
        make("button", { type: "submit", class: "ns-save" }, "Save"),
        make("button", { type: "button", onclick: () => this.toggle(false) }, "Cancel"),
        saved.thumb || saved.correction ? make("button", { type: "button", class: "ns-withdraw", onclick: () => this.withdraw() }, "Withdraw everything") : null));
      return make("form", { "aria-label": "Correct this answer", onsubmit: (event) => this.save(event),
        onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); this.toggle(false); } } }, ...parts);
    }
  }

  if (!customElements.get("ns-rating")) customElements.define("ns-rating", Rating);
})();
