// <ns-question data-turn="ID" data-state="JSON">: sends a question that the documents did not answer to their owner.
// The chat redraws its messages; a note that is half written lives here by turn, and survives that.
(() => {
  const { make, post } = nightschool;
  const kept = new Map(); // turn id -> {saved, note, open, status, busy}

  class Question extends HTMLElement {
    static observedAttributes = ["data-state"];

    connectedCallback() { this.draw(); }

    attributeChangedCallback(_name, before) {
      if (before !== null && this.isConnected) this.draw();
    }

    get now() {
      const turn = this.dataset.turn;
      if (!kept.has(turn)) kept.set(turn, { saved: JSON.parse(this.dataset.state), note: "", open: false, status: "", busy: false });
      return kept.get(turn);
    }

    async send(event) {
      event.preventDefault();
      const now = this.now;
      if (now.busy) return;
      now.busy = true; now.status = "Sending…";
      this.querySelector(".ns-status").textContent = now.status;
      try {
        now.saved = await post("/api/turns/" + encodeURIComponent(this.dataset.turn) + "/question", { note: now.note });
        now.open = false; now.status = "";
      } catch (error) {
        now.status = error.message;
      }
      now.busy = false;
      this.draw(now.saved.sent ? ".ns-sent" : ".ns-send");
    }

    toggle(open) {
      const now = this.now;
      now.open = open; now.status = "";
      this.draw(open ? "textarea" : ".ns-open");
    }

    draw(focus) {
      const { saved, open } = this.now;
      this.replaceChildren(...(saved.sent ? this.sent(saved) : open ? [this.form()] : [this.button()]));
      if (focus) this.querySelector(focus)?.focus({ preventScroll: true });
      if (focus && open) this.querySelector("form")?.scrollIntoView({ block: "nearest" });
    }

    button() {
      return make("button", { type: "button", class: "ns-open", onclick: () => this.toggle(true) }, "Send this question to the document owner");
    }

    sent(saved) {
      return [
        make("p", { class: "ns-sent", role: "status", tabindex: "-1" }, saved.sent + (saved.closed ? "" : " The document owner sees it.")),
        saved.note ? make("p", { class: "ns-said" }, make("b", {}, "Your note: "), saved.note) : null,
        saved.closed ? make("p", { class: "ns-said ns-closed" }, saved.closed) : null,
      ].filter(Boolean);
    }

    form() {
      const now = this.now, id = "ns-note-" + this.dataset.turn;
      const note = make("textarea", { id, rows: 2, maxlength: 2000, oninput: (event) => { now.note = event.target.value; } });
      note.value = now.note;
      return make("form", { "aria-label": "Send this question to the document owner", onsubmit: (event) => this.send(event),
        onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); this.toggle(false); } } },
        make("div", { class: "ns-field" }, make("label", { for: id }, "Note to the document owner (optional)"), note),
        make("div", { class: "ns-buttons" },
          make("button", { type: "submit", class: "ns-save ns-send" }, "Send the question"),
          make("button", { type: "button", onclick: () => this.toggle(false) }, "Cancel"),
          make("span", { class: "ns-status" + (now.status ? " ns-failed" : ""), role: "status" }, now.status)));
    }
  }

  if (!customElements.get("ns-question")) customElements.define("ns-question", Question);
})();
